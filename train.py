"""Train the SBTT autoencoder at one or several bandwidths, as many runs at a time as cores.

python train.py                         the eight bandwidths of the demonstration
python train.py --bandwidths 5 3        two of them
python train.py --seeds 3               each with three seeds
python train.py --config configs/published.yaml
python train.py --resume SWEEP          continue a sweep that was stopped
"""

import time
import traceback
from pathlib import Path

from training.flags import begin

if __name__ == "__main__":
    begin()  # the imports below take seconds

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.callbacks import Callback, Timer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import FailedWork, InputError, number_of, run, silence_lightning, write_table
from data import SpikeDataModule
from evaluation import run_folders
from evaluation.checkpoints import load_checkpoint
from evaluation.run_folders import LOGS, last_checkpoint, lock_folder
from evaluation.scoring import evaluate, find_weaknesses
from model import SequentialAutoencoder
from modules.readout import rank
from training import options
from training.callbacks import (
    AtomicCheckpointIO,
    RefineAndValidateAtTheEnd,
    SeedEachStep,
    StopIfNotFinite,
    find_progress,
    save_best_and_last,
)
from training.pool import connect, do_tasks, use_one_thread
from training.progress import WriteProgress, clock, show_progress
from training.table import SCORES, TEST_SCORES, print_table
from training.tensorboard import TensorBoardPages, log_result, make_logger
from training.transfer import start_from

Run = tuple[int, int]  # bandwidth and seed


def build(
    config: Namespace, folder: Path, gpu: int | None = None, callbacks: tuple[Callback, ...] = ()
) -> tuple[SpikeDataModule, SequentialAutoencoder, pl.Trainer]:
    """Make data, model and trainer of a run from its options (arguments of `train_run`)."""
    pl.seed_everything(config.seed_everything, workers=True, verbose=False)
    data = SpikeDataModule(**config.data, seed=config.seed_everything)
    model = SequentialAutoencoder(data.n_neurons, data.bin_width, data.n_heldin, **config.model)
    if config.init_from is not None:
        start_from(model, config.init_from, config.init_parts, config.freeze)
    # options that name classes become objects
    given = options.train_parser().instantiate(config).trainer
    n_refinement = options.choose_refinement(config, data)
    logger = given.logger
    if logger in (None, True):
        logger = make_logger(folder, last_checkpoint(folder))
    ours = {
        "logger": logger,
        "devices": [gpu] if gpu is not None else 1 if given.devices == "auto" else given.devices,
        "plugins": [AtomicCheckpointIO(), *options.as_list(given.plugins)],
        "max_epochs": options.choose_epochs(given, data),
        "enable_progress_bar": False,
        "callbacks": [
            *save_best_and_last(folder, config.monitor),
            SeedEachStep(config.seed_everything),
            StopIfNotFinite(),
            Timer(given.max_time),
            WriteProgress(folder, n_refinement),
            TensorBoardPages(folder, config),
            *options.as_list(given.callbacks),
            *callbacks,
            # after the callbacks that may stop the training
            RefineAndValidateAtTheEnd(
                n_refinement, config.refinement.inputs, config.seed_everything
            ),
        ],
    }
    return data, model, pl.Trainer(**given.as_dict() | ours)


def check_by_building(config: Namespace) -> None:
    """Build once, for nothing, so that a wrong option is reported before a folder is made."""
    try:
        build(config, LOGS / "unused" / "unused")
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"an option has a wrong value: {error}") from None


def train_run(
    config: Namespace, folder: Path, gpu: int | None = None, callbacks: tuple[Callback, ...] = ()
) -> dict[str, float | str]:
    """Train one model, from its last checkpoint if there is one, and score its best checkpoint.

    Args:
        config: Options of this run alone (`training.options.run_options`).
        folder: Where checkpoints, configuration and TensorBoard's files are written. Made if
            necessary.
        gpu: Index of the GPU to train on. None: as `--trainer.accelerator` and `.devices` say.
        callbacks: Further callbacks of the trainer.

    Returns:
        The row of the run in results.csv.

    Raises:
        InputError: a wrong option, or another process trains in the folder.
        FailedWork: the loss became infinite or NaN, the memory of the GPU is full, or the training
            ended before its first validation.
    """
    use_one_thread()
    silence_lightning()
    with lock_folder(folder):
        options.save_config(config, folder / "config.yaml", options.train_parser())
        data, model, trainer = build(config, folder, gpu, callbacks)
        try:
            trainer.fit(model, data, ckpt_path=last_checkpoint(folder), weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
        except torch.OutOfMemoryError:
            advice = "try a lower --jobs or --data.batch_size"
            raise FailedWork(f"the memory of the GPU is full; {advice}") from None
        best, n_epochs = folder / "best.ckpt", trainer.current_epoch
        if not best.exists():
            raise FailedWork(f"the training ended after {n_epochs} epochs without a validation")
        best_model = load_checkpoint(best)[0].to(model.device, model.dtype)
        scores = evaluate(best_model, data)[0]
        for line in find_weaknesses(scores, data):
            find_progress(trainer).note(line)
        scores = {name: scores.get(name, float("nan")) for name in SCORES}
        if "test" in data.trials:
            test = evaluate(best_model, data, split="test")[0]
            scores |= {f"test_{name}": test.get(name, float("nan")) for name in TEST_SCORES}
        log_result(trainer.logger, folder, config, scores, n_epochs)
    timer = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))
    row = {"bandwidth": data.n_observed, "seed": config.seed_everything}
    row |= {"fraction_dropped": data.fraction_dropped, **scores}
    n_factors, prior = rank(best_model.readout), best_model.prior.name
    prior = "driven" if best_model.hparams.input_size else prior if n_factors else "mean rates"
    row |= {"prior": prior, "factors": n_factors}
    return row | {"epochs": n_epochs, "seconds": timer.time_elapsed("train")}


def try_run(config: Namespace, folder: Path, gpu: int | None) -> dict | FailedWork:
    """Train one model. Return the error if it failed: the other runs of the sweep continue."""
    try:
        return train_run(config, folder, gpu)
    except (FailedWork, InputError, OSError) as error:
        return FailedWork(str(error))
    except Exception as error:  # a bug; its traceback must not be lost
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        found = f"{type(error).__name__}: {error}"
        return FailedWork(f"{found} (the traceback is in {folder / 'error.txt'})")


def train_sweep(config: Namespace, runs: list[Run], results: dict[Run, dict], folder: Path) -> None:
    """Train the runs of a sweep that have no `results` yet, and write and print the table.

    Raises:
        FailedWork: a run failed.
    """
    start, say = time.perf_counter(), (lambda _: None) if config.quiet else print
    left, many = [run for run in runs if run not in results], config.seeds > 1
    names = {(n, seed): f"bandwidth {n:2}" + f" seed {seed}" * many for n, seed in left}
    folders = {
        (n, seed): folder / run_folders.run_folder(n, seed if many else None) for n, seed in left
    }
    gpus = dict(zip(left, options.choose_gpus(config, len(left)), strict=True))
    tasks = {r: (options.run_options(config, *r), folders[r], gpus[r]) for r in left}
    listed = ", ".join(map(str.strip, names.values()))
    say(f"Training {number_of(len(left), 'model')} in {folder}: {listed}")
    with show_progress({names[run]: folders[run] for run in left}, config.quiet):
        trained = do_tasks(try_run, tasks, config, folder)
    failed = {run: error for run, error in trained.items() if isinstance(error, FailedWork)}
    results = results | {run: row for run, row in trained.items() if run not in failed}
    rows = [results[run] for run in runs if run in results]
    if rows:
        write_table(folder / "results.csv", rows)
        print_table(rows)
    say(f"\nIt took {clock(time.perf_counter() - start)}. The models are in {folder}.")
    say(f"Look at the runs:  tensorboard --logdir {LOGS}")
    say(f"Plot them:         python plot_results.py {folder}")
    if failed:
        raise FailedWork("; ".join(f"{names[run]} stopped: {failed[run]}" for run in failed))


def main() -> None:
    silence_lightning()
    parser = options.make_parser(__doc__)
    config, folder = parser.parse_args(), None
    if config.resume is not None:
        folder, config = run_folders.read_stopped_sweep(parser, config)
    options.check_options(config)
    if config.cluster != "local":
        connect(config.cluster)
    runs, results = options.choose_runs(config), {}
    if folder is None:
        check_by_building(options.run_options(config, *runs[0]))
        folder = run_folders.make_sweep_folder(config.name)
        options.save_config(config, folder / "config.yaml", parser)
    else:
        rows = run_folders.read_results(folder)
        results = {(row["bandwidth"], row["seed"]): row for row in rows}
    if set(runs) <= set(results):
        print(f"{folder} was trained to its end: there is nothing left to do")
        return
    with run_folders.open_sweep(folder):
        train_sweep(config, runs, results, folder)


if __name__ == "__main__":
    run(main)
