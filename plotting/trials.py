"""Figures of single trials: observed spikes, true rates, inferred rates. Functions take arrays and
return a figure."""

from dataclasses import dataclass

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from plotting.style import BLUE, GREY, ORANGE, rgb

MISSING = "#d9c6e6"  # violet; counts are grey, errors blue or orange


@dataclass
class Example:
    """One trial at one bandwidth. Arrays are (time, neurons)."""

    bandwidth: int
    spikes: np.ndarray  # counts per bin, NaN = missing
    rates: np.ndarray | None  # true rates in spikes/s, where known
    inferred: np.ndarray  # inferred rates in spikes/s
    bin_width: float  # s
    inputs: np.ndarray | None = None  # (time, inputs) of the decoder, if it has any


def show_entries(axes: Axes, values: np.ndarray, bin_width: float, **look) -> AxesImage:
    """Show an array (time, neurons) as an image: time (s) on the x-axis, neurons on the y-axis."""
    extent = (0, bin_width * len(values), 0.5, values.shape[1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(2))
    return axes.imshow(values.T, extent=extent, **look)


def show_spikes(axes: Axes, spikes: np.ndarray, bin_width: float) -> AxesImage:
    """Show counts per bin (time, neurons) in greys."""
    greys = ListedColormap(["#ffffff", "#9e9e9e", "#5c5c5c", "#000000"])
    return show_entries(
        axes, spikes, bin_width, cmap=greys.with_extremes(bad=MISSING), vmin=-0.5, vmax=3.5
    )


def rate_colours(peak: float) -> dict:
    """Return the colours of rates up to `peak` for `show_entries`: logarithmic, since rates span
    orders of magnitude."""
    return {"norm": LogNorm(peak / 300, peak, clip=True), "cmap": "viridis"}


def add_counts_bar(figure: Figure, image: AxesImage, axes: Axes, **place) -> None:
    """Add a colour bar to an image of `show_spikes`."""
    bar = figure.colorbar(image, ax=axes, ticks=[0, 1, 2, 3], **place)
    bar.set_ticklabels(["0", "1", "2", "3+"])


def plot_examples(examples: list[Example], titles: list[str]) -> Figure:
    """Plot trials side by side. Rows: what the model sees, true rates (where known), inputs (where
    any), inferred rates."""
    rates = {"it infers": [example.inferred for example in examples]}
    if all(example.rates is not None for example in examples):
        rates = {"true rates": [example.rates for example in examples]} | rates
    inputs = [example.inputs for example in examples if example.inputs is not None]
    n_rows = 1 + len(rates) + bool(inputs)
    figure = Figure(figsize=(1.6 + 0.8 * len(examples), 0.6 + 1.25 * n_rows))
    grid = figure.subplots(n_rows, len(examples), sharex=True, sharey="row", squeeze=False)
    colours = rate_colours(max(array.max() for arrays in rates.values() for array in arrays))
    for name, axes_of_row in zip(
        ["the model sees", *rates], np.delete(grid, slice(1, 1 + bool(inputs)), 0), strict=True
    ):
        axes_of_row[0].set_ylabel(f"{name}\nneuron")
        for index, (axes, example) in enumerate(zip(axes_of_row, examples, strict=True)):
            if name == "the model sees":
                counts = show_spikes(axes, example.spikes, example.bin_width)
            else:
                image = show_entries(axes, rates[name][index], example.bin_width, **colours)
    if inputs:
        grid[1, 0].set_ylabel("inferred\ninputs")
        for axes, values, example in zip(grid[1], inputs, examples, strict=True):
            axes.plot(example.bin_width * (np.arange(len(values)) + 0.5), values, linewidth=0.8)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    add_counts_bar(figure, counts, grid[0], label="spikes per bin\n(violet: missing)")
    figure.colorbar(image, ax=grid[-len(rates) :], label="firing rate (spikes/s)")
    return figure


def plot_method(example: Example) -> Figure:
    """Draw what SBTT does with one trial: observed spikes -> model -> rates everywhere -> errors at
    observed entries."""
    figure = Figure(figsize=(7.4, 2.6))
    seen, model, inferred, learned = figure.subplots(1, 4, width_ratios=[1, 0.75, 1, 1])
    counts = show_spikes(seen, example.spikes, example.bin_width)
    add_counts_bar(figure, counts, seen, location="bottom", label="spikes per bin")
    rates = show_entries(
        inferred, example.inferred, example.bin_width, **rate_colours(example.inferred.max())
    )
    figure.colorbar(rates, ax=inferred, location="bottom", label="rate (spikes/s)")
    # the gradient of the Poisson loss with respect to the log-rates; at a missing count NaN here,
    # zero in training
    error = example.inferred * example.bin_width - example.spikes
    errors = show_entries(learned, error, example.bin_width, vmin=-1.5, vmax=1.5, cmap=diverging())
    figure.colorbar(
        errors, ax=learned, location="bottom", label="expected − counted spikes", extend="both"
    )
    titles = (
        "1. few neurons are seen,\nthe rest is missing (violet)",
        "3. rates of all neurons,\nat all times",
        "4. errors at observed\nentries alone",
    )
    for axes, title in zip((seen, inferred, learned), titles, strict=True):
        axes.set_title(title)
        axes.set_xlabel("time (s)")
        axes.set_yticks([])
    seen.set_ylabel("neuron")
    model.set_axis_off()
    model.set_title("2. missing is\nread as zero")
    steps = ("encoder\n(reads both ways)", "initial\ncondition", "decoder\n(runs without input)")
    for height, step in zip((0.85, 0.5, 0.15), steps, strict=True):
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": GREY}
        model.text(
            0.5,
            height,
            step,
            ha="center",
            va="center",
            fontsize=8,
            bbox=box,
            transform=model.transAxes,
        )
    for top, bottom in ((0.72, 0.63), (0.37, 0.28)):
        arrow = {"arrowstyle": "->", "color": GREY}
        model.annotate("", (0.5, bottom), (0.5, top), xycoords="axes fraction", arrowprops=arrow)
    return figure


def diverging() -> ListedColormap:
    """Return a colour map: blue for too low, white, vermilion for too high, and the colour of
    missing entries."""
    weight = np.linspace(0, 1, 128)[:, None]
    low, high = (1 - weight) * rgb(BLUE) + weight, (1 - weight) + weight * rgb(ORANGE)
    return ListedColormap(np.vstack([low, high])).with_extremes(bad=MISSING)


def animate_bandwidth(examples: list[Example], r2: list[float]) -> FuncAnimation:
    """Animate the inference of one trial as fewer and fewer neurons are observed.

    Args:
        examples: The same trial at each bandwidth, in the order to show, with true rates.
        r2: The R² of each bandwidth over all trials, for the bar below.
    """
    figure = Figure(figsize=(6.4, 3.0), dpi=110)
    grid = figure.subplot_mosaic("abc;ddd", height_ratios=[1, 0.07])
    seen, inferred, true, bar = grid.values()
    first, n_neurons = examples[0], examples[0].spikes.shape[1]
    colours = rate_colours(
        max(first.rates.max(), *(example.inferred.max() for example in examples))
    )
    counts = show_spikes(seen, first.spikes, first.bin_width)
    rates = show_entries(inferred, first.inferred, first.bin_width, **colours)
    show_entries(true, first.rates, first.bin_width, **colours)
    for axes, title in ((inferred, "what it infers"), (true, "what was true")):
        axes.set(title=title, xlabel="time (s)", yticks=[])
    seen.set(xlabel="time (s)", ylabel="neuron")
    title = seen.set_title("")
    (length,) = bar.barh([0], [0], color=BLUE)
    bar.set(xlim=(0, 1), yticks=[])

    def draw(frame: int) -> None:
        example = examples[frame]
        counts.set_data(example.spikes.T)
        rates.set_data(example.inferred.T)
        title.set_text(f"the model sees {example.bandwidth} of {n_neurons}")
        length.set_width(r2[frame])
        bar.set_xlabel(f"R² of inferred to true rates, over all validation trials: {r2[frame]:.2f}")

    draw(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # nothing moves between the pictures
    return FuncAnimation(figure, draw, frames=len(examples), init_func=lambda: None)
