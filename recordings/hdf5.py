"""Read HDF5 files of recordings. README.md lists their keys.

A missing count is NaN. Shapes: B trials, T time bins, N neurons.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from command_line import InputError
from recordings.checks import check_bin_width, check_counts, check_rates, check_shape, open_array

SPLITS = ("train", "valid")
MAX_IN_MEMORY = 4 * 2**30  # bytes of counts as float32; a larger file stays on disk
BLOCK_SIZE = 2**26  # bytes to read at a time


class StoredArray:
    """An array in a file. Indexing reads the chosen trials from the file."""

    def __init__(self, path: str | Path, key: str, shape: tuple[int, ...]) -> None:
        self.path, self.key, self.shape = str(path), key, shape
        self.dataset = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, trials: slice | np.ndarray) -> np.ndarray:
        if self.dataset is None:
            self.dataset = h5py.File(self.path)[self.key]
        if isinstance(trials, slice):
            return self.dataset[trials]
        trials, where = np.unique(
            trials, return_inverse=True
        )  # HDF5 needs ascending indices, each once
        return self.dataset[trials][where]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"dataset": None}  # another process opens the file itself


Array = np.ndarray | StoredArray


class Trials(NamedTuple):
    """The trials of one split as they are in the file."""

    spikes: Array  # (B, T, N) counts per bin, NaN = not recorded; float32 in memory, the file's type on disk
    rates: Array | None  # (B, T, N) true rates in spikes/s, where known
    condition: np.ndarray | None  # (B,) integer labels, where known


@contextlib.contextmanager
def open_file(path: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file; raise InputError if it cannot be read."""
    try:
        with h5py.File(path) as file:
            yield file
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read as HDF5 ({error}); expected a complete HDF5 file"
        ) from None


class Recording(NamedTuple):
    """What is in a data file."""

    trials: dict[str, Trials]  # of `train` and `valid`
    bin_width: float  # s
    n_heldin: (
        int  # the first neurons, which the encoder may see; co-smoothing is scored on the others
    )
    conversion: str | None  # how convert.py made the file from a session (JSON), if it did
    condition_names: (
        list[str] | None
    )  # what the labels 0, 1, ... of conditions stand for, where known


def read_file(path: str | Path, bin_width: float | None = None) -> Recording:
    """Read and check a data file. A file above MAX_IN_MEMORY stays on disk; its trials are checked
    when they are read.

    Args:
        path: HDF5 file with `train_data` and `valid_data` (trials, time, neurons): counts, NaN =
            missing. Where known also `train_truth` and `valid_truth` (rates), `train_condition` and
            `valid_condition` (trials,).
        bin_width: Width of a time bin in the unit that makes `rates * bin_width` a count. None
            takes the file's.

    Raises:
        InputError: the file cannot be read, lacks a key, or holds a value that cannot be right.
    """
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such file; expected an HDF5 file with train_data and valid_data"
        )
    with open_file(path) as file:
        stored = {split: open_trials(file, path, f"{split}_") for split in SPLITS}
        bin_width = read_bin_width(file, path, bin_width)
        train, valid = (stored[split].spikes.shape[1:] for split in SPLITS)
        if train != valid:
            raise InputError(
                f"{path}: train_data has (time, neurons) {train}, valid_data {valid}; expected the same"
            )
        if (
            sum(4 * np.prod(trials.spikes.shape, dtype=float) for trials in stored.values())
            > MAX_IN_MEMORY
        ):
            trials = stored
        else:
            trials = {split: read_trials(of_split) for split, of_split in stored.items()}
        conversion = file.attrs.get("conversion")
        conversion = conversion if isinstance(conversion, str) else None
        return Recording(
            trials,
            bin_width,
            read_n_heldin(file, path, train[1]),
            conversion,
            read_condition_names(file),
        )


def read_bin_width(file: h5py.File, path: str | Path, bin_width: float | None = None) -> float:
    """Return `bin_width` (s), or that of an open file if None; raise InputError if there is none,
    or it cannot be right."""
    bin_width = file.attrs.get("bin_width") if bin_width is None else bin_width
    if bin_width is None:
        raise InputError(
            f"{path}: has no attribute bin_width; expected one, or the flag --data.bin_width "
            "(--bin_width of describe.py and infer.py)"
        )
    return check_bin_width(bin_width, path)


def read_n_heldin(file: h5py.File, path: str | Path, n_neurons: int) -> int:
    """Return how many neurons of an open file, the first ones, the encoder may see: its attribute
    `n_heldin`, or all.

    Raises:
        InputError: not a number of neurons that the file has.
    """
    n_heldin = file.attrs.get("n_heldin", n_neurons)
    if not (isinstance(n_heldin, int | np.integer) and 0 < n_heldin <= n_neurons):
        raise InputError(
            f"{path}: n_heldin is {n_heldin!r}; expected 1 to {n_neurons}, its number of neurons"
        )
    return int(n_heldin)


def read_condition_names(file: h5py.File) -> list[str] | None:
    """Return what the labels 0, 1, ... of conditions stand for: the attribute `condition_names`
    (JSON); None without it."""
    try:
        names = json.loads(file.attrs.get("condition_names", "null"))
        return [str(name) for name in names] if isinstance(names, list) else None
    except (ValueError, TypeError):
        return None


def open_trials(file: h5py.File, path: str | Path, prefix: str) -> Trials:
    """Check the arrays of one split of an open file without reading them. Only the conditions are
    read.

    Raises:
        InputError: no spikes, or an array that cannot be right.
    """
    spikes = open_array(file, path, f"{prefix}data")
    if spikes is None:
        raise InputError(
            f"{path}: has no key {prefix}data; expected train_data and valid_data, found {sorted(file)} (convert.py makes such a file from NWB and others)"
        )
    check_shape(spikes.shape, path, f"{prefix}data")
    rates = open_array(file, path, f"{prefix}truth", spikes.shape)
    condition = open_array(file, path, f"{prefix}condition", spikes.shape[:1])
    return Trials(
        StoredArray(path, f"{prefix}data", spikes.shape),
        None if rates is None else StoredArray(path, f"{prefix}truth", rates.shape),
        None if condition is None else condition[:],
    )


def read_trials(stored: Trials) -> Trials:
    """Read the trials of one split into memory; raise InputError if a value cannot be right."""
    spikes = check_counts(stored.spikes[:], stored.spikes.path, stored.spikes.key)
    if np.isnan(spikes).all():
        raise InputError(
            f"{stored.spikes.path}: {stored.spikes.key} holds NaN alone; expected some observed counts"
        )
    rates = (
        None
        if stored.rates is None
        else check_rates(stored.rates[:], stored.rates.path, stored.rates.key)
    )
    return Trials(spikes, rates, stored.condition)


def hold_out_conditions(trials: dict[str, Trials], path: str | Path) -> dict[str, Trials]:
    """Split the trials of both splits anew: every fifth condition is for validation, the others are
    for training.

    Raises:
        InputError: a file without labels, with fewer than five conditions, or too large for memory.
    """
    train, valid = (trials[split] for split in SPLITS)
    if train.condition is None or valid.condition is None:
        raise InputError(
            f"{path}: has no train_condition and valid_condition; expected labels, to hold out whole conditions"
        )
    if isinstance(train.spikes, StoredArray):
        raise InputError(
            f"{path}: has more than {MAX_IN_MEMORY >> 30} GB of counts; expected less, to hold out whole conditions"
        )
    joined = Trials(
        *(
            None if part[0] is None else np.concatenate(part)
            for part in zip(train, valid, strict=True)
        )
    )
    conditions = np.unique(joined.condition)
    if len(conditions) < 5:
        raise InputError(
            f"{path}: has {len(conditions)} conditions; expected at least 5, to hold out every fifth"
        )
    is_valid = np.isin(joined.condition, conditions[2::5])
    return {
        split: Trials(*(None if field is None else field[chosen] for field in joined))
        for split, chosen in (("train", ~is_valid), ("valid", is_valid))
    }


def has_new_conditions(trials: dict[str, Trials]) -> bool:
    """Return whether conditions repeat in training and validation trials are all of others. False
    if labels are not known.

    If no condition repeats in training, training trials are as new to each other as validation
    trials are to them.
    """
    train, valid = (trials[split].condition for split in SPLITS)
    if train is None or valid is None:
        return False
    return len(np.unique(train)) < len(train) and not np.isin(valid, train).any()


def read_latents(path: str | Path, n_trials: int) -> dict[str, np.ndarray] | None:
    """Return the true latents (trials, time, dimensions) of the first `n_trials` of each split,
    None where not known.

    Raises:
        InputError: latents that cannot be right.
    """
    with open_file(path) as file:
        stored = {split: open_array(file, path, f"{split}_latents") for split in SPLITS}
        if any(latents is None for latents in stored.values()):
            return None
        return {split: latents[:n_trials] for split, latents in stored.items()}


def blocks(array: Array, max_trials: int | None = None) -> Iterator[slice]:
    """Yield slices along the first axis, of at most `max_trials`, each of a size that can be read
    at once."""
    n_trials = max(1, BLOCK_SIZE // (4 * int(np.prod(array.shape[1:]))))
    n_trials = n_trials if max_trials is None else min(n_trials, max_trials)
    for start in range(0, len(array), n_trials):
        yield slice(start, min(start + n_trials, len(array)))
