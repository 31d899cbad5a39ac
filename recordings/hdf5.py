"""Read HDF5 files of recordings. README.md lists their keys.

A missing count is NaN. Letters in shapes: B trials, T time bins, N neurons.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from command_line import InputError
from recordings import checks

SPLITS = ("train", "valid")
ALL_SPLITS = (*SPLITS, "test")  # a file may have trials that are only scored
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
        # HDF5 needs ascending indices, each once
        trials, where = np.unique(trials, return_inverse=True)
        return self.dataset[trials][where]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"dataset": None}  # another process opens the file itself


Array = np.ndarray | StoredArray


class Trials(NamedTuple):
    """The trials of one split as they are in the file."""

    spikes: Array  # (B, T, N) counts per bin, NaN = not recorded; float32 if in memory
    rates: Array | None  # (B, T, N) true rates in spikes/s, where known
    condition: np.ndarray | None  # (B,) integer labels, where known


class Recording(NamedTuple):
    """What is in a data file."""

    trials: dict[str, Trials]  # of `train` and `valid`, perhaps of `test`
    bin_width: float  # s
    n_heldin: int  # neurons that the encoder may see, the first ones; it never sees the others
    conversion: str | None  # how convert.py made the file from a session (JSON)
    condition_names: list[str] | None  # of the labels 0, 1, ..., where known


@contextlib.contextmanager
def open_file(path: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file; raise InputError if it cannot be read, in the block either."""
    try:
        with h5py.File(path) as file:
            yield file
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read as HDF5 ({error}); expected a complete HDF5 file"
        ) from None


class Disk(io.FileIO):
    """A file that remembers an error in writing: HDF5 crashes if it hears of one."""

    error: OSError | None = None

    def write(self, content: memoryview) -> int:
        left = memoryview(content)
        while len(left) and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return len(content)


@contextlib.contextmanager
def open_to_write(path: str | Path, mode: str = "w") -> Iterator[h5py.File]:
    """Open an HDF5 file to write (mode w or r+); OSError at the end if the disk gave one."""
    with Disk(path, mode.replace("w", "w+")) as disk:
        try:
            with h5py.File(disk, mode) as file:
                yield file
        finally:
            if disk.error:
                raise disk.error from None


def read_file(path: str | Path, bin_width: float | None = None) -> Recording:
    """Check a data file and read it. If it is larger than MAX_IN_MEMORY, its trials stay on disk.

    Args:
        path: HDF5 file.
        bin_width: Bin width in the time unit of the file's rates (s). None: the file's attribute.

    Raises:
        InputError: the file cannot be read, lacks a key, or holds a value that cannot be right.
    """
    expected = "expected an HDF5 file with train_data and valid_data"
    checks.require(Path(path).is_file(), f"{path}: no such file; {expected}")
    with open_file(path) as file:
        splits = [split for split in ALL_SPLITS if split in SPLITS or f"{split}_data" in file]
        trials = {split: open_trials(file, path, f"{split}_") for split in splits}
        bin_width = read_bin_width(file, path, bin_width)
        shapes = [trials[split].spikes.shape for split in splits]
        train, *others = (shape[1:] for shape in shapes)
        for split, other in zip(splits[1:], others, strict=True):
            found = f"train_data has (time, neurons) {train}, {split}_data {other}"
            checks.require(train == other, f"{path}: {found}; expected the same")
        if 4 * sum(map(math.prod, shapes)) <= MAX_IN_MEMORY:
            trials = {split: read_trials(stored) for split, stored in trials.items()}
        n_heldin = checks.check_n_heldin(file.attrs.get("n_heldin", train[1]), train[1], path)
        conversion = file.attrs.get("conversion")
        conversion = conversion if isinstance(conversion, str) else None
        names = checks.check_condition_names(file.attrs.get("condition_names"))
        return Recording(trials, bin_width, n_heldin, conversion, names)


def read_bin_width(file: h5py.File, path: str | Path, bin_width: float | None = None) -> float:
    """Return `bin_width` (s), or that of an open file if None, once it is checked."""
    return checks.check_bin_width(
        file.attrs.get("bin_width") if bin_width is None else bin_width, path
    )


def open_trials(file: h5py.File, path: str | Path, prefix: str) -> Trials:
    """Check the arrays of one split of an open file. Only the conditions are read.

    Raises:
        InputError: no spikes, or an array that cannot be right.
    """
    spikes = checks.open_array(file, path, f"{prefix}data")
    checks.require(
        spikes is not None,
        f"{path}: has no key {prefix}data; expected train_data and valid_data, found "
        f"{sorted(file)} (convert.py makes such a file from NWB and others)",
    )
    checks.check_shape(spikes.shape, path, f"{prefix}data")
    rates = checks.open_array(file, path, f"{prefix}truth", spikes.shape)
    condition = checks.open_array(file, path, f"{prefix}condition", spikes.shape[:1])
    return Trials(
        StoredArray(path, f"{prefix}data", spikes.shape),
        None if rates is None else StoredArray(path, f"{prefix}truth", rates.shape),
        None if condition is None else condition[:],
    )


def read_trials(stored: Trials) -> Trials:
    """Read the trials of one split into memory; raise InputError if a value cannot be right."""
    spikes, rates, condition = stored
    counts = checks.check_counts(spikes[:], spikes.path, spikes.key)
    checks.check_observed(~np.isnan(counts), spikes.path, spikes.key)
    rates = None if rates is None else checks.check_rates(rates[:], rates.path, rates.key)
    return Trials(counts, rates, condition)


def read_per_trial(
    file: h5py.File, path: str | Path, prefix: str, n_trials: int
) -> dict[str, np.ndarray]:
    """Return the arrays (trials, ...) of one split of an open file, without spikes and rates.

    Links, groups and arrays of another length are left out.
    """
    found, others = {}, () if prefix else tuple(f"{split}_" for split in ALL_SPLITS)
    for key in file:
        is_here = isinstance(file.get(key, getlink=True), h5py.HardLink)
        is_further = key.startswith(prefix) and not key.startswith(others)
        if not (is_here and is_further) or key in (f"{prefix}data", f"{prefix}truth"):
            continue
        array, kinds = file[key], "buifS"  # numbers, text
        is_array = isinstance(array, h5py.Dataset) and array.dtype.kind in kinds
        if is_array and array.shape and array.shape[0] == n_trials:
            found[key] = checks.open_array(file, path, key, kinds=kinds)[:]
    return found


def read_latents(path: str | Path, n_trials: int) -> dict[str, np.ndarray] | None:
    """Return the true latents (trials, time, dimensions) of the first trials of each split.

    None if they are not known. Raises InputError if they cannot be right.
    """
    with open_file(path) as file:
        stored = {split: checks.open_array(file, path, f"{split}_latents") for split in SPLITS}
        if any(latents is None for latents in stored.values()):
            return None
        for split, latents in stored.items():
            checks.check_latents(latents, file[f"{split}_data"].shape, path, f"{split}_latents")
        read = {split: latents[:n_trials] for split, latents in stored.items()}
    for split, latents in read.items():
        is_finite = bool(np.isfinite(latents).all())
        checks.require(is_finite, f"{path}: {split}_latents holds NaN; expected numbers")
    return read


def blocks(array: Array, max_trials: int | None = None) -> Iterator[slice]:
    """Yield slices along the first axis, each of a size (`max_trials`) that can be read at once."""
    n_trials = max(1, BLOCK_SIZE // (4 * math.prod(array.shape[1:])))
    n_trials = n_trials if max_trials is None else min(n_trials, max_trials)
    for start in range(0, len(array), n_trials):
        yield slice(start, min(start + n_trials, len(array)))
