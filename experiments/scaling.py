"""Measure CPU time and memory for recordings of several sizes, on one thread.

python -m experiments.scaling            half an hour; writes docs/scaling.csv
python -m experiments.scaling --quick    two small sizes

Counts are random: time and memory do not depend on them, except for what the refinement chooses. A
    few steps of the training,
two short refinements, and each way to infer are timed; the time of a whole training follows from
these. docs/scaling.md has the conclusions.
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

from command_line import (
    command_parser,
    markdown_table,
    run,
    silence_lightning,
    writable_folder,
    write_table,
)
from data import SpikeDataModule
from model import SequentialAutoencoder
from modules.posterior import PRIOR_WIDTHS, n_affordable
from training.options import N_STEPS, extension
from training.parallel import use_one_thread
from training.refinement import MAX_TRIALS, refine

N_TIMED = 10  # steps of the training that are timed, without the first two
REFINEMENTS = 4, 8  # epochs of the two that are timed
N_INFERRED = 64  # trials that are inferred


class Size(NamedTuple):
    """Of a recording. The demonstration has 1248 training trials, 50 bins and 29 neurons."""

    trials: int = 1248
    bins: int = 50
    neurons: int = 29


SIZES = [
    Size(), Size(trials=5000), Size(trials=20_000), Size(trials=100_000), Size(bins=200), Size(bins=1000),
    Size(neurons=100), Size(neurons=1000), Size(bins=200, neurons=200),
]  # fmt: skip
QUICK = [Size(trials=60), Size(trials=60, neurons=60)]


class StepTimes(pl.Callback):
    """Note the CPU time at the end of each step of a training."""

    def __init__(self) -> None:
        self.times = []

    def on_train_batch_end(self, *_: object) -> None:
        self.times.append(time.process_time())


def write_random(path: Path, size: Size) -> None:
    """Write random counts, a trial in a chunk."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["bin_width"] = 0.02
        for key, n_trials in (("train_data", size.trials), ("valid_data", N_INFERRED)):
            shape = (n_trials, size.bins, size.neurons)
            array = file.create_dataset(key, shape, "u1", chunks=(1, *shape[1:]))
            for start in range(0, n_trials, 1000):
                array[start : start + 1000] = rng.poisson(
                    0.3, (min(1000, n_trials - start), *shape[1:])
                )


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
    steps = StepTimes()
    trainer = pl.Trainer(
        max_steps=2 + N_TIMED, accelerator="cpu", limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[steps],
    )  # fmt: skip
    trainer.fit(model, data)
    row["step_s"] = float(np.diff(steps.times[1:]).mean())  # the first two warm up
    row["epoch_s"] = row["step_s"] * -(-size.trials // data.batch_size)
    row["training_min"] = row["step_s"] * N_STEPS * extension(data, at_most=8) / 60
    row["training_gb"] = peak_memory()
    model.eval()
    seconds = [seconds_to_refine(model, data, n_epochs) for n_epochs in REFINEMENTS]
    each_epoch = (seconds[1] - seconds[0]) / (REFINEMENTS[1] - REFINEMENTS[0])
    n_epochs = model.hparams.refinement * extension(data, at_most=2)
    minutes = (seconds[0] + each_epoch * (n_epochs - REFINEMENTS[0])) / 60
    row["refinement_min"] = (
        minutes if each_epoch > 0 else np.nan
    )  # they tried different numbers of factors
    row["trials_in_table"] = min(size.trials, MAX_TRIALS, n_affordable(size.bins, size.neurons))
    spikes = data.datasets["valid"][:].spikes
    with torch.no_grad():
        reference = model.encode(
            data.datasets["train"][list(range(row["trials_in_table"]))].spikes
        )[0]
        for prior in ("encoder", *PRIOR_WIDTHS):
            model.reference, model.prior_width = (
                reference[: 0 if prior == "encoder" else None],
                PRIOR_WIDTHS.get(prior, 0.0),
            )
            start = time.process_time()
            for batch in spikes.split(min(N_INFERRED, n_affordable(size.bins, size.neurons))):
                model.infer(batch)
            row[f"infer_{prior}_ms"] = 1000 * (time.process_time() - start) / len(spikes)
    row["peak_gb"] = peak_memory()
    return row


def seconds_to_refine(model: SequentialAutoencoder, data: SpikeDataModule, n_epochs: int) -> float:
    """Return the CPU seconds of a refinement of a copy of the model."""
    model = copy.deepcopy(model)
    start = time.process_time()
    refine(model, data.datasets["train"], n_epochs, seed=0)
    return time.process_time() - start


def peak_memory() -> float:
    """Return the peak memory of this process (GB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="Two small sizes, to see that it works"
    )
    parser.add_argument("--out", type=str, default="docs", help="Folder for scaling.csv")
    options = parser.parse_args()
    out = writable_folder(options.out, "--out")
    rows = []
    context = multiprocessing.get_context("spawn")
    for size in QUICK if options.quick else SIZES:
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, context) as pool:
            path = Path(folder) / "data.h5"
            write_random(path, size)
            rows.append(pool.submit(measure, size, str(path)).result())
        print("  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()), flush=True)
        write_table(out / "scaling.csv", rows)
    print(
        markdown_table(
            {name.replace("_", " "): [f"{row[name]:.3g}" for row in rows] for name in rows[0]}
        )
    )


if __name__ == "__main__":
    run(main)
