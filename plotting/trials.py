"""Figures of single trials: observed spikes, true rates, inferred rates."""

from dataclasses import dataclass

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.artist import setp
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedFormatter, MaxNLocator

from plotting.style import BLUE, GREY, ORANGE

MISSING = "#d9c6e6"  # violet; counts are grey, errors blue or orange
COUNTS_BAR = {"ticks": [0, 1, 2, 3], "format": FixedFormatter(["0", "1", "2", "3+"])}


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
    greys = ListedColormap(["#ffffff", "#9e9e9e", "#5c5c5c", "#000000"]).with_extremes(bad=MISSING)
    return show_entries(axes, spikes, bin_width, cmap=greys, vmin=-0.5, vmax=3.5)


def rate_colours(rates: list[np.ndarray]) -> dict:
    """Return a look for all these rates: logarithmic, as they span orders of magnitude."""
    peak = max(array.max() for array in rates)
    return {"norm": LogNorm(peak / 300, peak, clip=True), "cmap": "viridis"}


def plot_examples(examples: list[Example], titles: list[str]) -> Figure:
    """Plot trials side by side: what the model sees, inputs, true rates, what it infers."""
    true = [example.rates for example in examples if example.rates is not None]
    has_inputs = any(example.inputs is not None for example in examples)
    rows = ["the model sees\nneuron", *["inferred\ninputs"] * has_inputs]
    rows += [*["true rates\nneuron"] * bool(true), "it infers\nneuron"]
    figure = Figure(figsize=(1.6 + 0.8 * len(examples), 0.6 + 1.25 * len(rows)))
    grid = figure.subplots(len(rows), len(examples), sharex=True, sharey="row", squeeze=False)
    colours = rate_colours(true + [example.inferred for example in examples])
    for column, example, title in zip(grid.T, examples, titles, strict=True):
        seen, *others, inferred = column
        counts = show_spikes(seen, example.spikes, example.bin_width)
        if example.rates is not None:
            show_entries(others[-1], example.rates, example.bin_width, **colours)
        image = show_entries(inferred, example.inferred, example.bin_width, **colours)
        if example.inputs is not None:
            time = example.bin_width * (np.arange(len(example.inputs)) + 0.5)
            others[0].plot(time, example.inputs, linewidth=0.8)
        seen.set_title(title)
        inferred.set_xlabel("time (s)")
    for axes, label in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(label)
    figure.colorbar(counts, ax=grid[0], label="spikes per bin\n(violet: missing)", **COUNTS_BAR)
    figure.colorbar(image, ax=grid[-1 - bool(true) :], label="firing rate (spikes/s)")
    return figure


def plot_method(example: Example) -> Figure:
    """Draw what SBTT does with a trial: spikes -> model -> rates -> errors where observed."""
    figure = Figure(figsize=(7.4, 2.6))
    seen, model, inferred, learned = figure.subplots(1, 4, width_ratios=[1, 0.75, 1, 1])
    bin_width, below = example.bin_width, {"location": "bottom"}
    counts = show_spikes(seen, example.spikes, bin_width)
    figure.colorbar(counts, ax=seen, label="spikes per bin", **COUNTS_BAR, **below)
    colours = rate_colours([example.inferred])
    rates = show_entries(inferred, example.inferred, bin_width, **colours)
    figure.colorbar(rates, ax=inferred, label="rate (spikes/s)", **below)
    # the gradient of the loss with respect to the log-rates; in training zero at a missing count
    error = example.inferred * bin_width - example.spikes
    nodes = [(0, BLUE), (127 / 255, "white"), (128 / 255, "white"), (1, ORANGE)]
    colours = LinearSegmentedColormap.from_list("too low, right, too high", nodes)
    look = {"cmap": colours.with_extremes(bad=MISSING), "vmin": -1.5, "vmax": 1.5}
    errors = show_entries(learned, error, bin_width, **look)
    figure.colorbar(errors, ax=learned, label="expected − counted spikes", extend="both", **below)
    seen.set(title="1. few neurons are seen,\nthe rest is missing (violet)", ylabel="neuron")
    draw_model(model)
    inferred.set_title("3. rates of all neurons,\nat all times")
    learned.set_title("4. errors at observed\nentries alone")
    setp([seen, inferred, learned], xlabel="time (s)", yticks=[])
    return figure


def draw_model(axes: Axes) -> None:
    """Draw the parts of the model below each other, with arrows between them."""
    axes.set_axis_off()
    axes.set_title("2. missing is\nread as zero")
    steps = ("encoder\n(reads both ways)", "initial\ncondition", "decoder\n(runs without input)")
    look = {"ha": "center", "va": "center", "fontsize": 8, "transform": axes.transAxes}
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": GREY}
    for height, step in zip((0.85, 0.5, 0.15), steps, strict=True):
        axes.text(0.5, height, step, bbox=box, **look)
    arrow = {"arrowstyle": "->", "color": GREY}
    for top, bottom in ((0.72, 0.63), (0.37, 0.28)):
        axes.annotate("", (0.5, bottom), (0.5, top), xycoords="axes fraction", arrowprops=arrow)


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
    colours = rate_colours([first.rates, *(example.inferred for example in examples)])
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
