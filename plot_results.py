"""Evaluate trained runs and plot them: the curve of R² against the fraction of dropped entries, and example trials.

python plot_results.py                     the newest complete run, else lightning_logs/pretrained
python plot_results.py RUN_DIR ...         runs, levels or single checkpoints; several seeds are averaged
"""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jsonargparse
import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from command_line import InputError, run, whole_file, writable_folder
from evaluate import find_checkpoints, ideal_observer, infer_rates, load_checkpoint, load_data, r2

PUBLISHED = Path(__file__).parent / "reference" / "published_r2.csv"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # Okabe & Ito (2008), told apart by colour-blind readers
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
}


@dataclass
class Score:
    """How one checkpoint does on the validation trials."""

    bandwidth: int
    fraction_dropped: float
    r2: float
    r2_observed: float
    r2_unobserved: float
    r2_ideal: float
    seed: int
    checkpoint: str


@dataclass
class Example:
    """One validation trial at one bandwidth; arrays are (time, neurons)."""

    bandwidth: int
    spikes: np.ndarray  # counts per bin, NaN = missing
    rates: np.ndarray  # true rates in spikes/s
    inferred: np.ndarray  # inferred rates in spikes/s
    bin_width: float  # s


def evaluate(checkpoint: Path, data_path: str | None) -> tuple[Score, Example]:
    """Score a checkpoint on the validation data, with the masks it was trained with, and take a trial to show."""
    model, options = load_checkpoint(checkpoint)
    data = load_data(checkpoint, model, options | ({"path": data_path} if data_path else {}))
    trials = data.datasets["valid"].trials
    if trials.rates is None:
        raise InputError(f"{data.hparams.path}: has no key valid_truth; expected true rates to compare with")
    inferred, observed = infer_rates(model, trials.spikes), ~trials.spikes.isnan()
    ideal = ideal_observer(trials.spikes, data.trials["valid"], data.bin_width)
    bandwidth = data.hparams.bandwidth or data.n_neurons
    score = Score(
        bandwidth=bandwidth,
        fraction_dropped=1 - bandwidth / data.n_neurons,
        r2=r2(inferred, trials.rates),
        r2_observed=r2(inferred, trials.rates, observed),
        r2_unobserved=r2(inferred, trials.rates, ~observed),
        r2_ideal=np.nan if ideal is None else r2(ideal, trials.rates),
        seed=data.hparams.seed,
        checkpoint=str(checkpoint),
    )
    shown = len(inferred) // 2
    arrays = (tensor[shown].numpy() for tensor in (trials.spikes, trials.rates, inferred))
    return score, Example(bandwidth, *arrays, data.bin_width)


def mean_and_sd(scores: list[Score]) -> list[tuple[Score, float]]:
    """Average the scores of each bandwidth over seeds; return the means, widest first, each with the SD of its R²."""
    levels = []
    for bandwidth in sorted({score.bandwidth for score in scores}, reverse=True):
        same = [score for score in scores if score.bandwidth == bandwidth]
        means = {
            field.name: float(np.mean([getattr(score, field.name) for score in same]))
            for field in fields(Score)
            if field.type is float
        }
        sd = float(np.std([score.r2 for score in same], ddof=1)) if len(same) > 1 else np.nan
        levels.append((Score(bandwidth=bandwidth, seed=same[0].seed, checkpoint=same[0].checkpoint, **means), sd))
    return levels


def read_published() -> list[dict[str, float]]:
    """Return the published R² of each level, widest first."""
    with open(PUBLISHED, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def plot_curve(levels: list[tuple[Score, float]], published: list[dict[str, float]]) -> Figure:
    """Plot R² against the percentage of dropped entries: ours, the published points, and the ideal observer."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    dropped = [100 * score.fraction_dropped for score, _ in levels]
    if not all(np.isnan(score.r2_ideal) for score, _ in levels):
        axes.plot(dropped, [score.r2_ideal for score, _ in levels], "--", color=GREY, label="ideal observer")
    r2s, sds = np.array([score.r2 for score, _ in levels]), np.array([sd for _, sd in levels])
    axes.errorbar(dropped, r2s, np.nan_to_num(sds), fmt="o-", color=BLUE, label="this repo", capsize=2, ms=5)
    published_dropped = [100 * level["fraction_dropped"] for level in published]
    axes.plot(
        published_dropped, [level["valid_r2"] for level in published], "s:", color=ORANGE, label="published", ms=5
    )
    axes.set(
        xlabel="neurons dropped at each time step (%)", ylabel="R² of inferred to true rates", ylim=(min(0, *r2s), 1.02)
    )
    axes.legend(loc="lower left")
    return figure


def plot_examples(examples: list[Example]) -> Figure:
    """Plot one trial at each bandwidth: what the model sees, what was true, what it infers."""
    figure = Figure(figsize=(7, 1.0 + 1.05 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), 3, sharex=True, sharey=True, squeeze=False)
    counts = ListedColormap(["#ffffff", "#9e9e9e", "#5c5c5c", "#000000"])
    counts.set_bad("#f3c9a5")  # missing: a colour, where counts are greys
    peak = max(example.rates.max() for example in examples)
    rates = {"norm": LogNorm(peak / 300, peak, clip=True), "cmap": "viridis"}
    for row, example in zip(grid, examples, strict=True):
        duration = example.bin_width * len(example.spikes)
        place = {"aspect": "auto", "origin": "lower", "interpolation": "none"}
        place["extent"] = (0, duration, 0.5, example.spikes.shape[1] + 0.5)
        seen = row[0].imshow(np.ma.masked_invalid(example.spikes.T), cmap=counts, vmin=-0.5, vmax=3.5, **place)
        for axes, field in ((row[1], example.rates), (row[2], example.inferred)):
            shown = axes.imshow(field.T, **rates, **place)
        row[0].set_ylabel(f"{example.bandwidth} observed\nneuron")
    for axes, title in zip(grid[0], ("spikes seen by the model", "true rates", "inferred rates"), strict=True):
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    bar = {"location": "bottom", "aspect": 30, "pad": 0.02}
    spikes_bar = figure.colorbar(
        seen, ax=grid[:, 0], ticks=[0, 1, 2, 3], label="spikes per bin (coloured: missing)", **bar
    )
    spikes_bar.set_ticklabels(["0", "1", "2", "3+"])
    figure.colorbar(shown, ax=grid[:, 1:], label="firing rate (spikes/s)", **bar)
    return figure


def markdown_table(levels: list[tuple[Score, float]], published: list[dict[str, float]]) -> str:
    """Write the curve as a markdown table."""
    published_r2 = {int(level["bandwidth"]): f"{level['valid_r2']:.3f}" for level in published}
    lines = [
        "| observed | dropped | R² | R² observed entries | R² unobserved entries | published R² | ideal observer |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for score, sd in levels:
        numbers = [f"{score.r2:.3f}" + (f" ± {sd:.3f}" if np.isfinite(sd) else "")]
        numbers += [f"{value:.3f}" if np.isfinite(value) else "–" for value in (score.r2_observed, score.r2_unobserved)]
        numbers += [
            published_r2.get(score.bandwidth, "–"),
            f"{score.r2_ideal:.3f}" if np.isfinite(score.r2_ideal) else "–",
        ]
        lines.append(f"| {score.bandwidth} | {score.fraction_dropped:.0%} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def save(figure: Figure, out: Path, name: str) -> None:
    """Save a figure as PNG and PDF, without the date, so that the same figure is the same file."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with whole_file(out / (name + suffix)) as path:
            figure.savefig(path, metadata=metadata)


def main() -> None:
    parser = jsonargparse.ArgumentParser(description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="*", type=str, help="Runs, levels or checkpoints (default: the newest complete run)"
    )
    parser.add_argument("--out", type=str, default="figures", help="Folder to write figures and tables to")
    parser.add_argument("--data", type=str | None, help="Data file, if not where the checkpoints say")
    options = parser.parse_args()

    checkpoints = find_checkpoints(options.runs)
    evaluated = [evaluate(checkpoint, options.data) for checkpoint in checkpoints]
    out = writable_folder(options.out, "--out")
    levels, published = mean_and_sd([score for score, _ in evaluated]), read_published()
    examples = {example.bandwidth: example for _, example in reversed(evaluated)}
    with matplotlib.rc_context(STYLE):
        save(plot_curve(levels, published), out, "r2_curve")
        save(
            plot_examples([examples[bandwidth] for bandwidth in sorted(examples, reverse=True)]), out, "example_trials"
        )
    with whole_file(out / "results.csv") as path, open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Score)])
        writer.writeheader()
        writer.writerows(asdict(score) for score, _ in evaluated)
    with whole_file(out / "results.md") as path:
        path.write_text(markdown_table(levels, published))
    print(f"{markdown_table(levels, published)}\nFigures and tables are in {out}")


if __name__ == "__main__":
    run(main)
