"""Measure what each part of the recipe is worth: three steps from the public demo's recipe to ours.

pip install -r requirements-evidence.txt
python -m experiments.ablation                            eight minutes on two cores
python -m experiments.ablation --redraw --out figures     the committed figures; trains nothing

The first writes docs/ablation.csv, the scores of each validation, and draws its learning curves. If
it was stopped, the same command resumes it.
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command_line import run
from experiments import grid
from experiments.commands import parse_options
from plotting.style import BLUE, GREEN, GREY, ORANGE
from training.flags import ROOT

COMMITTED_CSV = ROOT / "docs" / "ablation.csv"
RECIPES = {  # the demo's is trained for 200 of its 1000 epochs
    "public demo's recipe": "--config configs/published.yaml --trainer.max_epochs 200",
    "+ Muon, its schedule, start and decay": "--model.coordinated_dropout 0 --refinement.epochs 0",
    "+ coordinated dropout": "--refinement.epochs 0",
    "+ refinement (this repo)": "",
}
OFTEN = ("--trainer.check_val_every_n_epoch", "10")  # for smooth curves
SCORES = ["r2", "r2_amortised", "nll", "heldout_nll", "heldout_nll_amortised"]
LOOKS = [(ORANGE, ":"), (GREY, "-."), (GREEN, "--"), (BLUE, "-")]  # of the recipes
TITLES = {
    "nll": "NLL of counts the model sees",
    "heldout_nll": "NLL of held-out counts",
    "r2": "R² to true rates",
}


def read_history(folder: Path, results: grid.Results) -> list[dict[str, float]]:
    """Return a run's scores at each of its validations, with those of its best checkpoint."""
    events = EventAccumulator(str(folder)).Reload()
    columns = {"epoch": [event.step for event in events.Scalars("valid/r2")]}
    for score in SCORES:
        columns[score] = [event.value for event in events.Scalars(f"valid/{score}")]
        columns[f"best_{score}"] = results[score]
    return pd.DataFrame(columns).to_dict("records")


def compare_recipes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores (text) of the best checkpoints: mean over seeds, for R² also the SD."""
    columns, runs = {}, table.drop_duplicates(["recipe", "seed", "bandwidth"])
    for bandwidth, at_bandwidth in runs.groupby("bandwidth", sort=False):
        seeds = at_bandwidth.groupby("recipe", sort=False)
        amortised, nll = seeds["best_r2_amortised"].mean(), seeds["best_heldout_nll"].mean()
        columns[f"R² at {bandwidth}"] = seeds["best_r2"].agg(grid.mean_and_sd)
        columns[f"encoder alone at {bandwidth}"] = amortised.map("{:.3f}".format)
        columns[f"held-out NLL at {bandwidth}"] = nll.map("{:.4f}".format)
    return pd.DataFrame(columns).reset_index()


def draw_curve(axes: Axes, scores: pd.Series, label: str, colour: str, dashes: str) -> float:
    """Draw mean and range of a score over seeds at each epoch (index); return the last mean."""
    epochs = scores.groupby(level="epoch")
    mean = epochs.mean()
    axes.plot(mean, dashes, color=colour, label=label)
    axes.fill_between(mean.index, epochs.min(), epochs.max(), color=colour, alpha=0.2, lw=0)
    return mean.iloc[-1]


def plot_why(history: pd.DataFrame) -> Figure:
    """Plot R² against the epoch for recipes that differ by one part each, a panel for each
    bandwidth."""
    bandwidths, bottom = history.groupby("bandwidth", sort=False), -0.2
    figure = Figure(figsize=(7, 3.3))
    panels = figure.subplots(1, len(bandwidths), sharey=True, squeeze=False)[0]
    for axes, (bandwidth, at_bandwidth) in zip(panels, bandwidths, strict=True):
        recipes = at_bandwidth.set_index("epoch").groupby("recipe", sort=False)["r2"]
        for (recipe, r2), look in zip(recipes, LOOKS, strict=True):
            if (end := draw_curve(axes, r2, recipe, *look)) < bottom:
                place = {"ha": "right", "va": "bottom", "transform": axes.transAxes}
                axes.text(1, 0.01, f"overfits: {end:.1f} at the end", color=look[0], **place)
        axes.axhline(0, color=GREY, lw=0.5)
        axes.set(title=f"{bandwidth} neurons observed", xlabel="epoch")
    panels[0].set(ylabel="R² of inferred to true rates", ylim=(bottom, 1.02))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_overfitting(history: pd.DataFrame) -> Figure:
    """Plot three scores at the lowest bandwidth: without coordinated dropout, models copy the
    observed counts."""
    bandwidth = history["bandwidth"].min()
    lowest = history[history["bandwidth"] == bandwidth].set_index(["epoch", "seed"])
    copying, learning = (lowest[lowest["recipe"] == recipe] for recipe in list(RECIPES)[1:3])
    is_same = (copying["nll"] == learning["nll"]).groupby(level="epoch").all()
    begins = {"color": GREY, "ls": ":", "lw": 1, "label": "coordinated dropout begins"}
    figure = Figure(figsize=(7, 2.9))
    for axes, (score, title) in zip(figure.subplots(1, len(TITLES)), TITLES.items(), strict=True):
        if is_same.any():
            axes.axvline(is_same[is_same].index[-1], **begins)
        draw_curve(axes, copying[score], "without coordinated dropout", ORANGE, "-.")
        draw_curve(axes, learning[score], "with coordinated dropout", BLUE, "-")
        axes.set(title=title, xlabel="epoch", ylabel="nats per count" if "nll" in score else "R²")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -2.2))
    figure.suptitle(f"{bandwidth} neurons observed at each time step")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main() -> None:
    sizes = {"bandwidths": [29, 2], "seeds": 3, "epochs": None, "redraw": False}
    options = parse_options(__doc__, **sizes, name="ablation", cluster="local", out="docs")
    if options.redraw:
        history = pd.read_csv(COMMITTED_CSV)
    else:
        epochs = ["--trainer.max_epochs", str(options.epochs)] if options.epochs else []
        base = grid.start(options, options.name, read_history, *OFTEN)
        sweeps = [
            base.vary(recipe, str(number), *flags.split(), *epochs)
            for number, (recipe, flags) in enumerate(RECIPES.items())
        ]
        table = grid.gather(sweeps).rename(columns={"label": "recipe"})
        history = table[["recipe", "seed", "bandwidth", "epoch", *SCORES]]
        grid.write(options.out, "ablation", history)
        grid.print_table(compare_recipes(table), n_left=1)
    grid.draw(options.out, "why", plot_why, history)
    grid.draw(options.out, "overfitting", plot_overfitting, history)
    print(f"The figures are in {options.out}")


if __name__ == "__main__":
    run(main)
