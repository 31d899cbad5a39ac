"""Write HDF5 files of recordings from arrays."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np

from command_line import atomic_write
from recordings import checks
from recordings.hdf5 import SPLITS
from recordings.splitting import split_trials

NOTHING = MappingProxyType({})


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
    per_trial: Mapping[str, np.ndarray] = NOTHING,
    attributes: Mapping[str, str | int | float] = NOTHING,
) -> None:
    """Write arrays to a file that train.py reads, with a random part of the trials for validation.

    Args:
        path: HDF5 file to write. An existing one is replaced.
        spikes: (trials, time, neurons) counts per bin, of any numeric type; NaN = missing.
        bin_width: Width of a time bin (s).
        observed: (trials, time, neurons) bool, False where a count is missing, if not NaN.
        condition: (trials,) integer labels. Each condition is split as equally as possible.
        rates: (trials, time, neurons) true rates (spikes/s), where known.
        valid_fraction: Fraction of the trials for validation.
        seed: Seed of the split.
        groups: (trials,) integer labels. Trials of one group, as those that share time, stay in
            one split.
        per_trial: Further arrays (trials, ...) to split, such as `start`: train_start, valid_start.
        attributes: Further attributes of the file.

    Raises:
        InputError: arrays of different shapes, values that are not counts or rates, or too few
            trials or groups.
    """
    spikes = np.asarray(spikes)
    checks.check_shape(spikes.shape, path, "spikes")
    arrays = {"observed": observed, "condition": condition, "rates": rates, "groups": groups}
    for name, array in arrays.items():
        if array is not None:
            n_axes = 1 if name in ("condition", "groups") else 3
            checks.check_fit(array, spikes.shape[:n_axes], path, name)
    if condition is not None:
        dtype = np.asarray(condition).dtype
        message = f"{path}: condition has the type {dtype}; expected whole numbers"
        checks.require(dtype.kind in "biuf", message)
    is_valid = split_trials(len(spikes), valid_fraction, seed, condition, groups, path)
    spikes = checks.check_counts(spikes, path, "spikes")
    if observed is not None:
        spikes[~np.asarray(observed, dtype=bool)] = np.nan
    arrays = {"data": spikes, "truth": rates, "condition": condition, **per_trial}
    arrays = {key: np.asarray(array) for key, array in arrays.items() if array is not None}
    splits = {
        split: {key: array[chosen] for key, array in arrays.items()}
        for split, chosen in zip(SPLITS, (~is_valid, is_valid), strict=True)
    }
    write_splits(path, splits, bin_width, {"seed": seed, **attributes})


def write_splits(
    path: str | Path,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    bin_width: float,
    attributes: Mapping[str, str | int | float] = NOTHING,
) -> None:
    """Write trials that are already split to a file that train.py reads.

    Args:
        path: HDF5 file to write. An existing one is replaced.
        splits: For `train` and `valid`: `data` (trials, time, neurons) counts per bin, NaN =
            missing, and where known `truth` (rates in spikes/s, of the same shape) and `condition`
            (trials,) integer labels; any other arrays (trials, ...).
        bin_width: Width of a time bin (s).
        attributes: Further attributes of the file.

    Raises:
        InputError: values that are not counts or rates, or splits of other bins or neurons.
    """
    bin_width = checks.check_bin_width(bin_width, path)
    shapes = {split: arrays["data"].shape for split, arrays in splits.items()}
    message = f"{path}: spikes have the shapes {shapes}; expected the same time bins and neurons"
    checks.require(len({shape[1:] for shape in shapes.values()}) == 1, message)
    spikes = {
        split: checks.check_counts(arrays["data"], path, f"{split} spikes")
        for split, arrays in splits.items()
    }
    dtype, one_trial = smallest_type(*spikes.values()), spikes["train"][0]
    n_together = max(1, min(2**18 // one_trial.size, *map(len, spikes.values())))  # trials
    packed = {"compression": "gzip", "shuffle": True, "chunks": (n_together, *one_trial.shape)}
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(bin_width=bin_width, rate_unit="spikes/s", **attributes)
        for split, arrays in splits.items():
            for key, array in arrays.items():
                if key == "data":
                    file.create_dataset(f"{split}_data", data=spikes[split].astype(dtype), **packed)
                elif key == "truth":
                    rates = checks.check_rates(array, path, "rates")
                    file.create_dataset(f"{split}_truth", data=rates, **packed)
                else:
                    file[f"{split}_{key}"] = array


def smallest_type(*spikes: np.ndarray) -> type:
    """Return the smallest type that holds the counts exactly: half precision does up to 2048."""
    highest = max(np.nanmax(part, initial=0) for part in spikes)
    if any(np.isnan(part).any() for part in spikes):
        return np.float16 if highest <= 2048 else np.float32
    return np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.float32
