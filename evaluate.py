"""From trained runs to inferred rates: finds checkpoints, loads them, and scores what they infer."""

import csv
import math
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from command_line import InputError
from data import SpikeDataModule
from metrics import R2
from model import SequentialAutoencoder
from posterior import posterior_weights
from recording import Trials

LOGS = Path("lightning_logs")
PUBLISHED = Path(__file__).parent / "reference" / "published_r2.csv"
ABLATION = Path(__file__).parent / "docs" / "ablation.csv"


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
def infer_rates(model: SequentialAutoencoder, spikes: Tensor) -> Tensor:
    """Infer rates (trials, time, neurons) in spikes/s from spikes (same shape; counts per bin, NaN = missing)."""
    return torch.cat([model.rates(model.infer(batch).log_rates) for batch in spikes.split(512)])


def r2_of_ideal_observer(data: SpikeDataModule) -> float:
    """Score the ideal observer on the validation trials; NaN where the truth is not known."""
    metric = R2(data.n_neurons)
    for batch in data.val_dataloader():
        ideal = ideal_observer(batch.spikes, data.trials["valid"], data.bin_width)
        if ideal is None:
            return math.nan
        metric.update(ideal, batch.rates)
    return float(metric.compute())


def ideal_observer(spikes: Tensor, trials: Trials, bin_width: float) -> Tensor | None:
    """Infer rates as one who knows the rates of every condition, but not which one a trial belongs to.

    The mean of the true rates of the conditions under their posterior given the observed counts, with equal priors: no
    method can do better on average, in squared error.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        trials: The trials that the spikes were taken from, with their true rates and conditions.
        bin_width: Width of a time bin (s).

    Returns:
        (B, T, N) rates in spikes/s; None where the truth is not known.
    """
    if trials.rates is None or trials.condition is None:
        return None
    first_trial = np.unique(trials.condition, return_index=True)[1]
    expected_counts = torch.from_numpy(trials.rates[first_trial]).double() * bin_width
    weights = posterior_weights(spikes, expected_counts.clamp(min=1e-9).log())
    return (torch.einsum("bj,jtn->btn", weights, expected_counts) / bin_width).float()


def read_published() -> list[dict[str, float]]:
    """Return the published R² of each level, widest first."""
    with open(PUBLISHED, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def read_ablation() -> dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return what ablation.py measured: for each bandwidth and recipe the epochs (epochs,) and R² (seeds, epochs)."""
    with open(ABLATION, newline="") as file:
        rows = list(csv.DictReader(file))
    histories = {}
    for bandwidth in dict.fromkeys(row["bandwidth"] for row in rows):
        recipes = histories.setdefault(int(bandwidth), {})
        for recipe in dict.fromkeys(row["recipe"] for row in rows):
            same = [row for row in rows if (row["bandwidth"], row["recipe"]) == (bandwidth, recipe)]
            seeds = [
                [row for row in same if row["seed"] == seed] for seed in dict.fromkeys(row["seed"] for row in same)
            ]
            r2 = np.array([[float(row["r2"]) for row in history] for history in seeds])
            recipes[recipe] = np.array([int(row["epoch"]) for row in seeds[0]]), r2
    return histories
