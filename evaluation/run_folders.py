"""Folders of sweeps and runs: naming, making, locking, finding, resuming.

lightning_logs/SWEEP has the runs of one `train.py` command, config.yaml and results.csv.
lightning_logs/SWEEP/bandwidth_05 has a run, or, with several seeds, lightning_logs/SWEEP/
bandwidth_05/seed_1.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from jsonargparse import ArgumentParser, Namespace

from command_line import InputError, read_table, writable_folder

LOGS = Path("lightning_logs")
BESIDE_RESUME = ("jobs", "cluster", "quiet")  # options that may change when a sweep is resumed


def run_folder(bandwidth: int, seed: int | None = None) -> str:
    """Return the folder of a run in that of its sweep. With a seed, a bandwidth has several."""
    return f"bandwidth_{bandwidth:02}" + ("" if seed is None else f"/seed_{seed}")


def name_sweep(checkpoint: Path) -> str:
    """Return the name of the sweep that holds a checkpoint; its path if it lies elsewhere."""
    runs = [folder for folder in checkpoint.parents if folder.name.startswith("bandwidth_")]
    return runs[0].absolute().parent.name if runs else str(checkpoint)


def make_sweep_folder(name: str | None) -> Path:
    """Make the folder of a new sweep and return it. Its name is a time stamp if not given.

    Raises:
        InputError: the folder exists, or cannot be made.
    """
    if name is not None and Path(name).name != name:
        raise InputError(f"--name {name}: expected the name of a folder, without a path")
    logs = writable_folder(LOGS, "the log folder")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for choice in [name] if name else [stamp, *(f"{stamp}-{number}" for number in range(2, 100))]:
        with contextlib.suppress(FileExistsError):
            (logs / choice).mkdir()
            return logs / choice
    raise InputError(f"--name {choice}: {logs / choice} exists; expected the name of a new sweep")


def read_stopped_sweep(parser: ArgumentParser, given: Namespace) -> tuple[Path, Namespace]:
    """Return the folder that --resume names, and the options that the sweep was started with.

    Raises:
        InputError: no such sweep, or options beside --resume that cannot change.
    """
    folder = Path(given.resume)
    started_with = folder / "config.yaml"
    if not started_with.is_file():
        raise InputError(f"--resume {folder}: holds no config.yaml; expected a folder of train.py")
    allowed = parser.parse_args([])
    allowed.update(Namespace({name: given[name] for name in ("resume", *BESIDE_RESUME)}))
    if given != allowed:
        beside = ", ".join(f"--{name}" for name in BESIDE_RESUME)
        raise InputError(
            f"--resume {folder}: the options are those in {started_with}; expected only {beside} "
            "beside it"
        )
    config = parser.parse_path(started_with)
    config.update(Namespace({name: given[name] for name in BESIDE_RESUME}))
    return folder, config


@contextlib.contextmanager
def lock_folder(folder: Path, patience: float = 5.0) -> Iterator[None]:
    """Keep other processes out of the folder of a sweep or run, which is made if necessary.

    Raises:
        InputError: another process still holds it after `patience` seconds. The processes of a
            sweep that was killed end sooner.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=patience):
            for incomplete in folder.glob(".*.ckpt"):  # of a process that was killed as it wrote
                incomplete.unlink()
            yield
    except Timeout:
        raise InputError(
            f"{folder}: another process is training there; expected a sweep that was stopped"
        ) from None


@contextlib.contextmanager
def open_sweep(folder: Path) -> Iterator[None]:
    """Lock the folder of a sweep or search; Ctrl-C in the block says how to continue it."""
    with lock_folder(folder):
        try:
            yield
        except KeyboardInterrupt:
            again = f"python {Path(sys.argv[0]).name} --resume {folder}"
            raise KeyboardInterrupt(f"interrupted; continue with: {again}") from None


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint to continue from; None in a new folder."""
    return folder / "last.ckpt" if (folder / "last.ckpt").exists() else None


def read_results(folder: Path) -> list[dict[str, float | str]]:
    """Return the rows of a sweep's results.csv: the scores of the runs that came to their end."""
    if not (folder / "results.csv").is_file():
        return []
    types = {"bandwidth": int, "seed": int, "epochs": int, "factors": int, "prior": str}
    rows = read_table(folder / "results.csv")
    return [{name: types.get(name, float)(value) for name, value in row.items()} for row in rows]


def find_checkpoints(paths: list[str]) -> list[Path]:
    """Return the best checkpoint of every run in `paths`: checkpoints, runs, or sweeps.

    Without paths: of the newest sweep that was trained to its end, else of
    `lightning_logs/pretrained`.

    Raises:
        InputError: a path that does not exist, or without a checkpoint.
    """
    if not paths:
        complete = [p for p in LOGS.glob("*/results.csv") if p.parent.name != "pretrained"]
        newest = max(complete, key=lambda path: path.stat().st_mtime, default=None)
        paths = [newest.parent if newest else LOGS / "pretrained"]
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(
                f"{path}: no such sweep, run or checkpoint; expected one that train.py made"
            )
        patterns = ("best.ckpt", "*/best.ckpt", "*/*/best.ckpt")  # of a run, its seeds, a sweep
        inside = {file for pattern in patterns for file in path.glob(pattern)}
        checkpoints = [path] if path.is_file() else leave_out_unfinished(path, sorted(inside))
        if not checkpoints:
            raise InputError(f"{path}: holds no best.ckpt; expected a folder of train.py")
        found += checkpoints
    return found


def leave_out_unfinished(sweep: Path, checkpoints: list[Path]) -> list[Path]:
    """Leave out, with a message, the runs without a row in the results.csv of a sweep: they failed.

    A sweep without results.csv keeps all its checkpoints, with a message: it is not at its end.
    """
    if not (sweep / "results.csv").is_file():
        if (sweep / "config.yaml").is_file() and not (sweep / "best.ckpt").is_file():
            print(
                f"{sweep}: was not trained to its end (no results.csv); these are its best "
                "checkpoints so far"
            )
        return checkpoints
    rows = read_results(sweep)
    trained = {run_folder(row["bandwidth"]) for row in rows}
    trained |= {run_folder(row["bandwidth"], row.get("seed")) for row in rows}
    kept = [path for path in checkpoints if path.parent.relative_to(sweep).as_posix() in trained]
    for path in checkpoints:
        if path not in kept:
            print(f"{path.parent}: left out, because it failed (no row in {sweep / 'results.csv'})")
    return kept
