"""Time our recipe next to the published one and next to bare GRUs, on this machine, in one command.

python -m experiments.benchmark --quick      epoch times at one bandwidth, in half a minute
python -m experiments.benchmark              all eight, 20 to 50 minutes; writes docs/benchmark.csv

Both recipes are trained at each bandwidth until they reach the published R², validated every 10
epochs; ours with three seeds and without refinement. Ours is also trained to its end, which gives
the time of a sweep.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from command_line import FailedWork, markdown_table, run, write_table
from evaluation.reference import read_published
from evaluation.run_folders import LOGS, run_folder
from experiments.options import parse_options
from training.pool import n_cores

CONFIGS = {"published": "configs/published.yaml", "ours": "configs/default.yaml"}
UNTIL_TARGET = ["--trainer.check_val_every_n_epoch", "10", "--refinement.epochs", "0"]
UNTIL_TARGET += ["--trainer.callbacks+=experiments.benchmark.StopAtPublished"]


class BareGRUs(pl.Callback):
    """Time two bare nn.GRUs during a run, so that both have the same machine at the same moment.

    Every twentieth epoch, from the second on, they do forward and backward passes over the training
    trials, in the shapes of the autoencoder, without loss, readout, optimiser and loading of data.
    At the end the peak memory of the process is logged, too."""

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        n_neurons, n_hidden = model.hparams.n_neurons, model.hparams.hidden_size
        options = {"batch_first": True, "device": model.device}
        with torch.random.fork_rng():  # the run draws the same numbers as without
            self.encoder = nn.GRU(n_neurons, n_hidden, bidirectional=True, **options)
            self.decoder = nn.GRU(1, n_hidden, **options)
        spikes = trainer.datamodule.datasets["train"][:].spikes.nan_to_num(nan=0.0)
        self.batches = spikes.split(trainer.train_dataloader.batch_size)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.current_epoch % 20 != 1:
            return
        start = time.perf_counter()
        for batch in self.batches:
            initial_condition = self.encoder(batch)[1].sum(0, keepdim=True)  # of both directions
            no_input = batch.new_zeros(*batch.shape[:2], 1)
            self.decoder(no_input, initial_condition)[0].sum().backward()
        seconds = {"bare_gru_s": time.perf_counter() - start}
        trainer.logger.log_metrics(seconds, trainer.current_epoch + 1)

    def teardown(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        trainer.logger.log_metrics({"peak_mb": peak_mb}, trainer.current_epoch)


class StopAtPublished(pl.Callback):
    """End a run once it has reached the R² that was published for its bandwidth."""

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        target = read_published()[trainer.datamodule.n_observed]["valid_r2"]
        if trainer.callback_metrics["valid/r2"] >= target:
            trainer.should_stop = True


def measure(
    recipe: str, until: str, name: str, bandwidths: list[int], flags: list[str]
) -> list[dict]:
    """Train a recipe until its `end`, or until the published R², its `target`; return a row for
    each bandwidth."""
    words = ["train.py", "--config", CONFIGS[recipe], "--name", name, *flags]
    words += ["--trainer.callbacks+=experiments.benchmark.BareGRUs"]
    words += ["--bandwidths", *map(str, bandwidths)]
    start = time.perf_counter()
    if subprocess.run([sys.executable, *words]).returncode:
        raise FailedWork(f"python {' '.join(words)} failed")
    wall_s, n_jobs = time.perf_counter() - start, min(n_cores(), len(bandwidths))
    rows = []
    for bandwidth in bandwidths:
        row = {"recipe": recipe, "until": until, "run": name, "bandwidth": bandwidth}
        row["published_r2"] = target = read_published()[bandwidth]["valid_r2"]
        rows.append(row | read_times(LOGS / name / run_folder(bandwidth), target))
    wall_s -= sum(row.pop("paused_s") for row in rows) / n_jobs  # the time of the bare GRUs
    peak_mb = max(row.pop("peak_mb") for row in rows)
    busy = sum(row["train_s"] for row in rows) / (n_jobs * wall_s)
    print(f"\n{recipe}, to the {until}: {wall_s:.0f} s, {busy:.0%} training; {peak_mb:.0f} MB")
    return [row | {"wall_s": wall_s, "cores_busy": busy, "peak_mb": peak_mb} for row in rows]


def read_times(folder: Path, target_r2: float) -> dict[str, float]:
    """Read scores and times from the history of a run, without the time of the bare GRUs.

    Seconds are those of an epoch (with its share of the refinement, if there is one), of an epoch
    of the bare GRUs (mean), of the run, of all bare GRUs, and until the target R² (interpolated
    between validations; infinity if never)."""
    events = EventAccumulator(str(folder)).Reload()
    bare = events.Scalars("bare_gru_s")

    def seconds_of(name: str) -> np.ndarray:
        times = [event.wall_time for event in events.Scalars(name)]
        paused = [sum(pause.value for pause in bare if pause.wall_time <= now) for now in times]
        return np.array(times) - events.FirstEventTimestamp() - paused

    epochs, validations = seconds_of("train/learning_rate"), seconds_of("valid/r2")
    r2 = np.array([event.value for event in events.Scalars("valid/r2")])
    to_target, above = np.inf, np.flatnonzero(r2 >= target_r2)
    if len(above):
        around = slice(max(above[0] - 1, 0), above[0] + 1)
        to_target = float(np.interp(target_r2, r2[around], validations[around]))
    return {
        "epoch_s": (epochs[-1] - epochs[0]) / (len(epochs) - 1),
        "bare_s": float(np.mean([pause.value for pause in bare])),
        "train_s": epochs[-1],
        "paused_s": sum(pause.value for pause in bare),
        "to_published_s": to_target,
        "best_r2": r2.max(),
        "peak_mb": events.Scalars("peak_mb")[-1].value,
    }


def compare(their: dict, ours: list[dict]) -> dict[str, str]:
    """Return a row of the table: a run of the published recipe, and our runs with several seeds.

    The ratio is of times in epochs of the bare GRUs, which are timed in the middle of each run and
    have its batches. So it leaves out what the machine became faster between two runs, and what
    larger batches save. Ours is the mean over seeds. Where the R² is never reached, seconds are
    infinite."""
    epoch, seconds = "epoch / bare GRUs", "s to the published R²"
    our_epochs = float(np.mean([row["to_published_s"] / row["bare_s"] for row in ours]))
    ratio = their["to_published_s"] / their["bare_s"] / our_epochs
    our_ratio = np.mean([row["epoch_s"] / row["bare_s"] for row in ours])
    return {
        "observed": f"{their['bandwidth']}",
        f"{epoch}, public demo's recipe": f"{their['epoch_s'] / their['bare_s']:.2f}",
        f"{epoch}, this repo": f"{our_ratio:.2f}",
        f"{seconds}, public demo's recipe": f"{their['to_published_s']:.0f}",
        f"{seconds}, this repo, each seed": ", ".join(f"{r['to_published_s']:.0f}" for r in ours),
        "ratio, in epochs of the bare GRUs": f"{ratio:.1f}",
    }


def main() -> None:
    options = parse_options(__doc__, quick=False, out="docs")
    name = f"benchmark-{time.strftime('%Y%m%d-%H%M%S')}"
    bandwidths, seeds, flags = list(read_published()), (0, 1, 2), UNTIL_TARGET
    if options.quick:
        bandwidths, seeds, flags = [5], (0,), [*UNTIL_TARGET, "--trainer.max_epochs", "3"]
    theirs = measure("published", "target", f"{name}-published", bandwidths, flags)
    to_the_end = [] if options.quick else measure("ours", "end", f"{name}-ours", bandwidths, [])
    ours = []
    for seed in seeds:
        seeded = [*flags, "--seed_everything", str(seed)]
        ours += measure("ours", "target", f"{name}-ours-{seed}", bandwidths, seeded)
    lines = [
        compare(row, [r for r in ours if r["bandwidth"] == row["bandwidth"]]) for row in theirs
    ]
    columns = {title: [line[title] for line in lines] for title in lines[0]}
    print(f"\n{markdown_table(columns)}", end="")
    if not options.quick:
        write_table(options.out / "benchmark.csv", theirs + to_the_end + ours)


if __name__ == "__main__":
    run(main)
