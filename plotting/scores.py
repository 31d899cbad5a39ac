"""Figures of scores. Functions take arrays and return a figure."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from plotting.style import BLUE, GREEN, GREY, ORANGE, SKY


def plot_r2(
    dropped: np.ndarray,
    scores: dict[str, np.ndarray],
    sd: np.ndarray,
    published: tuple[np.ndarray, np.ndarray] | None = None,
    seeds: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Plot R² against the percentage of dropped neurons.

    Args:
        dropped: (bandwidths,) percentage of the neurons dropped at each time step.
        scores: (bandwidths,) mean R² of the model (`r2`), of its encoder alone (`r2_amortised`), of
            the ideal observer (`r2_ideal`) and of smoothed spikes (`r2_smoothed`), NaN where not
            known.
        sd: (bandwidths,) standard deviation of the model's R² over seeds, NaN for one seed.
        published: Percentages and R² of the public demo, if the data are those of the
            demonstration.
        seeds: Percentages, mean R² and its SD over seeds of this repo's recipe, drawn as a band;
            for the same data.
    """
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    if seeds is not None:
        of_seeds, mean, band = seeds
        axes.fill_between(
            of_seeds,
            mean - band,
            mean + band,
            color=BLUE,
            alpha=0.25,
            lw=0,
            label="± SD of 3 seeds",
        )
    axes.plot(
        dropped,
        scores["r2_ideal"],
        "--" if len(dropped) > 1 else "_",
        color=GREY,
        label="ideal observer",
    )
    axes.plot(dropped, scores["r2"], "o-", color=BLUE, label="this repo", ms=4)
    axes.errorbar(dropped, scores["r2"], sd, fmt="none", color=BLUE, capsize=2)
    axes.plot(dropped, scores["r2_amortised"], "^-", color=SKY, label="encoder alone", ms=4, lw=1)
    if published is not None:
        axes.plot(*published, "s:", color=ORANGE, label="public demo", ms=4)
    axes.plot(
        dropped, scores["r2_smoothed"], "x-.", color=GREY, label="smoothed spikes", ms=4, lw=1
    )
    axes.set(xlabel="neurons dropped at each time step (%)", ylabel="R² of inferred to true rates")
    axes.set_ylim(min(0, *scores["r2"]) - 0.02, 1.03)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_bits(dropped: np.ndarray, scores: dict[str, np.ndarray], sd: np.ndarray) -> Figure:
    """Plot bits per spike of held-out counts against the percentage of dropped neurons.

    Args:
        dropped: (bandwidths,) percentage of the neurons dropped at each time step.
        scores: (bandwidths,) mean bits per spike of the model (`bps`), of smoothed spikes
            (`bps_smoothed`) and of the mean over training trials in each bin
            (`bps_mean_over_trials`).
        sd: (bandwidths,) standard deviation of the model's score over seeds, NaN for one seed.
    """
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    axes.plot(dropped, scores["bps"], "o-", color=BLUE, ms=5, label="this repo")
    axes.errorbar(dropped, scores["bps"], sd, fmt="none", color=BLUE, capsize=2)
    axes.plot(
        dropped, scores["bps_smoothed"], "x-.", color=GREY, ms=4, lw=1, label="smoothed spikes"
    )
    axes.plot(
        dropped,
        scores["bps_mean_over_trials"],
        "s:",
        color=ORANGE,
        ms=4,
        lw=1,
        label="mean over trials (PSTH)",
    )
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set(
        xlabel="neurons dropped at each time step (%)",
        ylabel="bits per spike beyond mean rates,\nheld-out counts",
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_bits_of_neurons(bits: dict[int, np.ndarray]) -> Figure:
    """Plot the bits per spike of each neuron's held-out counts, best first, at each bandwidth
    (bandwidth: (neurons,))."""
    figure = Figure(figsize=(4.6, 3.0))
    axes = figure.subplots()
    for colour, (bandwidth, of_neurons) in zip(
        colormaps["viridis"](np.linspace(0, 0.9, len(bits))), bits.items(), strict=True
    ):
        best_first = np.sort(of_neurons[np.isfinite(of_neurons)])[::-1]
        axes.plot(
            1 + np.arange(len(best_first)),
            best_first,
            ".-",
            lw=0.8,
            ms=4,
            color=colour,
            label=f"{bandwidth}",
        )
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set(
        xlabel="neurons, best first", ylabel="bits per spike beyond mean rates,\nheld-out counts"
    )
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -0.5))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title="observed")
    return figure


def plot_psth(
    counted: np.ndarray,
    inferred: np.ndarray,
    bin_width: float,
    names: list[str],
    seen: str,
    n_neurons: int = 8,
) -> Figure:
    """Plot mean rates over validation trials, as counted and as inferred, of the neurons whose
    counted rate varies most.

    Args:
        counted: (conditions, time, neurons) mean counted rates (spikes/s), NaN where nothing was
            recorded.
        inferred: Mean inferred rates, of the same shape.
        bin_width: Width of a time bin (s).
        names: Names of the conditions.
        seen: What the model saw.
        n_neurons: Number of neurons to show.
    """
    order = np.argsort(-np.nan_to_num(np.nanvar(inferred, axis=(0, 1))))[:n_neurons]
    n_columns = min(4, len(order))
    figure = Figure(figsize=(1.8 * n_columns + 0.4, 1.5 * -(-len(order) // n_columns) + 0.6))
    grid = figure.subplots(-(-len(order) // n_columns), n_columns, sharex=True, squeeze=False)
    time = bin_width * (0.5 + np.arange(counted.shape[1]))
    colours = (
        [BLUE, ORANGE, GREEN, SKY, GREY, "#CC79A7"]
        if len(names) <= 6
        else colormaps["viridis"](np.linspace(0, 1, len(names)))
    )
    for axes, neuron in zip(grid.flat, order, strict=False):
        for condition, (name, colour) in enumerate(zip(names, colours, strict=False)):
            axes.plot(time, counted[condition, :, neuron], color=colour, lw=0.6, alpha=0.5)
            axes.plot(time, inferred[condition, :, neuron], color=colour, lw=1.6, label=name)
        axes.set_title(f"neuron {neuron}")
    for axes in grid.flat[len(order) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    for axes in grid[:, 0]:
        axes.set_ylabel("spikes/s")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    note = f"mean over trials: thin as counted, thick as inferred from {seen}"
    if len(names) > 1 and len(names) <= 6:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(names), title=note)
    else:
        figure.suptitle(note, fontsize=9)
    return figure


def plot_neurons_and_bins(r2: dict[int, np.ndarray], bin_width: float) -> Figure:
    """Plot the R² of each neuron, best first, and of each time bin, at each bandwidth.

    Args:
        r2: For each bandwidth: (time, neurons) 1 - mean squared error of an entry / variance of its
            neuron. The mean over bins is the neuron's R²; the mean over all entries is the R² of
            the curve.
        bin_width: Width of a time bin (s).
    """
    figure = Figure(figsize=(7, 2.8))
    neurons, bins = figure.subplots(1, 2, sharey=True)
    for colour, (bandwidth, entries) in zip(
        colormaps["viridis"](np.linspace(0, 0.9, len(r2))), r2.items(), strict=True
    ):
        look = {"color": colour, "label": f"{bandwidth}"}
        neurons.plot(
            1 + np.arange(entries.shape[1]),
            np.sort(entries.mean(0))[::-1],
            ".-",
            lw=0.8,
            ms=4,
            **look,
        )
        bins.plot(bin_width * (0.5 + np.arange(len(entries))), np.nanmean(entries, 1), **look)
    neurons.set(xlabel="neurons, best first", ylabel="R² of inferred to true rates")
    neurons.set_ylim(max(neurons.get_ylim()[0], -1.5), 1.02)
    bins.set(xlabel="time in the trial (s)")
    figure.legend(*bins.get_legend_handles_labels(), loc="outside right center", title="observed")
    return figure
