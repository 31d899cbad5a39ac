"""One grid of runs for all experiments: train what is missing, gather one table, write and draw it.

The experiments need pandas: pip install -r requirements-evidence.txt
"""

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from command_line import FailedWork, InputError, markdown_table, writable_folder, write_table
from data import SpikeDataModule
from evaluation.run_folders import LOGS, read_results, run_folder
from modules.metrics import R2
from plotting.style import BLUE, GREEN, GREY, ORANGE, SKY, STYLE, save
from training.options import make_parser

SIMULATION_SEED = "1"  # not that of lorenz_data.h5
COLOURS = [BLUE, ORANGE, GREEN, GREY, SKY, "#CC79A7"]
MARKS = ["o-", "s:", "^--", "x-.", "v-", "d:"]
Results = dict[str, float | str]  # a run's row of results.csv


@dataclass(frozen=True)
class Sweep:
    """A cell of the grid: one `train.py` command, and what is measured of its runs."""

    name: str  # its folder under lightning_logs; what needs the same sweep shares it
    bandwidths: Sequence[int]
    seeds: Sequence[int]  # consecutive
    measure: Callable[[Path, Results], list[dict]]  # from the folder of a run: rows of the table
    cluster: str  # where to train, as in train.py
    flags: Sequence[str] = ()
    label: str = ""  # what is compared: a line in the figure; may name the {bandwidth}
    x: int | None = None  # where on the x-axis; None: at the bandwidth

    def vary(self, label: str, name: str, *flags: str, **changes: object) -> "Sweep":
        """Return a sweep with another label, a longer name, more flags, and other changes."""
        name, flags = f"{self.name}_{name}", (*self.flags, *flags)
        return replace(self, label=label, name=name, flags=flags, **changes)

    def folder(self, bandwidth: int, seed: int) -> Path:
        """Return the folder of a run."""
        return LOGS / self.name / run_folder(bandwidth, seed if len(self.seeds) > 1 else None)


def gather(sweeps: Iterable[Sweep]) -> pd.DataFrame:
    """Train the sweeps where they are not trained. Return the rows that are measured of each run,
    after `label`, `x`, `bandwidth` and `seed`."""
    rows = []
    for sweep in sweeps:
        results = train(sweep)
        for bandwidth, seed in product(sweep.bandwidths, sweep.seeds):
            x = bandwidth if sweep.x is None else sweep.x
            run = {"label": sweep.label.format(bandwidth=bandwidth), "x": x}
            run |= {"bandwidth": bandwidth, "seed": seed}
            measured = sweep.measure(sweep.folder(bandwidth, seed), results[bandwidth, seed])
            rows += [run | row for row in measured]
    return pd.DataFrame(rows)


def train(sweep: Sweep) -> dict[tuple[int, int], Results]:
    """Train a sweep, or resume it if it was begun. Return the results of each bandwidth and seed.

    Raises:
        FailedWork: a run failed.
        InputError: the sweep was begun with other options.
    """
    folder = LOGS / sweep.name
    words = ["--name", sweep.name, *sweep.flags, "--bandwidths", *map(str, sweep.bandwidths)]
    words += ["--seed_everything", str(sweep.seeds[0]), "--seeds", str(len(sweep.seeds))]
    words += ["--cluster", sweep.cluster]
    if (folder / "config.yaml").exists():
        parser = make_parser()
        begun, asked = parser.parse_path(folder / "config.yaml"), parser.parse_args(words)
        # where and how many at a time may differ
        asked.config, asked.jobs, asked.cluster = begun.config, begun.jobs, begun.cluster
        if begun != asked:
            raise InputError(f"{folder}: trained with other options; expected {' '.join(words)}")
        words = ["--resume", str(folder), "--cluster", sweep.cluster]
    run_command("train.py", *words)
    return {(row["bandwidth"], row["seed"]): row for row in read_results(folder)}


def run_command(*words: str) -> None:
    """Print and run one of the repo's commands; raise InputError or FailedWork if it fails."""
    print(f"\npython {' '.join(words)}", flush=True)
    if status := subprocess.run([sys.executable, *words]).returncode:
        raise (InputError if status == 2 else FailedWork)(f"python {' '.join(words)} failed")


def simulate_once(name: str, *flags: str) -> str:
    """Return the path of a simulated data set under lightning_logs; make it if it is missing."""
    path = writable_folder(LOGS, "lightning_logs") / f"{name}.h5"
    if not path.exists():
        run_command("simulate.py", "--path", str(path), "--seed", SIMULATION_SEED, *flags)
    return str(path)


def read_data_with_rates(path: str) -> SpikeDataModule:
    """Read a data file; raise InputError if it has no true rates."""
    data = SpikeDataModule(path)
    if data.trials["valid"].rates is None:
        raise InputError(f"{path}: has no valid_truth; expected simulated data")
    return data


def r2_of_rates(rates: np.ndarray, data: SpikeDataModule) -> float:
    """Return the R² of rates (B, T, N) in spikes/s on the validation trials."""
    metric = R2(data.n_neurons)
    metric.update(torch.from_numpy(rates).float(), torch.from_numpy(data.trials["valid"].rates))
    return float(metric.compute())


def mean_and_sd(values: pd.Series) -> str:
    """Return `mean ± SD` over seeds, no SD for one seed; a dash if a value is missing."""
    if not np.isfinite(values).all():
        return "–"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def print_table(table: pd.DataFrame, n_left: int = 0) -> None:
    """Print a table in Markdown, its first `n_left` columns aligned left."""
    print(f"\n{markdown_table({name: list(map(str, table[name])) for name in table}, n_left)}")


def write(
    out: Path, name: str, table: pd.DataFrame, plot: Callable[..., Figure] | None = None, *args
) -> None:
    """Write a table as CSV, and the figure that `plot` draws of it."""
    write_table(out / f"{name}.csv", table.to_dict("records"))
    if plot is not None:
        with matplotlib.style.context(STYLE):
            save(plot(table, *args), name, out)


def plot_lines(table: pd.DataFrame, x_label: str, score: str, title: str) -> Figure:
    """Plot a score against x, a line for each label: the mean over seeds, each seed as a mark."""
    figure = Figure(figsize=(4.8, 3.8))
    axes = figure.subplots()
    means = table.groupby(["label", "x"], sort=False)[score].mean()
    lines = table.groupby("label", sort=False)
    for (label, line), colour, mark in zip(lines, COLOURS, MARKS, strict=False):
        axes.plot(means[label].sort_index(), mark, color=colour, ms=4, label=label)
        axes.plot(line["x"], line[score], mark[0], color=colour, ms=2.5, alpha=0.5)
    lowest = max(min(0.0, means.min()), -0.5) - 0.02
    axes.set(xlabel=x_label, ylabel=title, xscale="log", ylim=(lowest, 1.03))
    ticks = sorted(table["x"].unique())
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
