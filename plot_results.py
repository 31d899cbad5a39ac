"""Evaluate trained runs and plot them: R² (bits per spike, where no truth is known) against what was dropped, and trials.

python plot_results.py                     the newest complete run, else lightning_logs/pretrained
python plot_results.py RUN_DIR ...         runs, levels or single checkpoints; several seeds are averaged
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jsonargparse
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from baselines import r2_of_ideal_observer, r2_of_smoothing, read_ablation, read_published, read_seeds
from command_line import run, whole_file, writable_folder, write_table
from evaluate import find_checkpoints, infer_trials, load_checkpoint, load_data, read_true_latents, validate
from latent_plots import apply_map, linear_map, plot_lorenz
from plots import STYLE, plot_bits, plot_neurons_and_bins, plot_overfitting, plot_r2, plot_why, save, save_animation
from progress import silence_lightning
from trial_plots import Example, animate_bandwidth, plot_examples, plot_method

MOST_TRIALS = 2000  # of a split, for figures


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
    r2_smoothed: float
    bps: float
    seed: int
    checkpoint: str


@dataclass
class Level:
    """What one checkpoint infers on the validation trials; None where that needs a truth that is not known."""

    score: Score
    example: Example
    r2: np.ndarray | None = None  # (time, neurons) one minus the mean squared error over the neuron's variance
    true_latents: np.ndarray | None = None  # (trials, time, 3) those of the simulation
    latents: np.ndarray | None = None  # the same, as a linear map makes them from the model's
    condition: np.ndarray | None = None  # (trials,) labels


def evaluate(checkpoint: Path, data_path: str | None) -> Level:
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
        r2_smoothed=r2_of_smoothing(data),
        seed=data.hparams.seed,
        checkpoint=str(checkpoint),
    )
    train, valid = (data.datasets[split][:MOST_TRIALS] for split in ("train", "valid"))
    inferred, latents = infer_trials(model, valid.spikes)
    shown, true = len(inferred) // 2, None if valid.rates is None else valid.rates.numpy()
    rates = None if true is None else true[shown]
    example = Example(bandwidth, valid.spikes[shown].numpy(), rates, inferred[shown], data.bin_width)
    level = Level(score, example, condition=data.trials["valid"].condition)
    if true is not None:
        variance = true.var((0, 1))
        level.r2 = 1 - ((inferred - true) ** 2).mean(0) / np.where(variance > 0, variance, np.nan)
    true_latents = read_true_latents(data.hparams.path, MOST_TRIALS)
    if true_latents is not None:
        to_true = linear_map(infer_trials(model, train.spikes)[1], true_latents["train"])
        level.latents, level.true_latents = apply_map(to_true, latents), true_latents["valid"]
    return level


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


def draw_curve(levels: list[tuple[Score, Score]], published: list[dict[str, float]]) -> tuple[Figure, str]:
    """Plot the curve over the levels; return the figure and its name."""
    means = {field.name: np.array([getattr(mean, field.name) for mean, _ in levels]) for field in fields(Score)}
    dropped = 100 * means["fraction_dropped"]
    if np.isnan(means["r2"]).all():
        return plot_bits(dropped, means["bps"], np.array([sd.bps for _, sd in levels])), "bits_curve"
    sds = np.array([sd.r2 for _, sd in levels])
    demo = tuple(np.array([level[name] for level in published]) for name in ("fraction_dropped", "valid_r2"))
    seeds_dropped, *of_seeds = read_seeds()
    return plot_r2(dropped, means, sds, (100 * demo[0], demo[1]), (100 * seeds_dropped, *of_seeds)), "r2_curve"


def draw_all(evaluated: list[Level], out: Path) -> None:
    """Draw every figure that the data allow."""
    levels = mean_and_sd([level.score for level in evaluated])
    by_bandwidth = {level.score.bandwidth: level for level in reversed(evaluated)}
    shown = [by_bandwidth[mean.bandwidth] for mean, _ in levels]  # the first seed of each, widest first
    examples = [level.example for level in shown]
    n_neurons = examples[0].spikes.shape[1]
    few_observed = min(examples, key=lambda example: abs(example.bandwidth - n_neurons / 6))
    save(*draw_curve(levels, read_published()), out)
    save(
        plot_examples(examples, [f"{example.bandwidth} of {n_neurons}" for example in examples]), "example_trials", out
    )
    save(plot_method(few_observed), "method", out)
    histories = read_ablation()
    save(plot_why(histories), "why", out)
    fewest = min(histories)
    _, copying, learning, _ = histories[fewest].values()  # they differ by coordinated dropout alone
    save(plot_overfitting(copying, learning, fewest), "overfitting", out)
    if all(level.r2 is not None for level in shown):
        r2 = {level.score.bandwidth: level.r2 for level in shown}
        save(plot_neurons_and_bins(r2, few_observed.bin_width), "neurons_and_bins", out)
        save_animation(animate_bandwidth(examples, [mean.r2 for mean, _ in levels]), "fewer_neurons", out)
    if all(level.latents is not None for level in shown):
        few = [shown[0], shown[(len(shown) + 1) // 2], shown[-1]] if len(shown) > 2 else shown
        recovered = {level.score.bandwidth: level.latents for level in few}
        save(plot_lorenz(shown[0].true_latents, recovered, shown[0].condition), "lorenz", out)


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
    with matplotlib.style.context(STYLE):
        draw_all(evaluated, out)
    scores = [level.score for level in evaluated]
    table = markdown_table(mean_and_sd(scores), read_published())
    write_table(out / "results.csv", [asdict(score) for score in scores])
    with whole_file(out / "results.md") as path:
        path.write_text(table)
    print(f"{table}\nFigures and tables are in {out}")


if __name__ == "__main__":
    run(main)
