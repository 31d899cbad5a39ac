"""Folders of runs: making, locking, resuming."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning.utilities import rank_zero_only

from command_line import InputError, atomic_write, read_table, writable_folder
from evaluation.checkpoints import LOGS
from training.options import train_parser

# environment variable that tells the other processes of a distributed training the folder of the
# run
RUN_DIR_VARIABLE = "SBTT_RUN_DIR"


def is_main_process() -> bool:
    """Return whether this process is the first of a distributed training, or the only one. Only
    this one prints and writes."""
    return rank_zero_only.rank == 0


def make_run_dir(name: str | None) -> Path:
    """Make the folder of a new run and return it. Its name is a time stamp if not given.

    The other processes of a distributed training get the folder that the first one made.

    Raises:
        InputError: the folder exists, or cannot be made.
    """
    if name is not None and Path(name).name != name:
        raise InputError(f"--name {name}: expected the name of a folder, without a path")
    if not is_main_process():
        if name is None and RUN_DIR_VARIABLE not in os.environ:
            raise InputError(
                "--name: expected a name for the run, because a launcher starts the processes"
            )
        return Path(os.environ.get(RUN_DIR_VARIABLE, LOGS / str(name)))
    logs = writable_folder(LOGS, "the log folder")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for candidate in (
        [name] if name is not None else [stamp, *(f"{stamp}-{number}" for number in range(2, 100))]
    ):
        with contextlib.suppress(FileExistsError):
            (logs / candidate).mkdir()
            os.environ[RUN_DIR_VARIABLE] = str(logs / candidate)
            return logs / candidate
    raise InputError(
        f"--name {name or stamp}: {logs / (name or stamp)} exists; expected the name of a new run"
    )


def read_stopped_run(parser: ArgumentParser, given: Namespace) -> tuple[Path, Namespace]:
    """Return the folder of the run that --resume names, and the options that it was started with.

    Raises:
        InputError: no such run, or other options than --jobs, --cluster and --quiet beside
            --resume.
    """
    run_dir = Path(given.resume)
    started_with = run_dir / "config.yaml"
    if not started_with.is_file():
        raise InputError(
            f"--resume {run_dir}: holds no config.yaml; expected the folder of a run of train.py"
        )
    allowed = parser.parse_args([])
    allowed.update(
        Namespace({name: given[name] for name in ("resume", "jobs", "cluster", "quiet")})
    )
    if given != allowed:
        raise InputError(
            f"--resume {run_dir}: the options are those in {started_with}; expected only --jobs, --cluster or --quiet beside it"
        )
    config = parser.parse_path(started_with)
    config.jobs, config.cluster, config.quiet = given.jobs, given.cluster, given.quiet
    return run_dir, config


def read_results(run_dir: Path) -> list[dict[str, float | str]]:
    """Return the scores of the trainings of a run that came to their end."""
    if not (run_dir / "results.csv").exists():
        return []
    types = {"bandwidth": int, "seed": int, "epochs": int, "factors": int, "prior": str}
    return [
        {name: types.get(name, float)(value) for name, value in row.items()}
        for row in read_table(run_dir / "results.csv")
    ]


def save_config(
    config: Namespace, folder: Path, name: str = "config.yaml", parser: ArgumentParser | None = None
) -> None:
    """Write all options to a file in `folder`, which `--config` reads. The parser is that of
    train.py if none is given."""
    if is_main_process():
        with atomic_write(folder / name) as path:
            path.write_text((parser or train_parser()).dump(config, skip_unset=False))


@contextlib.contextmanager
def lock_folder(folder: Path, patience: float = 5.0) -> Iterator[None]:
    """Keep other runs out of the folder of a run or bandwidth, which is made if necessary.

    Raises:
        InputError: another process still holds it after `patience` seconds. The processes of a run
            that was killed end sooner.
    """
    if not is_main_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=patience):
            for incomplete in folder.glob(".*.ckpt"):  # of a process that was killed while it wrote
                incomplete.unlink()
            yield
    except Timeout:
        raise InputError(
            f"{folder}: another process is training there; expected a run that was stopped"
        ) from None


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint to go on from; None in a new folder."""
    return folder / "last.ckpt" if (folder / "last.ckpt").exists() else None
