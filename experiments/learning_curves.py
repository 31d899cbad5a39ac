"""Draw the learning curves of the ablation: `why` and `overfitting`, from docs/ablation.csv.

python -m experiments.learning_curves
"""

from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from command_line import command_parser, read_table, run, writable_folder
from plotting.style import BLUE, GREEN, GREY, ORANGE, STYLE, save

ABLATION_CSV = Path(__file__).parent.parent / "docs" / "ablation.csv"
History = dict[
    str, np.ndarray
]  # of a recipe at one bandwidth: `epoch` (epochs,), and scores (seeds, epochs)


def read_ablation(path: Path) -> dict[int, dict[str, History]]:
    """Return the histories that experiments/ablation.py measured, for each bandwidth and recipe."""
    rows, histories = read_table(path), {}
    for bandwidth, recipe in dict.fromkeys((row["bandwidth"], row["recipe"]) for row in rows):
        same = [row for row in rows if (row["bandwidth"], row["recipe"]) == (bandwidth, recipe)]
        seeds = [
            [row for row in same if row["seed"] == seed]
            for seed in dict.fromkeys(row["seed"] for row in same)
        ]
        scores = [name for name in same[0] if name not in ("recipe", "seed", "bandwidth", "epoch")]
        history = {
            name: np.array([[float(row[name]) for row in seed] for seed in seeds])
            for name in scores
        }
        history["epoch"] = np.array([int(row["epoch"]) for row in seeds[0]])
        histories.setdefault(int(bandwidth), {})[recipe] = history
    return histories


def plot_why(histories: dict[int, dict[str, History]]) -> Figure:
    """Plot R² against the epoch for recipes that differ by one part each: mean and range over
    seeds.

    Args:
        histories: For each bandwidth, for each of four recipes: `epoch` (epochs,) and `r2` (seeds,
            epochs).
    """
    figure = Figure(figsize=(7, 3.3))
    panels = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    bottom = -0.2
    looks = [(ORANGE, ":"), (GREY, "-."), (GREEN, "--"), (BLUE, "-")]
    for axes, (bandwidth, recipes) in zip(panels, histories.items(), strict=True):
        for (recipe, history), (colour, dashes) in zip(recipes.items(), looks, strict=True):
            epochs, r2 = history["epoch"], history["r2"]
            axes.plot(epochs, r2.mean(0), dashes, color=colour, label=recipe)
            axes.fill_between(epochs, r2.min(0), r2.max(0), color=colour, alpha=0.2, lw=0)
            if (end := r2.mean(0)[-1]) < bottom:
                text = f"overfits: {end:.1f} at the end"
                axes.text(
                    1, 0.01, text, color=colour, ha="right", va="bottom", transform=axes.transAxes
                )
        axes.axhline(0, color=GREY, lw=0.5)
        axes.set(title=f"{bandwidth} neurons observed", xlabel="epoch")
    panels[0].set(ylabel="R² of inferred to true rates", ylim=(bottom, 1.02))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_overfitting(copying: History, learning: History, bandwidth: int) -> Figure:
    """Plot three scores of two recipes: one whose models copy the observed counts, and one whose
    models do not.

    Args:
        copying: The history of a recipe without coordinated dropout: `epoch` (epochs,), and `nll`,
            `heldout_nll` and `r2` (seeds, epochs).
        learning: The same with coordinated dropout. Until it begins, both are the same.
        bandwidth: Number of neurons observed, for the title.
    """
    figure = Figure(figsize=(7, 2.9))
    titles = {
        "nll": "NLL of counts the model sees",
        "heldout_nll": "NLL of held-out counts",
        "r2": "R² to true rates",
    }
    looks = [
        (copying, ORANGE, "-.", "without coordinated dropout"),
        (learning, BLUE, "-", "with coordinated dropout"),
    ]
    same = (copying["nll"] == learning["nll"]).all(0)
    for axes, (score, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        if same.any():
            axes.axvline(
                copying["epoch"][same][-1],
                color=GREY,
                ls=":",
                lw=1,
                label="coordinated dropout begins",
            )
        for history, colour, dashes, label in looks:
            values = history[score]
            axes.plot(history["epoch"], values.mean(0), dashes, color=colour, label=label)
            axes.fill_between(
                history["epoch"], values.min(0), values.max(0), color=colour, alpha=0.2, lw=0
            )
        axes.set(title=title, xlabel="epoch", ylabel="nats per count" if "nll" in score else "R²")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -2.2))
    figure.suptitle(f"{bandwidth} neurons observed at each time step")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw(ablation: Path, out: Path) -> None:
    """Save both figures of the histories in `ablation`."""
    histories = read_ablation(ablation)
    fewest = min(histories)
    _, copying, learning, _ = histories[fewest].values()  # they differ by coordinated dropout alone
    with matplotlib.style.context(STYLE):
        save(plot_why(histories), "why", out)
        save(plot_overfitting(copying, learning, fewest), "overfitting", out)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--out", type=str, default="figures", help="Folder to write figures to")
    options = parser.parse_args()
    draw(ABLATION_CSV, writable_folder(options.out, "--out"))
    print(f"Figures are in {options.out}")


if __name__ == "__main__":
    run(main)
