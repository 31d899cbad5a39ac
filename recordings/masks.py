"""What an interface of limited bandwidth observes of a trial, and what is held out to score models.

All patterns observe `bandwidth` neurons per time step, on average over time.
A count that is not observed is NaN. Letters in shapes: T time bins, N neurons.
"""

import math
from typing import Literal, NamedTuple

import numpy as np

Pattern = Literal["random", "fixed", "staggered", "blocks"]
Fill = Literal["none", "zero", "interpolated"]

MAX_DEVELOPMENT_TRIALS = 300  # training trials with held-out entries


class Masks(NamedTuple):
    """Which counts of the trials of a split are observed, and which of these are held out.

    Each trial has random numbers of its own, so it has the same masks in whatever order trials are
    read.
    """

    seeds: list[int]  # of the run and of the split; the first also draws what all trials share
    bandwidth: int | None  # None: all recorded neurons are observed
    heldout_fraction: float  # of the observed entries of a trial
    stride: int | None  # each stride-th trial has held-out entries; None: none has
    first_heldout: int | None = None  # hold out the neurons from this one on, not random entries
    pattern: Pattern = "random"
    fill: Fill = "none"

    def apply(self, spikes: np.ndarray, trial: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the spikes (T, N) of a trial, NaN if not observed, and its held-out entries."""
        rng = np.random.default_rng([*self.seeds, trial])
        observed = ~np.isnan(spikes)
        if self.bandwidth is not None:
            observed = sample(self.pattern, observed, self.bandwidth, self.seeds[0], rng)
        if self.stride is None or trial % self.stride:
            heldout = np.zeros_like(observed)
        elif self.first_heldout is None:
            heldout = observed & (
                rng.random(spikes.shape, dtype=np.float32) < self.heldout_fraction
            )
        else:
            heldout = observed & (np.arange(spikes.shape[1]) >= self.first_heldout)
        # fill in without the held-out counts, so that what is filled in cannot give them away
        shown = fill_missing(np.where(observed & ~heldout, spikes, np.float32(np.nan)), self.fill)
        return np.where(heldout, spikes, shown), heldout


def development_stride(n_trials: int, fraction: float) -> int | None:
    """Return n if each n-th of `n_trials` training trials has held-out entries; None: none has."""
    if fraction == 0:
        return None
    return max(round(1 / fraction), math.ceil(n_trials / MAX_DEVELOPMENT_TRIALS))


def sample(
    pattern: Pattern, recorded: np.ndarray, bandwidth: int, seed: int, rng: np.random.Generator
) -> np.ndarray:
    """Choose the observed entries (T, N) of a trial from those that are `recorded` (T, N).

    `seed` draws what all trials share, `rng` what is this trial's own.
    """
    if pattern == "fixed":
        return sample_fixed(recorded, bandwidth, seed)
    if pattern == "staggered":
        return sample_staggered(recorded, bandwidth, seed, rng)
    if pattern == "blocks":
        return sample_blocks(recorded, bandwidth, rng)
    return sample_random(recorded, bandwidth, rng)


def sample_random(recorded: np.ndarray, bandwidth: int, rng: np.random.Generator) -> np.ndarray:
    """Observe random neurons at each time step (..., N), all recorded ones if they are fewer."""
    draw = rng.random(recorded.shape, dtype=np.float32)
    draw[~recorded] = 2.0  # chosen last
    chosen = np.zeros_like(recorded)
    first = draw.argpartition(bandwidth - 1, axis=-1)[..., :bandwidth]
    np.put_along_axis(chosen, first, True, axis=-1)
    return chosen & recorded


def sample_fixed(recorded: np.ndarray, bandwidth: int, seed: int) -> np.ndarray:
    """Observe the same neurons at all time steps (T, N): what one records without SBTT."""
    n_neurons = recorded.shape[1]
    return recorded & np.isin(np.arange(n_neurons), order_neurons(n_neurons, seed)[:bandwidth])


def sample_staggered(
    recorded: np.ndarray, bandwidth: int, seed: int, rng: np.random.Generator
) -> np.ndarray:
    """Scan the neurons in a fixed order, `bandwidth` per time step (T, N), as a microscope does.

    Each neuron is observed every N / bandwidth time steps. A trial starts anywhere in the scan.
    """
    n_bins, n_neurons = recorded.shape
    place = np.argsort(order_neurons(n_neurons, seed))  # of each neuron in the scan
    first = bandwidth * np.arange(n_bins) + rng.integers(n_neurons)
    return recorded & ((place - first[:, None]) % n_neurons < bandwidth)


def sample_blocks(recorded: np.ndarray, bandwidth: int, rng: np.random.Generator) -> np.ndarray:
    """Lose whole time steps (T, N), as with dropped packets; observe all neurons at the others."""
    n_bins, n_neurons = recorded.shape
    n_kept = int(n_bins * bandwidth / n_neurons + rng.random())  # on average exactly the bandwidth
    kept = np.zeros((n_bins, 1), dtype=bool)
    kept[rng.permutation(n_bins)[:n_kept]] = True
    return recorded & kept


def order_neurons(n_neurons: int, seed: int) -> np.ndarray:
    """Return the neurons in a random order (N,) that depends on the seed alone."""
    return np.random.default_rng(seed).permutation(n_neurons)


def fill_missing(spikes: np.ndarray, fill: Fill) -> np.ndarray:
    """Return the counts (T, N) of a trial with missing ones filled in, as if they were observed.

    Interpolation is linear in time, neuron by neuron; a neuron without any count gets zeros.
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
