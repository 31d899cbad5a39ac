"""How well a model's latents recover the true ones of a simulation, after a linear map.

Shapes: B trials, T time bins, H hidden units, D true dimensions.
"""

from typing import NamedTuple

import numpy as np

from data import SpikeDataModule
from evaluation.inference import infer_arrays
from model import SequentialAutoencoder
from recordings.hdf5 import read_latents


class RecoveredLatents(NamedTuple):
    """True latents of validation trials, and those of a model mapped to them."""

    true: np.ndarray  # (B, T, D)
    mapped: np.ndarray  # (B, T, D)
    condition: np.ndarray | None  # (B,) labels

    @property
    def r2(self) -> float:
        """R² of the mapped latents, averaged over dimensions."""
        error = np.square(self.true - self.mapped).mean((0, 1))
        return float(np.mean(1 - error / self.true.var((0, 1))))


def fit_linear_map(latents: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Fit an affine map (H + 1, D) from latents (B, T, H) to true ones (B, T, D)."""
    inputs, targets = (part.reshape(-1, part.shape[-1]) for part in (with_ones(latents), true))
    return np.linalg.lstsq(inputs, targets)[0]


def apply_map(to_true: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """Map latents (B, T, H) to (B, T, D) with a map of `fit_linear_map`."""
    return with_ones(latents) @ to_true


def with_ones(latents: np.ndarray) -> np.ndarray:
    """Append a unit that is always one to latents (B, T, H)."""
    return np.concatenate([latents, np.ones_like(latents[..., :1])], axis=-1)


def recover_latents(
    model: SequentialAutoencoder,
    data: SpikeDataModule,
    n_trials: int = 10**6,
    latents: np.ndarray | None = None,
) -> RecoveredLatents | None:
    """Map a model's latents to the true ones; the map is fitted on training trials.

    Args:
        n_trials: At most so many trials of each split.
        latents: (B, T, H) latents of these validation trials. None: infer them.

    Returns:
        None if the true latents of these trials are not known.
    """
    is_as_in_file = data.hparams.split == "trials"
    true = read_latents(data.hparams.path, n_trials) if is_as_in_file else None
    if true is None:
        return None

    def infer(split: str) -> np.ndarray:
        return infer_arrays(model, data.datasets[split][:n_trials].spikes)["latents"]

    to_true = fit_linear_map(infer("train"), true["train"])
    mapped = apply_map(to_true, infer("valid") if latents is None else latents)
    condition = data.trials["valid"].condition
    condition = None if condition is None else condition[:n_trials]
    return RecoveredLatents(true["valid"], mapped, condition)


def r2_of_latents(model: SequentialAutoencoder, data: SpikeDataModule) -> float:
    """Return the R² of the model's latents to the true ones; NaN if these are not known."""
    recovered = recover_latents(model, data)
    return np.nan if recovered is None else recovered.r2
