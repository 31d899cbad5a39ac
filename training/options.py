"""The options of `python train.py`: parse them, check them, and choose bandwidths and GPUs."""

import functools
import math
import os
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser, Namespace

from command_line import InputError
from data import SpikeDataModule
from model import SequentialAutoencoder
from training.transfer import Part

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "default.yaml"
DEMO_BANDWIDTHS = [29, 25, 20, 15, 10, 5, 3, 2]  # of 29 neurons
N_STEPS, N_BINS = (
    780,
    62_400,
)  # steps of a training on the demonstration, and the time bins of its training trials
N_ON_GPU = 8  # trainings at a time on each GPU
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")


def n_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs() -> int:
    """Return how many trainings to run at a time: as many as cores, at most `N_ON_GPU` on each GPU,
    if there are GPUs."""
    n_gpus = torch.cuda.device_count()
    return min(n_cores(), N_ON_GPU * n_gpus) if n_gpus else n_cores()


@functools.cache
def train_parser() -> ArgumentParser:
    """Return the parser of train.py. It is made once: that takes a tenth of a second."""
    return make_parser()


def make_parser() -> ArgumentParser:
    """Make a parser of all options. `configs/default.yaml` has their defaults."""
    parser = ArgumentParser(
        description="Train the SBTT autoencoder at one or several bandwidths; the options are explained below.",
        usage="train.py [--bandwidths N ...] [--name NAME] [--config FILE] [other options]",
        default_config_files=[DEFAULT_CONFIG],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c",
        "--config",
        action="config",
        help="YAML file with options, such as configs/published.yaml",
    )
    parser.add_argument(
        "--seed_everything",
        type=int,
        default=0,
        help="Seed of weights, masks, shuffling and dropout",
    )
    parser.add_class_arguments(
        pl.Trainer, "trainer", instantiate=False, fail_untyped=False, sub_configs=True
    )
    parser.add_class_arguments(
        SequentialAutoencoder,
        "model",
        instantiate=False,
        skip={"n_neurons", "bin_width", "n_heldin"},
    )
    parser.add_class_arguments(SpikeDataModule, "data", instantiate=False, skip={"seed"})
    parser.add_argument(
        "--bandwidths",
        type=int,
        nargs="+",
        help="Numbers of observed neurons, one training each (default: --data.bandwidth if given; else for 29 neurons "
        f"{' '.join(map(str, DEMO_BANDWIDTHS))}, for another number all, 1/2, 1/4 and 1/8 of them)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="Train each bandwidth with so many seeds: --seed_everything and those after it",
    )
    scores = Literal["valid/heldout_nll", "valid/heldout_nll_amortised", "valid/nll"]
    parser.add_argument(
        "--monitor", type=scores, default="valid/heldout_nll", help="Score that chooses best.ckpt"
    )
    parser.add_argument(
        "--init_from", type=str | None, help="Checkpoint of a trained model to start from"
    )
    parser.add_argument(
        "--init_parts",
        type=Part,
        nargs="+",
        default=["encoder", "generator"],
        help="Parts to take from that checkpoint",
    )
    parser.add_argument(
        "--freeze",
        type=Part,
        nargs="*",
        default=[],
        help="Parts taken from --init_from that the training must not change",
    )
    parser.add_argument(
        "--name", type=str | None, help="Folder under lightning_logs (default: a time stamp)"
    )
    parser.add_argument(
        "--resume", type=str | None, help="Folder of a run that was stopped, to go on with it"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=default_jobs(),
        help=f"Trainings at a time on this machine; without it as many as cores, at most {N_ON_GPU} on each GPU",
    )
    parser.add_argument(
        "--cluster",
        type=str,
        default="local",
        help="Where to train: in processes of this machine (local), on the Ray cluster that it belongs to (auto), or on another "
        "(HOST:PORT, ray://HOST:PORT)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="Print only the table of results, and errors"
    )
    return parser


def check_options(config: Namespace) -> None:
    """Raise InputError for a value that no class checks itself."""
    seed, precision = config.seed_everything, config.trainer.precision
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed_everything {seed}: expected a whole number from 0 to 2^32 - 1")
    if config.trainer.max_epochs == 0:
        raise InputError("--trainer.max_epochs 0: expected at least 1")
    if config.model.refinement > 0 and config.data.development_fraction == 0:
        raise InputError(
            "--data.development_fraction 0: expected more than 0, or --model.refinement 0 beside it"
        )
    callbacks = [callback.class_path for callback in as_list(config.trainer.callbacks)]
    if config.model.refinement > 0 and any(name.endswith("EarlyStopping") for name in callbacks):
        raise InputError(
            "--trainer.callbacks EarlyStopping: stops before the refinement; expected --model.refinement 0 beside it"
        )
    if config.freeze and config.init_from is None:
        raise InputError(
            f"--freeze {' '.join(config.freeze)}: expected --init_from CHECKPOINT beside it"
        )
    if config.seeds < 1:
        raise InputError(f"--seeds {config.seeds}: expected at least 1")
    if config.cluster != "local" and is_distributed(config):
        raise InputError(
            f"--cluster {config.cluster}: expected one process for each training (--trainer.devices 1)"
        )
    if config.jobs < 1:
        raise InputError(f"--jobs {config.jobs}: expected at least 1")
    # half precision cannot hold all counts above 256, nor small changes of the weights
    if precision is not None and str(precision) not in (*PRECISIONS, "32", "64", "bf16", "16"):
        raise InputError(
            f"--trainer.precision {precision}: expected one of {', '.join(PRECISIONS)}"
        )


def choose_bandwidths(config: Namespace) -> list[int]:
    """Return the bandwidths to train at; raise InputError if the data do not have one of them."""
    n_neurons = SpikeDataModule(**config.data).n_neurons
    bandwidths = config.bandwidths
    if bandwidths is None:
        bandwidths = (
            [config.data.bandwidth]
            if config.data.bandwidth is not None
            else default_bandwidths(n_neurons)
        )
    for bandwidth in bandwidths:
        if not 1 <= bandwidth <= n_neurons:
            raise InputError(
                f"--bandwidths {bandwidth}: expected 1 to {n_neurons}, the number of neurons in {config.data.path}"
            )
    if len(set(bandwidths)) < len(bandwidths):
        raise InputError(
            f"--bandwidths {' '.join(map(str, bandwidths))}: expected each number once"
        )
    return bandwidths


def default_bandwidths(n_neurons: int) -> list[int]:
    """Return the demonstration's bandwidths for its 29 neurons, else all neurons, a half, a quarter
    and an eighth of them."""
    if n_neurons == DEMO_BANDWIDTHS[0]:
        return DEMO_BANDWIDTHS
    return sorted({max(1, round(n_neurons / fraction)) for fraction in (1, 2, 4, 8)}, reverse=True)


def choose_epochs(trainer: Namespace, data: SpikeDataModule) -> int | None:
    """Return the number of epochs: as given, or from the amount of data if nothing limits the
    training.

    Steps decide, not epochs: N_STEPS, and up to eight times as many if there are more data than in
        the demonstration.
    """
    if trainer.max_epochs is not None or trainer.max_steps != -1:
        return trainer.max_epochs
    n_trials = len(data.trials["train"].spikes)
    return math.ceil(N_STEPS * extension(data, at_most=8) / math.ceil(n_trials / data.batch_size))


def choose_refinement(config: Namespace, data: SpikeDataModule) -> int:
    """Return the number of epochs of the refinement: as given, up to twice as many if there are
    more data."""
    return round(config.model.refinement * extension(data, at_most=2))


def extension(data: SpikeDataModule, at_most: float) -> float:
    """Return how many times more time bins there are for training than in the demonstration: 1 to
    `at_most`."""
    n_trials, n_bins, _ = data.trials["train"].spikes.shape
    return min(max(n_trials * n_bins / N_BINS, 1.0), at_most)


def config_of(config: Namespace, bandwidth: int, seed: int) -> Namespace:
    """Return the options that train one bandwidth of a run with one seed alone."""
    config = config.clone()
    config.bandwidths, config.name, config.data.bandwidth = None, None, bandwidth
    config.seeds, config.seed_everything, config.cluster = 1, seed, "local"
    return config


def choose_trainings(config: Namespace, bandwidths: list[int]) -> list[tuple[int, int]]:
    """Return the bandwidth and the seed of each training of a run."""
    seeds = range(config.seed_everything, config.seed_everything + config.seeds)
    return [(bandwidth, seed) for bandwidth in bandwidths for seed in seeds]


def as_list(value: object) -> list:
    """Return the value of an option (None, one object or a list) as a list."""
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def may_use_gpus(config: Namespace) -> bool:
    """Return whether the options let a training choose a GPU."""
    return config.trainer.devices == "auto" and config.trainer.accelerator in (
        "auto",
        "gpu",
        "cuda",
    )


def choose_gpus(config: Namespace, n_trainings: int) -> list[int | None]:
    """Return the index of a GPU for each training, in turn. None: there is no GPU, or options or
    the cluster choose it."""
    n_gpus = torch.cuda.device_count()
    if n_gpus == 0 or config.cluster != "local" or not may_use_gpus(config):
        return [None] * n_trainings
    return [index % n_gpus for index in range(n_trainings)]


def is_distributed(config: Namespace) -> bool:
    """Return whether several processes train one model: more than one of --trainer.devices or
    --trainer.num_nodes."""
    devices = config.trainer.devices
    if isinstance(devices, str):
        try:
            devices = (
                1 if devices == "auto" else devices.split(",") if "," in devices else int(devices)
            )
        except ValueError:
            raise InputError(
                f"--trainer.devices {devices}: expected a number, indices of devices (0,1) or auto"
            ) from None
    n_devices = len(devices) if isinstance(devices, list) else devices
    return config.trainer.num_nodes > 1 or n_devices not in (0, 1)  # -1: all there are
