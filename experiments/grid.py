"""One grid of runs for all experiments: train what is missing, gather one table, write and draw it.

The experiments need pandas: pip install -r requirements-evidence.txt
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure

from command_line import markdown_table, require, writable_folder, write_table
from data import SpikeDataModule
from evaluation.run_folders import LOGS, read_results, run_folder
from experiments.commands import run_command
from modules.metrics import R2
from plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, save
from training.options import make_parser

SIMULATION_SEED = "1"  # not that of lorenz_data.h5
COLOURS = [BLUE, ORANGE, GREEN, GREY, SKY, PURPLE]
MARKS = ["o-", "s:", "^--", "x-.", "v-", "d:"]
Results = dict[str, float | str]  # a run's row of results.csv
Measure = Callable[[Path, Results], list[dict]]  # from the folder of a run: rows of the table


@dataclass(frozen=True)
class Sweep:
    """A cell of the grid: one `train.py` command, and what is measured of its runs."""

    name: str  # its folder under lightning_logs; what needs the same sweep shares it
    bandwidths: Sequence[int]
    seeds: int  # how many, from 0 on
    measure: Measure
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
        return LOGS / self.name / run_folder(bandwidth, seed if self.seeds > 1 else None)


def start(options: Namespace, name: str, measure: Measure, *flags: str) -> Sweep:
    """Return the sweep that those of an experiment are variations of."""
    return Sweep(name, options.bandwidths, options.seeds, measure, options.cluster, flags)


def gather(sweeps: Iterable[Sweep]) -> pd.DataFrame:
    """Train the sweeps where they are not trained. Return the rows that are measured of each run,
    after `label`, `x`, `bandwidth` and `seed`."""
    rows = []
    for sweep in sweeps:
        results = train(sweep)
        for bandwidth, seed in product(sweep.bandwidths, range(sweep.seeds)):
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
    words += ["--seeds", str(sweep.seeds), "--cluster", sweep.cluster]
    if (folder / "config.yaml").exists():
        parser = make_parser()
        begun, asked = parser.parse_path(folder / "config.yaml"), parser.parse_args(words)
        # where and how many at a time may differ
        asked.config, asked.jobs, asked.cluster = begun.config, begun.jobs, begun.cluster
        expected = f"{folder}: trained with other options; expected {' '.join(words)}"
        require(begun == asked, expected)
        words = ["--resume", str(folder), "--cluster", sweep.cluster]
    run_command("train.py", *words)
    return {(row["bandwidth"], row["seed"]): row for row in read_results(folder)}


def simulate_once(name: str, **sizes: int) -> str:
    """Return the path of a simulated data set under lightning_logs; make it if it is missing."""
    path = writable_folder(LOGS, "lightning_logs") / f"{name}.h5"
    if not path.exists():
        flags = [f"--{name}={size}" for name, size in sizes.items()]
        run_command("simulate.py", "--path", str(path), "--seed", SIMULATION_SEED, *flags)
    return str(path)


def true_rates(data: SpikeDataModule) -> np.ndarray:
    """Return the true rates (B, T, N) of the validation trials, which must be known."""
    rates = data.trials["valid"].rates
    require(rates is not None, f"{data.hparams.path}: no true rates; expected simulated data")
    return rates


def r2_of_rates(rates: np.ndarray, data: SpikeDataModule) -> float:
    """Return the R² of rates (B, T, N) in spikes/s on the validation trials."""
    inferred, true = torch.from_numpy(rates).float(), torch.from_numpy(true_rates(data))
    return float(R2(data.n_neurons)(inferred, true))


def mean_and_sd(values: pd.Series) -> str:
    """Return `mean ± SD` over seeds, no SD for one seed; a dash if a value is missing."""
    if not np.isfinite(values).all():
        return "–"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def print_table(table: pd.DataFrame, n_left: int = 0) -> None:
    """Print a table in Markdown, its first `n_left` columns aligned left."""
    print(f"\n{markdown_table({name: list(map(str, table[name])) for name in table}, n_left)}")


def write(out: Path, name: str, table: pd.DataFrame) -> None:
    """Write a table as CSV."""
    write_table(out / f"{name}.csv", table.to_dict("records"))


def draw(out: Path, name: str, plot: Callable[..., Figure], *args: object) -> None:
    """Save the figure that `plot` makes of the arguments."""
    with matplotlib.style.context(STYLE):
        save(plot(*args), name, out)


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
