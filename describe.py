"""Describe a recording: shapes, observed entries, rates, and what looks wrong.

python describe.py FILE          exit status 2 if it cannot be trained on
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import numpy as np

from command_line import number_of, run
from recordings.checks import check_counts, check_observed, check_rates, doubt_units
from recordings.hdf5 import Trials, blocks, read_file

HIGH_MEAN_RATE = 300  # spikes/s; a higher mean is probably a mistake in units
MAX_RATE = 2000  # spikes/s; no neuron is faster, even within one bin


@dataclass
class Summary:
    """Sums over the trials of one split. Letters: T bins, N neurons."""

    n_observed: np.ndarray  # (T, N) trials in which an entry was observed
    n_spikes: np.ndarray  # (T, N)
    highest_count: float
    n_empty_trials: int  # without a single observed entry

    def mean_rates(self, bin_width: float) -> np.ndarray:
        """Return the mean rates (N,) in spikes/s, zero for neurons that were never observed."""
        return self.n_spikes.sum(0) / np.maximum(self.n_observed.sum(0), 1) / bin_width


def summarise(trials: Trials, path: str | Path, split: str) -> Summary:
    """Sum over the trials of one split, a block at a time; raise InputError for wrong values."""
    n_observed, n_spikes = np.zeros((2, *trials.spikes.shape[1:]))
    highest, n_empty = 0.0, 0
    for block in blocks(trials.spikes):
        spikes = check_counts(trials.spikes[block], path, f"{split}_data")
        if trials.rates is not None:
            check_rates(trials.rates[block], path, f"{split}_truth")
        observed = ~np.isnan(spikes)
        n_observed += observed.sum(0)
        n_spikes += np.nansum(spikes, axis=0)
        n_empty += int((~observed.any((1, 2))).sum())
        highest = max(highest, float(np.nanmax(spikes, initial=0.0)))
    check_observed(n_observed > 0, path, f"{split}_data")
    return Summary(n_observed, n_spikes, highest, n_empty)


def find_suspicious(summary: Summary, bin_width: float) -> list[str]:
    """Return a line for each property that looks wrong. Neurons and bins are counted from 1."""
    n_observed, n_spikes = summary.n_observed.sum(0), summary.n_spikes.sum(0)
    rates = summary.mean_rates(bin_width)
    found = {
        "never observed: neurons": n_observed == 0,
        "observed but silent: neurons": (n_observed > 0) & (n_spikes == 0),
        f"above {HIGH_MEAN_RATE} spikes/s: neurons": rates > HIGH_MEAN_RATE,
        "never observed: time bins": summary.n_observed.sum(1) == 0,
    }
    lines = doubt_units(rates, bin_width) + [
        f"{what} {', '.join(map(str, 1 + np.flatnonzero(where)))}"
        for what, where in found.items()
        if where.any()
    ]
    if summary.n_empty_trials:
        lines.append(f"without any observed count: {number_of(summary.n_empty_trials, 'trial')}")
    if summary.highest_count > max(2.0, MAX_RATE * bin_width):
        lines.append(f"the highest count in a bin of {bin_width:g} s is {summary.highest_count:g}")
    return lines


def describe_split(trials: Trials, summary: Summary, bin_width: float) -> str:
    """Return what is in the trials of one split, in lines."""
    observed = 100 * summary.n_observed / len(trials.spikes)
    rates = summary.mean_rates(bin_width)
    mean = summary.n_spikes.sum() / summary.n_observed.sum() / bin_width
    lines = [f"true rates          {'none' if trials.rates is None else 'known'}"]
    lines.append(f"observed            {observed.mean():.1f}% of the entries")
    for axis, name in enumerate(("of a neuron's", "of a time bin's")):
        part = observed.mean(axis)
        span = f"{part.min():.1f}% to {part.max():.1f}% (median {np.median(part):.1f}%)"
        lines.append(f"{name:18}  {span}")
    span = f"neurons {rates.min():.1f} to {rates.max():.1f}"
    lines.append(f"mean rate           {mean:.1f} spikes/s; {span}")
    lines.append(f"highest count       {summary.highest_count:g} spikes in a bin")
    return "".join(f"\n  {line}" for line in lines)


def describe(path: str, bin_width: float | None = None) -> None:
    """Print what is in a recording, what looks wrong, and the command that trains on it.

    Args:
        path: HDF5 file. README.md lists its keys.
        bin_width: Width of a time bin (s). None: the file's attribute.

    Raises:
        InputError: the file cannot be trained on.
    """
    flag = "" if bin_width is None else f" --data.bin_width {bin_width}"
    splits, bin_width, n_heldin, _, names = read_file(path, bin_width)
    n_bins, n_neurons = splits["train"].spikes.shape[1:]
    n_hidden = n_neurons - n_heldin
    heldout = f" ({n_hidden} hidden from the model)" if n_hidden else ""
    bins = f"{number_of(n_bins, 'bin')} of {bin_width:g} s in a trial ({n_bins * bin_width:g} s)"
    print(f"{path}: {number_of(n_neurons, 'neuron')}{heldout}, {bins}")
    named = f" ({', '.join(names)})" if names and len(names) <= 12 else ""
    warnings = []
    for split, trials in splits.items():
        labels, summary = trials.condition, summarise(trials, path, split)
        conditions = ""
        if labels is not None:
            conditions = f" of {number_of(len(np.unique(labels)), 'condition')}{named}"
        print(f"\n{split}: {number_of(len(trials.spikes), 'trial')}{conditions}", end="")
        print(describe_split(trials, summary, bin_width))
        warnings += [f"{split}: {line}" for line in find_suspicious(summary, bin_width)]
    print("\nLooks wrong:" if warnings else "\nNothing looks wrong.")
    for line in warnings:
        print(f"  {line}")
    command = f"python train.py --data.path {shlex.quote(path)}{flag} --bandwidths {n_neurons}"
    print(f"\nIt can be trained on: {command}")


def main() -> None:
    jsonargparse.auto_cli(describe, exit_on_error=False, allow_abbrev=False)


if __name__ == "__main__":
    run(main)
