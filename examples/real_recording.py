"""A rat's motor cortex: what a model that sees a sixth of the units knows about single trials.

python examples/real_recording.py motor_ctx_data.npz        five to nine minutes on two cores

The recording is by Ashesh Dhawale and Bence Ölveczky (Williams et al. 2020, Neuron): 1266 trials in
which a rat tapped a lever twice, 30 units. Get examples/rat_motor_cortex/motor_ctx_data.npz from
https://github.com/ahwillia/affinewarp.

The script trains models that see 30, 15, 10 and 5 units at each time step, and plots single trials,
mean rates and bits per spike beside the baselines. Then it asks whether the rates predict something
that no model was told: the interval between the two taps, by ridge regression on training trials,
scored on validation trials. It writes rat.h5, a run in lightning_logs, and figures in rat_figures.
At least 32 of the trials share some time with another; the source file does not say which.
"""

import subprocess
import sys
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from command_line import FailedWork, InputError, command_parser, markdown_table, run, write_table  # noqa: E402
from evaluation.baselines import smoothed_counts  # noqa: E402
from evaluation.checkpoints import bandwidth_folder  # noqa: E402
from evaluation.inference import infer_arrays  # noqa: E402
from evaluation.scoring import load_model_and_data  # noqa: E402
from plotting.style import BLUE, GREY, STYLE, save  # noqa: E402
from recordings import from_spike_times  # noqa: E402
from recordings.writing import split_trials, write_splits  # noqa: E402

BIN_WIDTH = 0.02  # s
BANDWIDTHS = (30, 15, 10, 5)
PENALTIES = 10.0 ** np.arange(-3, 5)  # of the ridge regression
SMOOTHING = {"kernel_sd": 3, "prior": 10}  # bins


def read_source(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return counts (trials, time, units), intervals between the taps (s) and labels of trials that
    share time, if known.

    Takes the source file (spike times in ms), or one with counts: `spikes`, `ipi_ms` and
    `overlap_group`.
    """
    try:
        source = dict(np.load(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected motor_ctx_data.npz") from None
    if "spikes" in source:
        return source["spikes"], source["ipi_ms"] / 1000, source.get("overlap_group")
    missing = {"spiketimes", "trial_ids", "neuron_ids", "tmin", "tmax", "tap1", "tap2"} - set(
        source
    )
    if missing:
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}; expected motor_ctx_data.npz")
    # trials one after the other on one time axis, so that a unit has one list of spike times
    start, stop = float(source["tmin"][0]) / 1000, float(source["tmax"][0]) / 1000
    n_trials, n_units = len(source["tap1"]), int(source["neuron_ids"].max()) + 1
    offsets = 2 * (stop - start) * np.arange(n_trials)
    times = source["spiketimes"] / 1000 - start + offsets[source["trial_ids"].astype(int)]
    by_unit = [times[source["neuron_ids"] == unit] for unit in range(n_units)]
    spikes = from_spike_times(by_unit, offsets, BIN_WIDTH, duration=stop - start)
    return spikes, (source["tap2"] - source["tap1"]) / 1000, None


def ridge_r2(train: np.ndarray, valid: np.ndarray, target: dict[str, np.ndarray]) -> float:
    """Return the R² on validation trials of a ridge regression that was fitted to training trials.

    The penalty is the one with the least leave-one-out error on training trials.

    Args:
        train: (trials, ...) features of training trials.
        valid: (trials, ...) those of validation trials.
        target: For `train` and `valid` (trials,) what is to be predicted.
    """
    train, valid = (
        features.reshape(len(features), -1).astype(float) for features in (train, valid)
    )
    mean, sd = (
        train.mean(0),
        np.maximum(train.std(0), 1e-3),
    )  # a bin that is always empty says nothing
    train, valid = (train - mean) / sd, (valid - mean) / sd
    offset = target["train"].mean()
    sizes, vectors = np.linalg.eigh(train @ train.T / train.shape[1])
    projected = vectors.T @ (target["train"] - offset)
    best_error, best_weights = np.inf, None
    for penalty in PENALTIES:
        weights = vectors @ (projected / (sizes + penalty))
        error = np.square(weights / (vectors**2 / (sizes + penalty)).sum(1)).mean()
        if error < best_error:
            best_error, best_weights = error, weights
    residual = target["valid"] - offset - valid @ (train.T @ best_weights) / train.shape[1]
    return float(
        1 - residual.var() / target["valid"].var() - residual.mean() ** 2 / target["valid"].var()
    )


def predict_interval(
    run_dir: Path, interval: dict[str, np.ndarray], bandwidths: list[int]
) -> list[dict]:
    """Return, for each bandwidth, the R² of the interval from smoothed spikes and from inferred
    rates."""
    rows = []
    for bandwidth in bandwidths:
        model, data = load_model_and_data(run_dir / bandwidth_folder(bandwidth) / "best.ckpt")
        spikes = {split: data.datasets[split][:].spikes for split in interval}
        smoothed = [
            smoothed_counts(spikes[split], **SMOOTHING).numpy() for split in ("train", "valid")
        ]
        inferred = [infer_arrays(model, spikes[split])["log_rates"] for split in ("train", "valid")]
        scores = {
            "r2_smoothed": ridge_r2(*smoothed, interval),
            "r2_inferred": ridge_r2(*inferred, interval),
        }
        rows.append({"bandwidth": bandwidth} | scores)
    return rows


def plot_interval(rows: list[dict]) -> Figure:
    """Plot the R² of the interval against the number of observed units."""
    figure = Figure(figsize=(4.2, 3.2))
    axes = figure.subplots()
    bandwidths = [row["bandwidth"] for row in rows]
    axes.plot(
        bandwidths, [row["r2_inferred"] for row in rows], "o-", color=BLUE, label="inferred rates"
    )
    axes.plot(
        bandwidths, [row["r2_smoothed"] for row in rows], "x-.", color=GREY, label="smoothed spikes"
    )
    axes.set(
        xlabel="units observed at each time step",
        ylabel="R² of the interval between the taps",
        xticks=bandwidths,
    )
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.legend()
    return figure


def command(*words: str) -> None:
    """Print and run one of the repo's commands."""
    print(f"\n$ python {' '.join(words)}", flush=True)
    if subprocess.run([sys.executable, str(ROOT / words[0]), *words[1:]]).returncode:
        raise FailedWork(f"python {' '.join(words)} failed")


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("file", type=str, help="motor_ctx_data.npz")
    parser.add_argument(
        "--bandwidths",
        type=int,
        nargs="+",
        default=list(BANDWIDTHS),
        help="Numbers of observed units",
    )
    parser.add_argument("--name", type=str, default="rat", help="Name of the run")
    parser.add_argument(
        "--train", type=str, default="", help="Further options of train.py, in quotes"
    )
    options = parser.parse_args()

    spikes, interval, groups = read_source(options.file)
    is_valid = split_trials(len(spikes), groups=groups)
    splits = {"train": ~is_valid, "valid": is_valid}
    write_splits(
        "rat.h5", {split: {"data": spikes[chosen]} for split, chosen in splits.items()}, BIN_WIDTH
    )
    bandwidths = [str(bandwidth) for bandwidth in options.bandwidths]
    command(
        "train.py",
        "--data.path",
        "rat.h5",
        "--bandwidths",
        *bandwidths,
        "--name",
        options.name,
        *options.train.split(),
    )
    command("plot_results.py", f"lightning_logs/{options.name}", "--out", "rat_figures")

    intervals = {split: interval[chosen] for split, chosen in splits.items()}
    rows = predict_interval(Path("lightning_logs") / options.name, intervals, options.bandwidths)
    with matplotlib.style.context(STYLE):
        save(plot_interval(rows), "interval", Path("rat_figures"))
    write_table("rat_figures/interval.csv", rows)
    columns = {
        "units observed": bandwidths,
        "R² from smoothed spikes": [f"{row['r2_smoothed']:.2f}" for row in rows],
        "R² from inferred rates": [f"{row['r2_inferred']:.2f}" for row in rows],
    }
    print(
        f"\nThe interval between the two taps, predicted by ridge regression:\n\n{markdown_table(columns)}"
    )


if __name__ == "__main__":
    run(main)
