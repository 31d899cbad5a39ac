"""What the terminal shows of a training: a line for each level, and the table at the end."""

import contextlib
import logging
import math
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from queue import Queue
from typing import NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def silence_lightning() -> None:
    """Hush what Lightning says of every trainer; errors and our own lines stay."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)


class Report(NamedTuple):
    """How far the training of a level has come."""

    bandwidth: int
    epoch: int  # epochs trained
    n_epochs: int  # to train in all; -1: without end
    score: str  # at the last validation


class ReportProgress(Callback):
    """Tell whoever shows the progress of each epoch."""

    def __init__(self, reports: Queue, bandwidth: int) -> None:
        self.reports, self.bandwidth, self.score = reports, bandwidth, ""

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        scores = trainer.callback_metrics
        name = "r2" if "valid/r2" in scores else "bps"  # without truth there is no R²
        value = float(scores.get(f"valid/{name}", math.nan))
        self.score = f"{'R²' if name == 'r2' else 'bits/spike'} {value:6.3f}"

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        n_epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
        self.reports.put(Report(self.bandwidth, trainer.current_epoch + 1, n_epochs, self.score))

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.reports.put(Report(self.bandwidth, trainer.current_epoch, trainer.current_epoch, self.score))


@contextlib.contextmanager
def shown(reports: Queue, levels: list[int], quiet: bool) -> Iterator[None]:
    """Show the reports that come in while the block runs: live bars in a terminal, plain lines elsewhere, or nothing."""
    show = drop_reports if quiet else show_bars if sys.stdout.isatty() else print_lines
    thread = threading.Thread(target=show, args=(reports, levels), daemon=True)
    thread.start()
    try:
        yield
    finally:
        reports.put(None)
        thread.join()


def drop_reports(reports: Queue, levels: list[int]) -> None:
    """Show nothing, until None comes."""
    while reports.get() is not None:
        pass


def show_bars(reports: Queue, levels: list[int]) -> None:
    """Show a line for each level with its epochs, score and time left, and one for all, until None comes."""
    columns = [
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[score]:16}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    ]  # fmt: skip
    with Progress(*columns) as progress:
        lines = {
            level: progress.add_task(f"bandwidth {level:2}", start=False, total=None, score="") for level in levels
        }
        whole = progress.add_task("sweep", total=None, score="epochs") if len(levels) > 1 else None
        done = dict.fromkeys(levels, (0, 0))
        while (report := reports.get()) is not None:
            line = lines[report.bandwidth]
            progress.start_task(line)
            total = report.n_epochs if report.n_epochs > 0 else None
            progress.update(line, completed=report.epoch, total=total, score=report.score)
            done[report.bandwidth] = report.epoch, report.n_epochs
            if whole is not None and total is not None:
                progress.update(
                    whole,
                    completed=sum(epoch for epoch, _ in done.values()),
                    total=sum(n_epochs or total for _, n_epochs in done.values()),
                )


def print_lines(reports: Queue, levels: list[int]) -> None:
    """Print a line for each tenth of a level, with the time left for all levels, until None comes."""
    start, done = time.perf_counter(), {}
    while (report := reports.get()) is not None:
        tenths_before = int(10 * done.get(report.bandwidth, 0))
        done[report.bandwidth] = report.epoch / report.n_epochs
        if int(10 * done[report.bandwidth]) > tenths_before:
            left = (time.perf_counter() - start) * (len(levels) / sum(done.values()) - 1)
            epoch = f"epoch {report.epoch:4}/{report.n_epochs}"
            print(f"bandwidth {report.bandwidth:2}  {epoch}  {report.score:9}  {clock(left)} left", flush=True)


def clock(seconds: float) -> str:
    """Write a duration as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


def print_table(results: list[dict[str, float]]) -> None:
    """Print one line for each level; a score that there is none of, like R² at unobserved entries of none, is a dash."""

    def score(value: float, width: int, digits: int = 3) -> str:
        return f"{'-' if math.isnan(value) else f'{value:.{digits}f}':>{width}}"

    print("\nbandwidth  dropped      R²  R² unobserved  R² encoder alone     NLL  bits/spike  epochs       time")
    for level in results:
        print(
            f"{level['bandwidth']:9}  {level['fraction_dropped']:6.0%}  {score(level['r2'], 6)}"
            f"  {score(level['r2_unobserved'], 13)}  {score(level['r2_amortised'], 16)}  {score(level['nll'], 6, 4)}"
            f"  {score(level['bps'], 10, 4)}  {level['epochs']:6}  {clock(level['seconds']):>9}"
        )
