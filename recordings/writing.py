"""Write HDF5 files of recordings from arrays."""

from pathlib import Path

import h5py
import numpy as np

from command_line import InputError, atomic_write
from recordings.checks import check_bin_width, check_counts, check_rates, check_shape


def write_recording(
    path: str | Path,
    spikes: np.ndarray,
    bin_width: float,
    observed: np.ndarray | None = None,
    condition: np.ndarray | None = None,
    rates: np.ndarray | None = None,
    valid_fraction: float = 0.2,
    seed: int = 0,
) -> None:
    """Write arrays to a file that train.py reads, split at random into trials for training and for validation.

    Args:
        path: File to write (HDF5). An existing one is replaced.
        spikes: (trials, time, neurons) counts per bin, of any numeric type; NaN = missing.
        bin_width: Width of a time bin (s).
        observed: (trials, time, neurons) bool, False where a count is missing, if this is not marked by NaN.
        condition: (trials,) integer labels. Each condition is split as equally as possible.
        rates: (trials, time, neurons) true rates (spikes/s), where known.
        valid_fraction: Fraction of the trials for validation.
        seed: Seed of the split.

    Raises:
        InputError: arrays of different shapes, values that are not counts or rates, or too few trials.
    """
    spikes = np.asarray(spikes)
    check_shape(spikes.shape, path, "spikes")
    expected_shapes = {
        "observed": (observed, spikes.shape),
        "condition": (condition, spikes.shape[:1]),
        "rates": (rates, spikes.shape),
    }
    for name, (array, shape) in expected_shapes.items():
        if array is not None and np.shape(array) != shape:
            raise InputError(f"{path}: {name} has shape {np.shape(array)}; expected {shape}, to go with the spikes")
    bin_width = check_bin_width(bin_width, path)
    n_valid = round(len(spikes) * valid_fraction)
    if not 0 < n_valid < len(spikes):
        raise InputError(f"{path}: {n_valid} of {len(spikes)} trials for validation; expected some in both splits")
    spikes = check_counts(spikes, path, "spikes")
    if observed is not None:
        spikes[~np.asarray(observed, dtype=bool)] = np.nan
    is_valid = choose_valid(np.zeros(len(spikes)) if condition is None else np.asarray(condition), n_valid, seed)
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(bin_width=bin_width, rate_unit="spikes/s", seed=seed)
        packed = {"compression": "gzip", "shuffle": True}
        chunks = (max(1, min(2**18 // spikes[0].size, int((~is_valid).sum()), n_valid)), *spikes.shape[1:])
        for split, chosen in (("train", ~is_valid), ("valid", is_valid)):
            file.create_dataset(f"{split}_data", data=to_smallest_type(spikes)[chosen], chunks=chunks, **packed)
            if rates is not None:
                checked = check_rates(np.asarray(rates)[chosen], path, "rates")
                file.create_dataset(f"{split}_truth", data=checked, chunks=chunks, **packed)
            if condition is not None:
                file[f"{split}_condition"] = np.asarray(condition)[chosen]


def choose_valid(condition: np.ndarray, n_valid: int, seed: int) -> np.ndarray:
    """Choose `n_valid` trials at random, as equal a part of each condition as possible: a bool array (trials,)."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(condition))
    rank = np.empty(len(condition))  # of a trial among those of its condition, as a fraction
    for label in np.unique(condition):
        same = shuffled[condition[shuffled] == label]
        rank[same] = (np.arange(len(same)) + rng.random()) / len(same)
    is_valid = np.zeros(len(condition), dtype=bool)
    is_valid[np.argsort(rank, kind="stable")[:n_valid]] = True
    return is_valid


def to_smallest_type(spikes: np.ndarray) -> np.ndarray:
    """Return counts in the smallest type that holds them exactly. Half precision holds NaN and counts up to 2048."""
    highest = np.nanmax(spikes, initial=0)
    if np.isnan(spikes).any():
        return spikes.astype(np.float16 if highest <= 2048 else np.float32)
    return spikes.astype(np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.float32)
