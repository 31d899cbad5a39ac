"""Figures of latent trajectories and of inferred rates against true ones. Functions take arrays and
return a figure."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from plotting.style import GREY

N_COLOURS = 6  # conditions in one figure


def trials_to_show(
    condition: np.ndarray | None, n_trials: int, per_condition: int = 4
) -> dict[int, str]:
    """Choose trials of a few conditions, or a few trials if these are not known. Return their
    indices and colours."""
    chosen = {}
    condition = np.arange(n_trials) if condition is None else condition
    labels = np.unique(condition)
    for index, label in enumerate(
        labels[np.linspace(0, len(labels) - 1, min(len(labels), N_COLOURS)).astype(int)]
    ):
        for trial in np.flatnonzero(condition == label)[:per_condition]:
            chosen[int(trial)] = f"C{index}"
    return chosen


def draw_trajectories(axes: Axes, points: np.ndarray, colours: dict[int, str], **look) -> None:
    """Draw points (trials, time, dimensions) as one line for each trial, with a dot at its
    start."""
    for trial, colour in colours.items():
        axes.plot(*points[trial].T, color=colour, lw=0.8, **look)
        axes.plot(*points[trial, :1].T, ".", color=colour, ms=4)


def plot_latents(latents: np.ndarray, condition: np.ndarray | None) -> Figure:
    """Plot the first three principal components of latents (trials, time, units), coloured by
    condition if known."""
    centred = latents.reshape(-1, latents.shape[-1]) - latents.mean((0, 1))
    variance, directions = np.linalg.eigh(centred.T @ centred)  # in ascending order
    components = (centred @ directions[:, :-4:-1]).reshape(*latents.shape[:2], -1)
    explained = variance[:-4:-1] / max(variance.sum(), 1e-12)
    figure = Figure(figsize=(5.6, 2.8))
    colours = trials_to_show(condition, len(latents))
    for axes, second in zip(figure.subplots(1, 2, sharex=True), (1, 2), strict=True):
        draw_trajectories(
            axes, components[..., [0, min(second, components.shape[-1] - 1)]], colours
        )
        axes.set(xlabel=f"latent PC 1 ({explained[0]:.0%})")
        axes.set_ylabel(
            f"latent PC {second + 1} ({explained[min(second, len(explained) - 1)]:.0%})"
        )
    figure.suptitle(
        "a colour for each condition" if condition is not None else "a colour for each trial"
    )
    return figure


def plot_against_truth(inferred: np.ndarray, true: np.ndarray) -> Figure:
    """Plot inferred against true rates (spikes/s, of any shape) as a two-dimensional histogram."""
    figure = Figure(figsize=(3.4, 2.8))
    axes = figure.subplots()
    floor = max(true.max(), 1e-6) / 1000
    inferred, true = (np.maximum(rates.ravel(), floor) for rates in (inferred, true))
    edges = np.geomspace(floor, 1.01 * max(inferred.max(), true.max()), 50)
    counted = axes.hist2d(true, inferred, bins=[edges, edges], norm=LogNorm(), cmap="Greys")[3]
    axes.plot(edges, edges, "--", color="C2", lw=1)
    axes.set(
        xscale="log", yscale="log", xlabel="true rate (spikes/s)", ylabel="inferred rate (spikes/s)"
    )
    figure.colorbar(counted, ax=axes, label="neurons x bins")
    return figure


def fit_linear_map(latents: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Fit the affine map (units + 1, dimensions) from latents (trials, time, units) to true ones by
    least squares."""
    return np.linalg.lstsq(
        with_ones(latents).reshape(-1, latents.shape[-1] + 1), true.reshape(-1, true.shape[-1])
    )[0]


def apply_map(to_true: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """Apply a map of `fit_linear_map` to latents (trials, time, units): (trials, time,
    dimensions)."""
    return with_ones(latents) @ to_true


def with_ones(latents: np.ndarray) -> np.ndarray:
    """Append a unit that is always one to latents (trials, time, units)."""
    return np.concatenate([latents, np.ones_like(latents[..., :1])], axis=-1)


def plot_lorenz(
    true: np.ndarray, recovered: dict[int, np.ndarray], condition: np.ndarray | None
) -> Figure:
    """Plot true latents in three dimensions beside those recovered from models.

    Args:
        true: (trials, time, 3) latents of the simulation.
        recovered: For each bandwidth: (trials, time, 3) the model's latents after a linear map to
            the true ones.
        condition: (trials,) labels for the colours, where known.
    """
    panels = {"true latents": true}
    for bandwidth, points in recovered.items():
        r2 = 1 - ((points - true) ** 2).mean((0, 1)) / true.var((0, 1))
        panels[f"{bandwidth} neurons observed\nR² {r2.mean():.2f}"] = points
    figure = Figure(figsize=(1.85 * len(panels), 2.1))
    colours = trials_to_show(condition, len(true))
    grid = figure.subplots(1, len(panels), subplot_kw={"projection": "3d"}, squeeze=False)[0]
    for axes, (title, points) in zip(grid, panels.items(), strict=True):
        draw_trajectories(axes, points, colours)
        axes.set_title(title, y=1.05)
        axes.set_box_aspect(None, zoom=1.3)
        axes.view_init(elev=15, azim=-60)
        for name, axis, limits in zip(
            "xyz", (axes.xaxis, axes.yaxis, axes.zaxis), true.reshape(-1, 3).T, strict=True
        ):
            axis.set_ticklabels([])
            axis.set_label_text(f"latent {name}", color=GREY)
            axis.labelpad = -14
            getattr(axes, f"set_{name}lim")(limits.min(), limits.max())
    return figure
