"""Files with counts per bin of lfads-torch and of the Neural Latents Benchmark (NLB).

In both the encoder may see fewer neurons (held in) than the model predicts. The file for train.py
has the held-in neurons first; its attribute `n_heldin` says how many they are.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from command_line import require
from recordings.checks import check_shape, open_array
from recordings.hdf5 import SPLITS, open_file
from recordings.splitting import split_trials
from recordings.writing import write_splits

LFADS_TORCH = [f"{split}_{kind}_data" for split in SPLITS for kind in ("encod", "recon")]
NLB = "train_spikes_heldin"


@dataclass
class Tensors:
    """The arrays of one or several open files."""

    names: str  # of the files
    files: dict[str, h5py.File]  # by the keys that are in them

    @property
    def is_nlb(self) -> bool:
        """Whether the files are the NLB's; else lfads-torch's. Raises InputError for others."""
        found = f"{self.names}: found {', '.join(sorted(self.files)) or 'no key'}"
        kinds = f"an NWB file, {', '.join(LFADS_TORCH)} of lfads-torch, or {NLB} of the NLB"
        is_nlb = NLB in self.files
        as_it_is = "train.py reads such a file (with --data.bin_width, if it has no bin_width)"
        require("train_data" not in self.files, f"{self.names}: has train_data; {as_it_is}")
        require(is_nlb or set(LFADS_TORCH) <= self.files.keys(), f"{found}; expected {kinds}")
        return is_nlb

    @property
    def conversion_factor(self) -> float:
        """What true rates are multiplied with. Raises InputError if it is no number above 0."""
        key = "conversion_factor"
        if key not in self.files:
            return 1.0
        stored = open_array(self.files[key], self.names, key, ())
        require(0 < stored[()] < np.inf, f"{self.names}: {key} is {stored[()]}; expected above 0")
        return float(stored[()])

    def read(self, key: str) -> np.ndarray:
        """Return an array (trials, time, neurons) as float32, once it is checked."""
        found = f"{self.names}: has no key {key}"
        require(key in self.files, f"{found}; expected it beside {', '.join(sorted(self.files))}")
        file = self.files[key]
        array = open_array(file, file.filename, key)
        check_shape(array.shape, file.filename, key)
        return array[:].astype(np.float32)


@contextlib.contextmanager
def open_tensors(paths: list[str]) -> Iterator[Tensors]:
    """Open files and yield their arrays; raise InputError if one cannot be read."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_file(path)) for path in paths]
        yield Tensors(", ".join(paths), {key: file for file in files for key in file})


def describe_tensors(paths: list[str]) -> str:
    """Return what is in files of lfads-torch or the NLB, and a command that converts them."""
    with open_tensors(paths) as tensors:
        lines = [f"{tensors.names}: tensors of {'NLB' if tensors.is_nlb else 'lfads-torch'}"]
        for key, file in sorted(tensors.files.items()):
            is_here = isinstance(file.get(key, getlink=True), h5py.HardLink)
            if is_here and isinstance(file[key], h5py.Dataset):
                lines.append(f"  {key}: {file[key].shape}")
    also = f" --also {' '.join(paths[1:])}" if paths[1:] else ""
    command = f"python convert.py {paths[0]}{also} --out yours.h5 --bin_width SECONDS"
    return "\n".join([*lines, "", f"Convert it: {command}"])


def convert_tensors(
    paths: list[str], out: str | Path, bin_width: float | None, valid_fraction: float, seed: int
) -> str:
    """Write files of lfads-torch or the NLB as a data file for train.py; return a report.

    The bins that are to be forecast are left out. The NLB's evaluation trials are the test: some
    training trials validate, as no score of the evaluation trials may choose anything.

    Args:
        paths: HDF5 files: one of lfads-torch, or one or several of the NLB.
        out: HDF5 file to write.
        bin_width: Width of a time bin (s): the files do not say.
        valid_fraction: Fraction of the trials for validation, if the files have none for it.
        seed: Seed of that split.

    Raises:
        InputError: files of another kind, arrays that do not fit each other, or no bin width.
    """
    with open_tensors(paths) as tensors:
        is_nlb = tensors.is_nlb
        found = f"{tensors.names}: does not say how wide its bins are"
        require(bin_width is not None, f"{found}; expected --bin_width SECONDS")
        splits, n_heldin = read_nlb(tensors) if is_nlb else read_lfads_torch(tensors, bin_width)
    spikes, attributes = splits["train"]["data"], {"source": ", ".join(paths)}
    if n_heldin < spikes.shape[2]:
        attributes["n_heldin"] = n_heldin
    if "valid" not in splits:
        is_valid = split_trials(len(spikes), valid_fraction, seed, path=out)
        for split, chosen in (("train", ~is_valid), ("valid", is_valid)):
            splits[split] = {"data": spikes[chosen], "index": np.flatnonzero(chosen)}
    return write_splits(out, splits, bin_width, attributes)


def read_lfads_torch(tensors: Tensors, bin_width: float) -> tuple[dict, int]:
    """Return the arrays of `write_splits` and the number of held-in neurons."""
    splits, n_heldin = {}, 0
    for split in SPLITS:
        encoded, spikes = (tensors.read(f"{split}_{kind}_data") for kind in ("encod", "recon"))
        n_bins, n_heldin = encoded.shape[1:]
        spikes = spikes[:, :n_bins]
        is_same = np.array_equal(spikes[..., :n_heldin], encoded, equal_nan=True)
        found = f"{split}_encod_data differs from the first neurons of {split}_recon_data"
        require(is_same, f"{tensors.names}: {found}; expected the same")
        splits[split] = {"data": spikes}
        if f"{split}_truth" in tensors.files:
            rates = tensors.read(f"{split}_truth")[:, :n_bins] / tensors.conversion_factor
            splits[split]["truth"] = rates / bin_width
    return splits, n_heldin


def read_nlb(tensors: Tensors) -> tuple[dict, int]:
    """Return the arrays of `write_splits`, without `valid`, and the number of held-in neurons.

    Counts of the evaluation's held-out neurons that are not published are NaN.
    """
    names = {"train": "train"}
    if "eval_spikes_heldin" in tensors.files:
        names["test"] = "eval"
    splits, n_heldin = {}, []
    for split, name in names.items():
        keys = [f"{name}_spikes_heldin", f"{name}_spikes_heldout"]
        parts = [tensors.read(key) for key in keys if key in tensors.files or key == keys[0]]
        shapes = [part.shape for part in parts]
        found = f"{tensors.names}: {' and '.join(keys)} have the shapes {shapes}"
        require(shapes[0][:2] == shapes[-1][:2], f"{found}; expected the same trials and bins")
        splits[split] = {"data": np.concatenate(parts, axis=2)}
        n_heldin.append(shapes[0][2])
    found = f"{tensors.names}: {n_heldin} held-in neurons in training and evaluation"
    require(len(set(n_heldin)) == 1, f"{found}; expected the same")
    n_neurons = splits["train"]["data"].shape[2]
    if "eval_spikes_heldout" not in tensors.files and "test" in splits:  # not published
        spikes = splits["test"]["data"]
        unknown = np.full((*spikes.shape[:2], n_neurons - spikes.shape[2]), np.nan, spikes.dtype)
        splits["test"]["data"] = np.concatenate((spikes, unknown), axis=2)
    return splits, n_heldin[0]
