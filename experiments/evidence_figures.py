"""Figures of the evidence. Functions take rows and return a figure."""

import numpy as np
from matplotlib.figure import Figure

from plotting.style import BLUE, GREEN, GREY, ORANGE, SKY

LOOKS = [
    (BLUE, "o-"),
    (ORANGE, "s:"),
    (GREEN, "^--"),
    (GREY, "x-."),
    (SKY, "v-"),
    ("#CC79A7", "d:"),
]  # marker, line
TITLES = {"r2": "R² of inferred to true rates", "r2_latents": "R² of the latent state"}


def plot_evidence(rows: list[dict], x_label: str, score: str) -> Figure:
    """Plot a score against x, a line for each label: the mean over seeds, and each seed as a small
    mark.

    Args:
        rows: Each with `label`, `x`, `seed` and scores.
        x_label: What is on the x-axis.
        score: Which score to plot.
    """
    figure = Figure(figsize=(4.8, 3.8))
    axes = figure.subplots()
    lowest = 0.0
    for (colour, look), label in zip(
        LOOKS, dict.fromkeys(row["label"] for row in rows), strict=False
    ):
        of_label = [row for row in rows if row["label"] == label]
        points = sorted({row["x"] for row in of_label})
        means = [np.mean([row[score] for row in of_label if row["x"] == x]) for x in points]
        axes.plot(points, means, look, color=colour, ms=4, label=label)
        seeds = [row["x"] for row in of_label], [row[score] for row in of_label]
        axes.plot(*seeds, look[0], color=colour, ms=2.5, alpha=0.5)
        lowest = min(lowest, np.nanmin(means))
    axes.set(
        xlabel=x_label, ylabel=TITLES[score], xscale="log", ylim=(max(lowest, -0.5) - 0.02, 1.03)
    )
    ticks = sorted({row["x"] for row in rows})
    axes.set_xticks(ticks, [str(x) for x in ticks])
    axes.minorticks_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
