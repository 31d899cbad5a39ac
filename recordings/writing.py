"""Write HDF5 files of recordings from arrays."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

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
    groups: np.ndarray | None = None,
    per_trial: Mapping[str, np.ndarray] = MappingProxyType({}),
    attributes: Mapping[str, str | int | float] = MappingProxyType({}),
) -> None:
    """Write arrays to a file that train.py reads, split at random into trials for training and for
    validation.

    Args:
        path: File to write (HDF5). An existing one is replaced.
        spikes: (trials, time, neurons) counts per bin, of any numeric type; NaN = missing.
        bin_width: Width of a time bin (s).
        observed: (trials, time, neurons) bool, False where a count is missing, if this is not
            marked by NaN.
        condition: (trials,) integer labels. Each condition is split as equally as possible.
        rates: (trials, time, neurons) true rates (spikes/s), where known.
        valid_fraction: Fraction of the trials for validation.
        seed: Seed of the split.
        groups: (trials,) integer labels. Trials of one group, as those that share time, stay in one
            split.
        per_trial: Further arrays (trials, ...) to split and write, such as `start`: train_start and
            valid_start.
        attributes: Further attributes of the file.

    Raises:
        InputError: arrays of different shapes, values that are not counts or rates, or too few
            trials or groups.
    """
    spikes = np.asarray(spikes)
    check_shape(spikes.shape, path, "spikes")
    expected_shapes = {
        "observed": (observed, spikes.shape),
        "condition": (condition, spikes.shape[:1]),
        "rates": (rates, spikes.shape),
        "groups": (groups, spikes.shape[:1]),
    }
    for name, (array, shape) in expected_shapes.items():
        if array is not None and np.shape(array) != shape:
            raise InputError(
                f"{path}: {name} has shape {np.shape(array)}; expected {shape}, to go with the spikes"
            )
    if condition is not None and np.asarray(condition).dtype.kind not in "biuf":
        raise InputError(
            f"{path}: condition has the type {np.asarray(condition).dtype}; expected whole numbers"
        )
    is_valid = split_trials(len(spikes), valid_fraction, seed, condition, groups, path)
    spikes = check_counts(spikes, path, "spikes")
    if observed is not None:
        spikes[~np.asarray(observed, dtype=bool)] = np.nan
    arrays = {"data": spikes, "truth": rates, "condition": condition, **per_trial}
    splits = {
        split: {
            key: np.asarray(array)[chosen] for key, array in arrays.items() if array is not None
        }
        for split, chosen in (("train", ~is_valid), ("valid", is_valid))
    }
    write_splits(path, splits, bin_width, {"seed": seed, **attributes})


def write_splits(
    path: str | Path,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    bin_width: float,
    attributes: Mapping[str, str | int | float] = MappingProxyType({}),
) -> None:
    """Write trials that are already split to a file that train.py reads.

    Args:
        path: File to write (HDF5). An existing one is replaced.
        splits: For `train` and `valid`: `data` (trials, time, neurons) counts per bin, NaN =
            missing, and where known `truth` (rates in spikes/s, of the same shape) and `condition`
            (trials,) integer labels; any other arrays (trials, ...).
        bin_width: Width of a time bin (s).
        attributes: Further attributes of the file.

    Raises:
        InputError: values that are not counts or rates, or other bins or neurons in one split than
            in the other.
    """
    bin_width = check_bin_width(bin_width, path)
    shapes = {split: arrays["data"].shape for split, arrays in splits.items()}
    if len({shape[1:] for shape in shapes.values()}) > 1:
        raise InputError(
            f"{path}: spikes have the shapes {shapes}; expected the same time bins and neurons"
        )
    spikes = {
        split: check_counts(arrays["data"], path, f"{split} spikes")
        for split, arrays in splits.items()
    }
    dtype = smallest_type(*spikes.values())
    n_together = max(1, min(2**18 // spikes["train"][0].size, *map(len, spikes.values())))  # trials
    packed = {
        "compression": "gzip",
        "shuffle": True,
        "chunks": (n_together, *spikes["train"].shape[1:]),
    }
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(bin_width=bin_width, rate_unit="spikes/s", **attributes)
        for split, arrays in splits.items():
            file.create_dataset(f"{split}_data", data=spikes[split].astype(dtype), **packed)
            if "truth" in arrays:
                file.create_dataset(
                    f"{split}_truth", data=check_rates(arrays["truth"], path, "rates"), **packed
                )
            for key in arrays.keys() - {"data", "truth"}:
                file[f"{split}_{key}"] = arrays[key]


def split_trials(
    n_trials: int,
    valid_fraction: float = 0.2,
    seed: int = 0,
    condition: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    path: str | Path = "the recording",
) -> np.ndarray:
    """Choose trials for validation, at random. The arguments are those of `write_recording`.

    Returns:
        (trials,) bool: True for validation.

    Raises:
        InputError: too few trials or groups.
    """
    condition = np.zeros(n_trials) if condition is None else np.asarray(condition)
    labels = np.arange(n_trials) if groups is None else groups
    _, first, group_of = np.unique(labels, return_index=True, return_inverse=True)
    n_valid = round(len(first) * valid_fraction)
    if not 0 < n_valid < len(first):
        what = "trials" if groups is None else "groups of trials that share time"
        raise InputError(
            f"{path}: {n_valid} of {len(first)} {what} for validation; expected some in both splits"
        )
    return choose_valid(condition[first], n_valid, seed)[group_of]


def choose_valid(condition: np.ndarray, n_valid: int, seed: int) -> np.ndarray:
    """Choose `n_valid` trials at random, as equal a part of each condition as possible: a bool
    array (trials,)."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(condition))
    rank = np.empty(len(condition))  # of a trial among those of its condition, as a fraction
    for label in np.unique(condition):
        same = shuffled[condition[shuffled] == label]
        rank[same] = (np.arange(len(same)) + rng.random()) / len(same)
    is_valid = np.zeros(len(condition), dtype=bool)
    is_valid[np.argsort(rank, kind="stable")[:n_valid]] = True
    return is_valid


def smallest_type(*spikes: np.ndarray) -> type:
    """Return the smallest type that holds counts exactly. Half precision holds NaN and counts up to
    2048."""
    highest = max(np.nanmax(part, initial=0) for part in spikes)
    if any(np.isnan(part).any() for part in spikes):
        return np.float16 if highest <= 2048 else np.float32
    return np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.float32
