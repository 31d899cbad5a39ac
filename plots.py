"""Figures: functions that take arrays and return a figure; they load nothing and train nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from command_line import whole_file

# Okabe & Ito (2008), told apart by colour-blind readers
BLUE, SKY, ORANGE, GREEN, GREY = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#666666"
MISSING = "#d9c6e6"  # a violet, where counts are greys and errors blue or orange
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
}


@dataclass
class Example:
    """One validation trial at one bandwidth; arrays are (time, neurons)."""

    bandwidth: int
    spikes: np.ndarray  # counts per bin, NaN = missing
    rates: np.ndarray | None  # true rates in spikes/s, where known
    inferred: np.ndarray  # inferred rates in spikes/s
    bin_width: float  # s


def show_entries(axes: Axes, values: np.ndarray, bin_width: float, **look) -> AxesImage:
    """Show an array (time, neurons) as an image with time in seconds to the right; NaN has the colour of `MISSING`."""
    extent = (0, bin_width * len(values), 0.5, values.shape[1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(2))
    return axes.imshow(values.T, aspect="auto", origin="lower", interpolation="none", extent=extent, **look)


def show_spikes(axes: Axes, spikes: np.ndarray, bin_width: float) -> AxesImage:
    """Show counts per bin (time, neurons) in greys."""
    greys = ListedColormap(["#ffffff", "#9e9e9e", "#5c5c5c", "#000000"])
    return show_entries(axes, spikes, bin_width, cmap=greys.with_extremes(bad=MISSING), vmin=-0.5, vmax=3.5)


def plot_r2(
    dropped: np.ndarray,
    r2: np.ndarray,
    sd: np.ndarray,
    amortised: np.ndarray,
    ideal: np.ndarray,
    published: tuple[np.ndarray, np.ndarray],
) -> Figure:
    """Plot R² against the percentage of dropped neurons.

    Args:
        dropped: (levels,) percentage of the neurons dropped at each time step.
        r2: (levels,) mean R² of the inferred rates.
        sd: (levels,) its standard deviation over seeds, NaN for a single one.
        amortised: (levels,) mean R² of the rates that the encoder alone infers.
        ideal: (levels,) R² of the ideal observer, NaN where it is not known.
        published: The same percentages and the R² of the public demo.
    """
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    if np.isfinite(ideal).any():
        axes.plot(dropped, ideal, "--", color=GREY, label="ideal observer")
    axes.plot(dropped, r2, "o-", color=BLUE, label="this repo", ms=5)
    axes.errorbar(dropped, r2, sd, fmt="none", color=BLUE, capsize=2)
    axes.plot(dropped, amortised, "^-", color=SKY, label="this repo, encoder alone", ms=4, lw=1)
    axes.plot(*published, "s:", color=ORANGE, label="public demo", ms=5)
    axes.set(xlabel="neurons dropped at each time step (%)", ylabel="R² of inferred to true rates")
    axes.set_ylim(min(0, *r2) - 0.02, 1.03)
    axes.legend(loc="lower left")
    return figure


def plot_bits(dropped: np.ndarray, bps: np.ndarray, sd: np.ndarray) -> Figure:
    """Plot bits per spike (levels,) and their SD over seeds (NaN for a single one) against the percentage dropped."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(dropped, bps, "o-", color=BLUE, ms=5)
    axes.errorbar(dropped, bps, sd, fmt="none", color=BLUE, capsize=2)
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set(
        xlabel="neurons dropped at each time step (%)", ylabel="bits per spike beyond mean rates,\nheld-out counts"
    )
    return figure


def plot_why(histories: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """Plot R² in the course of training for recipes that differ by one part each, the mean and range over seeds.

    Args:
        histories: For each bandwidth, for each of four recipes: the epochs (epochs,) and R² (seeds, epochs).
    """
    figure = Figure(figsize=(7, 3.3), layout="constrained")
    panels = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    bottom = -0.2
    looks = [(ORANGE, ":"), (GREY, "-."), (GREEN, "--"), (BLUE, "-")]
    for axes, (bandwidth, recipes) in zip(panels, histories.items(), strict=True):
        for (recipe, (epochs, r2)), (colour, dashes) in zip(recipes.items(), looks, strict=True):
            axes.plot(epochs, r2.mean(0), dashes, color=colour, label=recipe)
            axes.fill_between(epochs, r2.min(0), r2.max(0), color=colour, alpha=0.2, lw=0)
            if (end := r2.mean(0)[-1]) < bottom:
                axes.text(
                    epochs[np.argmax(r2.mean(0) < bottom)],
                    bottom,
                    f"overfits: {end:.1f} at the end",
                    color=colour,
                    va="bottom",
                )
        axes.axhline(0, color=GREY, lw=0.5)
        axes.set(title=f"{bandwidth} neurons observed", xlabel="epoch")
    panels[0].set(ylabel="R² of inferred to true rates", ylim=(bottom, 1.02))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_examples(examples: list[Example]) -> Figure:
    """Plot one trial at each bandwidth: what the model sees, what was true (where known), what it infers."""
    shown = [[example.inferred] if example.rates is None else [example.rates, example.inferred] for example in examples]
    n_columns = 1 + max(map(len, shown))
    figure = Figure(figsize=(1 + 2 * n_columns, 1.2 + 1.1 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), n_columns, sharex=True, sharey=True, squeeze=False)
    peak = max(rates.max() for row in shown for rates in row)
    colours = {"norm": LogNorm(peak / 300, peak, clip=True), "cmap": "viridis"}
    for row, example, of_example in zip(grid, examples, shown, strict=True):
        counts = show_spikes(row[0], example.spikes, example.bin_width)
        for axes, rates in zip(row[:0:-1], of_example[::-1], strict=False):
            image = show_entries(axes, rates, example.bin_width, **colours)
        row[0].set_ylabel(f"{example.bandwidth} observed\nneuron")
    titles = ["spikes that the model sees", *["true rates"] * (n_columns - 2), "inferred rates"]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    bar = figure.colorbar(counts, ax=grid[:, 0], location="bottom", ticks=[0, 1, 2, 3], aspect=20)
    bar.set_ticklabels(["0", "1", "2", "3+"])
    bar.set_label("spikes per bin (violet: missing)")
    rates_bar = {"location": "bottom", "aspect": 20 * (n_columns - 1), "label": "firing rate (spikes/s)"}
    figure.colorbar(image, ax=grid[:, 1:], **rates_bar)
    return figure


def plot_method(example: Example) -> Figure:
    """Draw what SBTT does to one trial: spikes seen -> model -> rates everywhere -> errors at observed entries alone."""
    figure = Figure(figsize=(7.4, 2.6), layout="constrained")
    seen, model, inferred, learned = figure.subplots(1, 4, width_ratios=[1, 0.75, 1, 1])
    counts = show_spikes(seen, example.spikes, example.bin_width)
    bar = figure.colorbar(counts, ax=seen, location="bottom", ticks=[0, 1, 2, 3], label="spikes per bin")
    bar.set_ticklabels(["0", "1", "2", "3+"])
    peak = example.inferred.max()
    rates = show_entries(
        inferred, example.inferred, example.bin_width, norm=LogNorm(peak / 300, peak, clip=True), cmap="viridis"
    )
    figure.colorbar(rates, ax=inferred, location="bottom", label="rate (spikes/s)")
    # the gradient of the Poisson loss with respect to the log-rates; a missing count makes it NaN here, zero in training
    error = example.inferred * example.bin_width - example.spikes
    errors = show_entries(learned, error, example.bin_width, vmin=-1.5, vmax=1.5, cmap=diverging())
    figure.colorbar(errors, ax=learned, location="bottom", label="expected − counted spikes", extend="both")
    titles = (
        "1. few neurons are seen,\nthe rest is missing (violet)",
        "3. rates of all neurons,\nat all times",
        "4. errors at observed\nentries alone",
    )
    for axes, title in zip((seen, inferred, learned), titles, strict=True):
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("time (s)")
        axes.set_yticks([])
    seen.set_ylabel("neuron")
    model.set_axis_off()
    model.set_title("2. missing is\nread as zero", fontsize=9)
    steps = ("encoder\n(reads both ways)", "initial\ncondition", "decoder\n(runs without input)")
    for height, step in zip((0.85, 0.5, 0.15), steps, strict=True):
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": GREY}
        model.text(0.5, height, step, ha="center", va="center", fontsize=8, bbox=box, transform=model.transAxes)
    for top, bottom in ((0.72, 0.63), (0.37, 0.28)):
        arrow = {"arrowstyle": "->", "color": GREY}
        model.annotate("", (0.5, bottom), (0.5, top), xycoords="axes fraction", arrowprops=arrow)
    return figure


def diverging() -> ListedColormap:
    """Blue for too low, white, orange for too high, and the colour of what is missing."""
    low, high = ([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in (BLUE, ORANGE))
    weight = np.linspace(0, 1, 128)[:, None]
    colours = np.vstack([(1 - weight) * low + weight, (1 - weight) + weight * np.array(high)])
    return ListedColormap(colours).with_extremes(bad=MISSING)


def save(figure: Figure, name: str, out: Path) -> None:
    """Save a figure as PNG and PDF, without the date, so that the same figure is the same file."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with whole_file(out / (name + suffix)) as path:
            figure.savefig(path, metadata=metadata)
