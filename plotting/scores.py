"""Figures of scores."""

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import setp
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY

DROPPED = "neurons dropped at each time step (%)"
R2, BITS = "R² of inferred to true rates", "bits per spike beyond mean rates,\nheld-out counts"
THIN = {"ms": 4, "lw": 1}  # lines of what is compared with


def draw_with_sd(axes: Axes, x: np.ndarray, mean: np.ndarray, sd: np.ndarray, size: int) -> None:
    """Draw this repo's score, with bars for its SD over seeds (NaN for one seed)."""
    axes.plot(x, mean, "o-", color=BLUE, label="this repo", ms=size)
    axes.errorbar(x, mean, sd, fmt="none", color=BLUE, capsize=2)


def plot_r2(
    dropped: np.ndarray,
    scores: dict[str, np.ndarray],
    sd: np.ndarray,
    published: np.ndarray | None = None,
    seeds: np.ndarray | None = None,
) -> Figure:
    """Plot R² against the percentage of dropped neurons.

    Args:
        dropped: (bandwidths,) percentage of the neurons dropped at each time step.
        scores: (bandwidths,) mean R² of the model (`r2`), of its encoder alone (`r2_amortised`), of
            the ideal observer (`r2_ideal`) and of smoothed spikes (`r2_smoothed`), NaN if unknown.
        sd: (bandwidths,) standard deviation of the model's R² over seeds.
        published: (2, bandwidths) percentages and R² of the public demo, for its data.
        seeds: (3, bandwidths) percentages, and R² of this repo's recipe: mean - SD, mean + SD.
    """
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    if seeds is not None:
        axes.fill_between(*seeds, color=BLUE, alpha=0.25, lw=0, label="± SD of 3 seeds")
    ideal_look = "--" if len(dropped) > 1 else "_"
    axes.plot(dropped, scores["r2_ideal"], ideal_look, color=GREY, label="ideal observer")
    draw_with_sd(axes, dropped, scores["r2"], sd, 4)
    axes.plot(dropped, scores["r2_amortised"], "^-", color=SKY, label="encoder alone", **THIN)
    if published is not None:
        axes.plot(*published, "s:", color=ORANGE, label="public demo", ms=4)
    axes.plot(dropped, scores["r2_smoothed"], "x-.", color=GREY, label="smoothed spikes", **THIN)
    axes.set(xlabel=DROPPED, ylabel=R2, ylim=(min(0, *scores["r2"]) - 0.02, 1.03))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_bits(dropped: np.ndarray, scores: dict[str, np.ndarray], sd: np.ndarray) -> Figure:
    """Plot bits per spike of held-out counts against the percentage of dropped neurons.

    Arguments as for `plot_r2`; the scores are `bps`, `bps_smoothed` and `bps_mean_over_trials`.
    """
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    draw_with_sd(axes, dropped, scores["bps"], sd, 5)
    axes.plot(dropped, scores["bps_smoothed"], "x-.", color=GREY, label="smoothed spikes", **THIN)
    psth = "mean over trials (PSTH)"
    axes.plot(dropped, scores["bps_mean_over_trials"], "s:", color=ORANGE, label=psth, **THIN)
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set(xlabel=DROPPED, ylabel=BITS)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_best_first(axes: Axes, scores: np.ndarray, **look) -> None:
    """Draw the scores of neurons (N,), best first."""
    axes.plot(1 + np.arange(len(scores)), np.sort(scores)[::-1], ".-", lw=0.8, ms=4, **look)
    axes.set_xlabel("neurons, best first")


def viridis(n_colours: int, last: float) -> np.ndarray:
    """Return colours (n_colours, 4) from the first of viridis to the one at `last` (0 to 1)."""
    return colormaps["viridis"](np.linspace(0, last, n_colours))


def plot_bits_of_neurons(bits: dict[int, np.ndarray]) -> Figure:
    """Plot the bits per spike of each neuron's held-out counts, (N,) at each bandwidth."""
    figure = Figure(figsize=(4.6, 3.0))
    axes = figure.subplots()
    for colour, (bandwidth, scores) in zip(viridis(len(bits), 0.9), bits.items(), strict=True):
        draw_best_first(axes, scores[np.isfinite(scores)], color=colour, label=bandwidth)
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set_ylabel(BITS)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -0.5))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title="observed")
    return figure


def plot_neurons_and_bins(r2: dict[int, np.ndarray], bin_width: float) -> Figure:
    """Plot the R² of each neuron, best first, and of each time bin, at each bandwidth.

    Args:
        r2: (T, N) R² of each entry, by bandwidth. The mean over bins is that of the neuron.
        bin_width: Width of a time bin (s).
    """
    figure = Figure(figsize=(7, 2.8))
    neurons, bins = figure.subplots(1, 2, sharey=True)
    for colour, (bandwidth, entries) in zip(viridis(len(r2), 0.9), r2.items(), strict=True):
        draw_best_first(neurons, entries.mean(0), color=colour)
        time = bin_width * (0.5 + np.arange(len(entries)))
        bins.plot(time, np.nanmean(entries, 1), color=colour, label=bandwidth)
    neurons.set_ylabel(R2)
    neurons.set_ylim(max(neurons.get_ylim()[0], -1.5), 1.02)
    bins.set_xlabel("time in the trial (s)")
    figure.legend(*bins.get_legend_handles_labels(), loc="outside right center", title="observed")
    return figure


def plot_psth(
    counted: np.ndarray, inferred: np.ndarray, names: list[str], bin_width: float, seen: str
) -> Figure:
    """Plot the mean rates over trials of the eight neurons whose inferred rates vary most.

    Args:
        counted, inferred: (conditions, T, N) mean rates (spikes/s), NaN where none was counted.
        names: Names of the conditions.
        bin_width: Width of a time bin (s).
        seen: What the model saw.
    """
    order = np.argsort(-np.nan_to_num(np.nanvar(inferred, axis=(0, 1))))[:8]
    n_columns = min(4, len(order))
    n_rows = -(-len(order) // n_columns)
    figure = Figure(figsize=(1.8 * n_columns + 0.4, 1.5 * n_rows + 0.6))
    grid = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False)
    time = bin_width * (0.5 + np.arange(counted.shape[1]))
    colours = [BLUE, ORANGE, GREEN, SKY, GREY, PURPLE]
    if len(names) > len(colours):
        colours = viridis(len(names), 1)
    for axes, neuron in zip(grid.flat, order, strict=False):
        for condition, (name, colour) in enumerate(zip(names, colours, strict=False)):
            axes.plot(time, counted[condition, :, neuron], color=colour, lw=0.6, alpha=0.5)
            axes.plot(time, inferred[condition, :, neuron], color=colour, lw=1.6, label=name)
        axes.set_title(f"neuron {neuron}")
    for axes in grid.flat[len(order) :]:
        axes.set_axis_off()
    setp(grid[-1], xlabel="time (s)")
    setp(grid[:, 0], ylabel="spikes/s")
    note = f"mean over trials: thin as counted, thick as inferred from {seen}"
    if 1 < len(names) <= 6:
        handles = grid[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(names), title=note)
    else:
        figure.suptitle(note, fontsize=9)
    return figure
