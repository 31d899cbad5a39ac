"""Evaluate trained runs and plot them: R² against the fraction dropped (bits per spike without true
rates), and trials.

python plot_results.py               the newest complete sweep, else lightning_logs/pretrained
python plot_results.py FOLDER ...    sweeps, runs or checkpoints; several seeds are averaged
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

from command_line import (
    atomic_write,
    command_parser,
    markdown_table,
    run,
    silence_lightning,
    writable_folder,
    write_table,
)
from data import SpikeDataModule
from evaluation.checkpoints import load_model_and_data
from evaluation.latents import RecoveredLatents, recover_latents
from evaluation.reference import is_demonstration, read_published, read_seeds
from evaluation.run_folders import find_checkpoints, name_sweep
from evaluation.scoring import Score, add_baselines, evaluate, mean_and_sd, r2_of_entries
from evaluation.shown import Psths, choose_trials, compute_psths, make_examples
from model import SequentialAutoencoder
from plotting import latents, scores
from plotting.style import STYLE, save
from plotting.trials import Example, plot_examples, plot_trials
from training.options import train_parser

MAX_SHOWN_TRIALS, MAX_SHOWN_ENTRIES = 2000, 20_000_000  # of a split, in figures
N_EXAMPLES = 5  # trials of one model
# settings that may differ between runs that are averaged, or that one curve joins
NOT_OF_THE_RECIPE = {
    "bandwidth", "seed", "seed_everything", "input_size", "num_workers", "jobs", "quiet", "resume",
}  # fmt: skip


@dataclass
class Evaluation:
    """What tables and figures show of one checkpoint. None where the true values are not known."""

    score: Score
    recipe: str  # all settings but bandwidth and seed
    sweep: str
    data_path: str
    is_demonstration: bool  # the data are those of lorenz_data.h5
    mask_seed: int | None  # if the masks are not those of the run's seed
    missing: float  # fraction of the counts that the data file itself lacks
    examples: list[Example]
    bits_of_neurons: np.ndarray  # (N,) bits per spike of held-out counts
    r2_of_entries: np.ndarray | None  # (T, N)
    psths: Psths | None  # instead, if true rates are not known
    latents: RecoveredLatents | None


def evaluate_checkpoint(
    checkpoint: Path, model: SequentialAutoencoder, data: SpikeDataModule
) -> Evaluation:
    """Score a checkpoint on the validation data, with the masks of its training."""
    _, n_bins, n_neurons = data.trials["valid"].spikes.shape
    n_shown = min(MAX_SHOWN_TRIALS, max(1, MAX_SHOWN_ENTRIES // (n_bins * n_neurons)))
    of_model, inferred = evaluate(model, data, n_shown)
    rates, true = inferred["rates"], data.datasets["valid"][:n_shown].rates
    true = None if true is None else true.numpy()
    return Evaluation(
        score=add_baselines(of_model, data, checkpoint),
        recipe=read_recipe(checkpoint, model, data),
        sweep=name_sweep(checkpoint),
        data_path=data.hparams.path,
        is_demonstration=is_demonstration(data),
        mask_seed=data.hparams.mask_seed,
        missing=float(np.isnan(data.trials["valid"].spikes[:n_shown]).mean()),
        examples=make_examples(data, inferred, choose_trials(len(rates), N_EXAMPLES)),
        bits_of_neurons=model.scores["bps"].per_neuron().numpy(),
        r2_of_entries=None if true is None else r2_of_entries(rates, true),
        psths=compute_psths(data, rates) if true is None else None,
        latents=recover_latents(model, data, n_shown, inferred["latents"]),
    )


def evaluate_all(checkpoints: list[Path], data_path: str | None) -> list[Evaluation]:
    """Evaluate checkpoints, and show the progress."""
    evaluations = []
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=len(checkpoints))
        for checkpoint in checkpoints:
            progress.update(task, description=str(checkpoint.parent))
            model, data = load_model_and_data(checkpoint, data_path)
            if model.prior.is_slow:
                print(f"{checkpoint}: fits a trajectory to each trial, which can take minutes")
            evaluations.append(evaluate_checkpoint(checkpoint, model, data))
            progress.advance(task)
    return evaluations


def read_recipe(checkpoint: Path, model: SequentialAutoencoder, data: SpikeDataModule) -> str:
    """Return all known settings of a run but its bandwidth and seed: those in the checkpoint, and
    those in the config.yaml beside it."""
    settings = {**model.hparams, **data.hparams}
    config = checkpoint.with_name("config.yaml")
    if config.is_file():
        settings |= dict(train_parser().parse_path(config).items())
    chosen = (name for name in settings if name.split(".")[-1] not in NOT_OF_THE_RECIPE)
    return repr([(name, settings[name]) for name in sorted(chosen)])


class Group(NamedTuple):
    """Runs that differ in nothing but their seed."""

    sweep: str  # where the recipe was trained; nothing if all runs have one recipe
    runs: list[Evaluation]
    mean: Score
    sd: Score
    together: dict[str, float]  # scores of the mean of their rates, if they have the same masks

    @property
    def name(self) -> str:
        """What tells the group from others."""
        return f"{self.sweep}: " * bool(self.sweep) + str(self.mean.bandwidth)

    @property
    def n_neurons(self) -> int:
        """Number of neurons in the data."""
        return self.runs[0].examples[0].spikes.shape[1]


def group_runs(evaluations: list[Evaluation]) -> list[Group]:
    """Group runs by all but their seed: one recipe after the other, the largest bandwidth first."""
    recipes = list(dict.fromkeys(evaluation.recipe for evaluation in evaluations))
    groups = []
    for number, recipe in enumerate(recipes, 1):
        alike = [evaluation for evaluation in evaluations if evaluation.recipe == recipe]
        sweeps = ", ".join(dict.fromkeys(one.sweep for one in alike)) if recipes[1:] else ""
        if any(group.sweep == sweeps for group in groups):
            sweeps += f" ({number})"
        for bandwidth in sorted({one.score.bandwidth for one in alike}, reverse=True):
            seeds = [one for one in alike if one.score.bandwidth == bandwidth]
            scores_of_seeds = mean_and_sd([one.score for one in seeds])
            groups.append(Group(sweeps, seeds, *scores_of_seeds, score_together(seeds)))
    return groups


def score_together(runs: list[Evaluation]) -> dict[str, float]:
    """Return the scores of several runs as one model, nothing if their masks differ."""
    if len(runs) == 1 or any(one.mask_seed is None for one in runs):
        return {}
    checkpoints = [Path(one.score.checkpoint) for one in runs]
    return evaluate(*load_model_and_data(checkpoints, runs[0].data_path))[0]


def results_table(groups: list[Group]) -> str:
    """Return means (± SD over seeds) of all groups as a markdown table, no empty columns."""
    averaged = [(group.mean, group.sd) for group in groups]
    published = read_published() if are_demonstration(groups) else {}
    public_demo = [published.get(mean.bandwidth, {}).get("valid_r2") for mean, _ in averaged]
    no_truth = all(np.isnan(mean.r2) for mean, _ in averaged)

    def number(value: float | None, sd: float = np.nan) -> str:
        if value is None or not np.isfinite(value):
            return "–"
        return f"{value:.3f} ± {sd:.3f}" if np.isfinite(sd) else f"{value:.3f}"

    def column(name: str) -> list[str]:
        return [number(getattr(mean, name)) for mean, _ in averaged]

    columns = {
        "sweep": [group.sweep for group in groups],
        "observed": [str(mean.bandwidth) for mean, _ in averaged],
        "dropped": [f"{mean.fraction_dropped:.0%}" for mean, _ in averaged],
        "R²": [number(mean.r2, sd.r2) for mean, sd in averaged],
        "R² at unobserved entries": column("r2_unobserved"),
        "R² encoder alone": column("r2_amortised"),
        "bits/spike": [number(mean.bps, sd.bps) for mean, sd in averaged],
        "R² of the seeds' mean": [number(group.together.get("r2")) for group in groups],
        "bits/spike of the seeds' mean": [number(group.together.get("bps")) for group in groups],
        "smoothed spikes": column("bps_smoothed") if no_truth else [],
        "mean over trials": column("bps_mean_over_trials") if no_truth else [],
        "public demo": [number(r2) for r2 in public_demo],
        "ideal observer": column("r2_ideal"),
    }
    columns = {title: cells for title, cells in columns.items() if set(cells) - {"–", ""}}
    missing = max(one.missing for group in groups for one in group.runs)
    note = f"\nThe data file itself lacks {missing:.1%} of the counts: not among those *dropped*.\n"
    return markdown_table(columns, n_left="sweep" in columns) + note * (missing > 0)


def are_demonstration(groups: list[Group]) -> bool:
    """Return whether the reference numbers apply to all runs."""
    return all(one.is_demonstration for group in groups for one in group.runs)


def make_curve(groups: Iterable[Group]) -> scores.Curve:
    """Return the scores of groups that differ in their bandwidth."""
    names = [field.name for field in fields(Score)]
    means, sds = (
        {name: np.array([getattr(score, name) for score in of]) for name in names}
        for of in zip(*((group.mean, group.sd) for group in groups), strict=True)
    )
    return scores.Curve(100 * means["fraction_dropped"], means, sds)


def draw_curves(groups: list[Group]) -> tuple[Figure, str]:
    """Plot R², or bits per spike if it is unknown, against the fraction dropped; name the plot."""
    curves = {
        sweep or "this repo": make_curve(group for group in groups if group.sweep == sweep)
        for sweep in dict.fromkeys(group.sweep for group in groups)
    }
    if all(np.isnan(group.mean.r2) for group in groups):
        return scores.plot_bits(curves), "bits_curve"
    published = seeds = None
    if are_demonstration(groups):
        rows = read_published().values()
        published = np.array([(100 * row["fraction_dropped"], row["valid_r2"]) for row in rows]).T
        of_seeds, mean, sd = read_seeds()
        seeds = 100 * of_seeds, mean - sd, mean + sd
    return scores.plot_r2(curves, published, seeds), "r2_curve"


def draw_examples(groups: list[Group]) -> Figure:
    """Plot the same trial of all groups, or several trials of a group alone."""
    of_groups = [group.runs[0].examples for group in groups]
    if len(of_groups) == 1:
        return plot_trials(of_groups[0])
    middle = [examples[len(examples) // 2] for examples in of_groups]
    return plot_examples(
        middle, [fill(f"{group.name} of {group.n_neurons}", 13) for group in groups]
    )


def draw_all(groups: list[Group], out: Path) -> None:
    """Save the figures of the first seed of each group; those of truth only if it is known."""
    shown = {group.name: group.runs[0] for group in groups}

    def known(name: str) -> dict[str, Any]:
        """Return a field by group; nothing if one of the evaluations lacks it."""
        values = {group: getattr(shown[group], name) for group in shown}
        return {} if any(value is None for value in values.values()) else values

    save(*draw_curves(groups), out)
    save(draw_examples(groups), "example_trials", out)
    few = min(groups, key=lambda group: abs(group.mean.bandwidth - group.n_neurons / 6))
    labels = few.runs[0].examples[0].labels
    if psths := known("psths"):
        save(scores.plot_bits_of_neurons(known("bits_of_neurons")), "bits_of_neurons", out)
        counted, inferred, names, sd = psths[few.name]
        note = f"mean over trials: thin as counted (smoothed, SD at most {sd:.2g} s)"
        note += f", thick as inferred from {few.name} of {few.n_neurons} {labels.noun}s"
        save(scores.plot_psth(counted, inferred, names, labels, note), "psth", out)
    if r2 := known("r2_of_entries"):
        save(scores.plot_neurons_and_bins(r2, labels), "neurons_and_bins", out)
    recovered = known("latents")
    if recovered and all(of_model.true.shape[2] == 3 for of_model in recovered.values()):
        save(draw_lorenz(recovered), "lorenz", out)


def draw_lorenz(recovered: dict[str, RecoveredLatents]) -> Figure:
    """Plot true latents beside those recovered from most, from fewer and from fewest neurons."""
    names, last = list(recovered), len(recovered) - 1
    first = recovered[names[0]]
    panels = {"true latents": first.true}
    for index in sorted({0, min(last // 2 + 1, last), last}):
        of_model = recovered[names[index]]
        title = fill(f"{names[index]} neurons observed", 22)
        panels[f"{title}\nR² {of_model.r2:.2f}"] = of_model.mapped
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
    evaluations = evaluate_all(checkpoints, options.data)
    groups = group_runs(evaluations)
    table = results_table(groups)
    write_table(out / "results.csv", [asdict(evaluation.score) for evaluation in evaluations])
    with atomic_write(out / "results.md") as path:
        path.write_text(table)
    print(table)
    with matplotlib.style.context(STYLE):
        draw_all(groups, out)
    print(f"Figures and tables are in {out}")


if __name__ == "__main__":
    run(main)
