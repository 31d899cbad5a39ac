"""Sampling patterns: which entries of a trial an interface of limited bandwidth observes.

All patterns observe the same number of entries: `bandwidth` neurons at each time step, on average
    over time.
Letters in shapes: T time bins, N neurons.
"""

from typing import Literal

import numpy as np

Pattern = Literal["random", "fixed", "staggered", "blocks"]
Fill = Literal["none", "zero", "interpolated"]


def sample_random(recorded: np.ndarray, bandwidth: int, rng: np.random.Generator) -> np.ndarray:
    """Choose which neurons are observed at random at each time step of each trial.

    Args:
        recorded: (..., neurons) bool, the entries to choose from.
        bandwidth: Number of neurons observed at each time step.
        rng: Random number generator.

    Returns:
        (..., neurons) bool: True for `bandwidth` neurons at each time step, or for all recorded
        ones if fewer.
    """
    draw = rng.random(recorded.shape, dtype=np.float32)
    draw[~recorded] = 2.0  # chosen last
    chosen = np.zeros_like(recorded)
    np.put_along_axis(
        chosen, draw.argpartition(bandwidth - 1, axis=-1)[..., :bandwidth], True, axis=-1
    )
    return chosen & recorded


def sample_fixed(recorded: np.ndarray, bandwidth: int, seed: int) -> np.ndarray:
    """Choose the same neurons at all time steps (T, N) of all trials: what one records without
    SBTT."""
    return recorded & np.isin(
        np.arange(recorded.shape[1]), neuron_order(recorded.shape[1], seed)[:bandwidth]
    )


def sample_staggered(
    recorded: np.ndarray, bandwidth: int, seed: int, rng: np.random.Generator
) -> np.ndarray:
    """Scan the neurons in a fixed order, `bandwidth` at a time step (T, N), as a scanning
    microscope does.

    Each neuron is observed every N / bandwidth time steps, with an offset of its own. A trial
    starts anywhere in the scan.
    """
    n_bins, n_neurons = recorded.shape
    place = np.argsort(neuron_order(n_neurons, seed))  # of each neuron in the scan
    first = bandwidth * np.arange(n_bins) + rng.integers(n_neurons)
    return recorded & ((place - first[:, None]) % n_neurons < bandwidth)


def sample_blocks(recorded: np.ndarray, bandwidth: int, rng: np.random.Generator) -> np.ndarray:
    """Lose whole time steps (T, N), as with dropped packets: all neurons are observed at the
    others."""
    n_bins, n_neurons = recorded.shape
    n_kept = int(n_bins * bandwidth / n_neurons + rng.random())  # on average exactly the bandwidth
    kept = np.zeros((n_bins, 1), dtype=bool)
    kept[rng.permutation(n_bins)[:n_kept]] = True
    return recorded & kept


def neuron_order(n_neurons: int, seed: int) -> np.ndarray:
    """Return the neurons in an order (N,) that follows from the seed alone."""
    return np.random.default_rng(seed).permutation(n_neurons)


def sample(
    pattern: Pattern, recorded: np.ndarray, bandwidth: int, seed: int, rng: np.random.Generator
) -> np.ndarray:
    """Choose the observed entries (T, N) of a trial.

    Args:
        pattern: random, fixed, staggered or blocks.
        recorded: (T, N) bool, the entries to choose from.
        bandwidth: Number of neurons observed at each time step.
        seed: Seed of what is common to all trials.
        rng: Random number generator of the trial.
    """
    if pattern == "fixed":
        return sample_fixed(recorded, bandwidth, seed)
    if pattern == "staggered":
        return sample_staggered(recorded, bandwidth, seed, rng)
    if pattern == "blocks":
        return sample_blocks(recorded, bandwidth, rng)
    return sample_random(recorded, bandwidth, rng)


def fill_missing(spikes: np.ndarray, fill: Fill) -> np.ndarray:
    """Return the counts (T, N) of a trial with something in place of missing ones (NaN), as if it
    had been observed.

    Args:
        spikes: (T, N) counts per bin, NaN = missing.
        fill: none: they stay missing. zero: zeros. interpolated: each neuron's counts, linearly in
            time; zeros for a neuron without any count in the trial.
    """
    if fill == "none":
        return spikes
    filled = np.nan_to_num(spikes, nan=0.0)
    if fill == "interpolated":
        bins = np.arange(len(spikes))
        for neuron, observed in enumerate(~np.isnan(spikes.T)):
            if observed.any():
                filled[:, neuron] = np.interp(bins, bins[observed], spikes[observed, neuron])
    return filled
