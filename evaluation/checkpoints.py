"""Find and load the checkpoints of trained runs."""

import pickle
import zipfile
from pathlib import Path

import torch

from command_line import InputError, read_table
from model import SequentialAutoencoder

LOGS = Path("lightning_logs")


def find_checkpoints(paths: list[str]) -> list[Path]:
    """Return the best checkpoint of every bandwidth in `paths`: checkpoints, folders of a
    bandwidth, or folders of a run.

    Without paths: of the newest run that was trained to its end, else of
        `lightning_logs/pretrained`.

    Raises:
        InputError: a path that does not exist, or without a checkpoint.
    """
    if not paths:
        complete = [
            file.parent for file in LOGS.glob("*/results.csv") if file.parent.name != "pretrained"
        ]
        paths = [
            max(
                complete,
                key=lambda run: (run / "results.csv").stat().st_mtime,
                default=LOGS / "pretrained",
            )
        ]
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such run or checkpoint; expected one that train.py made")
        patterns = (
            "best.ckpt",
            "*/best.ckpt",
            "*/*/best.ckpt",
        )  # of a training, a bandwidth's seeds, a run
        checkpoints = (
            [path]
            if path.is_file()
            else sorted({file for pattern in patterns for file in path.glob(pattern)})
        )
        checkpoints = leave_out_unfinished(path, checkpoints)
        if not checkpoints:
            raise InputError(f"{path}: holds no best.ckpt; expected a run folder of train.py")
        found += checkpoints
    return found


def leave_out_unfinished(run_dir: Path, checkpoints: list[Path]) -> list[Path]:
    """Leave out, with a message, the bandwidths without a row in the results.csv of a run: their
    training failed.

    A run without results.csv keeps all its checkpoints, with a message: it goes on, or it was
        stopped, or it failed.
    """
    if not (run_dir / "results.csv").is_file():
        if (run_dir / "config.yaml").is_file() and not (run_dir / "best.ckpt").is_file():
            print(
                f"{run_dir}: was not trained to its end (no results.csv); these are its best checkpoints so far"
            )
        return checkpoints
    rows = read_table(run_dir / "results.csv")
    trained = {bandwidth_folder(int(row["bandwidth"])) for row in rows}
    trained |= {
        f"{bandwidth_folder(int(row['bandwidth']))}/seed_{row['seed']}"
        for row in rows
        if "seed" in row
    }
    kept = [
        checkpoint
        for checkpoint in checkpoints
        if checkpoint.parent.relative_to(run_dir).as_posix() in trained
    ]
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            print(
                f"{checkpoint.parent}: left out, because its training failed (no row in {run_dir / 'results.csv'})"
            )
    return kept


def bandwidth_folder(bandwidth: int) -> str:
    """Return the name of the folder of a bandwidth in that of its run."""
    return f"bandwidth_{bandwidth:02}"


def training_folder(bandwidth: int, seed: int | None) -> str:
    """Return the folder of a training in that of its run. With a seed, there are several for a
    bandwidth."""
    return (
        bandwidth_folder(bandwidth)
        if seed is None
        else f"{bandwidth_folder(bandwidth)}/seed_{seed}"
    )


def load_checkpoint(path: str | Path) -> tuple[SequentialAutoencoder, dict]:
    """Return the model of a checkpoint, and the options of the data that it was trained on. No code
    in the file is run.

    Raises:
        InputError: not a checkpoint of this repo, or its weights do not fit its hyperparameters.
    """
    expected = "expected a checkpoint that train.py made"
    try:
        refuse_compressed(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        refuse_oversized(checkpoint, path)
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
        raise InputError(
            f"{path}: {str(error).strip().splitlines()[-1].strip()}; {expected}"
        ) from None
    return model.eval(), data_options


def load_conversion(path: str | Path) -> str | None:
    """Return how the data of a checkpoint's training were made from a session (JSON), if they were.

    The checkpoint is one that `load_checkpoint` accepts.
    """
    return (
        torch.load(path, map_location="cpu", weights_only=True)
        .get("SpikeDataModule", {})
        .get("conversion")
    )


def refuse_compressed(path: str | Path) -> None:
    """Raise BadZipFile if a checkpoint is no zip file, or is compressed.

    train.py never compresses checkpoints, and a compressed one could unpack to any size.
    """
    with zipfile.ZipFile(path) as parts:
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
            raise zipfile.BadZipFile


def refuse_oversized(checkpoint: dict, path: str | Path) -> None:
    """Raise InputError if a checkpoint declares more bytes of weights than the file has."""
    with torch.device("meta"):  # shapes without memory
        model = SequentialAutoencoder(**checkpoint["hyper_parameters"])
    tensors = [
        *model.state_dict().values(),
        *checkpoint["state_dict"].values(),
        checkpoint.get("reference", model.reference),
    ]
    largest, size = (
        max(tensor.numel() * tensor.element_size() for tensor in tensors),
        Path(path).stat().st_size,
    )
    if largest > size:
        raise InputError(
            f"{path}: declares {largest} bytes of weights in a file of {size}; expected a whole checkpoint"
        )
