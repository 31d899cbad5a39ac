"""Evaluate trained runs and plot them: R² (bits per spike, where no truth is known) against what was dropped, and trials.

python plot_results.py                     the newest complete run, else lightning_logs/pretrained
python plot_results.py RUN_DIR ...         runs, levels or single checkpoints; several seeds are averaged
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jsonargparse
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from command_line import run, whole_file, writable_folder, write_table
from evaluate import (
    find_checkpoints,
    infer_rates,
    load_checkpoint,
    load_data,
    r2_of_ideal_observer,
    read_ablation,
    read_published,
    validate,
)
from plots import STYLE, Example, plot_bits, plot_examples, plot_method, plot_r2, plot_why, save
from progress import silence_lightning


@dataclass
class Score:
    """How one checkpoint does on the validation trials; NaN where a score needs a truth that is not known."""

    bandwidth: int
    fraction_dropped: float
    r2: float
    r2_observed: float
    r2_unobserved: float
    r2_amortised: float
    r2_ideal: float
    bps: float
    seed: int
    checkpoint: str


def evaluate(checkpoint: Path, data_path: str | None) -> tuple[Score, Example]:
    """Score a checkpoint on the validation data, with the masks it was trained with, and take a trial to show."""
    model, options = load_checkpoint(checkpoint)
    data = load_data(checkpoint, model, options | ({"path": data_path} if data_path else {}))
    scores = validate(model, data)
    bandwidth = data.hparams.bandwidth or data.n_neurons
    score = Score(
        bandwidth=bandwidth,
        fraction_dropped=1 - bandwidth / data.n_neurons,
        **{name: scores.get(name, np.nan) for name in ("r2", "r2_observed", "r2_unobserved", "r2_amortised", "bps")},
        r2_ideal=r2_of_ideal_observer(data),
        seed=data.hparams.seed,
        checkpoint=str(checkpoint),
    )
    shown = len(data.datasets["valid"]) // 2
    trial = data.datasets["valid"][shown : shown + 1]
    rates = None if trial.rates is None else trial.rates[0].numpy()
    inferred = infer_rates(model, trial.spikes)[0].numpy()
    return score, Example(bandwidth, trial.spikes[0].numpy(), rates, inferred, data.bin_width)


def mean_and_sd(scores: list[Score]) -> list[tuple[Score, Score]]:
    """Average the scores of each bandwidth over seeds; return the means and the SDs (NaN for one seed), widest first."""
    levels = []
    for bandwidth in sorted({score.bandwidth for score in scores}, reverse=True):
        same = [score for score in scores if score.bandwidth == bandwidth]
        values = {field.name: [getattr(score, field.name) for score in same] for field in fields(Score)}
        kept = {name: of_seeds[0] for name, of_seeds in values.items()}
        numbers = {field.name: values[field.name] for field in fields(Score) if field.type is float}
        means = {name: float(np.mean(of_seeds)) for name, of_seeds in numbers.items()}
        sds = {name: float(np.std(of_seeds, ddof=1)) if len(same) > 1 else np.nan for name, of_seeds in numbers.items()}
        levels.append((Score(**kept | means), Score(**kept | sds)))
    return levels


def markdown_table(levels: list[tuple[Score, Score]], published: list[dict[str, float]]) -> str:
    """Write the curve as a markdown table, without the columns that would be empty."""
    published_r2 = {int(level["bandwidth"]): level["valid_r2"] for level in published}

    def number(value: float, sd: float = np.nan) -> str:
        return f"{value:.3f}{f' ± {sd:.3f}' if np.isfinite(sd) else ''}" if np.isfinite(value) else "–"

    columns = {
        "observed": [str(mean.bandwidth) for mean, _ in levels],
        "dropped": [f"{mean.fraction_dropped:.0%}" for mean, _ in levels],
        "R²": [number(mean.r2, sd.r2) for mean, sd in levels],
        "R² at unobserved entries": [number(mean.r2_unobserved) for mean, _ in levels],
        "R² encoder alone": [number(mean.r2_amortised) for mean, _ in levels],
        "bits/spike": [number(mean.bps, sd.bps) for mean, sd in levels],
    }
    if np.isfinite([mean.r2 for mean, _ in levels]).any():
        columns["public demo"] = [number(published_r2.get(mean.bandwidth, np.nan)) for mean, _ in levels]
        columns["ideal observer"] = [number(mean.r2_ideal) for mean, _ in levels]
    columns = {title: cells for title, cells in columns.items() if set(cells) != {"–"}}
    rows = [list(columns), ["---:"] * len(columns), *zip(*columns.values(), strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def plot_levels(levels: list[tuple[Score, Score]], published: list[dict[str, float]]) -> tuple[Figure, str]:
    """Plot the curve over the levels; return the figure and its name."""
    means = {field.name: np.array([getattr(mean, field.name) for mean, _ in levels]) for field in fields(Score)}
    dropped = 100 * means["fraction_dropped"]
    if np.isnan(means["r2"]).all():
        return plot_bits(dropped, means["bps"], np.array([sd.bps for _, sd in levels])), "bits_curve"
    sds = np.array([sd.r2 for _, sd in levels])
    published_curve = [np.array([level[name] for level in published]) for name in ("fraction_dropped", "valid_r2")]
    published_curve[0] = 100 * published_curve[0]
    return plot_r2(dropped, means["r2"], sds, means["r2_amortised"], means["r2_ideal"], published_curve), "r2_curve"


def main() -> None:
    silence_lightning()
    parser = jsonargparse.ArgumentParser(description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="*", type=str, help="Runs, levels or checkpoints (default: the newest complete run)"
    )
    parser.add_argument("--out", type=str, default="figures", help="Folder to write figures and tables to")
    parser.add_argument("--data", type=str | None, help="Data file, if not where the checkpoints say")
    options = parser.parse_args()

    checkpoints = find_checkpoints(options.runs)
    out = writable_folder(options.out, "--out")
    evaluated = [evaluate(checkpoint, options.data) for checkpoint in checkpoints]
    levels, published = mean_and_sd([score for score, _ in evaluated]), read_published()
    by_bandwidth = {example.bandwidth: example for _, example in reversed(evaluated)}
    examples = [by_bandwidth[bandwidth] for bandwidth in sorted(by_bandwidth, reverse=True)]
    few_observed = min(examples, key=lambda example: abs(example.bandwidth - example.spikes.shape[1] / 6))
    with matplotlib.rc_context(STYLE):
        save(*plot_levels(levels, published), out)
        save(plot_examples(examples), "example_trials", out)
        save(plot_method(few_observed), "method", out)
        save(plot_why(read_ablation()), "why", out)
    write_table(out / "results.csv", [asdict(score) for score, _ in evaluated])
    with whole_file(out / "results.md") as path:
        path.write_text(markdown_table(levels, published))
    print(f"{markdown_table(levels, published)}\nFigures and tables are in {out}")


if __name__ == "__main__":
    run(main)
