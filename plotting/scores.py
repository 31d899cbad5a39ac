"""Figures of scores."""

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import setp
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plotting.labels import Labels
from plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY

DROPPED = "neurons dropped at each time step (%)"
R2, BITS = "R² of inferred to true rates", "bits per spike beyond mean rates,\nheld-out counts"
THIN = {"ms": 4, "lw": 1}  # lines of what is compared with
MAX_CONDITIONS = 6  # in one figure


class Curve(NamedTuple):
    """Scores of models that differ in their bandwidth alone, (bandwidths,) each."""

    dropped: np.ndarray  # percentage of the neurons dropped at each time step
    means: dict[str, np.ndarray]  # over seeds; NaN if unknown
    sds: dict[str, np.ndarray]  # NaN for one seed


def some_colours(n_colours: int) -> list:
    """Return colours that are easily told apart, if they are few."""
    colours = [BLUE, ORANGE, GREEN, SKY, GREY, PURPLE]
    return colours[:n_colours] if n_colours <= len(colours) else list(viridis(n_colours, 1))


def draw_curves(axes: Axes, curves: dict[str, Curve], score: str, size: int) -> None:
    """Draw a score of each sweep, with bars for its SD over seeds."""
    for colour, (name, curve) in zip(some_colours(len(curves)), curves.items(), strict=True):
        axes.plot(curve.dropped, curve.means[score], "o-", color=colour, label=name, ms=size)
        look = {"fmt": "none", "color": colour, "capsize": 2}
        axes.errorbar(curve.dropped, curve.means[score], curve.sds[score], **look)


def finish_curves(figure: Figure, axes: Axes, curves: dict[str, Curve], n_columns: int) -> None:
    """Name the lines, and show the whole range of bandwidths if there is one bandwidth alone."""
    if len(np.unique(np.concatenate([curve.dropped for curve in curves.values()]))) == 1:
        axes.set_xlim(-5, 105)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=n_columns)


def plot_r2(
    curves: dict[str, Curve],
    published: np.ndarray | None = None,
    seeds: np.ndarray | None = None,
) -> Figure:
    """Plot R² against the percentage of dropped neurons.

    Args:
        curves: R² of each sweep (`r2`). One alone is drawn with that of its encoder alone
            (`r2_amortised`), the ideal observer (`r2_ideal`) and smoothed spikes (`r2_smoothed`).
        published: (2, bandwidths) percentages and R² of the public demo, for its data.
        seeds: (3, bandwidths) percentages, and R² of this repo's recipe: mean - SD, mean + SD.
    """
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    if seeds is not None:
        axes.fill_between(*seeds, color=BLUE, alpha=0.25, lw=0, label="± SD of 3 seeds")
    dropped, means, _ = next(iter(curves.values()))
    is_alone = len(curves) == 1
    if is_alone:
        look = "--" if len(dropped) > 1 else "_"
        axes.plot(dropped, means["r2_ideal"], look, color=GREY, label="ideal observer")
    draw_curves(axes, curves, "r2", 4)
    if is_alone:
        axes.plot(dropped, means["r2_amortised"], "^-", color=SKY, label="encoder alone", **THIN)
    if published is not None:
        axes.plot(*published, "s:", color=ORANGE, label="public demo", ms=4)
    if is_alone:
        axes.plot(dropped, means["r2_smoothed"], "x-.", color=GREY, label="smoothed spikes", **THIN)
    lowest = min(curve.means["r2"].min() for curve in curves.values())
    axes.set(xlabel=DROPPED, ylabel=R2, ylim=(min(0, lowest) - 0.02, 1.03))
    finish_curves(figure, axes, curves, 3)
    return figure


def plot_bits(curves: dict[str, Curve]) -> Figure:
    """Plot bits per spike of held-out counts against the percentage of dropped neurons.

    The scores of each sweep are `bps`; one alone is drawn with `bps_smoothed` and
    `bps_mean_over_trials`.
    """
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    draw_curves(axes, curves, "bps", 5)
    if len(curves) == 1:
        dropped, means, _ = next(iter(curves.values()))
        look, psth = {"color": GREY, "label": "smoothed spikes"}, "mean over trials (PSTH)"
        axes.plot(dropped, means["bps_smoothed"], "x-.", **look, **THIN)
        axes.plot(dropped, means["bps_mean_over_trials"], "s:", color=ORANGE, label=psth, **THIN)
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set(xlabel=DROPPED, ylabel=BITS)
    finish_curves(figure, axes, curves, 2)
    return figure


def draw_best_first(axes: Axes, scores: np.ndarray, **look) -> None:
    """Draw the scores of neurons (N,), best first."""
    axes.plot(1 + np.arange(len(scores)), np.sort(scores)[::-1], ".-", lw=0.8, ms=4, **look)
    axes.set_xlabel("neurons, best first")


def viridis(n_colours: int, last: float) -> np.ndarray:
    """Return colours (n_colours, 4) from the first of viridis to the one at `last` (0 to 1)."""
    return colormaps["viridis"](np.linspace(0, last, n_colours))


def plot_bits_of_neurons(bits: dict[str, np.ndarray]) -> Figure:
    """Plot the bits per spike of each neuron's held-out counts, (N,) of each model."""
    figure = Figure(figsize=(4.6, 3.0))
    axes = figure.subplots()
    for colour, (bandwidth, scores) in zip(viridis(len(bits), 0.9), bits.items(), strict=True):
        draw_best_first(axes, scores[np.isfinite(scores)], color=colour, label=bandwidth)
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set_ylabel(BITS)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -0.5))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title="observed")
    return figure


def plot_neurons_and_bins(r2: dict[str, np.ndarray], labels: Labels) -> Figure:
    """Plot the R² of each neuron, best first, and of each time bin, of each model.

    Args:
        r2: (T, N) R² of each entry, by model. The mean over bins is that of the neuron.
        labels: Labels of the bins.
    """
    figure = Figure(figsize=(7, 2.8))
    neurons, bins = figure.subplots(1, 2, sharey=True)
    for colour, (bandwidth, entries) in zip(viridis(len(r2), 0.9), r2.items(), strict=True):
        draw_best_first(neurons, entries.mean(0), color=colour)
        bins.plot(labels.times(len(entries)), np.nanmean(entries, 1), color=colour, label=bandwidth)
    neurons.set_ylabel(R2)
    neurons.set_ylim(max(neurons.get_ylim()[0], -1.5), 1.02)
    bins.set_xlabel("time in the trial (s)")
    figure.legend(*bins.get_legend_handles_labels(), loc="outside right center", title="observed")
    return figure


def plot_psth(
    counted: np.ndarray, inferred: np.ndarray, names: list[str], labels: Labels, note: str
) -> Figure:
    """Plot the mean rates over trials of the eight neurons whose inferred rates vary most.

    Args:
        counted, inferred: (conditions, T, N) mean rates (spikes/s), NaN where none was counted.
        names: Names of the conditions.
        labels: Labels of bins and neurons.
        note: What is drawn.
    """
    order = np.argsort(-np.nan_to_num(np.nanvar(inferred, axis=(0, 1))))[:8]
    n_columns = min(4, len(order))
    n_rows = -(-len(order) // n_columns)
    figure = Figure(figsize=(max(1.8 * n_columns + 0.4, 4.2), 1.5 * n_rows + 0.9))
    grid = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False)
    time, n_conditions = labels.times(counted.shape[1]), len(names)
    few = np.linspace(0, n_conditions - 1, min(n_conditions, MAX_CONDITIONS)).astype(int)
    for axes, neuron in zip(grid.flat, order, strict=False):
        for condition, colour in zip(few, some_colours(len(few)), strict=True):
            axes.plot(time, counted[condition, :, neuron], color=colour, lw=0.6, alpha=0.5)
            look = {"color": colour, "lw": 1.6, "label": names[condition]}
            axes.plot(time, inferred[condition, :, neuron], **look)
        if labels.start < 0:
            axes.axvline(0, color=GREY, lw=0.5, ls=":")
        axes.set_title(f"{labels.noun} {labels.id(neuron)}")
    for axes in grid.flat[len(order) :]:
        axes.set_axis_off()
    setp(grid[-1], xlabel="time (s)")
    setp(grid[:, 0], ylabel="spikes/s")
    figure.suptitle(note, fontsize=9)
    if n_conditions > 1:
        title = None if len(few) == n_conditions else f"{len(few)} of {n_conditions} conditions"
        handles = grid[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, title=title)
    return figure
