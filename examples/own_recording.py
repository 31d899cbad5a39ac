"""From spike times to firing rates, of a recording with gaps and without true rates.

python examples/own_recording.py      run it in the folder of the repo; three minutes on two cores

Replace `my_spike_times` by a function that reads your recording. The rest stays. It writes own.h5,
a sweep in lightning_logs, figures in own_figures, and own_rates.h5.
"""

import sys
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from command_line import command_parser, run
from experiments.commands import run_command
from recordings import from_spike_times, write_recording

BIN_WIDTH = 0.01  # s
DURATION = 0.6  # s
N_NEURONS = 20


def my_spike_times(n_trials: int = 160) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Simulate neurons tuned to the phase of a rhythm, which starts anywhere in each trial.

    Returns:
        Spike times (s) of each neuron, starts of the trials (s), and whether a neuron was recorded
        in a trial (trials, neurons; bool).
    """
    rng = np.random.default_rng(0)
    preferred = rng.uniform(0, 2 * np.pi, N_NEURONS)
    starts = 1.0 * np.arange(n_trials)
    phases = rng.choice(np.arange(0, 2 * np.pi, np.pi / 4), n_trials)
    times = [[] for _ in preferred]
    for start, phase in zip(starts, phases, strict=True):
        for of_neuron, preference in zip(times, preferred, strict=True):
            candidates = rng.uniform(0, DURATION, rng.poisson(100 * DURATION))
            drive = np.exp(2 * np.cos(2 * np.pi * 3 * candidates + phase - preference) - 2)
            of_neuron.append(start + candidates[rng.random(len(candidates)) < drive])
    recorded = rng.random((n_trials, N_NEURONS)) > 0.1
    return [np.concatenate(of_neuron) for of_neuron in times], starts, recorded


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--name", default="own", help="Name of the sweep")
    parser.add_argument("--train", default="", help="Further options of train.py, in quotes")
    options = parser.parse_args()

    spike_times, starts, recorded = my_spike_times()
    spikes = from_spike_times(spike_times, starts, BIN_WIDTH, duration=DURATION)
    observed = np.broadcast_to(recorded[:, None], spikes.shape)  # in whole trials, or not at all
    write_recording("own.h5", spikes, BIN_WIDTH, observed)
    run_command("describe.py", "own.h5")

    words = ["--data.path", "own.h5", "--bandwidths", "20", "5", "--name", options.name]
    run_command("train.py", *words, *options.train.split())
    sweep = f"lightning_logs/{options.name}"
    run_command("plot_results.py", sweep, "--out", "own_figures")
    run_command("infer.py", f"{sweep}/bandwidth_20/best.ckpt", "own.h5", "--out", "own_rates.h5")

    with h5py.File("own_rates.h5") as file:
        rates = file["valid_rates"][:]  # (trials, time, neurons), spikes/s
    mean = f"on average {rates.mean():.1f} spikes/s, all neurons at all times"
    print(f"\nRates of {len(rates)} validation trials, {mean}")


if __name__ == "__main__":
    run(main)
