"""Measure our recipe beside the published one and beside bare GRUs, on this machine, in one run.

python -m experiments.benchmark --quick      epoch times at one bandwidth, in half a minute python
-m experiments.benchmark              all eight, in 20 to 50 minutes; writes docs/benchmark.csv

Both recipes are trained at each bandwidth until they reach the published R², validated every 10
epochs; ours with three seeds and without refinement. Our recipe is also trained to its end, which
gives the time of a sweep.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from command_line import (
    FailedWork,
    command_parser,
    markdown_table,
    run,
    silence_lightning,
    writable_folder,
    write_table,
)
from data import SpikeDataModule
from evaluation.checkpoints import LOGS, bandwidth_folder
from evaluation.reference import read_published
from recordings.patterns import sample_random
from training.options import n_cores

CONFIGS_OF = {"published": "published", "ours": "default"}
OFTEN = ["--trainer.check_val_every_n_epoch", "10"]  # notice soon when a target is reached
SEEDS = (0, 1, 2)


class BareGRUs(pl.Callback):
    """Time two bare nn.GRUs during a training, so that both have the same machine at the same
    moment.

    Every twentieth epoch, from the second on, they do forward and backward passes over the training
    trials, in the shapes of the autoencoder, without loss, readout, optimiser and loading of data.
    The seconds are logged.
    """

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        n_neurons, hidden_size = model.hparams.n_neurons, model.hparams.hidden_size
        with torch.random.fork_rng():  # the training draws the same numbers as without
            self.encoder = nn.GRU(
                n_neurons, hidden_size, batch_first=True, bidirectional=True, device=model.device
            )
            self.decoder = nn.GRU(1, hidden_size, batch_first=True, device=model.device)
        spikes = trainer.datamodule.datasets["train"][:].spikes.nan_to_num(nan=0.0)
        self.batches = spikes.split(trainer.train_dataloader.batch_size)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.current_epoch % 20 != 1:
            return
        start = time.perf_counter()
        for batch in self.batches:
            initial_condition = self.encoder(batch)[1].sum(
                0, keepdim=True
            )  # both directions have a gradient
            self.decoder(batch.new_zeros(*batch.shape[:2], 1), initial_condition)[
                0
            ].sum().backward()
        trainer.logger.log_metrics(
            {"bare_gru_s": time.perf_counter() - start}, trainer.current_epoch + 1
        )


def mask_seconds() -> float:
    """Return the seconds to draw the masks of the whole data set at 5 observed neurons, the best of
    ten."""
    trials = SpikeDataModule().trials.values()
    times = []
    for seed in range(10):
        start = time.perf_counter()
        for split in trials:
            sample_random(~np.isnan(split.spikes), 5, np.random.default_rng(seed))
        times.append(time.perf_counter() - start)
    return min(times)


def run_training(recipe: str, name: str, bandwidths: list[int], flags: list[str]) -> float:
    """Train with the command that users type; return the memory (MB) of its largest process."""
    words = ["train.py", "--config", f"configs/{CONFIGS_OF[recipe]}.yaml", "--name", name]
    words += ["--bandwidths", *map(str, bandwidths), *flags]
    words += ["--trainer.callbacks+=experiments.benchmark.BareGRUs"]
    process = subprocess.Popen([sys.executable, *words])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise FailedWork(f"the training of {name} failed")
    return usage.ru_maxrss / 1024


def run_recipe(
    recipe: str, name: str, targets: dict[int, float], n_jobs: int, flags: list[str]
) -> list[dict]:
    """Train a recipe to its end, all bandwidths in one run. Return a row of measurements for each
    bandwidth."""
    start = time.perf_counter()
    peak_mb = run_training(recipe, name, list(targets), flags)
    runs = dict.fromkeys(targets, name)
    return read_run(recipe, "end", runs, targets, n_jobs, time.perf_counter() - start, peak_mb)


def run_to_targets(
    recipe: str, name: str, targets: dict[int, float], n_jobs: int, flags: list[str]
) -> list[dict]:
    """Train a recipe at each bandwidth until it reaches its target R², or to its end. Return a row
    for each bandwidth."""
    start = time.perf_counter()
    runs = {bandwidth: f"{name}-{bandwidth:02}" for bandwidth in targets}
    with ThreadPoolExecutor(n_jobs) as pool:  # each thread waits for a command
        trainings = [
            pool.submit(
                run_training, recipe, runs[bandwidth], [bandwidth], [*flags, *stop_at(target)]
            )
            for bandwidth, target in targets.items()
        ]
    peaks_mb = [training.result() for training in trainings]
    return read_run(
        recipe, "target", runs, targets, n_jobs, time.perf_counter() - start, max(peaks_mb)
    )


def read_run(
    recipe: str,
    until: str,
    runs: dict[int, str],
    targets: dict[int, float],
    n_jobs: int,
    wall_s: float,
    peak_mb: float,
) -> list[dict]:
    """Read what the runs of a recipe wrote, and print how they used the machine."""
    rows = [
        {
            "recipe": recipe,
            "until": until,
            "run": runs[bandwidth],
            "bandwidth": bandwidth,
            "published_r2": target,
        }
        for bandwidth, target in targets.items()
    ]
    for row in rows:
        bandwidth = row["bandwidth"]
        row |= read_training(
            LOGS / runs[bandwidth] / bandwidth_folder(bandwidth), targets[bandwidth]
        )
    wall_s -= sum(row.pop("paused_s") for row in rows) / n_jobs  # the time of the bare GRUs
    busy = sum(row["train_s"] for row in rows) / (n_jobs * wall_s)
    print(
        f"\n{recipe}, to the {until}: {wall_s:.0f} s for {len(runs)} bandwidths, {n_jobs} at a time ({busy:.0%} of it training)"
    )
    print(f"  largest process {peak_mb:.0f} MB")
    return [row | {"wall_s": wall_s, "cores_busy": busy, "peak_mb": peak_mb} for row in rows]


def stop_at(r2: float) -> list[str]:
    """Return the flags that end a training when it has reached an R²."""
    options = {"monitor": "valid/r2", "mode": "max", "stopping_threshold": r2, "patience": 10**6}
    stop = [f"--trainer.callbacks.{name}={value}" for name, value in options.items()]
    return ["--trainer.callbacks=EarlyStopping", *stop, "--quiet"]


def seconds_to_reach(target: float, seconds: np.ndarray, r2: np.ndarray) -> float:
    """Return when R² first reached the target, interpolated linearly between validations; infinity
    if never."""
    above = np.flatnonzero(r2 >= target)
    if len(above) == 0:
        return np.inf
    around = slice(max(above[0] - 1, 0), above[0] + 1)
    return float(np.interp(target, r2[around], seconds[around]))


def read_training(folder: Path, target_r2: float) -> dict[str, float]:
    """Read times from the history of a training, without the time of the bare GRUs.

    Returns:
        `epoch_s`, `train_s`, `to_published_s`: seconds of an epoch (with its share of the
            refinement, if there is one), of the
        training, and until the target R². `bare_s`, `paused_s`: seconds of an epoch of the bare
            GRUs (mean), and of all of
        these. `best_r2`: the best R².
    """
    events = EventAccumulator(str(folder)).Reload()
    bare = events.Scalars("bare_gru_s")

    def seconds_of(name: str) -> np.ndarray:
        times = [event.wall_time for event in events.Scalars(name)]
        paused = [sum(pause.value for pause in bare if pause.wall_time <= now) for now in times]
        return np.array(times) - events.FirstEventTimestamp() - paused

    epochs, r2 = (
        seconds_of("train/learning_rate"),
        np.array([event.value for event in events.Scalars("valid/r2")]),
    )
    return {
        "epoch_s": (epochs[-1] - epochs[0]) / (len(epochs) - 1),
        "bare_s": float(np.mean([pause.value for pause in bare])),
        "train_s": epochs[-1],
        "paused_s": sum(pause.value for pause in bare),
        "to_published_s": seconds_to_reach(target_r2, seconds_of("valid/r2"), r2),
        "best_r2": r2.max(),
    }


def compare(rows: list[dict]) -> dict[str, list[str]]:
    """Return the columns of a table: for each bandwidth both recipes' epochs, and their times to
    the published R².

    The ratio is of times in epochs of the bare GRUs, which are timed in the middle of each training
    and have its batches. So it leaves out what the machine became faster between two trainings, and
    what larger batches save. Ours is the mean over seeds.
    """
    epoch, seconds = "epoch / bare GRUs", "s to the published R²"
    titles = [
        "observed",
        f"{epoch}, public demo's recipe",
        f"{epoch}, this repo",
        f"{seconds}, public demo's recipe",
        f"{seconds}, this repo, each seed",
        "ratio, in epochs of the bare GRUs",
    ]
    table = {title: [] for title in titles}
    for bandwidth in dict.fromkeys(row["bandwidth"] for row in rows):
        same = [row for row in rows if row["bandwidth"] == bandwidth]
        (their,) = (row for row in same if row["recipe"] == "published")
        ours = [row for row in same if row["recipe"] == "ours"]
        ours = [row for row in ours if row["until"] == "target"] or ours
        # if the published recipe does not reach its own R² on our data, its whole training is a
        # lower bound
        at_least = "" if np.isfinite(their["to_published_s"]) else "> "
        their_s = their["train_s"] if at_least else their["to_published_s"]
        # infinite if a seed never reaches it
        our_epochs = np.mean([row["to_published_s"] / row["bare_s"] for row in ours])
        cells = (
            f"{bandwidth}",
            f"{their['epoch_s'] / their['bare_s']:.2f}",
            f"{np.mean([row['epoch_s'] / row['bare_s'] for row in ours]):.2f}",
            f"{at_least}{their_s:.0f}",
            ", ".join(f"{row['to_published_s']:.0f}".replace("inf", "never") for row in ours),
            f"{at_least}{their_s / their['bare_s'] / our_epochs:.1f}"
            if np.isfinite(our_epochs)
            else "–",
        )
        for column, cell in zip(table.values(), cells, strict=True):
            column.append(cell)
    return table


def main() -> None:
    silence_lightning()
    parser = command_parser(__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="One bandwidth, a few epochs, nothing written"
    )
    parser.add_argument("--out", type=str, default="docs", help="Folder for benchmark.csv")
    options = parser.parse_args()
    out = writable_folder(options.out, "--out")
    published = read_published()
    targets = {n: published[n]["valid_r2"] for n in ([5] if options.quick else published)}
    flags = ["--trainer.max_epochs", "3"] if options.quick else []
    ours = [*flags, "--model.refinement", "0"] if options.quick else []

    n_jobs, name = min(n_cores(), len(targets)), f"benchmark-{time.strftime('%Y%m%d-%H%M%S')}"
    rows = run_to_targets("published", f"{name}-published", targets, n_jobs, flags + OFTEN)
    rows += run_recipe("ours", f"{name}-ours", targets, n_jobs, ours)
    for seed in [] if options.quick else SEEDS:
        seeded = [*OFTEN, "--model.refinement", "0", "--seed_everything", str(seed)]
        rows += run_to_targets("ours", f"{name}-ours-{seed}", targets, n_jobs, seeded)
    print(f"\n{markdown_table(compare(rows))}", end="")
    print(f"\nThe masks of the whole data set take {1000 * mask_seconds():.0f} ms")
    if not options.quick:
        write_table(out / "benchmark.csv", rows)


if __name__ == "__main__":
    run(main)
