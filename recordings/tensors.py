"""Files of other tools with counts per bin: lfads-torch, and the tensors of the Neural Latents Benchmark (NLB).

In both the encoder may see fewer neurons (held in) than the model predicts (held in and held out). The file for train.py
has the held-in neurons first; its attribute `n_heldin` says how many they are.
"""

from pathlib import Path

import h5py
import numpy as np

from command_line import InputError
from recordings.checks import check_shape, open_array
from recordings.hdf5 import SPLITS, open_file
from recordings.writing import write_recording, write_splits

LFADS_TORCH = [f"{split}_{kind}_data" for split in SPLITS for kind in ("encod", "recon")]


def is_tensor_file(path: str | Path) -> bool:
    """Return whether an HDF5 file has the keys of lfads-torch or of the NLB."""
    with open_file(path) as file:
        return "train_spikes_heldin" in file or set(LFADS_TORCH) <= set(file)


def convert_tensors(
    path: str | Path, out: str | Path, bin_width: float, valid_fraction: float = 0.2, seed: int = 0
) -> str:
    """Write a file of lfads-torch or the NLB as a data file for train.py.

    The bins that are to be forecast are left out. The NLB's evaluation trials are the validation trials if their held-out
    counts are known; else some training trials are.

    Args:
        path: HDF5 file.
        out: HDF5 file to write.
        bin_width: Width of a time bin (s): the file does not say.
        valid_fraction: Fraction of the trials for validation, if the file has no validation trials.
        seed: Seed of that split.

    Returns:
        A line about what was written.

    Raises:
        InputError: a file of another kind, or arrays that do not fit each other.
    """
    with open_file(path) as file:
        if "train_spikes_heldin" in file:
            splits, n_heldin = read_nlb(file, path)
        elif set(LFADS_TORCH) <= set(file):
            splits, n_heldin = read_lfads_torch(file, path, bin_width)
        else:
            raise InputError(
                f"{path}: found {', '.join(sorted(file)) or 'no key'}; expected an NWB file, {', '.join(LFADS_TORCH)} of "
                "lfads-torch, or train_spikes_heldin of the NLB"
            )
    n_neurons = splits["train"]["data"].shape[2]
    attributes = {"source": str(path)} | ({"n_heldin": n_heldin} if n_heldin < n_neurons else {})
    if "valid" in splits:
        write_splits(out, splits, bin_width, attributes)
    else:
        spikes = splits["train"]["data"]
        write_recording(out, spikes, bin_width, valid_fraction=valid_fraction, seed=seed, attributes=attributes)
    heldout = f", the last {n_neurons - n_heldin} of them never seen by the encoder" if n_heldin < n_neurons else ""
    return f"{out}: trials of {splits['train']['data'].shape[1]} bins of {bin_width:g} s, {n_neurons} neurons{heldout}"


def read_array(file: h5py.File, path: str | Path, key: str) -> np.ndarray:
    """Return an array (trials, time, neurons); raise InputError if it is not there or has another shape."""
    array = open_array(file, path, key)
    if array is None:
        raise InputError(f"{path}: has no key {key}; expected it beside {', '.join(sorted(file))}")
    check_shape(array.shape, path, key)
    return array[:].astype(np.float32)


def read_lfads_torch(file: h5py.File, path: str | Path, bin_width: float) -> tuple[dict, int]:
    """Return the arrays of `write_splits` and the number of held-in neurons."""
    splits, n_heldin = {}, 0
    for split in SPLITS:
        encoded, spikes = (read_array(file, path, f"{split}_{kind}_data") for kind in ("encod", "recon"))
        n_bins, n_heldin = encoded.shape[1:]
        spikes = spikes[:, :n_bins]
        if not np.array_equal(spikes[..., :n_heldin], encoded, equal_nan=True):
            raise InputError(
                f"{path}: {split}_encod_data differs from the first neurons of {split}_recon_data; expected the same"
            )
        splits[split] = {"data": spikes}
        if f"{split}_truth" in file:  # times 1 / conversion_factor, these are expected counts per bin
            factor = float(file["conversion_factor"][()]) if "conversion_factor" in file else 1.0
            splits[split]["truth"] = read_array(file, path, f"{split}_truth")[:, :n_bins] / factor / bin_width
    return splits, n_heldin


def read_nlb(file: h5py.File, path: str | Path) -> tuple[dict, int]:
    """Return the arrays of `write_splits` (without `valid` if its counts are not known) and the number of held-in neurons."""
    names = {"train": "train", "valid": "eval"}
    known = {split: name for split, name in names.items() if split == "train" or f"{name}_spikes_heldout" in file}
    splits = {}
    for split, name in known.items():
        heldin = read_array(file, path, f"{name}_spikes_heldin")
        parts = [heldin]
        if f"{name}_spikes_heldout" in file:
            parts.append(read_array(file, path, f"{name}_spikes_heldout"))
        if len({part.shape[:2] for part in parts}) > 1:
            shapes = " and ".join(str(part.shape) for part in parts)
            raise InputError(
                f"{path}: {name}_spikes_heldin and _heldout have shapes {shapes}; expected the same trials and bins"
            )
        splits[split] = {"data": np.concatenate(parts, axis=2)}
    return splits, heldin.shape[2]
