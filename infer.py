"""Infer rates from a recording with a trained model.

python infer.py CHECKPOINT FILE --out rates.h5
python infer.py CHECKPOINT FILE --out rates.npz --to npz
python infer.py CHECKPOINT session.nwb --out with_rates.nwb --to nwb

FILE has spikes in `data`, or in `train_data` and `valid_data`, or in all three; or it is a session
in NWB, if the model was trained on what convert.py made from one. Its neurons must be those of the
training; trials may be new and of another length. Missing counts are NaN. No other entries are
dropped.
"""

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import h5py
import jsonargparse
import numpy as np
import torch
from rich.progress import Progress

from command_line import (
    atomic_write,
    expect,
    number_of,
    require,
    run,
    writable_folder,
)
from evaluation.checkpoints import list_members, load_checkpoint, load_conversion
from evaluation.inference import BATCH_SIZE, UNITS, infer_arrays
from model import SequentialAutoencoder
from modules.priors import PRIORS
from recordings.checks import check_condition_names, check_counts
from recordings.hdf5 import (
    ALL_SPLITS,
    Array,
    blocks,
    open_file,
    open_to_write,
    open_trials,
    read_bin_width,
    read_per_trial,
)
from recordings.nwb import is_nwb, write_inferred
from recordings.session import Session, parse_conversion, read_session


def fingerprint(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Source(NamedTuple):
    """Trials to infer."""

    spikes: dict[str, Array]  # (trials, time, neurons) counts, by the prefix of their key
    bin_width: float  # s
    more: dict[str, np.ndarray]  # arrays that say what the trials and units are
    session: Session | None  # if the trials are of one


def describe_origin(model: SequentialAutoencoder, checkpoint: str, data: str) -> dict[str, str]:
    """Return from what and how rates are inferred."""
    files, members = {"checkpoint": checkpoint, "data": data}, list_members(checkpoint)
    sums = {"checkpoint_sha256": " ".join(map(fingerprint, members))}
    sums["data_sha256"] = fingerprint(data)
    hyperparameters = json.dumps(dict(model.hparams))
    return files | sums | {"prior": model.prior.name, "hyperparameters": hyperparameters}


def open_spikes(path: str, bin_width: float | None) -> Source:
    """Return the trials of a file, whose spikes stay there.

    Raises:
        InputError: a file that cannot be read or has no spikes.
    """
    with open_file(path) as file:
        prefixes = ["", *(f"{split}_" for split in ALL_SPLITS)]
        found = [prefix for prefix in prefixes if f"{prefix}data" in file]
        expected = "expected data, or train_data and valid_data"
        require(len(found) > 0, f"{path}: has no key data; {expected}")
        stored = {prefix: open_trials(file, path, prefix).spikes for prefix in found}
        more = {}
        for prefix, spikes in stored.items():
            more |= read_per_trial(file, path, prefix, len(spikes))
        names = check_condition_names(file.attrs.get("condition_names"))
        if names is not None:
            more["condition_names"] = np.char.encode(names, "utf-8")
        return Source(stored, read_bin_width(file, path, bin_width), more, None)


def open_session(path: str, checkpoint: str) -> Source:
    """Cut an NWB file into trials of the same units as that of the training, in the same way.

    Raises:
        InputError: a file that cannot be read or lacks a unit, or a model that was not trained on
            an NWB file.
    """
    text = load_conversion(checkpoint)
    expected = f"expected a file that convert.py made from {path}"
    require(bool(text), f"{path}: {checkpoint} was not trained on a session; {expected}")
    conversion, expected = parse_conversion(text), "expected a checkpoint that train.py made"
    is_known = conversion is not None
    require(is_known, f"{checkpoint}: holds no conversion of convert.py; {expected}")
    # the checkpoint may be anyone's: no query of it is evaluated
    session = read_session(path, replace(conversion, condition=None, units=None, where=None))
    for line in session.notes:
        print(line)
    more = {"start": session.windows[:, 0], "row": session.rows}
    more["unit_ids"] = np.array(session.conversion.unit_ids)
    return Source({"": session.spikes}, session.conversion.bin_width, more, session)


def check_fit(model: SequentialAutoencoder, source: Source, path: str) -> None:
    """Raise InputError if a model was trained on other neurons or bins than those of a file."""
    n_neurons, expected = model.hparams.n_neurons, model.hparams.bin_width
    for prefix, spikes in source.spikes.items():
        found = f"{path}: {prefix}data has {spikes.shape[2]} neurons"
        require(spikes.shape[2] == n_neurons, f"{found}; expected {n_neurons}")
    found = f"{path}: its bins are {source.bin_width:g} s wide"
    require(
        np.isclose(source.bin_width, expected), f"{found}; expected {expected:g}, as in training"
    )


def infer_into(
    target: h5py.File, model: SequentialAutoencoder, stored: dict[str, Array], path: str
) -> None:
    """Infer a batch at a time into an open file; keys get the prefix of the spikes' key."""
    n_together = BATCH_SIZE
    if model.prior.is_slow:
        n_together = max(1, BATCH_SIZE // 8)  # to show progress
        print("A gradient ascent infers each trial, which takes a while.", end=" ")
        print("With --prior encoder, the encoder alone guesses: faster, but less exact.")
    with Progress(transient=True) as progress:
        for prefix, spikes in stored.items():
            task = progress.add_task(f"{prefix}data", total=len(spikes))
            for trials in blocks(spikes, max_trials=n_together):
                batch = torch.from_numpy(check_counts(spikes[trials], path, f"{prefix}data"))
                for name, inferred in infer_arrays(model, batch, with_sd=True).items():
                    key, shape = prefix + name, (len(spikes), *inferred.shape[1:])
                    if key not in target:
                        target.create_dataset(key, shape, "float32", chunks=(1, *shape[1:]))
                        target[key].attrs["unit"] = UNITS[name]
                    target[key][trials] = inferred
                progress.update(task, completed=trials.stop)


def write_npz(target: h5py.File, out: Path, about: dict) -> None:
    """Write the arrays of an open file as npz."""
    with open(out, "wb") as npz:
        # without HDF5's metadata of text
        arrays = {key: array[:].astype(array.dtype.str) for key, array in target.items()}
        np.savez_compressed(npz, about=json.dumps(about), **arrays)


def write_nwb(target: h5py.File, session: Session, path: str, out: Path, about: dict) -> None:
    """Write a copy of a session with what was inferred of its trials, from an open file.

    Where trials share time, the later one's bins are left out.
    """
    order = np.argsort(session.windows[:, 0], kind="stable")
    windows, n_bins = session.windows[order], target["rates"].shape[1]
    times = windows[:, :1] + session.conversion.bin_width * (0.5 + np.arange(n_bins))
    last_end = np.maximum.accumulate(np.append(-np.inf, windows[:-1, 1]))  # of the trials before
    kept = (times < windows[:, 1:]) & (times > last_end[:, None])  # nor padding
    series = {
        f"inferred_{name}": (target[name][:][order][kept], UNITS[name])
        for name in ("rates", "rates_sd", "latents", "inputs")
        if name in target
    }
    unit_ids = session.conversion.unit_ids
    write_inferred(path, out, series, times[kept], unit_ids, json.dumps(about))


def infer_file(
    checkpoint: str,
    file: str,
    out: str | None = None,
    to: Literal["hdf5", "npz", "nwb"] | None = None,
    bin_width: float | None = None,
    prior: Literal["encoder"] | None = None,
) -> None:
    """Infer rates and their uncertainty, log-rates, latents, initial conditions and inputs, if any.

    Args:
        checkpoint: Checkpoint that train.py made, such as
            lightning_logs/pretrained/bandwidth_29/best.ckpt; or the folder of a bandwidth with
            several seeds, which infer together.
        file: HDF5 file with spikes (trials, time, neurons) in `data`, or in `train_data` and
            `valid_data`; or an NWB file.
        out: File to write. It must not exist. None: rates.h5, rates.npz or rates.nwb.
        to: Format of `out`. None: as its name ends. nwb: a copy of the session with the rates,
            their uncertainty and the latents (processing module `ecephys`).
        bin_width: Width of a time bin (s). None: the file's attribute.
        prior: encoder: the encoder alone infers: faster, but less exact. None: as in training.

    Raises:
        InputError: a file that cannot be read, that does not fit the model, or that `out` would
            overwrite.
    """
    model, trained_on = load_checkpoint(checkpoint)
    if prior is not None:
        model.prior = PRIORS[prior]()
    elif not model.prior.knows_trials and not model.hparams.input_size:
        print(f"{checkpoint} has no reference trials: the encoder alone infers")
    to = to or {".npz": "npz", ".nwb": "nwb"}.get(Path(out or "").suffix, "hdf5")
    out = out or f"rates.{to.replace('hdf5', 'h5')}"
    require(not Path(out).exists(), f"--out {out}: exists; expected the name of a new file")
    expect(to != "nwb" or is_nwb(file), "--to", to, f"hdf5 or npz, because {file} is no NWB file")
    writable_folder(Path(out).parent, "--out")
    known = "that of the training, which is known for a session"
    expect(bin_width is None or not is_nwb(file), "--bin_width", bin_width, known)
    source = open_session(file, checkpoint) if is_nwb(file) else open_spikes(file, bin_width)
    check_fit(model, source, file)
    about = {"bin_width": source.bin_width, "split": trained_on.get("split", "trials")}
    about |= describe_origin(model, checkpoint, file)
    with atomic_write(out) as temporary, contextlib.ExitStack() as stack:
        in_memory = {"driver": "core", "backing_store": False}
        opened = open_to_write(temporary) if to == "hdf5" else h5py.File(out, "w", **in_memory)
        target = stack.enter_context(opened)
        target.attrs.update(about)
        infer_into(target, model, source.spikes, file)
        target.update({key: array for key, array in source.more.items() if key not in target})
        if to == "npz":
            write_npz(target, temporary, about)
        elif to == "nwb":
            write_nwb(target, source.session, file, temporary, about)
    n_trials = sum(map(len, source.spikes.values()))
    print(f"Rates of {number_of(n_trials, 'trial')} are in {out}")


def main() -> None:
    jsonargparse.auto_cli(infer_file, exit_on_error=False, allow_abbrev=False)


if __name__ == "__main__":
    run(main)
