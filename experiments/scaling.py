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
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback

from command_line import run, silence_lightning, write_table
from data import SpikeDataModule
from experiments.options import parse_options
from model import SequentialAutoencoder
from modules.posterior import n_affordable
from modules.priors import PRIORS
from refinement.choices import MAX_TRIALS
from refinement.refine import refine
from training.flags import RefinementOptions
from training.options import N_STEPS, extension
from training.pool import use_one_thread

N_TIMED = 10  # training steps that are timed, after two that warm up
REFINEMENTS = 4, 8  # epochs of the two that are timed
N_INFERRED = 64  # trials that are inferred


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
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["bin_width"] = 0.02
        for key, n_trials in (("train_data", size.trials), ("valid_data", N_INFERRED)):
            shape = (n_trials, size.bins, size.neurons)
            array = file.create_dataset(key, shape, "u1", chunks=(1, *shape[1:]))
            for start in range(0, n_trials, 1000):
                n_written = min(1000, n_trials - start)
                array[start : start + 1000] = rng.poisson(0.3, (n_written, *shape[1:]))


def measure(size: Size, path: str) -> dict[str, float]:
    """Return CPU seconds and memory of a recording of some size, in a process of its own."""
    use_one_thread()
    silence_lightning()
    pl.seed_everything(0, verbose=False)
    start = time.process_time()
    data = SpikeDataModule(path)
    data.setup()
    row = size._asdict() | {"load_s": time.process_time() - start}
    model = SequentialAutoencoder(data.n_neurons, data.bin_width)
    step_s = row["step_s"] = seconds_of_step(model, data)
    row["epoch_s"] = step_s * -(-size.trials // data.batch_size)
    row["training_min"] = step_s * N_STEPS * extension(data, at_most=8) / 60
    row["training_gb"] = peak_memory()
    model.eval()
    short, long = (seconds_to_refine(model, data, n_epochs) for n_epochs in REFINEMENTS)
    each_epoch = (long - short) / (REFINEMENTS[1] - REFINEMENTS[0])
    n_epochs = RefinementOptions().epochs * extension(data, at_most=2)
    minutes = (short + each_epoch * (n_epochs - REFINEMENTS[0])) / 60
    # not known if they tried different numbers of factors
    row["refinement_min"] = minutes if each_epoch > 0 else np.nan
    row["trials_in_table"] = min(size.trials, MAX_TRIALS, n_affordable(size.bins, size.neurons))
    row |= milliseconds_to_infer(model, data, n_reference=row["trials_in_table"])
    return row | {"peak_gb": peak_memory()}


def seconds_of_step(model: SequentialAutoencoder, data: SpikeDataModule) -> float:
    """Train a few steps; return the CPU seconds of one."""
    times = []
    note = LambdaCallback(on_train_batch_end=lambda *_: times.append(time.process_time()))
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2 + N_TIMED, limit_val_batches=0, callbacks=[note],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return float(np.diff(times[1:]).mean())


def seconds_to_refine(model: SequentialAutoencoder, data: SpikeDataModule, n_epochs: int) -> float:
    """Return the CPU seconds of a refinement of a copy of the model."""
    model = copy.deepcopy(model)
    start = time.process_time()
    refine(model, data.datasets["train"], n_epochs, seed=0)
    return time.process_time() - start


@torch.no_grad()
def milliseconds_to_infer(
    model: SequentialAutoencoder, data: SpikeDataModule, n_reference: int
) -> dict[str, float]:
    """Return the CPU milliseconds to infer a trial with each prior."""
    spikes, row = data.datasets["valid"][:].spikes, {}
    reference = model.encode(data.datasets["train"][list(range(n_reference))].spikes)[0]
    for name, prior in PRIORS.items():
        model.prior = prior(reference) if prior.knows_trials else prior()
        start = time.process_time()
        for batch in spikes.split(min(N_INFERRED, n_affordable(*spikes.shape[1:]))):
            model.infer(batch)
        row[f"infer_{name}_ms"] = 1000 * (time.process_time() - start) / len(spikes)
    return row


def peak_memory() -> float:
    """Return the peak memory of this process (GB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    options, rows = parse_options(__doc__, quick=False, out="docs"), []
    context = multiprocessing.get_context("spawn")
    for size in QUICK if options.quick else SIZES:
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, context) as pool:
            path = Path(folder) / "data.h5"
            write_random(path, size)
            rows.append(pool.submit(measure, size, str(path)).result())
        print("  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()), flush=True)
        write_table(options.out / "scaling.csv", rows)


if __name__ == "__main__":
    run(main)
