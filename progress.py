"""What the terminal shows of a training: a bar for one level, plain lines for several, and the table at the end."""

import logging
import math
import time
import warnings
from queue import Queue

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, RichProgressBar


def silence_lightning() -> None:
    """Hush what Lightning says of every trainer; errors and our own lines stay."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)


class LevelProgressBar(RichProgressBar):
    """Lightning's progress bar, without the number of a version that our folders do not have."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


class ReportProgress(Callback):
    """Tell the process that runs the sweep of each validation."""

    def __init__(self, reports: Queue, bandwidth: int) -> None:
        self.reports, self.bandwidth = reports, bandwidth

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scores = trainer.callback_metrics
        name = "r2" if "valid/r2" in scores else "bps"  # without truth there is no R²
        score = f"{'R²' if name == 'r2' else 'bits/spike'} {float(scores.get(f'valid/{name}', math.nan)):6.3f}"
        self.reports.put((self.bandwidth, trainer.current_epoch + 1, trainer.max_epochs, score))


def print_reports(reports: Queue, n_levels: int) -> None:
    """Print a line for each tenth of a level, with the time left for all levels, until None comes."""
    start, done = time.perf_counter(), {}
    while (report := reports.get()) is not None:
        bandwidth, epoch, max_epochs, score = report
        tenths_before = int(10 * done.get(bandwidth, 0))
        done[bandwidth] = epoch / max_epochs
        if int(10 * done[bandwidth]) > tenths_before:
            left = (time.perf_counter() - start) * (n_levels / sum(done.values()) - 1)
            print(
                f"bandwidth {bandwidth:2}  epoch {epoch:4}/{max_epochs}  {score}  sweep: {clock(left)} left",
                flush=True,
            )


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
