"""Write HDF5 files of recordings from arrays."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from command_line import atomic_write, number_of, writable_folder
from recordings import checks
from recordings.hdf5 import SPLITS, open_to_write
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
) -> str:
    """Write arrays to a file that train.py reads, with a random part of the trials for validation.

    `train_index` and `valid_index` say which trial of the arrays a trial of the file is.

    Args:
        path: HDF5 file to write. An existing one is replaced.
        spikes: (trials, time, neurons) counts per bin, of any numeric type; NaN = missing.
        bin_width: Width of a time bin (s).
        observed: (trials, time, neurons) bool, False where a count is missing, if not NaN.
        condition: (trials,) labels. Each condition is split as equally as possible. Text and
            fractions are stored as 0, 1, ... with their names.
        rates: (trials, time, neurons) true rates (spikes/s), where known.
        valid_fraction: Fraction of the trials for validation.
        seed: Seed of the split.
        groups: (trials,) integer labels. Trials of one group, as those that share time, stay in
            one split.
        per_trial: Further arrays (trials, ...) to split, such as `start`: train_start, valid_start.
        attributes: Further attributes of the file.

    Returns:
        What was written, in a line, and a line for each thing that looks wrong.

    Raises:
        InputError: arrays of different shapes, values that are not counts or rates, or too few
            trials or groups.
    """
    spikes, n_trials = checks.read_spikes(spikes, path, "spikes"), len(spikes)
    arrays = {"condition": condition, "groups": groups, "index": np.arange(n_trials), **per_trial}
    arrays |= {"observed": observed, "rates": rates}
    arrays = {key: np.asarray(array) for key, array in arrays.items() if array is not None}
    shapes = {"observed": spikes.shape, "rates": spikes.shape}
    shapes |= dict.fromkeys(("condition", "groups"), (n_trials,))
    for name, array in arrays.items():
        checks.check_fit(array, shapes.get(name, (n_trials, *array.shape[1:])), path, name)
    if observed is not None:
        spikes[~arrays.pop("observed").astype(bool)] = np.nan
    if condition is not None and arrays["condition"].dtype.kind not in "biu":
        names, arrays["condition"] = np.unique(arrays["condition"].astype(str), return_inverse=True)
        attributes = {"condition_names": json.dumps(names.tolist()), **attributes}
    labels = arrays.get("condition")
    is_valid = split_trials(
        n_trials, valid_fraction, seed, labels, arrays.pop("groups", None), path
    )
    arrays["data"] = spikes
    if rates is not None:
        arrays["truth"] = arrays.pop("rates")
    splits = {
        split: {key: array[chosen] for key, array in arrays.items()}
        for split, chosen in zip(SPLITS, (~is_valid, is_valid), strict=True)
    }
    return write_splits(path, splits, bin_width, {"seed": seed, **attributes})


def write_splits(
    path: str | Path,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    bin_width: float,
    attributes: Mapping[str, str | int | float] = NOTHING,
) -> str:
    """Write trials that are already split to a file that train.py reads.

    Args:
        path: HDF5 file to write. An existing one is replaced.
        splits: For `train`, `valid` and, if there is one, `test`: `data` (trials, time, neurons)
            counts per bin, NaN = missing, and where known `truth` (rates in spikes/s, of the same
            shape) and `condition` (trials,) integer labels; any other arrays (trials, ...).
        bin_width: Width of a time bin (s).
        attributes: Further attributes of the file.

    Returns:
        What was written, in a line, and a line for each thing that looks wrong.

    Raises:
        InputError: values that are not counts or rates, splits of other bins or neurons, or a
            folder that cannot be written.
    """
    bin_width = checks.check_bin_width(bin_width, path)
    shapes = {split: arrays["data"].shape for split, arrays in splits.items()}
    message = f"{path}: spikes have the shapes {shapes}; expected the same time bins and neurons"
    checks.require(len({shape[1:] for shape in shapes.values()}) == 1, message)
    spikes = {}
    for split, arrays in splits.items():
        spikes[split] = checks.check_counts(arrays["data"], path, f"{split} spikes")
        checks.check_observed(~np.isnan(spikes[split]), path, f"{split} spikes")
    writable_folder(Path(path).parent, "the folder")
    dtype, one_trial = smallest_type(*spikes.values()), spikes["train"][0]
    n_together = max(1, min(2**18 // one_trial.size, *map(len, spikes.values())))  # trials
    packed = {"compression": "gzip", "shuffle": True, "chunks": (n_together, *one_trial.shape)}
    with atomic_write(path) as temporary, open_to_write(temporary) as file:
        file.attrs.update(bin_width=bin_width, rate_unit="spikes/s", **attributes)
        for split, arrays in splits.items():
            for key, array in arrays.items():
                if key == "data":
                    file.create_dataset(f"{split}_data", data=spikes[split].astype(dtype), **packed)
                elif key == "truth":
                    rates = checks.check_rates(array, path, "rates")
                    file.create_dataset(f"{split}_truth", data=rates, **packed)
                else:
                    is_text = np.asarray(array).dtype.kind == "U"
                    file[f"{split}_{key}"] = np.char.encode(array, "utf-8") if is_text else array
    return describe_written(path, spikes, bin_width, attributes.get("n_heldin"))


def describe_written(
    path: str | Path, spikes: dict[str, np.ndarray], bin_width: float, n_heldin: int | None
) -> str:
    """Return what was written in a line, and a line for each sign of a wrong unit."""
    _, n_bins, n_neurons = spikes["valid"].shape
    n_observed = sum((~np.isnan(part)).sum((0, 1)) for part in spikes.values())  # (N,)
    rates = sum(np.nansum(part, (0, 1)) for part in spikes.values()) / n_observed.clip(1)
    n_trials = sum(map(len, spikes.values()))
    missing = 100 * (1 - n_observed.mean() / (n_trials * n_bins))
    parts = [number_of(n_trials, "trial"), f"{len(spikes['valid'])} of them for validation"]
    parts += [f"{len(spikes['test'])} for the test"] if "test" in spikes else []
    parts += [f"{number_of(n_bins, 'bin')} of {bin_width:g} s", number_of(n_neurons, "neuron")]
    if n_heldin is not None:
        parts.append(f"the last {n_neurons - n_heldin} of them never seen by the encoder")
    parts += [f"{missing:.1f}% of the counts missing"] if missing > 0.05 else []
    return "\n".join(
        [f"{path}: {', '.join(parts)}", *checks.doubt_units(rates / bin_width, bin_width)]
    )


def smallest_type(*spikes: np.ndarray) -> type:
    """Return the smallest type that holds the counts exactly: half precision does up to 2048."""
    highest = max(np.nanmax(part, initial=0) for part in spikes)
    if any(np.isnan(part).any() for part in spikes):
        return np.float16 if highest <= 2048 else np.float32
    return np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.float32
