"""Training the levels of a run, as many at a time as there are cores."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Queue, SimpleQueue

import joblib
import torch
from filelock import FileLock, Timeout
from jsonargparse import Namespace
from pytorch_lightning.loggers import TensorBoardLogger

from cli import TrainCLI
from command_line import FailedWork, InputError
from evaluate import validate
from model import SequentialAutoencoder
from progress import shown, silence_lightning
from tensorboard_pages import log_result

SCORES = ["r2", "r2_observed", "r2_unobserved", "r2_amortised", "nll", "heldout_nll", "heldout_nll_amortised", "bps"]


@contextlib.contextmanager
def sole_user(folder: Path, patience: float = 5.0) -> Iterator[None]:
    """Keep other processes out of a run's or level's folder, which is made if need be.

    Raises:
        InputError: another process holds it, and goes on to for `patience` seconds; what a sweep that was killed leaves
            behind ends sooner.
    """
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=patience):
            yield
    except Timeout:
        raise InputError(f"{folder}: another process is training there; expected a run that was stopped") from None


def train_level(config: Namespace, bandwidth: int, run_dir: Path, reports: Queue) -> dict[str, float]:
    """Train one level, from its last checkpoint if it has one, and return how its best checkpoint scores.

    Args:
        config: What TrainCLI parsed.
        bandwidth: Number of neurons observed at each time step.
        run_dir: Folder of the run; the level has its own folder in it.
        reports: Where to report progress.

    Raises:
        FailedWork: the loss became infinite or NaN, or the training ended before its first validation.
    """
    torch.set_num_threads(1)  # two levels at a time with one thread each beat one level with two
    silence_lightning()
    level_dir = run_dir / f"bandwidth_{bandwidth:02}"
    with sole_user(level_dir):
        for half_written in level_dir.glob(".*.ckpt"):  # by a process that was killed
            half_written.unlink()
        cli = TrainCLI(config)
        cli.instantiate_level(bandwidth, level_dir, reports)
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.last_checkpoint, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None

        if not (level_dir / "best.ckpt").exists():
            raise FailedWork(
                f"the training ended after {cli.trainer.current_epoch} epochs, before its first validation; "
                "expected a lower --trainer.check_val_every_n_epoch, or a longer training"
            )
        best = SequentialAutoencoder.load_from_checkpoint(level_dir / "best.ckpt", weights_only=True)
        scores = validate(best, cli.datamodule, config.trainer.accelerator)
        if isinstance(cli.trainer.logger, TensorBoardLogger):
            log_result(level_dir, cli.config, scores)
    return {
        "bandwidth": bandwidth,
        "fraction_dropped": 1 - bandwidth / cli.datamodule.n_neurons,
        **{name: scores.get(name, float("nan")) for name in SCORES},
        "epochs": cli.trainer.current_epoch,
        "seconds": cli.timer.time_elapsed("train"),
    }


def attempt_level(*args) -> dict[str, float] | FailedWork:
    """Do as `train_level` does, but return what made a training fail instead of raising it: others can go on."""
    try:
        return train_level(*args)
    except FailedWork as error:
        return error


def serve_sweep() -> None:
    """Make this process a helper of the sweep: Ctrl-C is answered by the sweep's own process, and it ends with that."""
    sweep = os.getppid()

    def end_with_sweep() -> None:
        while os.getppid() == sweep:
            time.sleep(0.2)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_sweep, daemon=True).start()


def train_sweep(config: Namespace, levels: list[int], run_dir: Path) -> list[dict[str, float] | FailedWork]:
    """Train several levels, `config.jobs` at a time in processes of one thread, and return their scores.

    A single level is trained in this process.
    """
    if len(levels) == 1:
        reports = SimpleQueue()
        with shown(reports, levels, config.quiet):
            return [attempt_level(config, levels[0], run_dir, reports)]
    manager = SyncManager()
    manager.start(initializer=serve_sweep)
    with manager:
        reports = manager.Queue()
        workers = joblib.Parallel(n_jobs=config.jobs, initializer=serve_sweep)
        with shown(reports, levels, config.quiet):
            return workers(joblib.delayed(attempt_level)(config, bandwidth, run_dir, reports) for bandwidth in levels)
