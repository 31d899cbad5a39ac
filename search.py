"""Look for settings that suit a recording, by the held-out NLL.

python search.py --data.path yours.h5 --bandwidths 30 --trials 30
python search.py --resume RUN           go on with a search that was stopped
python train.py --config RUN/best.yaml  train with what was found

It needs Optuna: pip install -r requirements-search.txt
"""

import functools
import math
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, Namespace

from command_line import FailedWork, InputError, expect, run, silence_lightning, write_table
from train import check_by_building, train_level
from training import options, runs, terminal
from training.cluster import connect, train_on_cluster
from training.parallel import train_all
from training.space import SPACE, Space, read_space, with_settings

try:
    from training import search
except ImportError:
    search = None  # main says so


def make_parser() -> ArgumentParser:
    """Return the parser of the options of train.py, and of those of a search."""
    parser = options.make_parser()
    parser.description = "Look for settings that suit a recording, by the held-out NLL."
    parser.usage = "search.py --data.path FILE --bandwidths N [--trials N] [--space FILE] [options of train.py]"
    parser.add_argument(
        "--trials", type=int, default=30, help="Settings to try; the first is the recipe as it is"
    )
    parser.add_argument("--space", type=str, default=str(SPACE), help="YAML file: what to vary")
    return parser


def of_train(config: Namespace) -> Namespace:
    """Return the options of a search that are those of train.py."""
    config = config.clone()
    del config["trials"], config["space"]
    return config


def of_one_training(config: Namespace) -> Namespace:
    """Return the options of each training of a search.

    Raises:
        InputError: a wrong option.
    """
    expect(config.trials >= 1, "--trials", config.trials, "at least 1")
    options.check_options(config)
    expect(
        not options.is_distributed(config),
        "--trainer.devices",
        config.trainer.devices,
        "1 in a search",
    )
    bandwidths = options.choose_bandwidths(config)
    trainings = options.choose_trainings(config, bandwidths)
    expect(
        len(trainings) == 1,
        "--bandwidths",
        " ".join(map(str, bandwidths)),
        "one bandwidth, and --seeds 1",
    )
    training = options.config_of(of_train(config), *trainings[0])
    check_by_building(training)
    if training.trainer.check_val_every_n_epoch is not None:
        training.trainer.check_val_every_n_epoch = search.epochs_between_validations(training)
    return training


def look_for_settings(config: Namespace, training: Namespace, space: Space, run_dir: Path) -> None:
    """Try settings; write trials.csv and best.yaml, and print the best.

    Raises:
        FailedWork: no training came to its end, or a process was killed.
    """
    study = search.open_study(run_dir, config.seed_everything)
    numbers = range(search.begin(study), config.trials)
    show = terminal.ignore if config.quiet else functools.partial(print, flush=True)
    if numbers:
        show(
            f"Trying {len(numbers)} settings at bandwidth {training.data.bandwidth} in {run_dir}\n"
        )
        show("setting   held-out NLL    time")
    gpus = options.choose_gpus(config, len(numbers))
    arguments = {
        number: (training, run_dir, Path.cwd(), space, config.seed_everything + number, gpu)
        for number, gpu in zip(numbers, gpus, strict=True)
    }
    try_setting = functools.partial(search.try_setting, train_level)
    results = {}
    if numbers and config.cluster == "local":
        results = train_all(try_setting, arguments, min(config.jobs, len(numbers)), show)
    elif numbers:
        uses_gpus = options.may_use_gpus(config)
        results = train_on_cluster(
            try_setting, arguments, None, config.cluster, run_dir, uses_gpus, show
        )
    report(config, study, run_dir)
    failed = [str(result) for result in results.values() if isinstance(result, FailedWork)]
    if failed:
        raise FailedWork(f"{failed[0]}; go on with: python search.py --resume {run_dir}")


def report(config: Namespace, study: object, run_dir: Path) -> None:
    """Write trials.csv and best.yaml, and print the best."""
    rows = search.table_of(study)
    if rows:
        write_table(run_dir / "trials.csv", rows)
    best = search.best_of(study)
    if best is None:
        raise FailedWork(f"{run_dir}: no training came to its end")
    found = with_settings(of_train(config), best.params)
    found.name, found.cluster = None, "local"
    runs.save_config(found, run_dir, "best.yaml")
    default = next((row["heldout_nll"] for row in rows if row["outcome"] == "default"), math.nan)
    print(
        f"\nThe best: setting {best.number + 1}, held-out NLL {best.value:.4f} (the recipe as it is: {default:.4f})"
    )
    print(
        f"All of them:    {run_dir / 'trials.csv'}, and tensorboard --logdir {run_dir}, page HPARAMS"
    )
    print(f"Train with it:  python train.py --config {run_dir / 'best.yaml'}")


def main() -> None:
    silence_lightning()
    if search is None:
        raise InputError(
            "Optuna is not installed; expected: pip install -r requirements-search.txt"
        )
    parser = make_parser()
    config = parser.parse_args()
    run_dir, space_path = None, config.space
    if config.resume is not None:
        run_dir, config = runs.read_stopped_run(parser, config)
        space_path = run_dir / "space.yaml"
    training = of_one_training(config)
    check = functools.partial(check_settings, training)
    space = read_space(space_path, options.train_parser(), check)
    if config.cluster != "local":
        connect(config.cluster)
    if run_dir is None:
        run_dir = runs.make_run_dir(config.name)
        runs.save_config(config, run_dir, parser=parser)
        (run_dir / "space.yaml").write_text(yaml.safe_dump(space))
    with runs.lock_folder(run_dir):
        try:
            look_for_settings(config, training, space, run_dir)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; go on with: python search.py --resume {run_dir}"
            ) from None


def check_settings(training: Namespace, settings: dict[str, object]) -> None:
    """Raise InputError for settings that no model can have."""
    check_by_building(with_settings(training, settings))


if __name__ == "__main__":
    run(main)
