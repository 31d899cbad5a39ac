"""A run: its trainings, one for each bandwidth and seed, and the table of their results."""

import time
from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

from command_line import FailedWork, write_table
from evaluation.checkpoints import LOGS, training_folder
from training import options, runs, terminal
from training.cluster import train_on_cluster
from training.comparison import compare_inputs
from training.parallel import Scores, train_all


def train_run(
    train_level: Callable[..., Scores],
    config: Namespace,
    trainings: list[tuple[int, int]],
    run_dir: Path,
) -> None:
    """Train what has no results yet. Write and print results; raise FailedWork if a training
    failed.

    Args:
        train_level: Function that trains one bandwidth with one seed (train.py).
        config: Options of the run.
        trainings: Bandwidth and seed of each training.
        run_dir: Folder of the run.
    """
    start = time.perf_counter()
    results = read_trained(config, run_dir)
    left = [training for training in trainings if training not in results]
    quiet = config.quiet or not runs.is_main_process()
    say = terminal.ignore if quiet else print
    bandwidths = list(dict.fromkeys(bandwidth for bandwidth, _ in left))
    seeds = f" with {config.seeds} seeds" if config.seeds > 1 else ""
    say(
        f"Training {len(bandwidths)} bandwidth{'s' * (len(bandwidths) > 1)} ({', '.join(map(str, bandwidths))}){seeds} in {run_dir}"
    )
    n_jobs = 1 if options.is_distributed(config) else min(config.jobs, len(left))
    names = {(n, seed): terminal.name_of(n, seed if config.seeds > 1 else None) for n, seed in left}
    arguments = {
        (n, seed): (
            options.config_of(config, n, seed),
            run_dir / training_folder(n, seed if config.seeds > 1 else None),
            gpu,
        )
        for (n, seed), gpu in zip(left, options.choose_gpus(config, len(left)), strict=True)
    }
    with terminal.progress_display(list(names.values()), quiet) as show:
        if config.cluster == "local":
            trained = train_all(train_level, arguments, n_jobs, show)
        else:
            folders = {training: folder for training, (_, folder, _) in arguments.items()}
            place = config.cluster, run_dir, options.may_use_gpus(config)
            trained = train_on_cluster(train_level, arguments, folders, *place, show)
    if not runs.is_main_process():
        return
    failed = {
        training: error for training, error in trained.items() if isinstance(error, FailedWork)
    }
    results |= {training: scores for training, scores in trained.items() if training not in failed}
    if results:
        rows = [results[training] for training in trainings if training in results]
        write_table(run_dir / "results.csv", rows)
        terminal.print_table(rows)
        for line in compare_inputs(run_dir, config):
            say(line)
    say(f"\nIt took {terminal.clock(time.perf_counter() - start)}. The runs are in {run_dir}.")
    say(
        f"Look at the runs:  tensorboard --logdir {LOGS}\nPlot them:         python plot_results.py {run_dir}"
    )
    if failed:
        raise FailedWork(
            "; ".join(f"{names[training]} stopped: {error}" for training, error in failed.items())
        )


def read_trained(config: Namespace, run_dir: Path) -> dict[tuple[int, int], dict[str, float | str]]:
    """Return the results of the trainings of a run that came to their end, by bandwidth and
    seed."""
    rows = [{"seed": config.seed_everything} | row for row in runs.read_results(run_dir)]
    return {(row["bandwidth"], row["seed"]): row for row in rows}


def seed_of(config: Namespace, folder: Path) -> int | None:
    """Return the seed in the name of a training's folder; None if its run has only one seed."""
    return config.seed_everything if folder.name == f"seed_{config.seed_everything}" else None
