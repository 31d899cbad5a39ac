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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import h5py
import jsonargparse
import numpy as np
from rich.progress import Progress

from command_line import InputError, atomic_write, expect, run, writable_folder
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
    """Return the stored spikes of a file by the prefix of their key ("", `train_`, `valid_`), and
    the bin width (s).

    Raises:
        InputError: a file that cannot be read or has no spikes.
    """
    with open_file(path) as file:
        prefixes = [
            prefix for prefix in ("", *(f"{split}_" for split in SPLITS)) if f"{prefix}data" in file
        ]
        if not prefixes:
            raise InputError(
                f"{path}: has no key data; expected data, or train_data and valid_data"
            )
        stored = {prefix: open_trials(file, path, prefix).spikes for prefix in prefixes}
        return stored, read_bin_width(file, path, bin_width)


def open_session(path: str, checkpoint: str) -> Session:
    """Cut an NWB file into trials as that of the training was, with the same units.

    Raises:
        InputError: a file that cannot be read or lacks a unit, or a model that was not trained on
            an NWB file.
    """
    conversion = load_conversion(checkpoint)
    if conversion is None:
        raise InputError(
            f"{path}: {checkpoint} was not trained on a session; expected a file that convert.py made from {path}"
        )
    try:  # the checkpoint may be anyone's: no query of it is evaluated
        conversion = replace(Conversion(**json.loads(conversion)), condition=None, units=None)
    except (ValueError, TypeError):
        raise InputError(
            f"{checkpoint}: holds no conversion of convert.py; expected a checkpoint that train.py made"
        ) from None
    session = read_session(path, conversion)
    for line in session.notes:
        print(line)
    return session


class Inferred(NamedTuple):
    """What was inferred from a batch of trials."""

    prefix: str  # of the key of their spikes
    trials: slice
    n_trials: int  # in all, with this prefix
    arrays: dict[str, np.ndarray]  # of `infer_arrays`


def infer_batches(
    model: SequentialAutoencoder, stored: dict[str, Array], path: str
) -> Iterator[Inferred]:
    """Infer a batch at a time."""
    with Progress(transient=True) as progress:
        for prefix, spikes in stored.items():
            task = progress.add_task(f"{prefix}data", total=len(spikes))
            for trials in blocks(spikes, max_trials=BATCH_SIZE):
                batch = check_counts(spikes[trials], path, f"{prefix}data")
                yield Inferred(
                    prefix, trials, len(spikes), infer_arrays(model, batch, with_sd=True)
                )
                progress.update(task, completed=trials.stop)


def write_hdf5(
    batches: Iterator[Inferred], out: Path, about: dict, more: dict[str, np.ndarray]
) -> None:
    """Write what was inferred, with units; keys get the prefix of the spikes' key. `about` becomes
    attributes."""
    with h5py.File(out, "w") as target:
        target.attrs.update(about)
        for name, array in more.items():
            target[name] = array
        for prefix, trials, n_trials, arrays in batches:
            for name, inferred in arrays.items():
                shape = inferred.shape[1:]
                array = target.require_dataset(
                    prefix + name, (n_trials, *shape), "float32", chunks=(1, *shape)
                )
                array.attrs["unit"] = UNITS[name]
                array[trials] = inferred


def write_npz(
    batches: Iterator[Inferred], out: Path, about: dict, more: dict[str, np.ndarray]
) -> None:
    """Write the same arrays as a compressed file of numpy, with the key `about` (JSON)."""
    parts = {}
    for prefix, _, _, arrays in batches:
        for name, inferred in arrays.items():
            parts.setdefault(prefix + name, []).append(inferred)
    joined = {name: np.concatenate(part) for name, part in parts.items()}
    with open(out, "wb") as file:
        np.savez_compressed(file, about=json.dumps(about), **more, **joined)


def write_nwb(
    batches: Iterator[Inferred], session: Session, path: str, out: str, about: dict
) -> None:
    """Write a copy of a session with the rates of its trials. Where trials share time, the later
    one's bins are left out."""
    rates = np.concatenate([batch.arrays["rates"] for batch in batches])
    order = np.argsort(session.windows[:, 0], kind="stable")
    windows, rates = session.windows[order], rates[order]
    times = windows[:, :1] + session.conversion.bin_width * (0.5 + np.arange(rates.shape[1]))
    ended = np.maximum.accumulate(np.concatenate(([-np.inf], windows[:-1, 1])))[
        :, None
    ]  # the trials before
    kept = (times < windows[:, 1:]) & (times > ended)  # neither padding nor another trial's time
    write_rates(path, out, rates[kept], times[kept], session.conversion.unit_ids, json.dumps(about))


def infer_file(
    checkpoint: str,
    file: str,
    out: str | None = None,
    to: Literal["hdf5", "npz", "nwb"] | None = None,
    bin_width: float | None = None,
) -> None:
    """Infer rates, their uncertainty, log-rates, latents, initial conditions and inputs, if the
    decoder has any, of all trials in a file.

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
    if Path(out).exists():
        raise InputError(f"--out {out}: exists; expected the name of a new file")
    expect(to != "nwb" or is_nwb(file), "--to", to, f"hdf5 or npz, because {file} is no NWB file")
    writable_folder(Path(out).parent, "--out")
    if is_nwb(file):
        expect(
            bin_width is None,
            "--bin_width",
            bin_width,
            "that of the training, which is known for a session",
        )
        session = open_session(file, checkpoint)
        stored, bin_width = {"": session.spikes}, session.conversion.bin_width
    else:
        stored, bin_width = open_spikes(file, bin_width)
    for prefix, spikes in stored.items():
        if spikes.shape[2] != model.hparams.n_neurons:
            raise InputError(
                f"{file}: {prefix}data has {spikes.shape[2]} neurons; expected {model.hparams.n_neurons}"
            )
    if not np.isclose(bin_width, model.hparams.bin_width):
        raise InputError(
            f"{file}: its bins are {bin_width:g} s wide; expected {model.hparams.bin_width:g}, as in training"
        )
    if model.hparams.refinement > 0 and model.prior == "encoder" and not model.hparams.input_size:
        print(f"{checkpoint} has no reference trials: the encoder alone infers")

    about = {
        "bin_width": bin_width, "checkpoint": checkpoint, "checkpoint_sha256": fingerprint(checkpoint),
        "data": file, "data_sha256": fingerprint(file), "hyperparameters": json.dumps(dict(model.hparams)),
    }  # fmt: skip
    batches, more = infer_batches(model, stored, file), {}
    if is_nwb(file):
        more = {"start": session.windows[:, 0], "unit_ids": np.array(session.conversion.unit_ids)}
    if to == "nwb":
        write_nwb(batches, session, file, out, about)
    else:
        with atomic_write(out) as temporary:
            (write_hdf5 if to == "hdf5" else write_npz)(batches, temporary, about, more)
    print(f"Rates of {sum(map(len, stored.values()))} trials are in {out}")


def main() -> None:
    jsonargparse.auto_cli(infer_file, exit_on_error=False, allow_abbrev=False)


if __name__ == "__main__":
    run(main)
