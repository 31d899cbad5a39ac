"""What the experiments share: trainings that go on where they were stopped, and tables of means
over seeds."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.style
import numpy as np
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure

from command_line import FailedWork, InputError, command_parser, write_table
from data import SpikeDataModule
from evaluation.checkpoints import LOGS
from plotting.style import STYLE, save
from training.options import train_parser
from training.runs import read_results


def evidence_parser(description: str) -> ArgumentParser:
    """Return a parser with the folder that a piece of evidence is written to."""
    parser = command_parser(description)
    parser.add_argument(
        "--out", type=str, default="docs/evidence", help="Folder for table and figure"
    )
    return parser


def add_cluster(parser: ArgumentParser) -> None:
    """Add the option that says where to train."""
    parser.add_argument(
        "--cluster",
        type=str,
        default="local",
        help="Where to train: local, or a Ray cluster as in train.py",
    )


def write_evidence(name: str, rows: list[dict], draw: Callable[[], Figure], out: Path) -> None:
    """Write a table and its figure."""
    write_table(out / f"{name}.csv", rows)
    with matplotlib.style.context(STYLE):
        save(draw(), name, out)


def check_truth(path: str) -> None:
    """Raise InputError if a data file has no true rates."""
    if SpikeDataModule(path).trials["valid"].rates is None:
        raise InputError(f"--data {path}: has no valid_truth; expected simulated data")


def command(*words: str) -> None:
    """Print and run one of the repo's commands; raise InputError or FailedWork if it fails."""
    print(f"\npython {' '.join(words)}", flush=True)
    if status := subprocess.run([sys.executable, *words]).returncode:
        raise (InputError if status == 2 else FailedWork)(f"python {' '.join(words)} failed")


def train(
    name: str, words: list[str], cluster: str = "local"
) -> dict[tuple[int, int], dict[str, float]]:
    """Train a run, or go on with it if it was begun; nothing happens if it is complete.

    Args:
        name: Folder of the run under lightning_logs.
        words: Options of train.py.
        cluster: Where to train, also if the run was begun elsewhere.

    Returns:
        The row of results.csv of each bandwidth and seed.

    Raises:
        FailedWork: a training failed.
        InputError: the run was begun with other options.
    """
    words = ["--name", name, *words, "--cluster", cluster]
    if (LOGS / name / "config.yaml").exists():
        parser = train_parser()
        begun, asked = parser.parse_path(LOGS / name / "config.yaml"), parser.parse_args(words)
        asked.config, asked.jobs, asked.cluster = begun.config, begun.jobs, begun.cluster
        if begun != asked:
            raise InputError(
                f"{LOGS / name}: was trained with other options; expected {' '.join(words)}"
            )
        words = ["--resume", str(LOGS / name), "--cluster", cluster]
    command("train.py", *words)
    return {(row["bandwidth"], row["seed"]): row for row in read_results(LOGS / name)}


def mean_and_sd(values: list[float], digits: int = 3) -> str:
    """Return `mean ± SD` over seeds; without the SD for one seed, and a dash if a value is
    missing."""
    if not np.isfinite(values).all():
        return "–"
    sd = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{sd}"
