"""Draw the learning curves of docs/ablation.csv: figures/why and figures/overfitting.

pip install -r requirements-evidence.txt
python -m experiments.learning_curves
"""

from pathlib import Path

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from command_line import run
from experiments.options import parse_options
from plotting.style import BLUE, GREEN, GREY, ORANGE, STYLE, save

ABLATION_CSV = Path(__file__).parent.parent / "docs" / "ablation.csv"
LOOKS = [(ORANGE, ":"), (GREY, "-."), (GREEN, "--"), (BLUE, "-")]
TITLES = {
    "nll": "NLL of counts the model sees",
    "heldout_nll": "NLL of held-out counts",
    "r2": "R² to true rates",
}


def draw_curve(axes: Axes, scores: pd.Series, label: str, colour: str, dashes: str) -> float:
    """Draw mean and range of a score over seeds at each epoch (index); return the last mean."""
    epochs = scores.groupby(level="epoch")
    mean = epochs.mean()
    axes.plot(mean, dashes, color=colour, label=label)
    axes.fill_between(mean.index, epochs.min(), epochs.max(), color=colour, alpha=0.2, lw=0)
    return mean.iloc[-1]


def plot_why(histories: pd.DataFrame) -> Figure:
    """Plot R² against the epoch for four recipes that differ by one part each, a panel for each
    bandwidth."""
    bandwidths, bottom = histories.groupby("bandwidth", sort=False), -0.2
    figure = Figure(figsize=(7, 3.3))
    panels = figure.subplots(1, len(bandwidths), sharey=True, squeeze=False)[0]
    for axes, (bandwidth, history) in zip(panels, bandwidths, strict=True):
        recipes = history.set_index("epoch").groupby("recipe", sort=False)["r2"]
        for (recipe, r2), (colour, dashes) in zip(recipes, LOOKS, strict=True):
            end = draw_curve(axes, r2, recipe, colour, dashes)
            if end < bottom:
                place = {"ha": "right", "va": "bottom", "transform": axes.transAxes}
                axes.text(1, 0.01, f"overfits: {end:.1f} at the end", color=colour, **place)
        axes.axhline(0, color=GREY, lw=0.5)
        axes.set(title=f"{bandwidth} neurons observed", xlabel="epoch")
    panels[0].set(ylabel="R² of inferred to true rates", ylim=(bottom, 1.02))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_overfitting(histories: pd.DataFrame) -> Figure:
    """Plot three scores at the lowest bandwidth: without coordinated dropout, models copy the
    observed counts."""
    bandwidth = histories["bandwidth"].min()
    lowest = histories[histories["bandwidth"] == bandwidth].set_index(["epoch", "seed"])
    (_, copying), (_, learning) = list(lowest.groupby("recipe", sort=False))[1:3]
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


def draw(histories: pd.DataFrame, out: Path) -> None:
    """Save both figures of the scores of each recipe, seed, bandwidth and epoch."""
    with matplotlib.style.context(STYLE):
        save(plot_why(histories), "why", out)
        save(plot_overfitting(histories), "overfitting", out)


def main() -> None:
    options = parse_options(__doc__, out="figures")
    draw(pd.read_csv(ABLATION_CSV), options.out)
    print(f"Figures are in {options.out}")


if __name__ == "__main__":
    run(main)
