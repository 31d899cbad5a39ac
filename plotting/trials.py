"""Figures of single trials: observed spikes, true rates, inferred rates."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedFormatter, MaxNLocator

from plotting.labels import Labels

MISSING = "#d9c6e6"  # violet; counts are grey
COUNTS_BAR = {"ticks": [0, 1, 2, 3], "format": FixedFormatter(["0", "1", "2", "3+"])}


@dataclass
class Example:
    """One trial at one bandwidth. Arrays are (time, neurons)."""

    name: str  # of the trial
    bandwidth: int
    spikes: np.ndarray  # counts per bin, NaN = missing
    rates: np.ndarray | None  # true rates in spikes/s, where known
    inferred: np.ndarray  # inferred rates in spikes/s
    labels: Labels
    inputs: np.ndarray | None = None  # (time, inputs) of the decoder, if it has any


def show_entries(axes: Axes, values: np.ndarray, labels: Labels, **look) -> AxesImage:
    """Show an array (time, neurons) as an image: time (s) on the x-axis, neurons on the y-axis."""
    extent = (*labels.edges(len(values)), 0.5, values.shape[1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.yaxis.set_major_formatter(lambda row, _: labels.id(round(row) - 1))
    return axes.imshow(values.T, extent=extent, **look)


def show_spikes(axes: Axes, spikes: np.ndarray, labels: Labels) -> AxesImage:
    """Show counts per bin (time, neurons) in greys."""
    greys = ListedColormap(["#ffffff", "#9e9e9e", "#5c5c5c", "#000000"]).with_extremes(bad=MISSING)
    return show_entries(axes, spikes, labels, cmap=greys, vmin=-0.5, vmax=3.5)


def rate_colours(rates: list[np.ndarray]) -> dict:
    """Return a look for all these rates: logarithmic, as they span orders of magnitude."""
    peak = max(array.max() for array in rates)
    return {"norm": LogNorm(peak / 300, peak, clip=True), "cmap": "viridis"}


def plot_trials(examples: list[Example]) -> Figure:
    """Plot several trials of one model side by side."""
    first, height = examples[0], 0.5  # of two more lines (in)
    figure = plot_examples(examples, [example.name for example in examples], height)
    n_neurons, noun = first.spikes.shape[1], first.labels.noun
    figure.suptitle(f"{first.bandwidth} of {n_neurons} {noun}s observed at each time step")
    return figure


def plot_examples(examples: list[Example], titles: list[str], more_height: float = 0.0) -> Figure:
    """Plot trials side by side: what the model sees, inputs, true rates, what it infers."""
    true = [example.rates for example in examples if example.rates is not None]
    has_inputs = any(example.inputs is not None for example in examples)
    noun = examples[0].labels.noun
    rows = [f"the model sees\n{noun}", *["inferred\ninputs"] * has_inputs]
    rows += [*[f"true rates\n{noun}"] * bool(true), f"it infers\n{noun}"]
    figure = Figure(figsize=(1.6 + 0.8 * len(examples), 0.6 + 1.25 * len(rows) + more_height))
    grid = figure.subplots(len(rows), len(examples), sharex=True, sharey="row", squeeze=False)
    colours = rate_colours(true + [example.inferred for example in examples])
    for column, example, title in zip(grid.T, examples, titles, strict=True):
        seen, *others, inferred = column
        counts = show_spikes(seen, example.spikes, example.labels)
        if example.rates is not None:
            show_entries(others[-1], example.rates, example.labels, **colours)
        image = show_entries(inferred, example.inferred, example.labels, **colours)
        if example.inputs is not None:
            time = example.labels.times(len(example.inputs))
            others[0].plot(time, example.inputs, linewidth=0.8)
        seen.set_title(title)
        inferred.set_xlabel("time (s)")
    for axes, label in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(label)
    figure.colorbar(counts, ax=grid[0], label="spikes per bin\n(violet: missing)", **COUNTS_BAR)
    figure.colorbar(image, ax=grid[-1 - bool(true) :], label="firing rate (spikes/s)")
    return figure
