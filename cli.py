"""What `python train.py` can be told, and what it makes of it: data, model and trainer of one level."""

from pathlib import Path
from queue import Queue
from typing import Literal

import joblib
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

from callbacks import SeedEachStep, StopIfNotFinite, WholeFileIO, checkpoints
from command_line import InputError
from data import SpikeDataModule
from model import SequentialAutoencoder
from progress import ReportProgress
from tensorboard_pages import RunPages

LEVELS = [29, 25, 20, 15, 10, 5, 3, 2]
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "default.yaml"


def epochs_trained(checkpoint: Path | None) -> int:
    """Return how many epochs a checkpoint comes after; 0 for None."""
    return 0 if checkpoint is None else torch.load(checkpoint, weights_only=True, mmap=True)["epoch"] + 1


class TrainCLI(LightningCLI):
    """LightningCLI that stops after parsing; `instantiate_level` makes what one level needs."""

    def __init__(self, args: Namespace | None = None) -> None:
        super().__init__(
            SequentialAutoencoder,
            SpikeDataModule,
            args=args,
            run=False,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},  # a level that is resumed writes the same again
            load_from_checkpoint_support=False,
            parser_kwargs={
                "description": "Train the SBTT autoencoder at one or several bandwidths; the options are explained below.",
                "usage": "train.py [--bandwidths N ...] [--name NAME] [--config FILE] [other options]",
                "default_config_files": [DEFAULT_CONFIG],
                "exit_on_error": False,
                "allow_abbrev": False,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--bandwidths",
            type=int,
            nargs="+",
            help="Numbers of observed neurons to train at, one run each "
            f"(default: --data.bandwidth where given, else {' '.join(map(str, LEVELS))})",
        )
        scores = Literal["valid/heldout_nll", "valid/heldout_nll_amortised", "valid/nll"]
        parser.add_argument("--monitor", type=scores, default="valid/heldout_nll", help="Score that chooses best.ckpt")
        parser.add_argument("--name", type=str | None, help="Folder under lightning_logs (default: a time stamp)")
        parser.add_argument("--resume", type=str | None, help="Folder of a run that was stopped, to go on with it")
        parser.add_argument("--jobs", type=int, default=joblib.cpu_count(), help="Levels to train at a time")
        parser.add_argument("--quiet", action="store_true", help="Print nothing but the table of results, and errors")
        parser.link_arguments("data.n_neurons", "model.n_neurons", apply_on="instantiate")
        parser.link_arguments("data.bin_width", "model.bin_width", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Namespace | None) -> None:
        self.config = parser.parse_args() if args is None else parser.parse_object(args)
        if not 0 <= self.config.seed_everything < 2**32:
            raise InputError(
                f"--seed_everything {self.config.seed_everything}: expected a whole number from 0 to 2^32 - 1"
            )

    def instantiate_classes(self) -> None:
        """Do nothing yet: `instantiate_level` does it for each level."""

    def instantiate_level(self, bandwidth: int, level_dir: Path, reports: Queue) -> None:
        """Make `self.datamodule`, `self.model` and `self.trainer` for one level, which writes into `level_dir`."""
        self.config.bandwidths, self.config.name = None, None  # the configuration that is saved is of this level alone
        self.config.data.bandwidth = bandwidth
        trainer = self.config.trainer
        if trainer.max_epochs is not None and 0 < trainer.max_epochs < trainer.check_val_every_n_epoch:
            trainer.check_val_every_n_epoch = trainer.max_epochs  # a short training is validated too
        self.overrides = {"enable_progress_bar": False}  # the reports are shown instead
        self.timer = Timer(trainer.max_time)  # Lightning makes none of its own beside it
        self.last_checkpoint = level_dir / "last.ckpt" if (level_dir / "last.ckpt").exists() else None
        if trainer.logger in (None, True):
            run_dir = level_dir.parent
            self.overrides["logger"] = TensorBoardLogger(
                run_dir.parent, run_dir.name, level_dir.name, default_hp_metric=False, flush_secs=1,
                purge_step=epochs_trained(self.last_checkpoint) + 1,  # what came after is drawn once more
            )  # fmt: skip
        self.trainer_defaults["plugins"] = [WholeFileIO()]
        self.trainer_defaults["callbacks"] = [
            *checkpoints(level_dir, self.config.monitor),
            SeedEachStep(self.config.seed_everything),
            StopIfNotFinite(),
            self.timer,
            ReportProgress(reports, bandwidth),
            RunPages(level_dir, self.config),
        ]
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs) -> pl.Trainer:
        return super().instantiate_trainer(**self.overrides, **kwargs)
