"""Figures of scores: functions that take arrays and return a figure; they load nothing and train nothing."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from command_line import whole_file

STYLE = Path(__file__).parent / "sbtt.mplstyle"
BLUE, SKY, ORANGE, GREEN, GREY = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#666666"


def rgb(colour: str) -> np.ndarray:
    """Return a colour as three numbers from 0 to 1."""
    return np.array(to_rgb(colour))


def plot_r2(
    dropped: np.ndarray,
    scores: dict[str, np.ndarray],
    sd: np.ndarray,
    published: tuple[np.ndarray, np.ndarray],
    of_seeds: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Figure:
    """Plot R² against the percentage of dropped neurons.

    Args:
        dropped: (levels,) percentage of the neurons dropped at each time step.
        scores: (levels,) mean R² of the model (`r2`), of its encoder alone (`r2_amortised`), of the ideal observer
            (`r2_ideal`) and of smoothed spikes (`r2_smoothed`), NaN where not known.
        sd: (levels,) standard deviation of the model's R² over seeds, NaN for a single one.
        published: The same percentages and the R² of the public demo.
        of_seeds: The same percentages, mean and SD of the R² of this repo's recipe over seeds, for a band.
    """
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    seeds_dropped, mean, band = of_seeds
    axes.fill_between(seeds_dropped, mean - band, mean + band, color=BLUE, alpha=0.25, lw=0, label="± SD of 3 seeds")
    axes.plot(dropped, scores["r2_ideal"], "--", color=GREY, label="ideal observer")
    axes.plot(dropped, scores["r2"], "o-", color=BLUE, label="this repo", ms=4)
    axes.errorbar(dropped, scores["r2"], sd, fmt="none", color=BLUE, capsize=2)
    axes.plot(dropped, scores["r2_amortised"], "^-", color=SKY, label="encoder alone", ms=4, lw=1)
    axes.plot(*published, "s:", color=ORANGE, label="public demo", ms=4)
    axes.plot(dropped, scores["r2_smoothed"], "x-.", color=GREY, label="smoothed spikes", ms=4, lw=1)
    axes.set(xlabel="neurons dropped at each time step (%)", ylabel="R² of inferred to true rates")
    axes.set_ylim(min(0, *scores["r2"]) - 0.02, 1.03)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_bits(dropped: np.ndarray, bps: np.ndarray, sd: np.ndarray) -> Figure:
    """Plot bits per spike (levels,) and their SD over seeds (NaN for a single one) against the percentage dropped."""
    figure = Figure(figsize=(4.6, 3.2))
    axes = figure.subplots()
    axes.plot(dropped, bps, "o-", color=BLUE, ms=5)
    axes.errorbar(dropped, bps, sd, fmt="none", color=BLUE, capsize=2)
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set(
        xlabel="neurons dropped at each time step (%)", ylabel="bits per spike beyond mean rates,\nheld-out counts"
    )
    return figure


def plot_why(histories: dict[int, dict[str, dict[str, np.ndarray]]]) -> Figure:
    """Plot R² in the course of training for recipes that differ by one part each, the mean and range over seeds.

    Args:
        histories: For each bandwidth, for each of four recipes: `epoch` (epochs,) and `r2` (seeds, epochs).
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
                axes.text(1, 0.01, text, color=colour, ha="right", va="bottom", transform=axes.transAxes)
        axes.axhline(0, color=GREY, lw=0.5)
        axes.set(title=f"{bandwidth} neurons observed", xlabel="epoch")
    panels[0].set(ylabel="R² of inferred to true rates", ylim=(bottom, 1.02))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_overfitting(copying: dict[str, np.ndarray], learning: dict[str, np.ndarray], bandwidth: int) -> Figure:
    """Plot how a model that copies its input fools the score on counts that it saw.

    Args:
        copying: The history of a recipe without coordinated dropout: `epoch` (epochs,), and `nll`, `heldout_nll` and `r2`
            (seeds, epochs).
        learning: The same with coordinated dropout.
        bandwidth: Number of neurons observed, for the title.
    """
    figure = Figure(figsize=(7, 2.9))
    titles = {"nll": "NLL of counts the model sees", "heldout_nll": "NLL of held-out counts", "r2": "R² to true rates"}
    looks = [(copying, ORANGE, "-.", "without coordinated dropout"), (learning, BLUE, "-", "with coordinated dropout")]
    for axes, (score, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        for history, colour, dashes, label in looks:
            values = history[score]
            axes.plot(history["epoch"], values.mean(0), dashes, color=colour, label=label)
            axes.fill_between(history["epoch"], values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)
        axes.set(title=title, xlabel="epoch", ylabel="nats per count" if "nll" in score else "R²")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -2.2))
    figure.suptitle(f"{bandwidth} neurons observed at each time step")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_neurons_and_bins(r2: dict[int, np.ndarray], bin_width: float) -> Figure:
    """Plot the R² of each neuron, best first, and of each time bin, at each bandwidth.

    Args:
        r2: For each bandwidth: (time, neurons) one minus the mean squared error there over the variance of the neuron, so
            that the mean over bins is the neuron's R², and the mean over all is the R² of the curve.
        bin_width: Width of a time bin (s).
    """
    figure = Figure(figsize=(7, 2.8))
    neurons, bins = figure.subplots(1, 2, sharey=True)
    for colour, (bandwidth, entries) in zip(
        colormaps["viridis"](np.linspace(0, 0.9, len(r2))), r2.items(), strict=True
    ):
        look = {"color": colour, "label": f"{bandwidth}"}
        neurons.plot(1 + np.arange(entries.shape[1]), np.sort(entries.mean(0))[::-1], ".-", lw=0.8, ms=4, **look)
        bins.plot(bin_width * (0.5 + np.arange(len(entries))), np.nanmean(entries, 1), **look)
    neurons.set(xlabel="neurons, best first", ylabel="R² of inferred to true rates")
    neurons.set_ylim(max(neurons.get_ylim()[0], -1.5), 1.02)
    bins.set(xlabel="time in the trial (s)")
    figure.legend(*bins.get_legend_handles_labels(), loc="outside right center", title="observed")
    return figure


def save(figure: Figure, name: str, out: Path) -> None:
    """Save a figure as PNG and PDF, without the date, so that the same figure is the same file."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with whole_file(out / (name + suffix)) as path:
            figure.savefig(path, metadata=metadata)
        figure.set_layout_engine("none")  # it is laid out once, which takes longer than drawing


def save_animation(animation: FuncAnimation, name: str, out: Path) -> None:
    """Save an animation as a GIF, a picture for each second and a half."""
    with whole_file(out / f"{name}.gif") as path:
        animation.save(path, writer=PillowWriter(fps=1 / 1.5))
