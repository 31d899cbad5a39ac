"""Infer rates from a recording with a trained model.

python infer.py CHECKPOINT FILE --out rates.h5

FILE has spikes in `data`, or in `train_data` and `valid_data`, or in all three. Its neurons must be those of the training;
trials may be new and of another length. Missing counts are NaN. No other entries are dropped.
"""

import hashlib
import json
from pathlib import Path

import h5py
import jsonargparse
import numpy as np
from rich.progress import Progress

from command_line import InputError, atomic_write, run, writable_folder
from evaluation.checkpoints import load_checkpoint
from evaluation.inference import BATCH_SIZE, UNITS, infer_arrays
from model import SequentialAutoencoder
from recordings.checks import check_counts
from recordings.hdf5 import SPLITS, StoredArray, blocks, open_file, open_trials, read_bin_width


def fingerprint(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_spikes(path: str, bin_width: float | None) -> tuple[dict[str, StoredArray], float]:
    """Return the stored spikes of a file by the prefix of their key ("", `train_`, `valid_`), and the bin width (s).

    Raises:
        InputError: a file that cannot be read or has no spikes.
    """
    with open_file(path) as file:
        prefixes = [prefix for prefix in ("", *(f"{split}_" for split in SPLITS)) if f"{prefix}data" in file]
        if not prefixes:
            raise InputError(f"{path}: has no key data; expected data, or train_data and valid_data")
        stored = {prefix: open_trials(file, path, prefix).spikes for prefix in prefixes}
        return stored, read_bin_width(file, path, bin_width)


def write_inference(model: SequentialAutoencoder, stored: dict[str, StoredArray], target: h5py.File) -> None:
    """Infer a batch at a time. Write the arrays of `infer_arrays`; their keys get the prefix of the spikes' key."""
    with Progress(transient=True) as progress:
        for prefix, spikes in stored.items():
            task = progress.add_task(spikes.key, total=len(spikes))
            for trials in blocks(spikes, max_trials=BATCH_SIZE):
                batch = check_counts(spikes[trials], spikes.path, spikes.key)
                for name, inferred in infer_arrays(model, batch).items():
                    shape = inferred.shape[1:]
                    array = target.require_dataset(prefix + name, (len(spikes), *shape), "float32", chunks=(1, *shape))
                    array.attrs["unit"] = UNITS[name]
                    array[trials] = inferred
                progress.update(task, completed=trials.stop)


def infer_file(checkpoint: str, file: str, out: str = "rates.h5", bin_width: float | None = None) -> None:
    """Infer rates, log-rates, latents, initial conditions and inputs, if the decoder has any, of all trials in a file.

    Args:
        checkpoint: Checkpoint that train.py made, such as lightning_logs/pretrained/bandwidth_29/best.ckpt.
        file: HDF5 file with spikes (trials, time, neurons) in `data`, or in `train_data` and `valid_data`.
        out: HDF5 file to write. It must not exist.
        bin_width: Width of a time bin (s). None: the file's attribute.

    Raises:
        InputError: a file that cannot be read, that does not fit the model, or that `out` would overwrite.
    """
    model, _ = load_checkpoint(checkpoint)
    if Path(out).exists():
        raise InputError(f"--out {out}: exists; expected the name of a new file")
    writable_folder(Path(out).parent, "--out")
    stored, bin_width = open_spikes(file, bin_width)
    for spikes in stored.values():
        if spikes.shape[2] != model.hparams.n_neurons:
            raise InputError(f"{file}: {spikes.key} has {spikes.shape[2]} neurons; expected {model.hparams.n_neurons}")
    if not np.isclose(bin_width, model.hparams.bin_width):
        raise InputError(
            f"{file}: its bins are {bin_width:g} s wide; expected {model.hparams.bin_width:g}, as in training"
        )
    if model.hparams.refinement > 0 and model.prior == "encoder":
        print(f"{checkpoint} has no reference trials: the encoder alone infers")

    with atomic_write(out) as temporary, h5py.File(temporary, "w") as target:
        target.attrs.update(
            bin_width=bin_width, checkpoint=str(checkpoint), checkpoint_sha256=fingerprint(checkpoint),
            data=str(file), data_sha256=fingerprint(file), hyperparameters=json.dumps(dict(model.hparams)),
        )  # fmt: skip
        write_inference(model, stored, target)
    print(f"Rates of {sum(map(len, stored.values()))} trials are in {out}")


def main() -> None:
    jsonargparse.auto_cli(infer_file, exit_on_error=False, allow_abbrev=False)


if __name__ == "__main__":
    run(main)
