"""Measure CPU time and memory for recordings of several sizes, on one thread.

python -m experiments.scaling            half an hour; writes docs/scaling.csv
python -m experiments.scaling --quick    two small sizes

Counts are random: time and memory do not depend on them, except for what the refinement chooses. A
few training steps, two short refinements and each way to infer are timed; the time of a whole run
follows from these. docs/scaling.md has the conclusions.
"""

import copy
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback

from command_line import run, silence_lightning, write_table
from data import SpikeDataModule
from experiments.commands import parse_options
from model import SequentialAutoencoder
from modules.posterior import n_affordable
from modules.priors import PRIORS
from refinement.choices import MAX_TRIALS
from refinement.refine import refine
from training.flags import RefinementOptions
from training.options import N_STEPS, extension
from training.pool import use_one_thread

N_STEPS_TIMED = 10  # after two that warm up
SHORT, LONG = 4, 8  # epochs of the refinements that are timed
N_INFERRED = 64  # trials


class Size(NamedTuple):
    """Of a recording. The demonstration has 1248 training trials, 50 bins and 29 neurons."""

    trials: int = 1248
    bins: int = 50
    neurons: int = 29


SIZES = [Size(), Size(trials=5000), Size(trials=20_000), Size(trials=100_000), Size(bins=200)]
SIZES += [Size(bins=1000), Size(neurons=100), Size(neurons=1000), Size(bins=200, neurons=200)]
QUICK = [Size(trials=60), Size(trials=60, neurons=60)]


def write_random(path: Path, size: Size) -> None:
    """Write random counts, a trial in a chunk."""
    rng, one_trial = np.random.default_rng(0), (size.bins, size.neurons)
    with h5py.File(path, "w") as file:
        file.attrs["bin_width"] = 0.02
        for key, n_trials in (("train_data", size.trials), ("valid_data", N_INFERRED)):
            array = file.create_dataset(key, (n_trials, *one_trial), "u1", chunks=(1, *one_trial))
            for trial in range(n_trials):
                array[trial] = rng.poisson(0.3, one_trial)


def measure(size: Size, path: str) -> dict[str, float]:
    """Return CPU seconds and memory of a recording of some size, in a process of its own."""
    use_one_thread()
    silence_lightning()
    pl.seed_everything(0, verbose=False)
    data = SpikeDataModule(path)
    row = size._asdict() | {"load_s": cpu_seconds(data.setup)}
    model = SequentialAutoencoder(data.n_neurons, data.bin_width)
    row["step_s"] = seconds_of_step(model, data)
    row["epoch_s"] = row["step_s"] * -(-size.trials // data.batch_size)
    row["training_min"] = row["step_s"] * N_STEPS * extension(data, at_most=8) / 60
    row["training_gb"] = peak_gb()
    row["refinement_min"] = seconds_to_refine(model.eval(), data) / 60
    row["trials_in_table"] = min(size.trials, MAX_TRIALS, n_affordable(size.bins, size.neurons))
    reference = data.datasets["train"][list(range(row["trials_in_table"]))].spikes
    row |= milliseconds_to_infer(model, data.datasets["valid"][:].spikes, reference)
    return row | {"peak_gb": peak_gb()}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Do some work; return its CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def peak_gb() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def seconds_of_step(model: SequentialAutoencoder, data: SpikeDataModule) -> float:
    """Train a few steps; return the CPU seconds of one."""
    times = []
    note = LambdaCallback(on_train_batch_end=lambda *_: times.append(time.process_time()))
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2 + N_STEPS_TIMED, limit_val_batches=0, callbacks=[note],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return float(np.diff(times[1:]).mean())


def seconds_to_refine(model: SequentialAutoencoder, data: SpikeDataModule) -> float:
    """Return the CPU seconds of a whole refinement, extrapolated from two short ones; NaN if these
    tried so different numbers of factors that the longer one took less."""
    short, long = (
        cpu_seconds(lambda n=n: refine(copy.deepcopy(model), data.datasets["train"], n, seed=0))
        for n in (SHORT, LONG)
    )
    n_epochs = RefinementOptions().epochs * extension(data, at_most=2)
    each_epoch = (long - short) / (LONG - SHORT)
    return short + each_epoch * (n_epochs - SHORT) if each_epoch > 0 else np.nan


@torch.no_grad()
def milliseconds_to_infer(
    model: SequentialAutoencoder, spikes: torch.Tensor, reference: torch.Tensor
) -> dict[str, float]:
    """Return the CPU milliseconds to infer a trial with each prior, some of which know trials."""
    row, states = {}, model.encode(reference)[0]
    batches = spikes.split(min(N_INFERRED, n_affordable(*spikes.shape[1:])))
    for name, prior in PRIORS.items():
        model.prior = prior(states) if prior.knows_trials else prior()
        seconds = cpu_seconds(lambda: [model.infer(batch) for batch in batches])
        row[f"infer_{name}_ms"] = 1000 * seconds / len(spikes)
    return row


def main() -> None:
    options, rows = parse_options(__doc__, quick=False, out="docs"), []
    for size in QUICK if options.quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.h5"
            write_random(path, size)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (size, str(path))))
        print("  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()), flush=True)
        write_table(options.out / "scaling.csv", rows)


if __name__ == "__main__":
    run(main)
