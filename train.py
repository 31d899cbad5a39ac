"""Train the SBTT autoencoder at one or several bandwidths, as many at a time as there are cores.

python train.py                         the eight bandwidths of the demonstration
python train.py --bandwidths 5 3        two of them
python train.py --seeds 3               each with three seeds
python train.py --config configs/published.yaml
python train.py --resume RUN            go on with a run that was stopped
"""

from pathlib import Path

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import FailedWork, InputError, run, silence_lightning
from data import SpikeDataModule
from evaluation.checkpoints import LOGS
from model import SequentialAutoencoder
from modules.readout import rank
from training import options, runs, sweep, terminal
from training.callbacks import (
    AtomicCheckpointIO,
    RefineAndValidateAtTheEnd,
    SeedEachStep,
    StopIfNotFinite,
    save_best_and_last,
)
from training.cluster import connect
from training.parallel import use_one_thread
from training.tensorboard import TensorBoardPages, log_result, make_logger
from training.transfer import start_from

SCORES = [
    "r2",
    "r2_observed",
    "r2_unobserved",
    "r2_amortised",
    "nll",
    "heldout_nll",
    "heldout_nll_amortised",
    "bps",
]


def build(
    config: Namespace, folder: Path, gpu: int | None = None, report: terminal.Send = terminal.ignore
) -> tuple[SpikeDataModule, SequentialAutoencoder, pl.Trainer]:
    """Make data, model and trainer of one bandwidth from its options. The arguments are those of
    `train_level`."""
    pl.seed_everything(config.seed_everything, workers=True, verbose=False)
    given = (
        options.train_parser().instantiate(config).trainer
    )  # options that name classes become objects
    data = SpikeDataModule(**config.data, seed=config.seed_everything)
    model = SequentialAutoencoder(data.n_neurons, data.bin_width, data.n_heldin, **config.model)
    if config.init_from is not None:
        start_from(model, config.init_from, config.init_parts, config.freeze)
    ours = {
        "logger": make_logger(folder, runs.last_checkpoint(folder))
        if given.logger in (None, True)
        else given.logger,
        "devices": given.devices if gpu is None else [gpu],
        "plugins": [AtomicCheckpointIO(), *options.as_list(given.plugins)],
        "max_epochs": options.choose_epochs(given, data),
        "enable_progress_bar": False,  # reports are shown instead
        "callbacks": [
            *save_best_and_last(folder, config.monitor),
            SeedEachStep(config.seed_everything),
            StopIfNotFinite(),
            Timer(given.max_time),
            terminal.ReportProgress(
                terminal.name_of(data.n_observed, sweep.seed_of(config, folder)), report
            ),
            TensorBoardPages(folder, config),
            *options.as_list(given.callbacks),
            # after the callbacks that may stop the training
            RefineAndValidateAtTheEnd(
                options.choose_refinement(config, data), config.seed_everything
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


def train_level(
    config: Namespace, folder: Path, gpu: int | None = None, report: terminal.Send = terminal.ignore
) -> dict[str, float]:
    """Train at one bandwidth, from its last checkpoint if there is one, and return the scores of
    its best checkpoint.

    Args:
        config: Options of this training alone (`training.options.config_of`).
        folder: Where checkpoints, configuration and TensorBoard's files are written. Made if
            necessary.
        gpu: Index of the GPU to train on. None: as `--trainer.accelerator` and `--trainer.devices`
            say.
        report: Called with the progress after each epoch.

    Raises:
        InputError: a wrong option, or another process trains in the folder.
        FailedWork: the loss became infinite or NaN, the memory of the GPU is full, or the training
            ended before its first validation.
    """
    use_one_thread()
    silence_lightning()
    with runs.lock_folder(folder):
        runs.save_config(config, folder)
        data, model, trainer = build(config, folder, gpu, report)
        timer = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))
        try:
            trainer.fit(model, data, ckpt_path=runs.last_checkpoint(folder), weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
        except torch.OutOfMemoryError:
            raise FailedWork(
                "the memory of the GPU is full; try a lower --jobs or --data.batch_size"
            ) from None
        best = folder / "best.ckpt"
        if not best.exists():
            raise FailedWork(
                f"the training ended after {trainer.current_epoch} epochs without a validation"
            )
        n_epochs, seconds, logger = (
            trainer.current_epoch,
            timer.time_elapsed("train"),
            trainer.logger,
        )
        trainer.logger = None  # this validation is not part of the training's history
        validated = trainer.validate(model, data, ckpt_path=best, weights_only=True, verbose=False)[
            0
        ]
        scores = {name: validated.get(f"valid/{name}", float("nan")) for name in SCORES}
        log_result(logger, folder, config, scores)
    data_row = {
        "bandwidth": data.n_observed,
        "seed": config.seed_everything,
        "fraction_dropped": data.fraction_dropped,
    }
    found = {"prior": model.prior, "factors": rank(model.readout)}
    return data_row | scores | found | {"epochs": n_epochs, "seconds": seconds}


def main() -> None:
    silence_lightning()
    parser = options.train_parser()
    config = parser.parse_args()
    run_dir = None
    if config.resume is not None:
        run_dir, config = runs.read_stopped_run(parser, config)
    options.check_options(config)
    if config.cluster != "local":
        connect(config.cluster)
    trainings = options.choose_trainings(config, options.choose_bandwidths(config))
    if run_dir is None:
        check_by_building(options.config_of(config, *trainings[0]))
        run_dir = runs.make_run_dir(config.name)
        runs.save_config(config, run_dir)
    elif set(trainings) <= set(sweep.read_trained(config, run_dir)):
        print(f"{run_dir} was trained to its end: there is nothing left to do")
        return
    with runs.lock_folder(run_dir):
        try:
            sweep.train_run(train_level, config, trainings, run_dir)
        except KeyboardInterrupt:
            if runs.is_main_process():
                raise KeyboardInterrupt(
                    f"interrupted; go on with: python train.py --resume {run_dir}"
                ) from None


if __name__ == "__main__":
    run(main)
