"""From trained runs to inferred rates: finds checkpoints, loads them, and scores what they infer."""

import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from command_line import InputError
from data import SpikeDataModule
from model import SequentialAutoencoder
from recording import SPLITS

LOGS = Path("lightning_logs")


def find_checkpoints(paths: list[str]) -> list[Path]:
    """Return the best checkpoint of every level in `paths`, each a checkpoint, a level's folder or a run's folder.

    Without paths: of the newest run that was trained to its end, else of `lightning_logs/pretrained`.

    Raises:
        InputError: a path that is not there, or holds no checkpoint.
    """
    if not paths:
        complete = [file.parent for file in LOGS.glob("*/results.csv") if file.parent.name != "pretrained"]
        paths = [max(complete, key=lambda run: (run / "results.csv").stat().st_mtime, default=LOGS / "pretrained")]
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such run or checkpoint; expected one that train.py made")
        checkpoints = [path] if path.is_file() else sorted({*path.glob("best.ckpt"), *path.glob("*/best.ckpt")})
        if not checkpoints:
            raise InputError(f"{path}: holds no best.ckpt; expected a run folder of train.py")
        found += checkpoints
    return found


def load_checkpoint(path: str | Path) -> tuple[SequentialAutoencoder, dict]:
    """Load a model and the options of the data it was trained on; nothing in the file can run code.

    Raises:
        InputError: not a checkpoint of this repo, or with tensors that do not fit its own hyperparameters.
    """
    expected = "expected a checkpoint that train.py made"
    try:
        refuse_packed(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        refuse_absurd(checkpoint, path)
        model = SequentialAutoencoder(**checkpoint["hyper_parameters"])
        model.load_state_dict(checkpoint["state_dict"])
        model.on_load_checkpoint(checkpoint)
        data_options = dict(checkpoint["datamodule_hyper_parameters"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {expected}") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError):
        raise InputError(f"{path}: is no checkpoint, or a damaged one; {expected}") from None
    except (KeyError, TypeError):
        raise InputError(
            f"{path}: lacks the weights or hyperparameters of a SequentialAutoencoder; {expected}"
        ) from None
    except RuntimeError as error:
        raise InputError(f"{path}: {str(error).strip().splitlines()[-1].strip()}; {expected}") from None
    return model.eval(), data_options


def refuse_packed(path: str | Path) -> None:
    """Raise BadZipFile where a checkpoint is none, or is compressed, as ours never are: it could unpack to anything."""
    with zipfile.ZipFile(path) as parts:
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
            raise zipfile.BadZipFile


def refuse_absurd(checkpoint: dict, path: str | Path) -> None:
    """Raise InputError where a model would take more memory than the file has bytes: its weights cannot all be in there."""
    with torch.device("meta"):  # shapes without memory
        model = SequentialAutoencoder(**checkpoint["hyper_parameters"])
    tensors = [
        *model.state_dict().values(),
        *checkpoint["state_dict"].values(),
        checkpoint.get("library", model.library),
    ]
    largest, size = max(tensor.numel() * tensor.element_size() for tensor in tensors), Path(path).stat().st_size
    if largest > size:
        raise InputError(
            f"{path}: declares {largest} bytes of weights in a file of {size}; expected a whole checkpoint"
        )


def load_data(checkpoint: Path, model: SequentialAutoencoder, options: dict) -> SpikeDataModule:
    """Return the data with the masks that a model was trained with; raise InputError where the two do not fit."""
    data = SpikeDataModule(**options)
    if data.n_neurons != model.hparams.n_neurons:
        raise InputError(
            f"{checkpoint}: is for {model.hparams.n_neurons} neurons, {options['path']} has {data.n_neurons}; expected the same"
        )
    data.setup()
    return data


def validate(model: SequentialAutoencoder, data: SpikeDataModule, accelerator: str = "cpu") -> dict[str, float]:
    """Score a model on the validation trials; the names are those of training, without `valid/`."""
    judge = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator=accelerator)
    return {name.removeprefix("valid/"): value for name, value in judge.validate(model, data, verbose=False)[0].items()}


@torch.no_grad()
def infer_trials(model: SequentialAutoencoder, spikes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Infer from spikes (trials, time, neurons; counts per bin, NaN = missing).

    Returns:
        Rates in spikes/s (the same shape), and latents (trials, time, units).
    """
    parts = [model.infer(batch) for batch in spikes.split(512)]
    rates = torch.cat([model.rates(part.log_rates) for part in parts])
    return rates.numpy(), torch.cat([part.latents for part in parts]).numpy()


def read_true_latents(path: str | Path, most: int) -> dict[str, np.ndarray] | None:
    """Return the latents (trials, time, dimensions) of `most` trials of each split, or None if the file has none."""
    with h5py.File(path) as file:
        keys = {split: f"{split}_latents" for split in SPLITS}
        if not all(key in file for key in keys.values()):
            return None
        return {split: file[key][:most] for split, key in keys.items()}
