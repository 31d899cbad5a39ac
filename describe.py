"""Describe a recording: shapes, observed entries, rates, and what looks wrong. Exit status 2 if it
cannot be trained on.

python describe.py FILE
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import numpy as np

from command_line import InputError, run
from recordings.checks import check_counts, check_rates
from recordings.hdf5 import Trials, blocks, read_file

HIGH_MEAN_RATE = 300  # spikes/s; a higher mean is probably a mistake in units
MAX_RATE = 2000  # spikes/s; no neuron is faster, even within one bin


@dataclass
class Summary:
    """Sums over the trials of one split."""

    n_observed: np.ndarray  # (time, neurons) trials in which an entry was observed
    n_spikes: np.ndarray  # (time, neurons)
    highest_count: float
    n_empty_trials: int  # without a single observed entry


def summarise(trials: Trials, path: str | Path, split: str) -> Summary:
    """Sum over the trials of one split, a block at a time; raise InputError if a value cannot be
    right."""
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
    if not n_observed.any():
        raise InputError(f"{path}: {split}_data holds NaN alone; expected some observed counts")
    return Summary(n_observed, n_spikes, highest, n_empty)


def find_suspicious(summary: Summary, bin_width: float) -> list[str]:
    """Return a line for each property that looks like a mistake. Neurons and bins are counted from
    0."""
    n_observed, n_spikes = summary.n_observed.sum(0), summary.n_spikes.sum(0)
    rates = n_spikes / np.maximum(n_observed, 1) / bin_width
    found = {
        "never observed: neurons": np.flatnonzero(n_observed == 0),
        "observed but silent: neurons": np.flatnonzero((n_observed > 0) & (n_spikes == 0)),
        f"above {HIGH_MEAN_RATE} spikes/s: neurons": np.flatnonzero(rates > HIGH_MEAN_RATE),
        "never observed: time bins": np.flatnonzero(summary.n_observed.sum(1) == 0),
    }
    lines = [f"{what} {', '.join(map(str, where))}" for what, where in found.items() if len(where)]
    if summary.n_empty_trials:
        lines.append(f"without any observed count: {summary.n_empty_trials} trials")
    if summary.highest_count > max(2.0, MAX_RATE * bin_width):
        lines.append(f"the highest count in a bin of {bin_width:g} s is {summary.highest_count:g}")
    return lines


def describe(path: str, bin_width: float | None = None) -> None:
    """Print what is in a recording, what looks wrong, and the command that trains on it.

    Args:
        path: HDF5 file. README.md lists its keys.
        bin_width: Width of a time bin (s). None: the file's attribute.

    Raises:
        InputError: the file cannot be trained on.
    """
    bin_width_flag = "" if bin_width is None else f" --data.bin_width {bin_width}"
    trials, bin_width, n_heldin, _, names = read_file(path, bin_width)
    n_bins, n_neurons = trials["train"].spikes.shape[1:]
    heldout = (
        f", of which {n_neurons - n_heldin} are hidden from the encoder"
        if n_heldin < n_neurons
        else ""
    )
    print(
        f"{path}: {n_neurons} neurons{heldout}, {n_bins} bins of {bin_width:g} s in a trial ({n_bins * bin_width:g} s)"
    )
    warnings = []
    for split, split_trials in trials.items():
        summary = summarise(split_trials, path, split)
        n_trials = len(split_trials.spikes)
        observed = 100 * summary.n_observed / n_trials
        of_neurons = summary.n_spikes.sum(0) / np.maximum(summary.n_observed.sum(0), 1) / bin_width
        n_conditions = (
            None if split_trials.condition is None else len(np.unique(split_trials.condition))
        )
        named = f" ({', '.join(names)})" if names and len(names) <= 12 else ""
        print(
            f"\n{split}: {n_trials} trials"
            + (f" of {n_conditions} conditions{named}" if n_conditions else "")
        )
        print(f"  true rates          {'none' if split_trials.rates is None else 'known'}")
        print(f"  observed            {observed.mean():.1f}% of the entries")
        for name, of_one in (
            ("of a neuron's", observed.mean(0)),
            ("of a time bin's", observed.mean(1)),
        ):
            print(
                f"  {name:18}  {of_one.min():.1f}% to {of_one.max():.1f}% (median {np.median(of_one):.1f}%)"
            )
        mean = summary.n_spikes.sum() / summary.n_observed.sum() / bin_width
        print(
            f"  mean rate           {mean:.1f} spikes/s; neurons {of_neurons.min():.1f} to {of_neurons.max():.1f}"
        )
        print(f"  highest count       {summary.highest_count:g} spikes in a bin")
        warnings += [f"{split}: {line}" for line in find_suspicious(summary, bin_width)]
    print("\nLooks wrong:" if warnings else "\nNothing looks wrong.")
    for line in warnings:
        print(f"  {line}")
    print(
        f"\nIt can be trained on: python train.py --data.path {shlex.quote(path)}{bin_width_flag} --bandwidths {n_neurons}"
    )


def main() -> None:
    jsonargparse.auto_cli(describe, exit_on_error=False, allow_abbrev=False)


if __name__ == "__main__":
    run(main)
