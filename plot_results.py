"""Evaluate trained runs and plot them: R² against the fraction dropped (bits per spike without true
rates), and trials.

python plot_results.py               the newest complete sweep, else lightning_logs/pretrained
python plot_results.py FOLDER ...    sweeps, runs or checkpoints; several seeds are averaged
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from command_line import (
    atomic_write,
    command_parser,
    markdown_table,
    run,
    silence_lightning,
    writable_folder,
    write_table,
)
from evaluation.baselines import compute_psths
from evaluation.checkpoints import load_model_and_data
from evaluation.latents import RecoveredLatents, recover_latents
from evaluation.reference import is_demonstration, read_published, read_seeds
from evaluation.run_folders import find_checkpoints
from evaluation.scoring import Score, add_baselines, evaluate, mean_and_sd, r2_of_entries
from plotting import latents, scores
from plotting.style import STYLE, save, save_animation
from plotting.trials import Example, animate_bandwidth, plot_examples, plot_method

MAX_SHOWN_TRIALS = 2000  # of a split, in figures


@dataclass
class Evaluation:
    """What tables and figures show of one checkpoint. None where the true values are not known."""

    score: Score
    is_demonstration: bool  # the data are lorenz_data.h5
    example: Example
    bits_of_neurons: np.ndarray  # (N,) bits per spike of held-out counts
    r2_of_entries: np.ndarray | None  # (T, N)
    psths: tuple[np.ndarray, np.ndarray, list[str]] | None  # instead, if true rates are not known
    latents: RecoveredLatents | None


def evaluate_checkpoint(checkpoint: Path, data_path: str | None) -> Evaluation:
    """Score a checkpoint on the validation data, with the masks of its training."""
    model, data = load_model_and_data(checkpoint, data_path)
    of_model, inferred = evaluate(model, data, MAX_SHOWN_TRIALS)
    trials, rates = data.datasets["valid"][:MAX_SHOWN_TRIALS], inferred["rates"]
    true, shown = None if trials.rates is None else trials.rates.numpy(), len(rates) // 2
    example = Example(
        bandwidth=data.n_observed,
        spikes=trials.spikes[shown].numpy(),
        rates=None if true is None else true[shown],
        inferred=rates[shown],
        bin_width=data.bin_width,
        inputs=inferred["inputs"][shown] if "inputs" in inferred else None,
    )
    return Evaluation(
        score=add_baselines(of_model, data, checkpoint),
        is_demonstration=is_demonstration(data.hparams.path),
        example=example,
        bits_of_neurons=model.scores["bps"].per_neuron().numpy(),
        r2_of_entries=None if true is None else r2_of_entries(rates, true),
        psths=compute_psths(data, rates) if true is None else None,
        latents=recover_latents(model, data, MAX_SHOWN_TRIALS, inferred["latents"]),
    )


def results_table(averaged: list[tuple[Score, Score]], with_published: bool) -> str:
    """Return means (± SD over seeds) of all bandwidths as a markdown table, no empty columns."""
    published = read_published() if with_published else {}
    public_demo = [published.get(mean.bandwidth, {}).get("valid_r2") for mean, _ in averaged]
    no_truth = all(np.isnan(mean.r2) for mean, _ in averaged)

    def number(value: float | None, sd: float = np.nan) -> str:
        if value is None or not np.isfinite(value):
            return "–"
        return f"{value:.3f} ± {sd:.3f}" if np.isfinite(sd) else f"{value:.3f}"

    def column(name: str) -> list[str]:
        return [number(getattr(mean, name)) for mean, _ in averaged]

    columns = {
        "observed": [str(mean.bandwidth) for mean, _ in averaged],
        "dropped": [f"{mean.fraction_dropped:.0%}" for mean, _ in averaged],
        "R²": [number(mean.r2, sd.r2) for mean, sd in averaged],
        "R² at unobserved entries": column("r2_unobserved"),
        "R² encoder alone": column("r2_amortised"),
        "bits/spike": [number(mean.bps, sd.bps) for mean, sd in averaged],
        "smoothed spikes": column("bps_smoothed") if no_truth else [],
        "mean over trials": column("bps_mean_over_trials") if no_truth else [],
        "public demo": [number(r2) for r2 in public_demo],
        "ideal observer": column("r2_ideal"),
    }
    return markdown_table({title: cells for title, cells in columns.items() if set(cells) - {"–"}})


def draw_curve(averaged: list[tuple[Score, Score]], with_reference: bool) -> tuple[Figure, str]:
    """Plot R², or bits per spike if it is unknown, against the fraction dropped; name the plot."""
    names = [field.name for field in fields(Score)]
    means, sds = (
        {name: np.array([getattr(score, name) for score in of]) for name in names}
        for of in zip(*averaged, strict=True)
    )
    dropped = 100 * means["fraction_dropped"]
    if np.isnan(means["r2"]).all():
        return scores.plot_bits(dropped, means, sds["bps"]), "bits_curve"
    published = seeds = None
    if with_reference:
        rows = read_published().values()
        published = np.array([(100 * row["fraction_dropped"], row["valid_r2"]) for row in rows]).T
        of_seeds, mean, sd = read_seeds()
        seeds = 100 * of_seeds, mean - sd, mean + sd
    return scores.plot_r2(dropped, means, sds["r2"], published, seeds), "r2_curve"


def draw_all(evaluations: list[Evaluation], averaged: list[tuple[Score, Score]], out: Path) -> None:
    """Save the figures of the first seed of each bandwidth; those of truth only if it is known."""
    by_bandwidth = {evaluation.score.bandwidth: evaluation for evaluation in reversed(evaluations)}
    shown = {mean.bandwidth: by_bandwidth[mean.bandwidth] for mean, _ in averaged}

    def known(name: str) -> dict[int, Any]:
        """Return a field by bandwidth; nothing if one of the evaluations lacks it."""
        values = {bandwidth: getattr(shown[bandwidth], name) for bandwidth in shown}
        return {} if any(value is None for value in values.values()) else values

    examples = list(known("example").values())
    n_neurons, bin_width = examples[0].spikes.shape[1], examples[0].bin_width
    titles = [f"{bandwidth} of {n_neurons}" for bandwidth in shown]
    few = min(shown, key=lambda bandwidth: abs(bandwidth - n_neurons / 6))
    save(*draw_curve(averaged, all(known("is_demonstration").values())), out)
    save(plot_examples(examples, titles), "example_trials", out)
    save(plot_method(shown[few].example), "method", out)
    if psths := known("psths"):
        save(scores.plot_bits_of_neurons(known("bits_of_neurons")), "bits_of_neurons", out)
        seen = f"{few} of {n_neurons} neurons"
        save(scores.plot_psth(*psths[few], bin_width, seen), "psth", out)
    if r2 := known("r2_of_entries"):
        save(scores.plot_neurons_and_bins(r2, bin_width), "neurons_and_bins", out)
        animation = animate_bandwidth(examples, [mean.r2 for mean, _ in averaged])
        save_animation(animation, "fewer_neurons", out)
    if recovered := known("latents"):
        save(draw_lorenz(recovered), "lorenz", out)


def draw_lorenz(recovered: dict[int, RecoveredLatents]) -> Figure:
    """Plot true latents beside those recovered from most, from fewer and from fewest neurons."""
    bandwidths, last = list(recovered), len(recovered) - 1
    first = recovered[bandwidths[0]]
    panels = {"true latents": first.true}
    for index in sorted({0, min(last // 2 + 1, last), last}):
        of_model = recovered[bandwidths[index]]
        panels[f"{bandwidths[index]} neurons observed\nR² {of_model.r2:.2f}"] = of_model.mapped
    return latents.plot_lorenz(panels, first.condition)


def main() -> None:
    silence_lightning()
    parser = command_parser(__doc__)
    of_runs = "Sweeps, runs or checkpoints (default: the newest complete sweep)"
    of_data = "Data file (default: where it was in training)"
    parser.add_argument("runs", nargs="*", type=str, help=of_runs)
    parser.add_argument("--out", type=str, default="figures", help="Folder for figures and tables")
    parser.add_argument("--data", type=str | None, help=of_data)
    options = parser.parse_args()

    checkpoints = find_checkpoints(options.runs)
    out = writable_folder(options.out, "--out")
    evaluations = [evaluate_checkpoint(checkpoint, options.data) for checkpoint in checkpoints]
    averaged = mean_and_sd([evaluation.score for evaluation in evaluations])
    with matplotlib.style.context(STYLE):
        draw_all(evaluations, averaged, out)
    table = results_table(averaged, all(evaluation.is_demonstration for evaluation in evaluations))
    write_table(out / "results.csv", [asdict(evaluation.score) for evaluation in evaluations])
    with atomic_write(out / "results.md") as path:
        path.write_text(table)
    print(f"{table}\nFigures and tables are in {out}")


if __name__ == "__main__":
    run(main)
