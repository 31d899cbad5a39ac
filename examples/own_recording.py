"""From spike times to firing rates, with a recording of another size, with gaps and without true rates.

python examples/own_recording.py         run it in the folder of the repo; three minutes on two cores

Replace `my_spike_times` by a function that reads your recording. The rest stays. It writes own.h5, a run in lightning_logs,
figures in own_figures, and own_rates.h5.
"""

import subprocess
import sys
from pathlib import Path

import h5py
import jsonargparse
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from recordings import write_recording  # noqa: E402

BIN_WIDTH = 0.01  # s
DURATION = 0.6  # s
N_NEURONS = 20


def my_spike_times(n_trials: int = 240) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Simulate a recording: neurons tuned to the phase of a rhythm, which starts at a random phase in each trial.

    Returns:
        Spike times (s) of each trial and neuron, and whether a neuron was recorded in a trial (trials, neurons; bool).
    """
    rng = np.random.default_rng(0)
    preferred = rng.uniform(0, 2 * np.pi, N_NEURONS)
    times = []
    for phase in rng.choice(np.arange(0, 2 * np.pi, np.pi / 4), n_trials):
        candidates = [np.sort(rng.uniform(0, DURATION, rng.poisson(100 * DURATION))) for _ in range(N_NEURONS)]
        drive = [
            np.exp(2 * np.cos(2 * np.pi * 3 * t + phase - p) - 2) for t, p in zip(candidates, preferred, strict=True)
        ]
        times.append([t[rng.random(len(t)) < d] for t, d in zip(candidates, drive, strict=True)])
    return times, rng.random((n_trials, N_NEURONS)) > 0.1


def count_spikes(times: list[list[np.ndarray]]) -> np.ndarray:
    """Count spikes in bins: (trials, time, neurons)."""
    edges = np.linspace(0, DURATION, round(DURATION / BIN_WIDTH) + 1)
    return np.array([[np.histogram(neuron, edges)[0] for neuron in trial] for trial in times]).swapaxes(1, 2)


def command(*words: str) -> None:
    """Print and run one of the repo's commands."""
    print(f"\n$ python {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, str(ROOT / words[0]), *words[1:]], check=True)


def main() -> None:
    parser = jsonargparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200, help="Epochs of the training")
    parser.add_argument("--name", type=str, default="own", help="Name of the run")
    options = parser.parse_args()

    times, recorded = my_spike_times()
    spikes = count_spikes(times)
    observed = np.broadcast_to(recorded[:, None], spikes.shape)  # a neuron is recorded in a whole trial, or not at all
    write_recording("own.h5", spikes, BIN_WIDTH, observed)
    command("describe.py", "own.h5")

    epochs = ["--trainer.max_epochs", str(options.epochs), "--data.batch_size", "64"]
    command("train.py", "--data.path", "own.h5", "--bandwidths", "20", "5", *epochs, "--name", options.name)
    run = f"lightning_logs/{options.name}"
    command("plot_results.py", run, "--out", "own_figures")
    command("infer.py", f"{run}/bandwidth_20/best.ckpt", "own.h5", "--out", "own_rates.h5")

    with h5py.File("own_rates.h5") as file:
        rates = file["valid_rates"][:]  # (trials, time, neurons), spikes/s
    print(
        f"\nRates of {len(rates)} validation trials, on average {rates.mean():.1f} spikes/s, all neurons at all times"
    )


if __name__ == "__main__":
    main()
