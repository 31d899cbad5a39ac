"""The options of `python train.py`: parse them, check them, and choose what follows from data."""

import functools
import math
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from docstring_parser import parse as parse_docstring
from jsonargparse import SUPPRESS, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeFloat

from command_line import Help, InputError, atomic_write, expect
from data import SpikeDataModule
from model import SequentialAutoencoder
from training.flags import EARLIER_NAMES, ROOT, Part, RefinementOptions, SweepOptions

DEFAULT_CONFIG = ROOT / "configs" / "default.yaml"
DEMO_BANDWIDTHS = [29, 25, 20, 15, 10, 5, 3, 2]  # of 29 neurons
N_STEPS, N_DEMO_BINS = 780, 62_400  # steps for the demonstration, and its time bins for training
LISTS = {"bandwidths": int, "init_parts": Part, "freeze": Part}  # several words after a flag
PRECISIONS = ("32-true", "64-true", "32", "64")


class OptionParser(ArgumentParser):
    """A parser whose options a checkpoint can store, and that knows earlier names of options."""

    def parse_args(self, *args, **kwargs) -> Namespace:
        try:
            return simplify(super().parse_args(*args, **kwargs))
        except UnicodeDecodeError:
            raise InputError("--config: the file is no text; expected options in YAML") from None

    def parse_path(self, *args, **kwargs) -> Namespace:
        return simplify(super().parse_path(*args, **kwargs))

    def format_help(self) -> str:
        asks_for_trainer = "--help.trainer" in sys.argv
        for action in self._actions:  # not before: options without help are not saved
            if action.dest.startswith("trainer") != asks_for_trainer:
                action.help = SUPPRESS
        return super().format_help()


def simplify(options: Namespace) -> Namespace:
    """Replace jsonargparse's types with ranges by int and float, and earlier names by today's."""
    for name, value in options.items():  # of all levels
        for kind in (int, float):
            if isinstance(value, kind) and type(value) not in (bool, kind):
                options[name] = kind(value)
    for earlier, name in EARLIER_NAMES.items():
        value = options.pop(earlier, None)
        if value is not None and name is not None:
            options[name] = int(value)
    return options


def make_parser(description: str = "Train SBTT models.") -> OptionParser:
    """Make a parser of all options. `configs/default.yaml` has their defaults.

    --help shows the repo's own options, --help.trainer those of Lightning.
    """
    parser = OptionParser(
        description=description, usage="%(prog)s [options]", default_config_files=[DEFAULT_CONFIG],
        exit_on_error=False, allow_abbrev=False, formatter_class=Help,
    )  # fmt: skip
    parser.add_argument("-c", "--config", action="config", help="YAML file with options")
    parser.add_argument(
        "--help.trainer", action="help", help="Show the options of Lightning's Trainer"
    )
    explained = {p.arg_name: p.description for p in parse_docstring(SweepOptions.__doc__).params}
    for name, kind in LISTS.items():
        default = getattr(SweepOptions(), name)
        parser.add_argument(
            f"--{name}", type=kind, nargs="*", default=default, help=explained[name]
        )
    parser.add_argument("--quiet", action="store_true", help=explained["quiet"])
    parser.add_class_arguments(SweepOptions, skip={*LISTS, "quiet"})
    parser.add_class_arguments(SpikeDataModule, "data", instantiate=False, skip={"seed"})
    skip = {"n_neurons", "bin_width", "n_heldin", "input_size"}
    parser.add_class_arguments(SequentialAutoencoder, "model", instantiate=False, skip=skip)
    parser.add_class_arguments(RefinementOptions, "refinement")
    for earlier in EARLIER_NAMES:
        parser.add_argument(f"--{earlier}", type=NonNegativeFloat | None, help=SUPPRESS)
    trainer_options = {"instantiate": False, "fail_untyped": False, "sub_configs": True}
    parser.add_class_arguments(pl.Trainer, "trainer", **trainer_options)
    return parser


@functools.cache
def train_parser() -> OptionParser:
    """Return the parser of train.py, made once: that takes a tenth of a second."""
    return make_parser()


def save_config(config: Namespace, path: Path, parser: OptionParser) -> None:
    """Write all options to a file, which --config reads."""
    with atomic_write(path) as temporary:
        temporary.write_text(parser.dump(config, skip_unset=False))


def check_options(config: Namespace) -> None:
    """Raise InputError for values that do not go together, or that train.py does not take."""
    trainer, is_refined = config.trainer, config.refinement.epochs > 0
    expect(trainer.max_epochs != 0, "--trainer.max_epochs", 0, "at least 1")
    has_heldout, beside = config.data.development_fraction > 0, "--refinement.epochs 0 beside it"
    is_right = has_heldout or not is_refined
    expect(is_right, "--data.development_fraction", 0, f"more than 0, or {beside}")
    callbacks = [callback.class_path for callback in as_list(trainer.callbacks)]
    is_right = not (is_refined and any(name.endswith("EarlyStopping") for name in callbacks))
    found = "EarlyStopping: stops before the refinement"
    expect(is_right, "--trainer.callbacks", found, beside)
    is_right = config.init_from is not None or not config.freeze
    expect(is_right, "--freeze", " ".join(config.freeze), "--init_from CHECKPOINT beside it")
    is_right = trainer.precision is None or str(trainer.precision) in PRECISIONS
    expect(is_right, "--trainer.precision", trainer.precision, "32-true or 64-true")
    found, at_most = "--trainer.fast_dev_run", "none: it scores nothing (--trainer.max_epochs 1)"
    expect(not trainer.fast_dev_run, found, trainer.fast_dev_run, at_most)
    one = "1: a model trains on one device, several models (--bandwidths, --seeds) on all there are"
    expect(is_one_device(trainer.devices), "--trainer.devices", trainer.devices, one)
    expect(trainer.num_nodes == 1, "--trainer.num_nodes", trainer.num_nodes, f"{one} (--cluster)")


def is_one_device(devices: int | str | list[int]) -> bool:
    """Return whether --trainer.devices asks for one device: their number, or one index."""
    if isinstance(devices, str) and devices.count(",") == 1:
        devices = [index for index in devices.split(",") if index]
    return len(devices) == 1 if isinstance(devices, list) else devices in (1, "1", "auto")


def as_list(value: object) -> list:
    """Return the value of an option (None, one object or a list) as a list."""
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def choose_runs(config: Namespace) -> list[tuple[int, int]]:
    """Return the bandwidth and the seed of each run of a sweep.

    Raises:
        InputError: a bandwidth that the data do not have, or one given twice.
    """
    n_neurons, bandwidths = SpikeDataModule(**config.data).n_neurons, config.bandwidths
    if not bandwidths:
        given = config.data.bandwidth
        bandwidths = default_bandwidths(n_neurons) if given is None else [given]
    possible = f"1 to {n_neurons}, the number of neurons in {config.data.path}"
    for bandwidth in bandwidths:
        expect(1 <= bandwidth <= n_neurons, "--bandwidths", bandwidth, possible)
    is_right = len(set(bandwidths)) == len(bandwidths)
    expect(is_right, "--bandwidths", " ".join(map(str, bandwidths)), "each number once")
    seeds = range(config.seed_everything, config.seed_everything + config.seeds)
    return [(bandwidth, seed) for bandwidth in bandwidths for seed in seeds]


def default_bandwidths(n_neurons: int) -> list[int]:
    """Return the demonstration's bandwidths for its 29 neurons, else all, 1/2, 1/4 and 1/8."""
    if n_neurons == DEMO_BANDWIDTHS[0]:
        return DEMO_BANDWIDTHS
    return sorted({max(1, round(n_neurons / part)) for part in (1, 2, 4, 8)}, reverse=True)


def run_options(config: Namespace, bandwidth: int, seed: int) -> Namespace:
    """Return the options of one run of a sweep alone."""
    config = config.clone()
    config.bandwidths, config.name, config.data.bandwidth = None, None, bandwidth
    config.seeds, config.seed_everything, config.cluster = 1, seed, "local"
    return config


def extension(data: SpikeDataModule, at_most: float) -> float:
    """Return how many times the demonstration's time bins there are to train on, from 1 on."""
    n_trials, n_bins, _ = data.trials["train"].spikes.shape
    return min(max(n_trials * n_bins / N_DEMO_BINS, 1.0), at_most)


def choose_epochs(trainer: Namespace, data: SpikeDataModule) -> int | None:
    """Return the number of epochs: as given, or from the amount of data if nothing limits the run.

    Steps decide, not epochs: N_STEPS, and up to eight times as many if there are more data than in
    the demonstration.
    """
    if trainer.max_epochs is not None or trainer.max_steps != -1:
        return trainer.max_epochs
    n_batches = math.ceil(len(data.trials["train"].spikes) / data.batch_size)
    return math.ceil(N_STEPS * extension(data, at_most=8) / n_batches)


def choose_refinement(config: Namespace, data: SpikeDataModule) -> int:
    """Return the number of epochs of the refinement: up to twice those given, for more data."""
    return round(config.refinement.epochs * extension(data, at_most=2))


def may_use_gpus(config: Namespace) -> bool:
    """Return whether the options let a run choose a GPU."""
    is_allowed = config.trainer.accelerator in ("auto", "gpu", "cuda")
    return is_allowed and config.trainer.devices == "auto"


def choose_gpus(config: Namespace, n_runs: int) -> list[int | None]:
    """Return the index of a GPU for each run, in turn. None: options or the cluster choose."""
    n_gpus = torch.cuda.device_count()
    if n_gpus == 0 or config.cluster != "local" or not may_use_gpus(config):
        return [None] * n_runs
    return [index % n_gpus for index in range(n_runs)]
