"""Figures of scores. Functions take arrays and return a figure."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from plotting.style import BLUE, GREY, ORANGE, SKY


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
        scores: (bandwidths,) mean R² of the model (`r2`), of its encoder alone (`r2_amortised`), of the ideal observer
            (`r2_ideal`) and of smoothed spikes (`r2_smoothed`), NaN where not known.
        sd: (bandwidths,) standard deviation of the model's R² over seeds, NaN for one seed.
        published: Percentages and R² of the public demo, if the data are those of the demonstration.
        seeds: Percentages, mean R² and its SD over seeds of this repo's recipe, drawn as a band; for the same data.
    """
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    if seeds is not None:
        of_seeds, mean, band = seeds
        axes.fill_between(of_seeds, mean - band, mean + band, color=BLUE, alpha=0.25, lw=0, label="± SD of 3 seeds")
    axes.plot(dropped, scores["r2_ideal"], "--" if len(dropped) > 1 else "_", color=GREY, label="ideal observer")
    axes.plot(dropped, scores["r2"], "o-", color=BLUE, label="this repo", ms=4)
    axes.errorbar(dropped, scores["r2"], sd, fmt="none", color=BLUE, capsize=2)
    axes.plot(dropped, scores["r2_amortised"], "^-", color=SKY, label="encoder alone", ms=4, lw=1)
    if published is not None:
        axes.plot(*published, "s:", color=ORANGE, label="public demo", ms=4)
    axes.plot(dropped, scores["r2_smoothed"], "x-.", color=GREY, label="smoothed spikes", ms=4, lw=1)
    axes.set(xlabel="neurons dropped at each time step (%)", ylabel="R² of inferred to true rates")
    axes.set_ylim(min(0, *scores["r2"]) - 0.02, 1.03)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_bits(dropped: np.ndarray, bps: np.ndarray, sd: np.ndarray) -> Figure:
    """Plot bits per spike (bandwidths,) and their SD over seeds (NaN for one seed) against the percentage dropped."""
    figure = Figure(figsize=(4.6, 3.2))
    axes = figure.subplots()
    axes.plot(dropped, bps, "o-", color=BLUE, ms=5)
    axes.errorbar(dropped, bps, sd, fmt="none", color=BLUE, capsize=2)
    axes.axhline(0, color=GREY, lw=0.8, ls="--")
    axes.set(
        xlabel="neurons dropped at each time step (%)", ylabel="bits per spike beyond mean rates,\nheld-out counts"
    )
    return figure


def plot_neurons_and_bins(r2: dict[int, np.ndarray], bin_width: float) -> Figure:
    """Plot the R² of each neuron, best first, and of each time bin, at each bandwidth.

    Args:
        r2: For each bandwidth: (time, neurons) 1 - mean squared error of an entry / variance of its neuron.
            The mean over bins is the neuron's R²; the mean over all entries is the R² of the curve.
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
