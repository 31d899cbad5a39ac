"""Checks of recordings from strangers. Each error names the file and the array.

Files may link to others, unpack to more than memory holds, have any shape, or hold no counts.
"""

import json
from pathlib import Path

import h5py
import numpy as np

from command_line import InputError, require

MAX_TRIALS = 10**8
MAX_TRIAL_SIZE = 2**28  # bytes of a trial as float32, or of a chunk, which is read as a whole
MAX_COMPRESSION = 2000  # HDF5's own compression reaches 1032
LOW_MEDIAN_RATE, HIGH_MEDIAN_RATE = 0.05, 500  # spikes/s; no population is as sparse or as fast
UNCHECKED_SIZE = 2**26  # bytes; smaller arrays may have any compression


def open_array(
    file: h5py.File,
    path: str | Path,
    key: str,
    shape: tuple[int, ...] | None = None,
    kinds: str = "buif",
) -> h5py.Dataset | None:
    """Return an array of an open file without reading it; None if the file has no such key.

    Raises:
        InputError: a link, not an array of numbers, not of the `shape` expected, or too large.
    """
    link, name = file.get(key, getlink=True), f"{path}: {key}"
    if link is None:
        return None
    is_here = isinstance(link, h5py.HardLink)
    require(is_here, f"{name} is a link to another place; expected the array itself")
    array = file[key]
    is_array = isinstance(array, h5py.Dataset) and array.shape is not None
    is_numeric = is_array and array.dtype.kind in kinds
    require(is_numeric, f"{name} is not an array of numbers; expected counts, rates or labels")
    is_here = not (array.is_virtual or array.external)
    require(is_here, f"{name} lies in another file; expected the array itself")
    if shape is not None:
        check_fit(array, shape, path, key)
    check_size(array, name)
    return array


def check_size(array: h5py.Dataset, name: str) -> None:
    """Check the number and size of trials, and how strongly the array is compressed."""
    n_trials = array.shape[0] if array.shape else 1
    size = np.prod(array.shape, dtype=float)
    largest_read = 4 * max(size / max(n_trials, 1), np.prod(array.chunks or 1, dtype=float))
    require(
        n_trials <= MAX_TRIALS and largest_read <= MAX_TRIAL_SIZE,
        f"{name} has shape {array.shape} in chunks {array.chunks}; expected at most {MAX_TRIALS} "
        f"trials, {MAX_TRIAL_SIZE >> 20} MB each",
    )
    unpacked, stored = size * array.dtype.itemsize, array.id.get_storage_size()
    require(
        unpacked <= max(UNCHECKED_SIZE, MAX_COMPRESSION * stored),
        f"{name} unpacks to {unpacked / 2**30:.1f} GB from {stored / 2**20:.1f} MB; expected an "
        "array whose values are stored in the file",
    )


def check_shape(shape: tuple[int, ...], path: str | Path, key: str) -> None:
    """Check that `shape` is that of spikes."""
    is_right = len(shape) == 3 and 0 not in shape
    expected = "expected (trials, time, neurons), none of them 0"
    require(is_right, f"{path}: {key} has shape {shape}; {expected}")


def check_fit(
    array: np.ndarray | h5py.Dataset, shape: tuple[int, ...], path: str | Path, key: str
) -> None:
    """Check that an array has the `shape` that goes with the spikes."""
    found, expected = np.shape(array), f"expected {shape}, to go with the spikes"
    expected = expected if shape else "expected a number"
    require(found == shape, f"{path}: {key} has shape {found}; {expected}")


def check_latents(
    latents: h5py.Dataset, shape: tuple[int, ...], path: str | Path, key: str
) -> None:
    """Check that latents go with spikes of a `shape`."""
    is_right = latents.ndim == 3 and latents.shape[:2] == shape[:2] and latents.size > 0
    expected = f"expected {shape[:2]}, to go with the spikes, and dimensions"
    require(is_right, f"{path}: {key} has shape {latents.shape}; {expected}")


def check_bin_width(bin_width: object, path: str | Path) -> float:
    """Return a bin width (s) as float."""
    require(
        bin_width is not None,
        f"{path}: has no attribute bin_width; expected one, or the flag --data.bin_width "
        "(--bin_width of describe.py and infer.py)",
    )
    is_real = isinstance(bin_width, int | float | np.integer | np.floating)
    is_right = is_real and 0 < bin_width < np.inf
    require(is_right, f"{path}: bin_width is {bin_width}; expected a number above 0")
    return float(bin_width)


def check_n_heldin(n_heldin: object, n_neurons: int, path: str | Path) -> int:
    """Return how many neurons, the first ones, the encoder may see."""
    is_right = isinstance(n_heldin, int | np.integer) and 0 < n_heldin <= n_neurons
    expected = f"expected 1 to {n_neurons}, its number of neurons"
    require(is_right, f"{path}: n_heldin is {n_heldin}; {expected}")
    return int(n_heldin)


def check_condition_names(names: object) -> list[str] | None:
    """Return a JSON list of names as strings; None if it is something else."""
    try:
        names = json.loads(names)
    except (ValueError, TypeError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def read_spikes(spikes: object, path: str | Path, key: str) -> np.ndarray:
    """Return counts (trials, time, neurons) given as an array or lists, NaN = missing, as float32.

    Raises:
        InputError: lists of different lengths, another shape, or values that are not counts.
    """
    try:
        spikes = np.asarray(spikes)
    except ValueError:
        message = f"{path}: {key} has lists of different lengths; expected (trials, time, neurons)"
        raise InputError(message) from None
    check_shape(spikes.shape, path, key)
    return check_counts(spikes, path, key)


def check_counts(spikes: np.ndarray, path: str | Path, key: str) -> np.ndarray:
    """Return counts (NaN = missing) as float32."""
    found = f"{path}: {key} has the type {spikes.dtype}"
    require(spikes.dtype.kind in "buif", f"{found}; expected numbers")
    spikes = spikes.astype(np.float32)
    counts = spikes[~np.isnan(spikes)]
    wrong = {"infinite": np.isinf(counts), "negative": counts < 0}
    wrong["fractional"] = counts != np.floor(counts)
    for what, where in wrong.items():
        if where.any():
            found = f"{path}: {key} holds {where.sum()} {what} values"
            raise InputError(f"{found}; expected counts, NaN where missing")
    return spikes


def check_observed(is_observed: np.ndarray, path: str | Path, key: str) -> None:
    """Check that some counts are observed."""
    message = f"{path}: {key} holds NaN alone; expected some observed counts"
    require(is_observed.any(), message)


def check_rates(rates: np.ndarray, path: str | Path, key: str) -> np.ndarray:
    """Return rates as float32."""
    are_rates = np.isfinite(rates).all() and (rates >= 0).all()
    require(are_rates, f"{path}: {key} holds negative or non-finite values; expected rates")
    return rates.astype(np.float32)


def doubt_units(rates: np.ndarray, bin_width: float = 0.0) -> list[str]:
    """Return a line for each sign that a unit is wrong: mean rates (N,) in spikes/s, and bins."""
    median, lines = np.median(rates), []
    if bin_width > 1:
        lines.append(f"a bin is {bin_width:g} s wide; is this in ms? expected s")
    if median < LOW_MEDIAN_RATE:
        likely = "are spike times (or the bin width) in ms? expected s"
        lines.append(f"half of the neurons have at most {median:.2g} spikes/s; {likely}")
    if median > HIGH_MEDIAN_RATE:
        likely = "are these spike counts, and is the bin width in s?"
        lines.append(f"half of the neurons have at least {median:.0f} spikes/s; {likely}")
    return lines
