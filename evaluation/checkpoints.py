"""Load the checkpoints of trained models, also those of strangers."""

import pickle
import zipfile
from pathlib import Path

import torch

from command_line import InputError, require
from data import SpikeDataModule
from model import SequentialAutoencoder
from modules.priors import Ensemble


def load_checkpoint(path: str | Path) -> tuple[SequentialAutoencoder, dict]:
    """Return the model of a checkpoint, and the options of the data that it was trained on.

    No code in the file is run.

    Raises:
        InputError: not a checkpoint of this repo, or its weights do not fit its hyperparameters.
    """
    if Path(path).is_dir():
        return load_ensemble(list_members(path))
    expected = "expected a checkpoint that train.py made"
    try:
        refuse_compressed(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        hyperparameters = dict(checkpoint["hyper_parameters"])
        for earlier in ("refinement", "input_dropout"):  # were there in earlier versions
            hyperparameters.pop(earlier, None)
        refuse_oversized(checkpoint, hyperparameters, path)
        weights = checkpoint["state_dict"]
        model = SequentialAutoencoder(**hyperparameters).to(weights["readout.weight"].dtype)
        model.load_state_dict(weights)
        model.on_load_checkpoint(checkpoint)
        data_options = dict(checkpoint["datamodule_hyper_parameters"])
        check_reference(model, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {expected}") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError):
        raise InputError(f"{path}: is no checkpoint, or a damaged one; {expected}") from None
    except (KeyError, TypeError, AttributeError):
        missing = "lacks the weights or hyperparameters of a SequentialAutoencoder"
        raise InputError(f"{path}: {missing}; {expected}") from None
    except RuntimeError as error:
        last_line = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{path}: {last_line}; {expected}") from None
    return model.eval(), data_options


def check_reference(model: SequentialAutoencoder, path: str | Path) -> None:
    """Raise InputError if the reference trials of a model are not its initial conditions."""
    reference = model.prior.numbers().get("reference", torch.zeros(1, model.decoder.hidden_size))
    fits = reference.shape[1:] == (model.decoder.hidden_size,) and len(reference) > 0
    is_right = fits and bool(reference.isfinite().all())
    message = f"{path}: has a wrong table of reference trials; expected a checkpoint of train.py"
    require(is_right, message)


def list_members(path: str | Path) -> list[Path]:
    """Return the checkpoint at a path; or, for the folder of a bandwidth, those of its seeds.

    Raises:
        InputError: a folder without seeds.
    """
    if not Path(path).is_dir():
        return [Path(path)]
    seeds, others = (sorted(Path(path).glob(f"{below}/best.ckpt")) for below in ("seed_*", "**"))
    expected = "expected a checkpoint, or the folder of a bandwidth with several seeds"
    require(bool(seeds), f"{path}: is a folder; {expected}, as {(others or ['best.ckpt'])[0]}")
    return seeds


def load_ensemble(paths: list[Path]) -> tuple[SequentialAutoencoder, dict]:
    """Return one model that infers the mean of several, and the data options of the first.

    Raises:
        InputError: as `load_checkpoint`, or models of other data.
    """
    members, options = zip(*map(load_checkpoint, paths), strict=True)
    for name in ("n_neurons", "n_heldin", "bin_width"):
        found = [member.hparams.get(name) for member in members]
        require(len(set(found)) == 1, f"{paths[0].parents[1]}: {name} {found}; expected one value")
    ensemble = load_checkpoint(paths[0])[0]
    ensemble.prior = Ensemble(list(members))
    return ensemble.eval(), options[0]


def load_model_and_data(
    checkpoint: Path | list[Path], data_path: str | None = None
) -> tuple[SequentialAutoencoder, SpikeDataModule]:
    """Return the model of a checkpoint, and its data with the masks of its training.

    Args:
        checkpoint: The checkpoint; or those of several seeds, which infer together on the masks of
            the first.
        data_path: The data file. None: where it was in training.

    Raises:
        InputError: a checkpoint or data file that cannot be read, or that do not fit each other.
    """
    load = load_ensemble if isinstance(checkpoint, list) else load_checkpoint
    model, options = load(checkpoint)
    try:
        data = SpikeDataModule(**options | ({"path": data_path} if data_path else {}))
    except TypeError as error:
        expected = "expected a checkpoint of this version of train.py"
        raise InputError(f"{checkpoint}: options of the data: {error}; {expected}") from None
    n_neurons = model.hparams.n_neurons
    if data.n_neurons != n_neurons:
        found = f"is for {n_neurons} neurons, {data.hparams.path} has {data.n_neurons}"
        raise InputError(f"{checkpoint}: {found}; expected the same")
    data.setup()
    return model, data


def load_conversion(path: str | Path) -> str | None:
    """Return how the data of a checkpoint were made from a session (JSON), if they were.

    The checkpoint is one that `load_checkpoint` accepts.
    """
    checkpoint = torch.load(list_members(path)[0], map_location="cpu", weights_only=True)
    return checkpoint.get("SpikeDataModule", {}).get("conversion")


def refuse_compressed(path: str | Path) -> None:
    """Raise BadZipFile if a checkpoint is no zip file, or is compressed.

    train.py never compresses checkpoints, and a compressed one could unpack to any size.
    """
    with zipfile.ZipFile(path) as parts:
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
            raise zipfile.BadZipFile


def refuse_oversized(checkpoint: dict, hyperparameters: dict, path: str | Path) -> None:
    """Raise InputError if a checkpoint declares more bytes of weights than the file has."""
    with torch.device("meta"):  # shapes without memory
        weights = SequentialAutoencoder(**hyperparameters).state_dict()
    stored = [*checkpoint["state_dict"].values(), checkpoint.get("reference", torch.empty(0))]
    stored.append(checkpoint.get("prior", {}).get("numbers", {}).get("reference", torch.empty(0)))
    tensors, size = [*weights.values(), *stored], Path(path).stat().st_size
    largest = max(tensor.numel() * tensor.element_size() for tensor in tensors)
    if largest > size:
        found = f"declares {largest} bytes of weights in a file of {size}"
        raise InputError(f"{path}: {found}; expected a whole checkpoint")
