"""Files of other tools with counts per bin: lfads-torch, and the tensors of the Neural Latents
Benchmark (NLB).

In both the encoder may see fewer neurons (held in) than the model predicts (held in and held out).
The file for train.py has the held-in neurons first; its attribute `n_heldin` says how many they
are.
"""

import contextlib
from pathlib import Path

import h5py
import numpy as np

from command_line import InputError
from recordings.checks import check_shape, open_array
from recordings.hdf5 import SPLITS, open_file
from recordings.writing import write_recording, write_splits

LFADS_TORCH = [f"{split}_{kind}_data" for split in SPLITS for kind in ("encod", "recon")]
NLB = "train_spikes_heldin"


class Tensors:
    """The arrays of one or several open files."""

    def __init__(self, files: dict[str, h5py.File]) -> None:
        self.files = files
        self.keys = {key: path for path, file in files.items() for key in file}

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    @property
    def names(self) -> str:
        """The names of the files, for messages."""
        return ", ".join(self.files)

    def array(self, key: str) -> h5py.Dataset:
        """Return an array (trials, time, neurons), not yet read; raise InputError if it is not
        there or has another shape."""
        if key not in self:
            raise InputError(
                f"{self.names}: has no key {key}; expected it beside {', '.join(sorted(self.keys))}"
            )
        path = self.keys[key]
        array = open_array(self.files[path], path, key)
        check_shape(array.shape, path, key)
        return array

    def read(self, key: str) -> np.ndarray:
        """Return an array (trials, time, neurons) as float32."""
        return self.array(key)[:].astype(np.float32)

    @property
    def kind(self) -> str:
        """The tool that made the files: NLB or lfads-torch; raise InputError if it was another."""
        if NLB in self:
            return "NLB"
        if set(LFADS_TORCH) <= self.keys.keys():
            return "lfads-torch"
        raise InputError(
            f"{self.names}: found {', '.join(sorted(self.keys)) or 'no key'}; expected an NWB file, {', '.join(LFADS_TORCH)} "
            f"of lfads-torch, or {NLB} of the NLB"
        )


@contextlib.contextmanager
def open_tensors(paths: list[str]):
    """Open files and yield their arrays; raise InputError if one cannot be read."""
    with contextlib.ExitStack() as stack:
        yield Tensors({str(path): stack.enter_context(open_file(path)) for path in paths})


def describe_tensors(paths: list[str]) -> str:
    """Return what is in files of lfads-torch or the NLB, and a command that converts them."""
    with open_tensors(paths) as tensors:
        lines = [f"{tensors.names}: tensors of {tensors.kind}"]
        lines += [
            f"  {key}: {tensors.files[path][key].shape}"
            for key, path in sorted(tensors.keys.items())
            if isinstance(tensors.files[path][key], h5py.Dataset)
        ]
    also = f" --also {' '.join(paths[1:])}" if paths[1:] else ""
    return "\n".join(
        [
            *lines,
            "",
            f"Convert it: python convert.py {paths[0]}{also} --out yours.h5 --bin_width SECONDS",
        ]
    )


def convert_tensors(
    paths: list[str],
    out: str | Path,
    bin_width: float | None,
    valid_fraction: float = 0.2,
    seed: int = 0,
) -> str:
    """Write files of lfads-torch or the NLB as a data file for train.py.

    The bins that are to be forecast are left out. The NLB's evaluation trials are the validation
    trials if their held-out counts are known; else some training trials are.

    Args:
        paths: HDF5 files: one of lfads-torch, or one or several of the NLB.
        out: HDF5 file to write.
        bin_width: Width of a time bin (s): the files do not say.
        valid_fraction: Fraction of the trials for validation, if the files have no validation
            trials.
        seed: Seed of that split.

    Returns:
        What was written and what was left out.

    Raises:
        InputError: files of another kind, arrays that do not fit each other, or no bin width.
    """
    with open_tensors(paths) as tensors:
        kind = tensors.kind
        if bin_width is None:
            raise InputError(
                f"{tensors.names}: does not say how wide its bins are; expected --bin_width SECONDS"
            )
        splits, n_heldin = (
            read_nlb(tensors) if kind == "NLB" else read_lfads_torch(tensors, bin_width)
        )
        unused = [
            key
            for key in tensors.keys
            if kind == "NLB" and key.startswith("eval_spikes") and "valid" not in splits
        ]
    _, n_bins, n_neurons = splits["train"]["data"].shape
    attributes = {"source": ", ".join(map(str, paths))} | (
        {"n_heldin": n_heldin} if n_heldin < n_neurons else {}
    )
    if "valid" in splits:
        write_splits(out, splits, bin_width, attributes)
    else:
        spikes = splits["train"]["data"]
        write_recording(
            out, spikes, bin_width, valid_fraction=valid_fraction, seed=seed, attributes=attributes
        )
    heldout = (
        f", the last {n_neurons - n_heldin} of them never seen by the encoder"
        if n_heldin < n_neurons
        else ""
    )
    lines = [f"{out}: trials of {n_bins} bins of {bin_width:g} s, {n_neurons} neurons{heldout}"]
    lines += (
        ["evaluation trials were left out: their held-out counts are not there (--also FILE)"]
        if unused
        else []
    )
    return "\n".join(lines)


def read_lfads_torch(tensors: Tensors, bin_width: float) -> tuple[dict, int]:
    """Return the arrays of `write_splits` and the number of held-in neurons."""
    splits, n_heldin = {}, 0
    for split in SPLITS:
        encoded, spikes = (tensors.read(f"{split}_{kind}_data") for kind in ("encod", "recon"))
        n_bins, n_heldin = encoded.shape[1:]
        spikes = spikes[:, :n_bins]
        if not np.array_equal(spikes[..., :n_heldin], encoded, equal_nan=True):
            raise InputError(
                f"{tensors.names}: {split}_encod_data differs from the first neurons of {split}_recon_data; expected the same"
            )
        splits[split] = {"data": spikes}
        if (
            f"{split}_truth" in tensors
        ):  # divided by conversion_factor, these are expected counts per bin
            path = tensors.keys.get("conversion_factor")
            factor = 1.0 if path is None else float(tensors.files[path]["conversion_factor"][()])
            splits[split]["truth"] = tensors.read(f"{split}_truth")[:, :n_bins] / factor / bin_width
    return splits, n_heldin


def read_nlb(tensors: Tensors) -> tuple[dict, int]:
    """Return the arrays of `write_splits` (without `valid` if its counts are not known) and the
    number of held-in neurons."""
    names = {"train": "train"} | ({"valid": "eval"} if "eval_spikes_heldout" in tensors else {})
    splits, n_heldin = {}, []
    for split, name in names.items():
        keys = [f"{name}_spikes_{kind}" for kind in ("heldin", "heldout")]
        parts = [tensors.read(key) for key in keys if key in tensors or key == keys[0]]
        if len({part.shape[:2] for part in parts}) > 1:
            shapes = " and ".join(str(part.shape) for part in parts)
            raise InputError(
                f"{tensors.names}: {' and '.join(keys)} have the shapes {shapes}; expected the same trials and bins"
            )
        splits[split] = {"data": np.concatenate(parts, axis=2)}
        n_heldin.append(parts[0].shape[2])
    if len(set(n_heldin)) > 1:
        raise InputError(
            f"{tensors.names}: {n_heldin} held-in neurons in training and evaluation; expected the same"
        )
    return splits, n_heldin[0]
