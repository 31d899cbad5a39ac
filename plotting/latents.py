"""Figures of latent trajectories, and of inferred rates against true ones."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plotting.style import GREY

N_CONDITIONS, TRIALS_PER_CONDITION = 6, 4  # in one figure


def choose_trials(condition: np.ndarray | None, n_trials: int) -> dict[int, str]:
    """Choose a few trials of a few conditions, or of all without labels, and their colours."""
    condition = np.arange(n_trials) if condition is None else condition
    labels = np.unique(condition)
    few = labels[np.linspace(0, len(labels) - 1, min(len(labels), N_CONDITIONS)).astype(int)]
    return {
        int(trial): f"C{index}"
        for index, label in enumerate(few)
        for trial in np.flatnonzero(condition == label)[:TRIALS_PER_CONDITION]
    }


def draw_trajectories(axes: Axes, points: np.ndarray, colours: dict[int, str]) -> None:
    """Draw each trial of (trials, time, dimensions) as a line with a dot at its start."""
    for trial, colour in colours.items():
        axes.plot(*points[trial].T, color=colour, lw=0.8)
        axes.plot(*points[trial, :1].T, ".", color=colour, ms=4)


def plot_latents(
    latents: np.ndarray, condition: np.ndarray | None, names: dict[int, str]
) -> Figure:
    """Plot the first three principal components of latents (trials, time, units).

    Args:
        latents: (trials, time, units).
        condition: (trials,) labels of conditions, where known.
        names: Names of the labels.
    """
    centred = latents.reshape(-1, latents.shape[-1]) - latents.mean((0, 1))
    variance, directions = np.linalg.eigh(centred.T @ centred)  # in ascending order
    components = (centred @ directions[:, :-4:-1]).reshape(*latents.shape[:2], -1)
    explained = variance[:-4:-1] / max(variance.sum(), 1e-12)
    figure = Figure(figsize=(5.6, 2.8))
    colours = choose_trials(condition, len(latents))
    for axes, second in zip(figure.subplots(1, 2, sharex=True), (1, 2), strict=True):
        existing = min(second, len(explained) - 1)
        draw_trajectories(axes, components[..., [0, existing]], colours)
        axes.set_xlabel(f"latent PC 1 ({explained[0]:.0%})")
        axes.set_ylabel(f"latent PC {second + 1} ({explained[existing]:.0%})")
    if condition is None:
        figure.suptitle("a colour for each trial")
        return figure
    label_of = {colour: names[int(condition[trial])] for trial, colour in colours.items()}
    lines = [Line2D([], [], color=colour, label=name) for colour, name in label_of.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=3)
    return figure


def plot_against_truth(inferred: np.ndarray, true: np.ndarray) -> Figure:
    """Plot inferred against true rates (spikes/s, any shape) as a two-dimensional histogram."""
    figure = Figure(figsize=(3.4, 2.8))
    axes = figure.subplots()
    floor = max(true.max(), 1e-6) / 1000
    inferred, true = (np.maximum(rates.ravel(), floor) for rates in (inferred, true))
    edges = np.geomspace(floor, 1.01 * max(inferred.max(), true.max()), 50)
    counted = axes.hist2d(true, inferred, bins=[edges, edges], norm=LogNorm(), cmap="Greys")[3]
    axes.plot(edges, edges, "--", color="C2", lw=1)
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="true rate (spikes/s)", ylabel="inferred rate (spikes/s)")
    figure.colorbar(counted, ax=axes, label="neurons x bins")
    return figure


def plot_lorenz(panels: dict[str, np.ndarray], condition: np.ndarray | None) -> Figure:
    """Plot latents (trials, time, 3), by title, side by side within the limits of the first."""
    true = next(iter(panels.values()))
    figure = Figure(figsize=(1.85 * len(panels), 2.1))
    colours = choose_trials(condition, len(true))
    grid = figure.subplots(1, len(panels), subplot_kw={"projection": "3d"}, squeeze=False)[0]
    for axes, (title, points) in zip(grid, panels.items(), strict=True):
        draw_trajectories(axes, points, colours)
        axes.set_title(title, y=1.05)
        axes.set_box_aspect(None, zoom=1.3)
        axes.view_init(elev=15, azim=-60)
        for name, values in zip("xyz", true.reshape(-1, 3).T, strict=True):
            axis = getattr(axes, f"{name}axis")
            axis.set_ticklabels([])
            axis.set_label_text(f"latent {name}", color=GREY)
            axis.labelpad = -14
            getattr(axes, f"set_{name}lim")(values.min(), values.max())
    return figure
