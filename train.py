"""Train the SBTT autoencoder at one or several bandwidths, as many at a time as there are cores.

python train.py                         the eight levels of the demonstration
python train.py --bandwidths 5 3        two of them
python train.py --config configs/published.yaml
python train.py --resume RUN            go on with a run that was stopped
"""

import contextlib
import time
from pathlib import Path
from queue import Queue

from jsonargparse import Namespace
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from cli import LEVELS, TrainCLI
from command_line import FailedWork, InputError, run, writable_folder, write_table
from data import SpikeDataModule
from evaluate import LOGS
from progress import clock, print_table, silence_lightning
from sweep import sole_user, train_sweep


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
        TrainCLI(config.clone()).instantiate_level(bandwidth, LOGS / "none" / "none", Queue())
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"an option has a wrong value: {error}") from None


def make_run_dir(name: str | None) -> Path:
    """Make the folder of a new run, named after the time if not otherwise; raise InputError where `name` is taken."""
    if name is not None and Path(name).name != name:
        raise InputError(f"--name {name}: expected the name of a folder, without a path")
    logs = writable_folder(LOGS, "the log folder")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for candidate in [name] if name is not None else [stamp, *(f"{stamp}-{number}" for number in range(2, 100))]:
        with contextlib.suppress(FileExistsError):
            (logs / candidate).mkdir()
            return logs / candidate
    raise InputError(f"--name {name or stamp}: {logs / (name or stamp)} exists; expected the name of a new run")


def read_stopped_run(cli: TrainCLI) -> tuple[Path, Namespace]:
    """Return the folder of the run that --resume names, and the options that it was started with.

    Raises:
        InputError: no such run, or other options than --jobs and --quiet beside --resume.
    """
    run_dir = Path(cli.config.resume)
    started_with = run_dir / "config.yaml"
    if not started_with.is_file():
        raise InputError(f"--resume {run_dir}: holds no config.yaml; expected the folder of a run of train.py")
    untouched = cli.parser.parse_args([])
    how = {name: cli.config[name] for name in ("resume", "jobs", "quiet")}
    untouched.update(Namespace(how))
    if cli.config != untouched:
        raise InputError(
            f"--resume {run_dir}: the options are those in {started_with}; expected --jobs or --quiet at most beside it"
        )
    config = cli.parser.parse_path(started_with)
    config.jobs, config.quiet = cli.config.jobs, cli.config.quiet
    return run_dir, config


def train(config: Namespace, levels: list[int], run_dir: Path) -> None:
    """Train the levels of a run, then write and print their scores; raise FailedWork where a training failed."""
    start = time.perf_counter()
    if not config.quiet:
        print(f"Training {len(levels)} level{'s' * (len(levels) > 1)} in {run_dir}", flush=True)
    try:
        results = train_sweep(config, levels, run_dir)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; go on with: python train.py --resume {run_dir}") from None
    failed = {level: result for level, result in zip(levels, results, strict=True) if isinstance(result, FailedWork)}
    results = [result for result in results if not isinstance(result, FailedWork)]
    if results:
        write_table(run_dir / "results.csv", results)
        print_table(results)
    if not config.quiet:
        print(f"\nIt took {clock(time.perf_counter() - start)}. The runs are in {run_dir}.")
        print(f"Look at the runs:  tensorboard --logdir {LOGS}\nPlot them:         python plot_results.py {run_dir}")
    if failed:
        raise FailedWork("; ".join(f"bandwidth {level} stopped: {error}" for level, error in failed.items()))


def main() -> None:
    silence_lightning()
    cli = TrainCLI()
    if cli.config.resume is not None:
        run_dir, config = read_stopped_run(cli)
        if (run_dir / "results.csv").exists():
            print(f"{run_dir} was trained to its end: there is nothing left to do")
            return
        levels = choose_levels(config)
    else:
        config = cli.config
        levels = choose_levels(config)
        check_options(config, levels[0])
        run_dir = make_run_dir(config.name)
        cli.parser.save(config, run_dir / "config.yaml", skip_unset=False)
    with sole_user(run_dir):
        train(config, levels, run_dir)


if __name__ == "__main__":
    run(main)
