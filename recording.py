"""HDF5 files of recordings: reads and checks them, and writes them from arrays. Nothing in a file is trusted.

A missing count is NaN, here and everywhere after. Shapes: B trials, T time bins, N neurons.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from command_line import InputError, whole_file

SPLITS = ("train", "valid")
IN_MEMORY = 4 * 2**30  # bytes of counts, as float32, up to which a file is read at once; a larger one stays on disk
MOST_TRIALS = 10**8
LARGEST_TRIAL = 2**28  # bytes, as float32; also the largest chunk, since to read a trial is to unpack its chunk
MOST_PACKED = 2000  # times; HDF5's own compression reaches 1032
BLOCK = 2**26  # bytes to read at a time


class StoredArray:
    """An array on disk: what is asked for, along the first axis, is read when it is asked for."""

    def __init__(self, path: str | Path, key: str, shape: tuple[int, ...]) -> None:
        self.path, self.key, self.shape, self.ndim = str(path), key, shape, len(shape)
        self.dataset = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if self.dataset is None:
            self.dataset = h5py.File(self.path)[self.key]
        if isinstance(rows, slice):
            return self.dataset[rows]
        rows, where = np.unique(rows, return_inverse=True)  # HDF5 wants them in order, and each once
        return self.dataset[rows][where]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"dataset": None}  # another process opens the file for itself


Array = np.ndarray | StoredArray


class Trials(NamedTuple):
    """The trials of one split as they are in the file."""

    spikes: Array  # (B, T, N) counts per bin, NaN = not recorded; float32 in memory, as they are stored on disk
    rates: Array | None  # (B, T, N) true rates in spikes/s, where known
    condition: np.ndarray | None  # (B,) integer label of what the trial repeats, where known


def read_file(path: str | Path, bin_width: float | None = None) -> tuple[dict[str, Trials], float]:
    """Read and check a data file; one that is too large for the memory is checked as its trials are read.

    Args:
        path: HDF5 file with `train_data` and `valid_data` (trials, time, neurons), counts with NaN = missing, and where
            known `train_truth` and `valid_truth` (rates), `train_condition` and `valid_condition` (trials,).
        bin_width: Width of a time bin in the unit that makes `rates * bin_width` a count; None takes the file's.

    Returns:
        The trials of each split, and the bin width.

    Raises:
        InputError: the file cannot be read, a key is missing, or a value cannot be what it should be.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected an HDF5 file with train_data and valid_data")
    try:
        with h5py.File(path) as file:
            stored = {split: stored_trials(file, path, f"{split}_") for split in SPLITS}
            bin_width = read_bin_width(file, path, bin_width)
        train, valid = (stored[split].spikes.shape[1:] for split in SPLITS)
        if train != valid:
            raise InputError(f"{path}: train_data has (time, neurons) {train}, valid_data {valid}; expected the same")
        if sum(4 * np.prod(trials.spikes.shape, dtype=float) for trials in stored.values()) > IN_MEMORY:
            return stored, bin_width
        return {split: _in_memory(trials, path) for split, trials in stored.items()}, bin_width
    except OSError as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({error}); expected a complete HDF5 file") from None


def read_bin_width(file: h5py.File, path: str | Path, bin_width: float | None = None) -> float:
    """Return `bin_width` (s), else that of an open file; raise InputError where there is none, or none that can be."""
    bin_width = file.attrs.get("bin_width") if bin_width is None else bin_width
    if bin_width is None:
        raise InputError(
            f"{path}: has no attribute bin_width; expected one, or the flag --data.bin_width "
            "(--bin_width of describe.py and infer.py)"
        )
    if not (isinstance(bin_width, (int, float, np.number)) and 0 < bin_width < np.inf):
        raise InputError(f"{path}: bin_width is {bin_width!r}; expected a number above 0")
    return float(bin_width)


def stored_trials(file: h5py.File, path: str | Path, prefix: str) -> Trials:
    """Check the arrays of one split of an open file without reading them; only the conditions are read.

    Raises:
        InputError: no spikes, or arrays that are of the wrong shape or kind, too large, or not in this file.
    """
    spikes = _stored(file, path, f"{prefix}data")
    if spikes is None:
        raise InputError(f"{path}: has no key {prefix}data; expected train_data and valid_data, found {sorted(file)}")
    if spikes.ndim != 3 or 0 in spikes.shape:
        raise InputError(
            f"{path}: {prefix}data has shape {spikes.shape}; expected (trials, time, neurons), none of them 0"
        )
    rates = _stored(file, path, f"{prefix}truth", spikes.shape)
    condition = _stored(file, path, f"{prefix}condition", spikes.shape[:1])
    return Trials(spikes, rates, None if condition is None else condition[:])


def _stored(file: h5py.File, path: str | Path, key: str, shape: tuple[int, ...] | None = None) -> StoredArray | None:
    """Return an array of an open file, None where there is none; raise InputError where it is not what it should be."""
    link = file.get(key, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path}: {key} is a link to another place; expected the array itself")
    array = file[key]
    if not (isinstance(array, h5py.Dataset) and array.shape is not None and array.dtype.kind in "buif"):
        raise InputError(f"{path}: {key} is not an array of numbers; expected counts, rates or labels")
    if array.is_virtual or array.external:
        raise InputError(f"{path}: {key} lies in another file; expected the array itself")
    if shape is not None and array.shape != shape:
        raise InputError(f"{path}: {key} has shape {array.shape}; expected {shape}, to go with the spikes")
    size = np.prod(array.shape, dtype=float)
    largest_read = 4 * max(size / max(len(array), 1), np.prod(array.chunks or (0,), dtype=float)) if array.shape else 0
    if array.shape and (len(array) > MOST_TRIALS or largest_read > LARGEST_TRIAL):
        raise InputError(
            f"{path}: {key} has shape {array.shape} in chunks {array.chunks}; expected at most {MOST_TRIALS} trials, "
            f"{LARGEST_TRIAL >> 20} MB each"
        )
    if size * array.dtype.itemsize > max(BLOCK, MOST_PACKED * array.id.get_storage_size()):
        raise InputError(
            f"{path}: {key} unpacks to {size * array.dtype.itemsize / 2**30:.1f} GB from "
            f"{array.id.get_storage_size() / 2**20:.1f} MB; expected counts that were written"
        )
    return StoredArray(path, key, array.shape)


def _in_memory(stored: Trials, path: str | Path) -> Trials:
    """Read the trials of one split and check their values."""
    spikes = checked_counts(stored.spikes[:], path, stored.spikes.key)
    if np.isnan(spikes).all():
        raise InputError(f"{path}: {stored.spikes.key} holds NaN alone; expected some observed counts")
    rates = None if stored.rates is None else checked_rates(stored.rates[:], path, stored.rates.key)
    return Trials(spikes, rates, stored.condition)


def checked_counts(spikes: np.ndarray, path: str | Path, key: str) -> np.ndarray:
    """Return counts as float32; raise InputError where some are infinite, negative or fractional."""
    spikes = spikes.astype(np.float32)
    counts = spikes[~np.isnan(spikes)]
    for wrong, what in (
        (np.isinf(counts), "infinite"),
        (counts < 0, "negative"),
        (counts != np.floor(counts), "fractional"),
    ):
        if wrong.any():
            raise InputError(f"{path}: {key} holds {wrong.sum()} {what} values; expected counts, NaN where missing")
    return spikes


def checked_rates(rates: np.ndarray, path: str | Path, key: str) -> np.ndarray:
    """Return rates as float32; raise InputError where some are negative or not finite."""
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise InputError(f"{path}: {key} holds negative or non-finite values; expected rates")
    return rates.astype(np.float32)


def blocks(array: Array) -> Iterator[slice]:
    """Yield slices along the first axis, each of a size that can be read at once."""
    trials = max(1, BLOCK // (4 * int(np.prod(array.shape[1:]))))
    for start in range(0, len(array), trials):
        yield slice(start, min(start + trials, len(array)))


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
        path: File to write (HDF5); an existing one is replaced, at once.
        spikes: (trials, time, neurons) counts per bin, of any numeric type; NaN = missing.
        bin_width: Width of a time bin (s).
        observed: (trials, time, neurons) bool, False where a count is missing, if NaN does not say so.
        condition: (trials,) integer labels; each condition is split as equally as can be.
        rates: (trials, time, neurons) true rates (spikes/s), where known.
        valid_fraction: Fraction of the trials for validation.
        seed: Seed of the split.

    Raises:
        InputError: arrays that do not fit each other, that are no counts or no rates, or too few trials.
    """
    spikes = np.asarray(spikes)
    if spikes.ndim != 3 or 0 in spikes.shape:
        raise InputError(f"{path}: spikes have shape {spikes.shape}; expected (trials, time, neurons), none of them 0")
    arrays = {
        "observed": (observed, spikes.shape),
        "condition": (condition, spikes.shape[:1]),
        "rates": (rates, spikes.shape),
    }
    for name, (array, shape) in arrays.items():
        if array is not None and np.shape(array) != shape:
            raise InputError(f"{path}: {name} has shape {np.shape(array)}; expected {shape}, to go with the spikes")
    if not 0 < bin_width < np.inf:
        raise InputError(f"{path}: bin_width is {bin_width!r}; expected a number above 0")
    n_valid = round(len(spikes) * valid_fraction)
    if not 0 < n_valid < len(spikes):
        raise InputError(f"{path}: {n_valid} of {len(spikes)} trials for validation; expected some in both splits")
    spikes = checked_counts(spikes, path, "spikes")
    if observed is not None:
        spikes[~np.asarray(observed, dtype=bool)] = np.nan
    is_valid = _choose_valid(np.zeros(len(spikes)) if condition is None else np.asarray(condition), n_valid, seed)
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(bin_width=bin_width, rate_unit="spikes/s", seed=seed)
        packed = {"compression": "gzip", "shuffle": True}
        chunks = (max(1, min(2**18 // spikes[0].size, int((~is_valid).sum()), n_valid)), *spikes.shape[1:])
        for split, chosen in (("train", ~is_valid), ("valid", is_valid)):
            file.create_dataset(f"{split}_data", data=_narrow(spikes)[chosen], chunks=chunks, **packed)
            if rates is not None:
                checked = checked_rates(np.asarray(rates)[chosen], path, "rates")
                file.create_dataset(f"{split}_truth", data=checked, chunks=chunks, **packed)
            if condition is not None:
                file[f"{split}_condition"] = np.asarray(condition)[chosen]


def _choose_valid(condition: np.ndarray, n_valid: int, seed: int) -> np.ndarray:
    """Choose `n_valid` trials (trials,; bool) so that each condition has its share of them."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(condition))
    rank = np.empty(len(condition))  # of a trial among those of its condition, as a fraction
    for label in np.unique(condition):
        same = shuffled[condition[shuffled] == label]
        rank[same] = (np.arange(len(same)) + rng.random()) / len(same)
    is_valid = np.zeros(len(condition), dtype=bool)
    is_valid[np.argsort(rank, kind="stable")[:n_valid]] = True
    return is_valid


def _narrow(spikes: np.ndarray) -> np.ndarray:
    """Return counts in the smallest type that holds them exactly; half precision holds NaN and counts up to 2048."""
    highest = np.nanmax(spikes, initial=0)
    if np.isnan(spikes).any():
        return spikes.astype(np.float16 if highest <= 2048 else np.float32)
    return spikes.astype(np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.float32)
