"""The progress of runs: each writes it to a file in its folder, and one display reads the files.

So it is the same in this process, in others and on other machines, and a sweep that is resumed
shows at once where it stands.
"""

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.progress import BarColumn, Progress, TextColumn

from command_line import atomic_write
from refinement.choices import LONG, SHORT

FILE = "progress.json"
PERIOD = 0.3  # s between two looks at the files
TIME_OF_AN_EPOCH = 0.4  # of a fit, in epochs of training: the encoder is left out


@dataclass
class Status:
    """Where a run stands."""

    stage: str  # epoch or refinement
    done: int  # epochs of this stage
    total: int | None  # None: without end
    fraction: float | None  # of the whole run; None: without end
    score: str = ""  # at the last validation
    n_validations: int = 0
    seconds: float = 0.0  # that the run has taken
    seconds_left: float | None = None
    time: float = 0.0  # of writing (s since 1970)
    notes: list[str] = field(default_factory=list)  # to read at the end of the sweep

    def __str__(self) -> str:
        of = "" if self.total is None else f"/{self.total}"
        return f"{self.stage:>10} {self.done:4}{of:5}"


def read_status(folder: Path) -> Status | None:
    """Return where the run in a folder stands; None if it has not begun."""
    try:
        return Status(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


def total_epochs(trainer: pl.Trainer) -> int | None:
    """Return the number of epochs of training; None if it is not limited by epochs."""
    return trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None


class WriteProgress(Callback):
    """Write the progress of a run after each epoch of its training and of its refinement.

    Args:
        folder: Folder of the run.
        n_refinement: Epochs of the longest fit of its refinement.
    """

    def __init__(self, folder: Path, n_refinement: int) -> None:
        self.folder, self.start, self.began_at = folder, time.monotonic(), None
        self.status = read_status(folder) or Status("epoch", 0, None, None)  # if it is resumed
        self.score, self.n_validations, self.seconds = self.status.score, 0, self.status.seconds
        self.is_refined = False
        n_fits = sum(SHORT.values()) + 2 * LONG["shared"]
        self.of_refinement = TIME_OF_AN_EPOCH * n_fits * n_refinement  # in epochs of the training

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.start = time.monotonic()
        self.write("epoch", trainer.current_epoch, total_epochs(trainer))

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        scores = trainer.callback_metrics
        name = "R²" if "valid/r2" in scores else "bits/spike"  # without true rates there is no R²
        value = float(scores.get("valid/r2", scores.get("valid/bps", math.nan)))
        self.score, self.n_validations = f"{name} {value:6.3f}", self.n_validations + 1

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if not self.is_refined:
            self.write("epoch", trainer.current_epoch + 1, total_epochs(trainer))

    def on_fit_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.write("epoch", trainer.current_epoch, trainer.current_epoch, is_last=True)

    def refined(self, n_trained: int, done: int, total: int) -> None:
        """Write the progress of the refinement, after `n_trained` epochs of training."""
        self.is_refined = True
        self.write("refinement", done, total, n_trained)

    def write(
        self, stage: str, done: int, total: int | None, n_trained: int = 0, is_last: bool = False
    ) -> None:
        """Write where the run stands."""
        fraction = left = None
        if is_last:
            fraction = 1.0
        elif total is not None and stage == "epoch":
            fraction = done / (total + self.of_refinement)
        elif stage == "refinement":
            refined = self.of_refinement * done / total
            fraction = (n_trained + refined) / (n_trained + self.of_refinement)
            # a long fit may be added; the last validation is left
            fraction = min(max(fraction, self.status.fraction or 0.0), 0.99)
        self.began_at = fraction if self.began_at is None else self.began_at
        seconds = time.monotonic() - self.start
        if fraction is not None and fraction > self.began_at:  # epochs before a resume took no time
            left = seconds * (1 - fraction) / (fraction - self.began_at)
        self.status = Status(
            stage, done, total, fraction, score=self.score, n_validations=self.n_validations,
            seconds=self.seconds + seconds, seconds_left=left, time=time.time(),
            notes=self.status.notes,
        )  # fmt: skip
        self.save()

    def note(self, text: str) -> None:
        """Leave a line to be read at the end of the sweep."""
        if text not in self.status.notes:  # of the same run before it was stopped
            self.status.notes.append(text)
            self.save()

    def save(self) -> None:
        """Write the status to its file."""
        with atomic_write(self.folder / FILE) as path:
            path.write_text(json.dumps(asdict(self.status)), encoding="utf-8")


@contextlib.contextmanager
def show_progress(folders: dict[str, Path], quiet: bool) -> Iterator[None]:
    """Show the progress of runs until the block ends: as bars in a terminal, else as lines.

    Args:
        folders: Folder of each run, by the name that it is shown with.
        quiet: Show nothing.
    """
    if quiet:
        yield
        return
    display = (Bars if sys.stdout.isatty() else Lines)(folders)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(PERIOD):
            display.update()

    display.update()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        display.update()
        display.close()


class Lines:
    """A line for each tenth of a run, with the time left for all. Without end, each validation."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders, self.start, self.shown = folders, time.time(), {}
        self.done_before = self.fraction_done(self.read())

    def read(self) -> dict[str, Status]:
        """Return the status of the runs that have begun."""
        statuses = {name: read_status(folder) for name, folder in self.folders.items()}
        return {name: status for name, status in statuses.items() if status is not None}

    def fraction_done(self, statuses: dict[str, Status]) -> float:
        """Return the fraction of the sweep that is done."""
        return sum(status.fraction or 0 for status in statuses.values()) / len(self.folders)

    def time_left(self, done: float) -> str:
        """Return how long the sweep still takes, at the speed since it was started or resumed."""
        if done <= self.done_before:
            return ""
        seconds = (time.time() - self.start) * (1 - done) / (done - self.done_before)
        return f"{clock(seconds)} left"

    def update(self) -> None:
        """Print what is new."""
        statuses = self.read()
        left = self.time_left(self.fraction_done(statuses))
        for name, status in statuses.items():
            endless = status.fraction is None
            mark = status.n_validations if endless else int(10 * status.fraction)
            if mark > self.shown.get(name, 0):
                self.shown[name] = mark
                print(f"{name} {status}  {status.score}  {left}", flush=True)

    def close(self) -> None:
        """End the display with the notes of the runs."""
        for name, status in self.read().items():
            for note in status.notes:
                print(f"{name}: {note}", flush=True)


class Bars(Lines):
    """A bar for each run with its epoch, score and time left, and one for the sweep."""

    def __init__(self, folders: dict[str, Path]) -> None:
        super().__init__(folders)
        fields = [TextColumn(f"{{task.fields[{name}]}}") for name in ("stage", "score", "left")]
        self.bars = Progress(TextColumn("{task.description}"), BarColumn(), *fields)
        self.bars.start()
        empty = {"total": 1.0, "stage": "waiting", "score": "", "left": ""}
        self.tasks = {name: self.bars.add_task(name, **empty) for name in folders}
        self.sweep = self.bars.add_task("sweep", visible=len(folders) > 1, **empty | {"stage": ""})

    def update(self) -> None:
        """Draw the bars anew."""
        statuses = self.read()
        for name, status in statuses.items():
            left = ""
            if status.fraction == 1:
                left = f"took {clock(status.seconds)}"
            elif status.time > self.start and status.seconds_left is not None:
                left = f"{clock(max(status.seconds_left - (time.time() - status.time), 0))} left"
            fields = {"stage": str(status), "score": status.score, "left": left}
            self.bars.update(self.tasks[name], completed=status.fraction or 0.0, **fields)
        done = self.fraction_done(statuses)
        self.bars.update(self.sweep, completed=done, left=self.time_left(done))

    def close(self) -> None:
        self.bars.stop()
        super().close()
