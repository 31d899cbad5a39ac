"""Evaluate trained runs and plot them: R² against the fraction dropped (bits per spike without true
rates), and trials.

python plot_results.py                     the newest complete run, else lightning_logs/pretrained
python plot_results.py RUN_DIR ...         folders of runs or bandwidths, or checkpoints; several
seeds are averaged
"""

import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

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
from evaluation.checkpoints import find_checkpoints
from evaluation.inference import infer_arrays
from evaluation.reference import is_demonstration, read_published, read_seeds
from evaluation.scoring import Score, load_model_and_data, mean_and_sd, score
from plotting.latents import apply_map, fit_linear_map, plot_lorenz
from plotting.scores import (
    plot_bits,
    plot_bits_of_neurons,
    plot_neurons_and_bins,
    plot_psth,
    plot_r2,
)
from plotting.style import STYLE, save, save_animation
from plotting.trials import Example, animate_bandwidth, plot_examples, plot_method
from recordings.hdf5 import read_latents

MAX_SHOWN_TRIALS = 2000  # of a split, in figures


@dataclass
class Evaluation:
    """Score and inferences of one checkpoint on the validation trials. None where the true values
    are not known."""

    score: Score
    example: Example
    is_demonstration: bool  # the data are lorenz_data.h5
    r2_of_entries: np.ndarray | None = (
        None  # (time, neurons) 1 - mean squared error / variance of the neuron
    )
    true_latents: np.ndarray | None = None  # (trials, time, 3) those of the simulation
    latents: np.ndarray | None = (
        None  # (trials, time, 3) those of the model, after a linear map to the true ones
    )
    condition: np.ndarray | None = None  # (trials,) labels
    bits_of_neurons: np.ndarray | None = None  # (neurons,) bits per spike of held-out counts
    psth: tuple[np.ndarray, np.ndarray] | None = (
        None  # (conditions, time, neurons) mean rates, counted and inferred
    )
    condition_names: list[str] | None = None  # of the labels 0, 1, ...

    def name_of(self, label: int) -> str:
        """Return the name of a condition."""
        names = self.condition_names or []
        return names[label] if 0 <= label < len(names) else f"condition {label}"


def evaluate(checkpoint: Path, data_path: str | None) -> Evaluation:
    """Score a checkpoint on the validation data, with the masks of its training, and choose a trial
    to show."""
    model, data = load_model_and_data(checkpoint, data_path)
    train, valid = (data.datasets[split][:MAX_SHOWN_TRIALS] for split in ("train", "valid"))
    inferred = infer_arrays(model, valid.spikes)
    shown, true = len(valid.spikes) // 2, None if valid.rates is None else valid.rates.numpy()
    example = Example(
        bandwidth=data.n_observed,
        spikes=valid.spikes[shown].numpy(),
        rates=None if true is None else true[shown],
        inferred=inferred["rates"][shown],
        bin_width=data.bin_width,
        inputs=inferred["inputs"][shown] if "inputs" in inferred else None,
    )
    result = Evaluation(
        score(checkpoint, model, data), example, is_demonstration(data.hparams.path)
    )
    result.bits_of_neurons = (
        model.scores["bps"].per_neuron().numpy()
    )  # of the validation for the score
    if data.trials["valid"].condition is not None:
        result.condition = data.trials["valid"].condition[:MAX_SHOWN_TRIALS]
        result.condition_names = data.condition_names
    if true is None:
        recorded = (
            data.trials["valid"].spikes[:MAX_SHOWN_TRIALS].astype(np.float32) / data.bin_width
        )
        result.psth = tuple(
            mean_of_conditions(rates, result.condition) for rates in (recorded, inferred["rates"])
        )
    else:
        variance = true.var((0, 1))
        error = ((inferred["rates"] - true) ** 2).mean(0)
        result.r2_of_entries = 1 - error / np.where(variance > 0, variance, np.nan)
    is_as_in_file = data.hparams.split == "trials"
    true_latents = read_latents(data.hparams.path, MAX_SHOWN_TRIALS) if is_as_in_file else None
    if true_latents is not None:
        to_true = fit_linear_map(
            infer_arrays(model, train.spikes)["latents"], true_latents["train"]
        )
        result.latents, result.true_latents = (
            apply_map(to_true, inferred["latents"]),
            true_latents["valid"],
        )
    return result


def mean_of_conditions(rates: np.ndarray, condition: np.ndarray | None) -> np.ndarray:
    """Return the mean over trials of each condition (conditions, time, neurons); without
    conditions, over all trials."""
    if condition is None:
        condition = np.zeros(len(rates))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an entry that was never recorded is NaN
        return np.stack(
            [np.nanmean(rates[condition == label], axis=0) for label in np.unique(condition)]
        )


def results_table(averaged: list[tuple[Score, Score]], with_published: bool) -> str:
    """Return the scores of all bandwidths as a markdown table, without empty columns.

    Args:
        averaged: Mean and SD of the scores of each bandwidth.
        with_published: Whether to add the public demo's R². They apply only to the demonstration's
            data.
    """

    def number(value: float, sd: float = np.nan) -> str:
        return (
            f"{value:.3f}{f' ± {sd:.3f}' if np.isfinite(sd) else ''}" if np.isfinite(value) else "–"
        )

    published = read_published() if with_published else {}
    no_truth = all(np.isnan(mean.r2) for mean, _ in averaged)
    columns = {
        "observed": [str(mean.bandwidth) for mean, _ in averaged],
        "dropped": [f"{mean.fraction_dropped:.0%}" for mean, _ in averaged],
        "R²": [number(mean.r2, sd.r2) for mean, sd in averaged],
        "R² at unobserved entries": [number(mean.r2_unobserved) for mean, _ in averaged],
        "R² encoder alone": [number(mean.r2_amortised) for mean, _ in averaged],
        "bits/spike": [number(mean.bps, sd.bps) for mean, sd in averaged],
        "smoothed spikes": [number(mean.bps_smoothed) for mean, _ in averaged] if no_truth else [],
        "mean over trials": [number(mean.bps_mean_over_trials) for mean, _ in averaged]
        if no_truth
        else [],
        "public demo": [
            number(published.get(mean.bandwidth, {}).get("valid_r2", np.nan))
            for mean, _ in averaged
        ],
        "ideal observer": [number(mean.r2_ideal) for mean, _ in averaged],
    }
    return markdown_table({title: cells for title, cells in columns.items() if set(cells) - {"–"}})


def draw_curve(averaged: list[tuple[Score, Score]], with_reference: bool) -> tuple[Figure, str]:
    """Plot R² (bits per spike if R² is unknown) against the percentage dropped. Return the figure
    and its name."""
    means = {
        field.name: np.array([getattr(mean, field.name) for mean, _ in averaged])
        for field in fields(Score)
    }
    dropped = 100 * means["fraction_dropped"]
    if np.isnan(means["r2"]).all():
        return plot_bits(dropped, means, np.array([sd.bps for _, sd in averaged])), "bits_curve"
    published = seeds = None
    if with_reference:
        rows = read_published().values()
        published = tuple(
            np.array([row[name] for row in rows]) for name in ("fraction_dropped", "valid_r2")
        )
        published = 100 * published[0], published[1]
        seeds_dropped, *mean_and_band = read_seeds()
        seeds = 100 * seeds_dropped, *mean_and_band
    return plot_r2(
        dropped, means, np.array([sd.r2 for _, sd in averaged]), published, seeds
    ), "r2_curve"


def draw_all(evaluations: list[Evaluation], averaged: list[tuple[Score, Score]], out: Path) -> None:
    """Save the figures. Those of true rates or true latents are left out if these are not known."""
    by_bandwidth = {evaluation.score.bandwidth: evaluation for evaluation in reversed(evaluations)}
    # the first seed of each bandwidth, the largest bandwidth first
    shown = [by_bandwidth[mean.bandwidth] for mean, _ in averaged]
    examples = [evaluation.example for evaluation in shown]
    n_neurons = examples[0].spikes.shape[1]
    few_observed = min(examples, key=lambda example: abs(example.bandwidth - n_neurons / 6))
    save(*draw_curve(averaged, all(evaluation.is_demonstration for evaluation in shown)), out)
    titles = [f"{example.bandwidth} of {n_neurons}" for example in examples]
    save(plot_examples(examples, titles), "example_trials", out)
    save(plot_method(few_observed), "method", out)
    if all(evaluation.psth is not None for evaluation in shown):
        save(
            plot_bits_of_neurons(
                {evaluation.score.bandwidth: evaluation.bits_of_neurons for evaluation in shown}
            ),
            "bits_of_neurons",
            out,
        )
        few = shown[examples.index(few_observed)]
        labels = (
            ["all trials"]
            if few.condition is None
            else [few.name_of(label) for label in np.unique(few.condition)]
        )
        seen = f"{few_observed.bandwidth} of {n_neurons} neurons"
        save(plot_psth(*few.psth, few_observed.bin_width, labels, seen), "psth", out)
    if all(evaluation.r2_of_entries is not None for evaluation in shown):
        r2 = {evaluation.score.bandwidth: evaluation.r2_of_entries for evaluation in shown}
        save(plot_neurons_and_bins(r2, few_observed.bin_width), "neurons_and_bins", out)
        save_animation(
            animate_bandwidth(examples, [mean.r2 for mean, _ in averaged]), "fewer_neurons", out
        )
    if all(evaluation.latents is not None for evaluation in shown):
        few = [shown[0], shown[(len(shown) + 1) // 2], shown[-1]] if len(shown) > 2 else shown
        recovered = {evaluation.score.bandwidth: evaluation.latents for evaluation in few}
        save(plot_lorenz(shown[0].true_latents, recovered, shown[0].condition), "lorenz", out)


def main() -> None:
    silence_lightning()
    parser = command_parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="*",
        type=str,
        help="Runs, bandwidths or checkpoints (default: the newest complete run)",
    )
    parser.add_argument(
        "--out", type=str, default="figures", help="Folder to write figures and tables to"
    )
    parser.add_argument(
        "--data", type=str | None, help="Data file (default: where it was in training)"
    )
    options = parser.parse_args()

    checkpoints = find_checkpoints(options.runs)
    out = writable_folder(options.out, "--out")
    evaluations = [evaluate(checkpoint, options.data) for checkpoint in checkpoints]
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
