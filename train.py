"""Train the SBTT autoencoder at one or several bandwidths, as many at a time as there are cores.

python train.py                         the eight levels of the demonstration
python train.py --bandwidths 5 3        two of them
python train.py --config configs/published.yaml
"""

import csv
import signal
import threading
import time
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Queue
from typing import Literal

import joblib
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import InputError, run, whole_file, writable_folder
from data import SpikeDataModule
from evaluate import LOGS
from model import SequentialAutoencoder
from progress import LevelProgressBar, ReportProgress, clock, print_reports, print_table, silence_lightning

LEVELS = [29, 25, 20, 15, 10, 5, 3, 2]
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "default.yaml"
SCORES = ["r2", "r2_observed", "r2_unobserved", "r2_amortised", "nll", "heldout_nll", "heldout_nll_amortised", "bps"]


class TrainCLI(LightningCLI):
    """LightningCLI that stops after parsing; `train_level` makes the data, the model and the trainer of one level."""

    def __init__(self, args: Namespace | None = None) -> None:
        super().__init__(
            SequentialAutoencoder,
            SpikeDataModule,
            args=args,
            run=False,
            seed_everything_default=0,
            auto_configure_optimizers=False,
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
        parser.add_argument("--jobs", type=int, default=joblib.cpu_count(), help="Levels to train at a time")
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

    def instantiate_level(self, bandwidth: int, level_dir: Path, reports: Queue | None) -> None:
        """Make `self.datamodule`, `self.model` and `self.trainer` for one level, which writes into `level_dir`."""
        self.config.bandwidths, self.config.name = None, None  # the configuration that is saved is of this level alone
        self.config.data.bandwidth = bandwidth
        trainer = self.config.trainer
        if trainer.max_epochs is not None and 0 < trainer.max_epochs < trainer.check_val_every_n_epoch:
            trainer.check_val_every_n_epoch = trainer.max_epochs  # a short training is validated too
        show_bar = reports is None and trainer.enable_progress_bar is not False
        self.overrides = {"enable_progress_bar": show_bar}
        if trainer.logger in (None, True):
            run_dir = level_dir.parent
            logger = TensorBoardLogger(run_dir.parent, run_dir.name, level_dir.name, default_hp_metric=False)
            self.overrides["logger"] = logger
        self.trainer_defaults["callbacks"] = [
            ModelCheckpoint(level_dir, "best", monitor=self.config.monitor, save_weights_only=True),
            ModelCheckpoint(level_dir, "last", save_on_exception=True, enable_version_counter=False),
            *([LevelProgressBar()] if show_bar else []),
            *([ReportProgress(reports, bandwidth)] if reports is not None else []),
        ]
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs) -> pl.Trainer:
        return super().instantiate_trainer(**self.overrides, **kwargs)


def train_level(config: Namespace, bandwidth: int, run_dir: Path, reports: Queue | None = None) -> dict[str, float]:
    """Train one level and return how its best checkpoint scores.

    Args:
        config: What TrainCLI parsed.
        bandwidth: Number of neurons observed at each time step.
        run_dir: Folder of the run; the level makes its own folder in it.
        reports: Where to report progress; None shows Lightning's progress bar instead.
    """
    torch.set_num_threads(1)  # two levels at a time with one thread each beat one level with two
    silence_lightning()
    start = time.perf_counter()
    level_dir = run_dir / f"bandwidth_{bandwidth:02}"
    cli = TrainCLI(config)
    cli.instantiate_level(bandwidth, level_dir, reports)
    try:
        cli.trainer.fit(cli.model, cli.datamodule)
    except SystemExit:  # what Lightning makes of Ctrl-C, once the last checkpoint is saved
        raise KeyboardInterrupt from None
    seconds = time.perf_counter() - start

    best = SequentialAutoencoder.load_from_checkpoint(level_dir / "best.ckpt", weights_only=True)
    judge = pl.Trainer(logger=False, enable_progress_bar=False, accelerator=config.trainer.accelerator)
    scores = judge.validate(best, cli.datamodule, verbose=False)[0]
    return {
        "bandwidth": bandwidth,
        "fraction_dropped": 1 - bandwidth / cli.datamodule.n_neurons,
        **{name: scores.get(f"valid/{name}", float("nan")) for name in SCORES},
        "epochs": cli.trainer.current_epoch,
        "seconds": seconds,
    }


def train_sweep(config: Namespace, levels: list[int], run_dir: Path) -> list[dict[str, float]]:
    """Train several levels, `config.jobs` at a time in processes of one thread, and return their scores."""
    ignore_ctrl_c = (signal.SIGINT, signal.SIG_IGN)  # this process alone answers it, by ending the others
    with SyncManager() as manager:
        reports = manager.Queue()
        printer = threading.Thread(target=print_reports, args=(reports, len(levels)), daemon=True)
        printer.start()
        workers = joblib.Parallel(n_jobs=config.jobs, initializer=signal.signal, initargs=ignore_ctrl_c)
        try:
            return workers(joblib.delayed(train_level)(config, bandwidth, run_dir, reports) for bandwidth in levels)
        finally:
            reports.put(None)
            printer.join()


def choose_levels(config: Namespace) -> list[int]:
    """Return the bandwidths to train, each checked against the data before any training starts."""
    if config.trainer.max_epochs == 0:
        raise InputError("--trainer.max_epochs 0: expected at least 1")
    if config.jobs < 1:
        raise InputError(f"--jobs {config.jobs}: expected at least 1")
    data = SpikeDataModule(**config.data)
    levels = config.bandwidths or ([config.data.bandwidth] if config.data.bandwidth is not None else LEVELS)
    for level in levels:
        if not 1 <= level <= data.n_neurons:
            raise InputError(
                f"--bandwidths {level}: expected 1 to {data.n_neurons}, the number of neurons in {config.data.path}"
            )
    if len(set(levels)) < len(levels):
        raise InputError(f"--bandwidths {' '.join(map(str, levels))}: expected each number once")
    return levels


def check_options(config: Namespace, bandwidth: int) -> None:
    """Make what a level needs and throw it away; raise InputError where an option has a value that cannot be."""
    try:
        TrainCLI(config.clone()).instantiate_level(bandwidth, LOGS / "none" / "none", None)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"an option has a wrong value: {error}") from None


def make_run_dir(name: str | None) -> Path:
    """Make the folder of a new run; raise InputError where `name` is taken."""
    name = name or time.strftime("%Y%m%d-%H%M%S")
    if Path(name).name != name:
        raise InputError(f"--name {name}: expected the name of a folder, without a path")
    run_dir = writable_folder(LOGS, "the log folder") / name
    try:
        run_dir.mkdir()
    except FileExistsError:
        raise InputError(f"--name {name}: {run_dir} exists; expected the name of a new run") from None
    return run_dir


def main() -> None:
    silence_lightning()
    config = TrainCLI().config
    levels = choose_levels(config)
    check_options(config, levels[0])
    run_dir = make_run_dir(config.name)
    start = time.perf_counter()
    print(f"Training {len(levels)} level{'s' * (len(levels) > 1)} in {run_dir}", flush=True)
    try:
        alone = len(levels) == 1
        results = [train_level(config, levels[0], run_dir)] if alone else train_sweep(config, levels, run_dir)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the checkpoints so far are in {run_dir}") from None
    with whole_file(run_dir / "results.csv") as path, open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, results[0])
        writer.writeheader()
        writer.writerows(results)
    print_table(results)
    print(f"\nIt took {clock(time.perf_counter() - start)}. The runs are in {run_dir}.")
    print(f"Look at the runs:  tensorboard --logdir {LOGS}\nPlot them:         python plot_results.py {run_dir}")


if __name__ == "__main__":
    run(main)
