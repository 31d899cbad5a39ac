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

SIZES = [  # training trials, bins, neurons; the first is the demonstration's
    (1248, 50, 29), (5000, 50, 29), (20_000, 50, 29), (100_000, 50, 29), (1248, 200, 29),
    (1248, 1000, 29), (1248, 50, 100), (1248, 50, 1000), (1248, 200, 200),
]  # fmt: skip
QUICK = [(60, 50, 29), (60, 50, 60)]
N_TIMED = 10  # training steps, after two that warm up
SHORT, LONG = 4, 8  # epochs of the refinements that are timed
N_INFERRED = 64  # trials


def write_random(path: str, n_trials: int, *one_trial: int) -> None:
    """Write random counts of trials of some bins and neurons, a trial in a chunk."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["bin_width"] = 0.02
        for key, n in (("train_data", n_trials), ("valid_data", N_INFERRED)):
            array = file.create_dataset(key, (n, *one_trial), "u1", chunks=(1, *one_trial))
            for trial in range(n):
                array[trial] = rng.poisson(0.3, one_trial)


def measure(size: tuple[int, int, int]) -> dict[str, float]:
    """Return CPU seconds and memory of a recording of some size, in a process of its own."""
    use_one_thread()
    silence_lightning()
    pl.seed_everything(0, verbose=False)
    with tempfile.NamedTemporaryFile(suffix=".h5") as file:
        write_random(file.name, *size)
        start = time.process_time()
        data = SpikeDataModule(file.name)
        data.setup()
        row = {"trials": size[0], "bins": size[1], "neurons": size[2]}
        row["load_s"] = time.process_time() - start
        model = SequentialAutoencoder(data.n_neurons, data.bin_width)
        row["step_s"] = seconds_of_step(model, data)
        row["epoch_s"] = row["step_s"] * -(-size[0] // data.batch_size)
        row["training_min"] = row["step_s"] * N_STEPS * extension(data, at_most=8) / 60
        row["training_gb"] = peak_gb()
        row["refinement_min"] = seconds_to_refine(model.eval(), data) / 60
        n_trials = row["trials_in_table"] = min(size[0], MAX_TRIALS, n_affordable(*size[1:]))
        reference = data.datasets["train"][list(range(n_trials))].spikes
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
    options = {"accelerator": "cpu", "max_steps": 2 + N_TIMED, "limit_val_batches": 0}
    pl.Trainer(**options, barebones=True, callbacks=[note]).fit(model, data)
    return float(np.diff(times[1:]).mean())


def seconds_to_refine(model: SequentialAutoencoder, data: SpikeDataModule) -> float:
    """Return the CPU seconds of a whole refinement, extrapolated from two short ones; NaN if these
    tried so different numbers of factors that the longer one took less."""
    trials, n_inputs = data.datasets["train"], RefinementOptions().inputs
    short, long = (
        cpu_seconds(lambda n=n: refine(copy.deepcopy(model), trials, n, seed=0, n_inputs=n_inputs))
        for n in (SHORT, LONG)
    )
    n_epochs = RefinementOptions().epochs * extension(data, at_most=2)
    each_epoch = (long - short) / (LONG - SHORT)
    return short + each_epoch * (n_epochs - SHORT) if each_epoch > 0 else np.nan


@torch.no_grad()
def milliseconds_to_infer(
    model: SequentialAutoencoder, spikes: torch.Tensor, reference: torch.Tensor
) -> dict[str, float]:
    """Return the CPU milliseconds to infer a trial with each prior; some priors know trials."""
    row, known = {}, model.encode(reference)[0]
    batches = spikes.split(min(N_INFERRED, n_affordable(*spikes.shape[1:])))
    for name, prior in PRIORS.items():
        model.prior = prior(known) if prior.knows_trials else prior()
        seconds = cpu_seconds(lambda: [model.infer(batch) for batch in batches])
        row[f"infer_{name}_ms"] = 1000 * seconds / len(spikes)
    return row


def main() -> None:
    options, rows = parse_options(__doc__, quick=False, out="docs"), []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(measure, QUICK if options.quick else SIZES):
            print("  ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
            rows.append(row)
            write_table(options.out / "scaling.csv", rows)


if __name__ == "__main__":
    run(main)
