"""A rat's motor cortex: what a model that sees a sixth of the units knows about single trials.

python examples/real_recording.py motor_ctx_data.npz        ten minutes on two cores

The recording is by Ashesh Dhawale and Bence Ölveczky (Williams et al. 2020, Neuron): 1266 trials in
which a rat tapped a lever twice, 30 units. Get examples/rat_motor_cortex/motor_ctx_data.npz from
https://github.com/ahwillia/affinewarp.

The script trains models that see 30, 15, 10 and 5 units at each time step, and plots single trials,
mean rates and bits per spike next to the baselines. Then it asks whether the rates predict the
interval between the two taps, which the models never see, by ridge regression on training trials,
scored on validation trials. It writes rat.h5, a sweep in lightning_logs, and figures in
rat_figures. At least 32 of the trials share time with another; the source file does not say which.
"""

import sys
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent.parent))

from command_line import InputError, command_parser, markdown_table, require, run, write_table
from evaluation.baselines import smoothed_counts
from evaluation.checkpoints import load_model_and_data
from evaluation.inference import infer_arrays
from evaluation.run_folders import LOGS, run_folder
from experiments.commands import run_command
from plotting.style import BLUE, GREY, STYLE, save
from recordings import from_spike_times
from recordings.splitting import split_trials
from recordings.writing import write_splits

BIN_WIDTH = 0.02  # s
PENALTIES = 10.0 ** np.arange(-3, 5)  # of the ridge regression
SMOOTHING = {"kernel_sd": 3, "prior": 10}  # bins
FIGURES = Path("rat_figures")


def read_source(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return counts (trials, time, units), intervals between the taps (s) and overlap groups.

    The source file has spike times (ms) and no groups. A file may also have counts: `spikes`,
    `ipi_ms` and `overlap_group`, the same label for trials that share time.
    """
    expected = "expected motor_ctx_data.npz"
    try:
        source = dict(np.load(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {expected}") from None
    if "spikes" in source:
        return source["spikes"], source["ipi_ms"] / 1000, source.get("overlap_group")
    keys = {"spiketimes", "trial_ids", "neuron_ids", "tmin", "tmax", "tap1", "tap2"}
    missing = sorted(keys - source.keys())
    require(not missing, f"{path}: lacks {', '.join(missing)}; {expected}")
    # trials one after the other on one time axis, so that a unit has one list of spike times
    start, stop = float(source["tmin"][0]) / 1000, float(source["tmax"][0]) / 1000
    n_trials, n_units = len(source["tap1"]), int(source["neuron_ids"].max()) + 1
    offsets = 2 * (stop - start) * np.arange(n_trials)
    times = source["spiketimes"] / 1000 - start + offsets[source["trial_ids"].astype(int)]
    by_unit = [times[source["neuron_ids"] == unit] for unit in range(n_units)]
    spikes = from_spike_times(by_unit, offsets, BIN_WIDTH, duration=stop - start)
    return spikes, (source["tap2"] - source["tap1"]) / 1000, None


def ridge_r2(features: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> float:
    """Return the R² on `valid` trials of a ridge regression from features (trials, ...) to a target
    (trials,), fitted to `train` trials with the penalty that has the least leave-one-out error."""
    train, valid = (features[split].reshape(len(target[split]), -1) for split in target)
    mean, sd = train.mean(0, dtype=float), train.std(0, dtype=float)
    sd = np.maximum(sd, 1e-3)  # a bin that is always empty says nothing
    train, valid = (train - mean) / sd, (valid - mean) / sd
    offset, n_features = target["train"].mean(), train.shape[1]
    sizes, vectors = np.linalg.eigh(train @ train.T / n_features)
    fits = {}
    for penalty in PENALTIES:
        inverse = vectors / (sizes + penalty) @ vectors.T
        weights = inverse @ (target["train"] - offset)
        fits[np.square(weights / inverse.diagonal()).mean()] = weights  # by leave-one-out error
    predicted = offset + valid @ (train.T @ fits[min(fits)]) / n_features
    return 1 - float(np.square(target["valid"] - predicted).mean() / target["valid"].var())


def predict_interval(checkpoint: Path, interval: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the R² of the interval, from smoothed spikes and from the rates of a model."""
    model, data = load_model_and_data(checkpoint)
    spikes = {split: data.datasets[split][:].spikes for split in interval}
    smoothed = {split: smoothed_counts(part, **SMOOTHING).numpy() for split, part in spikes.items()}
    inferred = {split: infer_arrays(model, part)["log_rates"] for split, part in spikes.items()}
    scores = {"r2_smoothed": ridge_r2(smoothed, interval)}
    return {"bandwidth": data.n_observed} | scores | {"r2_inferred": ridge_r2(inferred, interval)}


def plot_interval(bandwidths: list[int], smoothed: list[float], inferred: list[float]) -> Figure:
    """Plot the R² of the interval against the number of observed units."""
    figure = Figure(figsize=(4.2, 3.2))
    axes = figure.subplots()
    axes.plot(bandwidths, inferred, "o-", color=BLUE, label="inferred rates")
    axes.plot(bandwidths, smoothed, "x-.", color=GREY, label="smoothed spikes")
    axes.set(xlabel="units observed at each time step", xticks=bandwidths)
    axes.set(ylabel="R² of the interval between the taps", ylim=(min(0, axes.get_ylim()[0]), None))
    axes.legend()
    return figure


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("file", help="motor_ctx_data.npz")
    observed = {"nargs": "+", "default": [30, 15, 10, 5], "help": "Numbers of observed units"}
    parser.add_argument("--bandwidths", type=int, **observed)
    parser.add_argument("--name", default="rat", help="Name of the sweep")
    parser.add_argument("--train", default="", help="Further options of train.py, in quotes")
    options = parser.parse_args()

    spikes, interval, groups = read_source(options.file)
    is_valid = split_trials(len(spikes), groups=groups)
    splits = {"train": ~is_valid, "valid": is_valid}
    arrays = {split: {"data": spikes[chosen]} for split, chosen in splits.items()}
    write_splits("rat.h5", arrays, BIN_WIDTH)
    words = ["--bandwidths", *map(str, options.bandwidths), "--data.path", "rat.h5"]
    run_command("train.py", *words, "--name", options.name, *options.train.split())
    sweep = LOGS / options.name
    run_command("plot_results.py", str(sweep), "--out", str(FIGURES))

    intervals = {split: interval[chosen] for split, chosen in splits.items()}
    checkpoints = [sweep / run_folder(n) / "best.ckpt" for n in options.bandwidths]
    rows = [predict_interval(checkpoint, intervals) for checkpoint in checkpoints]
    bandwidths, smoothed, inferred = zip(*(row.values() for row in rows), strict=True)
    with matplotlib.style.context(STYLE):
        save(plot_interval(bandwidths, smoothed, inferred), "interval", FIGURES)
    write_table(FIGURES / "interval.csv", rows)
    columns = {
        "units observed": list(map(str, bandwidths)),
        "R² from smoothed spikes": [f"{r2:.2f}" for r2 in smoothed],
        "R² from inferred rates": [f"{r2:.2f}" for r2 in inferred],
    }
    print("\nThe interval between the two taps, predicted by ridge regression:\n")
    print(markdown_table(columns))


if __name__ == "__main__":
    run(main)
