"""Check untrusted HDF5 files: links to other files, decompression bombs, wrong shapes, values that
are not counts."""

from pathlib import Path

import h5py
import numpy as np

from command_line import InputError

MAX_TRIALS = 10**8
MAX_TRIAL_SIZE = (
    2**28
)  # bytes of a trial as float32; also of a chunk, which is unpacked to read a trial
MAX_COMPRESSION = 2000  # HDF5's own compression reaches 1032
UNCHECKED_SIZE = 2**26  # bytes; smaller arrays may have any compression


def open_array(
    file: h5py.File, path: str | Path, key: str, shape: tuple[int, ...] | None = None
) -> h5py.Dataset | None:
    """Return an array of an open file, without reading it; None if the file has no such key.

    Raises:
        InputError: a link, no array of numbers, another shape than expected, or an array that is
            too large.
    """
    link = file.get(key, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path}: {key} is a link to another place; expected the array itself")
    array = file[key]
    if not (
        isinstance(array, h5py.Dataset) and array.shape is not None and array.dtype.kind in "buif"
    ):
        raise InputError(
            f"{path}: {key} is not an array of numbers; expected counts, rates or labels"
        )
    if array.is_virtual or array.external:
        raise InputError(f"{path}: {key} lies in another file; expected the array itself")
    if shape is not None and array.shape != shape:
        raise InputError(
            f"{path}: {key} has shape {array.shape}; expected {shape}, to go with the spikes"
        )
    check_size(array, path, key)
    return array


def check_size(array: h5py.Dataset, path: str | Path, key: str) -> None:
    """Raise InputError if an array has more trials, larger trials or a higher compression than a
    recording can have."""
    size = np.prod(array.shape, dtype=float)
    largest_read = (
        4 * max(size / max(len(array), 1), np.prod(array.chunks or (0,), dtype=float))
        if array.shape
        else 0
    )
    if array.shape and (len(array) > MAX_TRIALS or largest_read > MAX_TRIAL_SIZE):
        raise InputError(
            f"{path}: {key} has shape {array.shape} in chunks {array.chunks}; expected at most {MAX_TRIALS} trials, "
            f"{MAX_TRIAL_SIZE >> 20} MB each"
        )
    if size * array.dtype.itemsize > max(
        UNCHECKED_SIZE, MAX_COMPRESSION * array.id.get_storage_size()
    ):
        raise InputError(
            f"{path}: {key} unpacks to {size * array.dtype.itemsize / 2**30:.1f} GB from "
            f"{array.id.get_storage_size() / 2**20:.1f} MB; expected an array whose values are stored in the file"
        )


def check_shape(shape: tuple[int, ...], path: str | Path, key: str) -> None:
    """Raise InputError if `shape` is not that of spikes."""
    if len(shape) != 3 or 0 in shape:
        raise InputError(
            f"{path}: {key} has shape {shape}; expected (trials, time, neurons), none of them 0"
        )


def check_bin_width(bin_width: object, path: str | Path) -> float:
    """Return a bin width (s) as float; raise InputError if it is not a number above 0."""
    if not (isinstance(bin_width, (int, float, np.number)) and 0 < bin_width < np.inf):
        raise InputError(f"{path}: bin_width is {bin_width!r}; expected a number above 0")
    return float(bin_width)


def check_counts(spikes: np.ndarray, path: str | Path, key: str) -> np.ndarray:
    """Return counts (NaN = missing) as float32; raise InputError if some are infinite, negative or
    fractional."""
    spikes = spikes.astype(np.float32)
    counts = spikes[~np.isnan(spikes)]
    for wrong, what in (
        (np.isinf(counts), "infinite"),
        (counts < 0, "negative"),
        (counts != np.floor(counts), "fractional"),
    ):
        if wrong.any():
            raise InputError(
                f"{path}: {key} holds {wrong.sum()} {what} values; expected counts, NaN where missing"
            )
    return spikes


def check_rates(rates: np.ndarray, path: str | Path, key: str) -> np.ndarray:
    """Return rates as float32; raise InputError if some are negative or not finite."""
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise InputError(f"{path}: {key} holds negative or non-finite values; expected rates")
    return rates.astype(np.float32)
