"""Infer rates from a recording with a trained model.

python infer.py CHECKPOINT FILE --out rates.h5
python infer.py CHECKPOINT FILE --out rates.npz --to npz
python infer.py CHECKPOINT session.nwb --out with_rates.nwb --to nwb

FILE has spikes in `data`, or in `train_data` and `valid_data`, or in all three; or it is a session
in NWB, if the model was trained on what convert.py made from one. Its neurons must be those of the
training; trials may be new and of another length. Missing counts are NaN. No other entries are
dropped.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import h5py
import jsonargparse
import numpy as np
from rich.progress import Progress

from command_line import InputError, atomic_write, expect, require, run, writable_folder
from evaluation.checkpoints import load_checkpoint, load_conversion
from evaluation.inference import BATCH_SIZE, UNITS, infer_arrays
from model import SequentialAutoencoder
from recordings.checks import check_counts
from recordings.hdf5 import SPLITS, Array, blocks, open_file, open_trials, read_bin_width
from recordings.nwb import is_nwb, write_rates
from recordings.session import Conversion, Session, read_session


def fingerprint(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_spikes(path: str, bin_width: float | None) -> tuple[dict[str, Array], float]:
    """Return the stored spikes of a file by the prefix of their key, and the bin width (s).

    Raises:
        InputError: a file that cannot be read or has no spikes.
    """
    with open_file(path) as file:
        prefixes = ["", *(f"{split}_" for split in SPLITS)]
        found = [prefix for prefix in prefixes if f"{prefix}data" in file]
        expected = "expected data, or train_data and valid_data"
        require(len(found) > 0, f"{path}: has no key data; {expected}")
        stored = {prefix: open_trials(file, path, prefix).spikes for prefix in found}
        return stored, read_bin_width(file, path, bin_width)


def open_session(path: str, checkpoint: str) -> Session:
    """Cut an NWB file into trials of the same units as that of the training, in the same way.

    Raises:
        InputError: a file that cannot be read or lacks a unit, or a model that was not trained on
            an NWB file.
    """
    conversion = load_conversion(checkpoint)
    expected = f"expected a file that convert.py made from {path}"
    require(bool(conversion), f"{path}: {checkpoint} was not trained on a session; {expected}")
    try:  # the checkpoint may be anyone's: no query of it is evaluated
        conversion = replace(Conversion(**json.loads(conversion)), condition=None, units=None)
    except (ValueError, TypeError):
        expected = "expected a checkpoint that train.py made"
        raise InputError(f"{checkpoint}: holds no conversion of convert.py; {expected}") from None
    session = read_session(path, conversion)
    for line in session.notes:
        print(line)
    return session


def check_fit(
    model: SequentialAutoencoder, stored: dict[str, Array], bin_width: float, path: str
) -> None:
    """Raise InputError if a model was trained on other neurons or bins than those of a file."""
    n_neurons, expected = model.hparams.n_neurons, model.hparams.bin_width
    for prefix, spikes in stored.items():
        found = f"{path}: {prefix}data has {spikes.shape[2]} neurons"
        require(spikes.shape[2] == n_neurons, f"{found}; expected {n_neurons}")
    found = f"{path}: its bins are {bin_width:g} s wide"
    require(np.isclose(bin_width, expected), f"{found}; expected {expected:g}, as in training")


def infer_into(
    target: h5py.File, model: SequentialAutoencoder, stored: dict[str, Array], path: str
) -> None:
    """Infer a batch at a time into an open file; keys get the prefix of the spikes' key."""
    with Progress(transient=True) as progress:
        for prefix, spikes in stored.items():
            task = progress.add_task(f"{prefix}data", total=len(spikes))
            for trials in blocks(spikes, max_trials=BATCH_SIZE):
                batch = check_counts(spikes[trials], path, f"{prefix}data")
                for name, inferred in infer_arrays(model, batch, with_sd=True).items():
                    key, shape = prefix + name, (len(spikes), *inferred.shape[1:])
                    if key not in target:
                        target.create_dataset(key, shape, "float32", chunks=(1, *shape[1:]))
                        target[key].attrs["unit"] = UNITS[name]
                    target[key][trials] = inferred
                progress.update(task, completed=trials.stop)


def write_nwb(rates: np.ndarray, session: Session, path: str, out: Path, about: dict) -> None:
    """Write a copy of a session with the rates (trials, time, units) of its trials.

    Where trials share time, the later one's bins are left out.
    """
    order = np.argsort(session.windows[:, 0], kind="stable")
    windows, rates = session.windows[order], rates[order]
    times = windows[:, :1] + session.conversion.bin_width * (0.5 + np.arange(rates.shape[1]))
    last_end = np.maximum.accumulate(np.append(-np.inf, windows[:-1, 1]))  # of the trials before
    kept = (times < windows[:, 1:]) & (times > last_end[:, None])  # nor padding
    write_rates(path, out, rates[kept], times[kept], session.conversion.unit_ids, json.dumps(about))


def infer_file(
    checkpoint: str,
    file: str,
    out: str | None = None,
    to: Literal["hdf5", "npz", "nwb"] | None = None,
    bin_width: float | None = None,
) -> None:
    """Infer rates and their uncertainty, log-rates, latents, initial conditions and inputs, if any.

    Args:
        checkpoint: Checkpoint that train.py made, such as
            lightning_logs/pretrained/bandwidth_29/best.ckpt.
        file: HDF5 file with spikes (trials, time, neurons) in `data`, or in `train_data` and
            `valid_data`; or an NWB file.
        out: File to write. It must not exist. None: rates.h5, rates.npz or rates.nwb.
        to: Format of `out`. None: as its name ends. nwb: a copy of the session with the rates
            (processing module `sbtt`).
        bin_width: Width of a time bin (s). None: the file's attribute.

    Raises:
        InputError: a file that cannot be read, that does not fit the model, or that `out` would
            overwrite.
    """
    model, _ = load_checkpoint(checkpoint)
    to = to or {".npz": "npz", ".nwb": "nwb"}.get(Path(out or "").suffix, "hdf5")
    out = out or f"rates.{to.replace('hdf5', 'h5')}"
    require(not Path(out).exists(), f"--out {out}: exists; expected the name of a new file")
    expect(to != "nwb" or is_nwb(file), "--to", to, f"hdf5 or npz, because {file} is no NWB file")
    writable_folder(Path(out).parent, "--out")
    more = {}
    if is_nwb(file):
        known = "that of the training, which is known for a session"
        expect(bin_width is None, "--bin_width", bin_width, known)
        session = open_session(file, checkpoint)
        stored, bin_width = {"": session.spikes}, session.conversion.bin_width
        more = {"start": session.windows[:, 0], "unit_ids": np.array(session.conversion.unit_ids)}
    else:
        stored, bin_width = open_spikes(file, bin_width)
    check_fit(model, stored, bin_width, file)
    if not model.prior.knows_trials and not model.hparams.input_size:
        print(f"{checkpoint} has no reference trials: the encoder alone infers")

    about = {"bin_width": bin_width, "checkpoint": checkpoint}
    about |= {"checkpoint_sha256": fingerprint(checkpoint), "data": file}
    about |= {"data_sha256": fingerprint(file), "hyperparameters": json.dumps(dict(model.hparams))}
    in_memory = {} if to == "hdf5" else {"driver": "core", "backing_store": False}
    with atomic_write(out) as temporary, h5py.File(temporary, "w", **in_memory) as target:
        target.attrs.update(about)
        target.update(more)
        infer_into(target, model, stored, file)
        if to == "npz":
            arrays = {key: array[:] for key, array in target.items()}
            with open(temporary, "wb") as npz:
                np.savez_compressed(npz, about=json.dumps(about), **arrays)
        elif to == "nwb":
            write_nwb(target["rates"][:], session, file, temporary, about)
    print(f"Rates of {sum(map(len, stored.values()))} trials are in {out}")


def main() -> None:
    jsonargparse.auto_cli(infer_file, exit_on_error=False, allow_abbrev=False)


if __name__ == "__main__":
    run(main)
