"""Infer rates from a recording with a trained model.

python infer.py CHECKPOINT FILE --out rates.h5

FILE has spikes under `data`, or `train_data` and `valid_data`, or both; other trials and other lengths than in training
are welcome, the neurons must be the same. What is NaN there counts as missing; no further entries are dropped.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import jsonargparse
import numpy as np
import torch
from rich.progress import Progress

from command_line import InputError, run, whole_file, writable_folder
from evaluate import load_checkpoint
from model import SequentialAutoencoder
from recording import SPLITS, checked_counts, read_bin_width, stored_trials

BATCH = 256  # trials inferred at a time
UNITS = {
    "rates": "spikes/s",
    "log_rates": "log of the expected spikes in a bin",
    "latents": "state of the decoder, no unit",
    "initial_condition": "state of the decoder before the first bin, no unit",
}


@torch.no_grad()
def infer_arrays(model: SequentialAutoencoder, spikes: np.ndarray) -> dict[str, np.ndarray]:
    """Infer what a trained model (see evaluate.load_checkpoint) makes of spikes.

    Args:
        model: The model.
        spikes: (trials, time, neurons) counts per bin, NaN = missing.

    Returns:
        float32 arrays: `rates` in spikes/s and `log_rates` (trials, time, neurons), `latents` (trials, time, hidden
        units) and `initial_condition` (trials, hidden units).
    """
    parts = []
    for batch in torch.from_numpy(np.asarray(spikes, dtype=np.float32)).split(BATCH):
        inferred = model.eval().infer(batch)
        parts.append({"rates": model.rates(inferred.log_rates), **inferred._asdict()})
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in UNITS}


def fingerprint(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_batches(spikes, path: str | Path) -> Iterator[np.ndarray]:
    """Read stored spikes a batch at a time, as float32 (trials, time, neurons)."""
    for start in range(0, len(spikes), BATCH):
        yield checked_counts(spikes[start : start + BATCH], path, spikes.key)


def infer_file(checkpoint: str, file: str, out: str = "rates.h5", bin_width: float | None = None) -> None:
    """Infer rates, log-rates, latents and initial conditions of all trials in a file.

    Args:
        checkpoint: Checkpoint that train.py made, such as lightning_logs/pretrained/bandwidth_29/best.ckpt.
        file: HDF5 file with spikes (trials, time, neurons) in `data`, or in `train_data` and `valid_data`.
        out: HDF5 file to write; it must not exist.
        bin_width: Width of a time bin (s), for a file that does not say.

    Raises:
        InputError: a file that cannot be read, does not fit the model, or is in the way.
    """
    model, _ = load_checkpoint(checkpoint)
    if Path(out).exists():
        raise InputError(f"--out {out}: exists; expected the name of a new file")
    writable_folder(Path(out).parent, "--out")
    try:
        with h5py.File(file) as source:
            prefixes = [prefix for prefix in ("", *(f"{split}_" for split in SPLITS)) if f"{prefix}data" in source]
            if not prefixes:
                raise InputError(f"{file}: has no key data; expected data, or train_data and valid_data")
            stored = {prefix: stored_trials(source, file, prefix).spikes for prefix in prefixes}
            bin_width = read_bin_width(source, file, bin_width)
    except OSError as error:
        raise InputError(f"{file}: cannot be read as HDF5 ({error}); expected a complete HDF5 file") from None
    for spikes in stored.values():
        if spikes.shape[2] != model.hparams.n_neurons:
            raise InputError(f"{file}: {spikes.key} has {spikes.shape[2]} neurons; expected {model.hparams.n_neurons}")
    if not np.isclose(bin_width, model.hparams.bin_width):
        raise InputError(
            f"{file}: its bins are {bin_width:g} s wide; expected {model.hparams.bin_width:g}, as in training"
        )

    with whole_file(out) as temporary, h5py.File(temporary, "w") as target, Progress(transient=True) as progress:
        target.attrs.update(
            bin_width=bin_width, checkpoint=str(checkpoint), checkpoint_sha256=fingerprint(checkpoint),
            data=str(file), data_sha256=fingerprint(file), hyperparameters=json.dumps(dict(model.hparams)),
        )  # fmt: skip
        for prefix, spikes in stored.items():
            task, done = progress.add_task(spikes.key, total=len(spikes)), 0
            for batch in read_batches(spikes, file):
                for name, inferred in infer_arrays(model, batch).items():
                    if done == 0:
                        shape = (len(spikes), *inferred.shape[1:])
                        array = target.create_dataset(prefix + name, shape, "float32", chunks=(1, *inferred.shape[1:]))
                        array.attrs["unit"] = UNITS[name]
                    target[prefix + name][done : done + len(batch)] = inferred
                done += len(batch)
                progress.update(task, completed=done)
    print(f"Rates of {sum(map(len, stored.values()))} trials are in {out}")


def main() -> None:
    jsonargparse.auto_cli(infer_file, exit_on_error=False, allow_abbrev=False)


if __name__ == "__main__":
    run(main)
