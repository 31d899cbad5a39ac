"""Time our recipe next to the published one and next to bare GRUs, on this machine, in one command.

python -m experiments.benchmark --quick      epoch times at one bandwidth, in half a minute
python -m experiments.benchmark              all eight, 20 to 50 minutes; writes docs/benchmark.csv

Both recipes are trained at each bandwidth until they reach the published R², validated every 10
epochs; ours with three seeds and without refinement. Ours is also trained to its end, which gives
the time of a sweep.
"""

import resource
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from command_line import markdown_table, run, write_table
from evaluation.reference import read_published
from evaluation.run_folders import LOGS, run_folder
from experiments.commands import parse_options, run_command
from training.pool import n_cores

CONFIGS = {"published": "configs/published.yaml", "ours": "configs/default.yaml"}
UNTIL_TARGET = ["--trainer.check_val_every_n_epoch", "10", "--refinement.epochs", "0"]
UNTIL_TARGET += ["--trainer.callbacks+=experiments.benchmark.StopAtPublished"]
TARGETS = {bandwidth: row["valid_r2"] for bandwidth, row in read_published().items()}
N_BARE = 3  # epochs of the bare GRUs


class BareGRUs(pl.Callback):
    """Time two bare nn.GRUs before a run, in its process and with its batches.

    They do forward and backward passes over the training trials, in the shapes of the autoencoder,
    without loss, readout, optimiser and loading of data. The seconds of an epoch are logged as the
    run begins, the peak memory of the process at its end."""

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        n_neurons, n_hidden = model.hparams.n_neurons, model.hparams.hidden_size
        options = {"batch_first": True, "device": model.device}
        with torch.random.fork_rng():  # the run draws the same numbers as without
            encoder = nn.GRU(n_neurons, n_hidden, bidirectional=True, **options)
            decoder = nn.GRU(1, n_hidden, **options)
        spikes = trainer.datamodule.datasets["train"][:].spikes.nan_to_num(nan=0.0)
        start = time.perf_counter()
        for batch in spikes.split(trainer.train_dataloader.batch_size) * N_BARE:
            initial_condition = encoder(batch)[1].sum(0, keepdim=True)  # of both directions
            no_input = batch.new_zeros(*batch.shape[:2], 1)
            decoder(no_input, initial_condition)[0].sum().backward()
        seconds = (time.perf_counter() - start) / N_BARE
        trainer.logger.log_metrics({"bare_gru_s": seconds}, 0)

    def teardown(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        trainer.logger.log_metrics({"peak_mb": peak_mb}, trainer.current_epoch)


class StopAtPublished(pl.Callback):
    """End a run once it has reached the R² that was published for its bandwidth."""

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.callback_metrics["valid/r2"] >= TARGETS[trainer.datamodule.n_observed]:
            trainer.should_stop = True


def measure(
    recipe: str, until: str, name: str, bandwidths: list[int], flags: list[str]
) -> list[dict]:
    """Train a recipe until its `end`, or until the published R², its `target`; return a row for
    each bandwidth."""
    start = time.perf_counter()
    words = ["--config", CONFIGS[recipe], "--name", name, *flags]
    words += ["--trainer.callbacks+=experiments.benchmark.BareGRUs"]
    run_command("train.py", *words, "--bandwidths", *map(str, bandwidths))
    wall_s, n_jobs = time.perf_counter() - start, min(n_cores(), len(bandwidths))
    row = {"recipe": recipe, "until": until, "run": name}
    rows = [row | read_times(LOGS / name / run_folder(n), n) for n in bandwidths]
    wall_s -= N_BARE * sum(row["bare_s"] for row in rows) / n_jobs
    peak_mb = max(row.pop("peak_mb") for row in rows)
    busy = sum(row["train_s"] for row in rows) / (n_jobs * wall_s)
    print(f"\n{recipe}, to the {until}: {wall_s:.0f} s, {busy:.0%} training; {peak_mb:.0f} MB")
    return [row | {"wall_s": wall_s, "cores_busy": busy, "peak_mb": peak_mb} for row in rows]


def read_times(folder: Path, bandwidth: int) -> dict[str, float]:
    """Read scores and times from the history of a run, which begins after the bare GRUs.

    Seconds are those of an epoch (with its share of the refinement, if there is one), of an epoch
    of the bare GRUs, of the run, and until the target R² (interpolated between validations;
    infinity if never)."""
    events = EventAccumulator(str(folder)).Reload()
    bare = events.Scalars("bare_gru_s")[0]
    epochs, validations = (
        np.array([event.wall_time - bare.wall_time for event in events.Scalars(name)])
        for name in ("train/learning_rate", "valid/r2")
    )
    r2 = np.array([event.value for event in events.Scalars("valid/r2")])
    target_r2 = TARGETS[bandwidth]
    to_target, above = np.inf, np.flatnonzero(r2 >= target_r2)
    if len(above):
        around = slice(max(above[0] - 1, 0), above[0] + 1)
        to_target = float(np.interp(target_r2, r2[around], validations[around]))
    return {
        "bandwidth": bandwidth,
        "published_r2": target_r2,
        "epoch_s": (epochs[-1] - epochs[0]) / (len(epochs) - 1),
        "bare_s": bare.value,
        "train_s": epochs[-1],
        "to_published_s": to_target,
        "best_r2": r2.max(),
        "peak_mb": events.Scalars("peak_mb")[-1].value,
    }


def compare(their: dict, ours: list[dict]) -> dict[str, str]:
    """Return a row of the table: a run of the published recipe, and our runs with several seeds.

    The ratio is of times in epochs of the bare GRUs, which have the machine and the batches of each
    run. So it leaves out what the machine became faster between two runs, and what larger batches
    save. Ours is the mean over seeds. Where the R² is never reached, seconds are infinite."""
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
    bandwidths, seeds, flags = list(TARGETS), range(3), UNTIL_TARGET
    if options.quick:
        bandwidths, seeds, flags = [5], range(1), [*UNTIL_TARGET, "--trainer.max_epochs", "3"]
    rows = measure("published", "target", f"{name}-published", bandwidths, flags)
    if not options.quick:
        rows += measure("ours", "end", f"{name}-ours", bandwidths, [])
    for seed in seeds:
        seeded = [*flags, "--seed_everything", str(seed)]
        rows += measure("ours", "target", f"{name}-ours-{seed}", bandwidths, seeded)
    lines = []
    for bandwidth in bandwidths:
        of_both = [r for r in rows if (r["bandwidth"], r["until"]) == (bandwidth, "target")]
        lines.append(compare(of_both[0], of_both[1:]))
    columns = {title: [line[title] for line in lines] for title in lines[0]}
    print(f"\n{markdown_table(columns)}", end="")
    if not options.quick:
        write_table(options.out / "benchmark.csv", rows)


if __name__ == "__main__":
    run(main)
