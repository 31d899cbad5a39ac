"""What the terminal shows of a training: progress, and the table of results."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Report(NamedTuple):
    """Progress of a training."""

    training: str  # its name
    epoch: int  # epochs trained
    n_epochs: int | None  # epochs in all; None: without end
    score: str  # at the last validation
    is_validated: bool  # after this epoch
    heldout_nll: float = math.nan  # at the last validation, of the encoder alone
    is_last: bool = False  # the training has ended


Send = Callable[[Report], None]


def name_of(bandwidth: int, seed: int | None) -> str:
    """Return what the terminal calls a training. The seed is said if there are several."""
    return f"bandwidth {bandwidth:2}" if seed is None else f"bandwidth {bandwidth:2} seed {seed}"


def ignore(_: object) -> None:
    """Show nothing."""


def total_epochs(trainer: pl.Trainer) -> int | None:
    """Return the number of epochs of a training; None if it is not limited by epochs."""
    return trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None


class ReportProgress(Callback):
    """Report the progress at the start of a training and after each epoch."""

    def __init__(self, training: str, report: Send) -> None:
        self.training, self.report, self.score, self.is_validated = training, report, "", False
        self.heldout_nll = math.nan

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.send(trainer, trainer.current_epoch)

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        scores = trainer.callback_metrics
        name = "r2" if "valid/r2" in scores else "bps"  # without true rates there is no R²
        value = float(scores.get(f"valid/{name}", math.nan))
        self.score, self.is_validated = (
            f"{'R²' if name == 'r2' else 'bits/spike'} {value:6.3f}",
            True,
        )
        self.heldout_nll = float(scores.get("valid/heldout_nll_amortised", math.nan))

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.send(trainer, trainer.current_epoch + 1)

    def on_fit_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.send(
            trainer, trainer.current_epoch, trainer.current_epoch
        )  # also of a training that was stopped early

    def send(self, trainer: pl.Trainer, epoch: int, n_epochs: int | None = None) -> None:
        if trainer.is_global_zero:
            n_epochs = n_epochs or total_epochs(trainer)
            scores = self.score, self.is_validated, self.heldout_nll
            self.report(Report(self.training, epoch, n_epochs, *scores, trainer.should_stop))
        self.is_validated = False


@contextlib.contextmanager
def progress_display(trainings: list[str], quiet: bool) -> Iterator[Send]:
    """Yield a function that shows reports: as live bars in a terminal, as lines elsewhere, or not
    at all."""
    if quiet:
        yield ignore
    elif sys.stdout.isatty():
        columns = [
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[score]:16}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        ]  # fmt: skip
        with Progress(*columns) as progress:
            yield Bars(progress, trainings).show
    else:
        yield Lines(len(trainings)).show


class Bars:
    """A bar for each training with its epochs, score and time left, and one for all."""

    def __init__(self, progress: Progress, trainings: list[str]) -> None:
        self.progress = progress
        self.tasks = {
            name: progress.add_task(name, start=False, total=None, score="") for name in trainings
        }
        self.sweep = (
            progress.add_task("sweep", start=False, total=None, score="epochs")
            if len(trainings) > 1
            else None
        )

    def show(self, report: Report) -> None:
        task = self.tasks[report.training]
        if not self.progress.tasks[task].started:  # epochs before a resume have taken no time now
            self.progress.reset(task, completed=report.epoch, total=report.n_epochs)
        self.progress.update(
            task, completed=report.epoch, total=report.n_epochs, score=report.score
        )
        if self.sweep is not None and report.n_epochs is not None:
            tasks = [self.progress.tasks[task] for task in self.tasks.values()]
            done, total = (
                sum(task.completed for task in tasks),
                sum(task.total or report.n_epochs for task in tasks),
            )
            if not self.progress.tasks[self.sweep].started:
                self.progress.reset(self.sweep, completed=done, total=total)
            self.progress.update(self.sweep, completed=done, total=total)


class Lines:
    """A line for each tenth of a training, with the time left for all. Without end: one for each
    validation."""

    def __init__(self, n_trainings: int) -> None:
        self.n_trainings, self.start = n_trainings, time.perf_counter()
        self.started_at, self.done = {}, {}  # fractions of each training

    def show(self, report: Report) -> None:
        if report.n_epochs is None:
            if report.is_validated:
                print(f"{report.training}  epoch {report.epoch:4}  {report.score:9}", flush=True)
            return
        done = report.epoch / report.n_epochs
        self.started_at.setdefault(report.training, done)
        before = self.done.get(report.training, done)
        self.done[report.training] = done
        if int(10 * done) > int(10 * before):
            epoch = f"epoch {report.epoch:4}/{report.n_epochs}"
            left = clock(self.seconds_left())
            print(f"{report.training}  {epoch}  {report.score:9}  {left} left", flush=True)

    def seconds_left(self) -> float:
        """Return the time that is left for all trainings, at the speed since the start. Epochs
        before a resume do not count."""
        trained = sum(self.done.values()) - sum(self.started_at.values())
        left = self.n_trainings - sum(self.done.values())
        return (time.perf_counter() - self.start) * left / trained


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


def print_table(results: list[dict[str, float | str]]) -> None:
    """Print one line for each bandwidth. Print '-' for a missing score."""

    def score(value: float, width: int, digits: int = 3) -> str:
        return f"{'-' if math.isnan(value) else f'{value:.{digits}f}':>{width}}"

    n_seeds = len({row["seed"] for row in results if "seed" in row})
    seed_title = "  seed" if n_seeds > 1 else ""
    print(
        f"\nbandwidth{seed_title}  dropped      R²  R² unobserved  R² encoder alone     NLL  bits/spike    prior  factors  epochs"
        "       time"
    )
    for row in results:
        seed = f"  {row['seed']:4}" if n_seeds > 1 else ""
        print(
            f"{row['bandwidth']:9}{seed}  {row['fraction_dropped']:6.0%}  {score(row['r2'], 6)}"
            f"  {score(row['r2_unobserved'], 13)}  {score(row['r2_amortised'], 16)}  {score(row['nll'], 6, 4)}"
            f"  {score(row['bps'], 10, 4)}  {row['prior']:>7}  {row['factors']:7}  {row['epochs']:6}  {clock(row['seconds']):>9}"
        )
