"""Explain trials by trajectories: Bayes' rule for Poisson counts of which some are missing.

Letters in shapes: B trials, J trajectories, T time bins, N neurons, H hidden units, I inputs.
A missing count is NaN.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# of log-rates (trials or trajectories, time, neurons): 0.4 GB; memory holds about ten such arrays
MAX_ENTRIES = 100_000_000
MAX_DIFFERENCE = 60.0  # nats; a trajectory that is less likely than the best by more has no weight


class Inference(NamedTuple):
    """What the model infers from the spikes of B trials."""

    log_rates: Tensor  # (B, T, N) log expected counts per bin
    latents: Tensor  # (B, T, H) states of the decoder
    initial_condition: Tensor  # (B, H) state of the decoder before the first bin
    inputs: Tensor | None = None  # (B, T, I) what drives the decoder at each bin, if anything does


def n_affordable(n_bins: int, n_neurons: int, n_hidden: int = 0) -> int:
    """Return how many trials or trajectories a computation may take at a time (MAX_ENTRIES)."""
    return max(1, MAX_ENTRIES // (n_bins * max(n_neurons, n_hidden)))


def log_likelihoods(spikes: Tensor, log_rates: Tensor) -> Tensor:
    """Return the Poisson log-likelihood of each trial's observed counts under each trajectory.

    The sum over observed entries of `spikes * log_rates - exp(log_rates)`.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        log_rates: (J, T, N) log expected counts per bin.

    Returns:
        (B, J), in nats, without the constant log k!.
    """
    observed, log_rates = (~spikes.isnan()).flatten(1).to(log_rates.dtype), log_rates.flatten(1)
    counts = spikes.nan_to_num(nan=0.0).flatten(1).to(log_rates.dtype)
    return counts @ log_rates.T - observed @ log_rates.exp().T


def clamp_log_likelihoods(log_likelihoods: Tensor) -> Tensor:
    """Raise log-likelihoods (B, J) to at least MAX_DIFFERENCE below the best of each trial.

    Lower ones do not matter, but their exponentials are denormal numbers, which slow a CPU down.
    """
    best = log_likelihoods.detach().amax(dim=1, keepdim=True)
    return log_likelihoods.clamp(min=best - MAX_DIFFERENCE)


def posterior_weights(spikes: Tensor, log_rates: Tensor) -> Tensor:
    """Return each trajectory's posterior probability (B, J) given each trial's observed counts.

    Shapes as in `log_likelihoods`; all trajectories have the same prior probability. If one of them
    is the true one, the mean of their rates under these weights has the least expected squared
    error.
    """
    return clamp_log_likelihoods(log_likelihoods(spikes, log_rates)).softmax(dim=1)


def mean_trajectories(weights: Tensor, log_rates: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Average trajectories.

    Args:
        weights: (B, J) of each trial's trajectories; they sum to one.
        log_rates: (J, T, N), the same trajectories for all trials, or (B, J, T, N): log expected
            counts per bin.
        others: (J, ...) or (B, J, ...) other values of the trajectories, such as latents.

    Returns:
        The log of the mean expected counts (B, T, N), finite also where these underflow, and the
        means (B, ...) of the others.
    """

    def mean(values: Tensor) -> Tensor:
        if log_rates.ndim == 3:
            return torch.tensordot(weights, values, 1)  # faster than einsum
        return torch.einsum("bj,bj...->b...", weights, values)

    mean_counts = mean(log_rates.exp())
    return mean_counts.clamp(min=torch.finfo(mean_counts.dtype).tiny).log(), *map(mean, others)


def leave_one_out_loss(log_rates: Tensor, spikes: Tensor) -> Tensor:
    """Return the SBTT loss of trials that are explained by the trajectories of other trials.

    For trial i the loss is `-log mean_j p(spikes_i | log_rates_j)` over the trajectories j of the
    other trials. The sum over trials is divided by the number of observed entries. No trial is
    explained by a trajectory that was fitted to its own counts, so nothing can be copied. Trials of
    one condition explain each other, so their trajectories move together.

    Args:
        log_rates: (B, T, N) log expected counts per bin.
        spikes: (B, T, N) counts per bin, NaN = missing.

    Returns:
        A scalar (nats per entry, without the constant log k!). Zero where there is no other
        trajectory, or nothing is observed.
    """
    n_others = len(spikes) - 1
    if n_others < 1:
        return 0.0 * log_rates.sum()
    own = torch.eye(len(spikes), dtype=torch.bool, device=spikes.device)
    by_others = log_likelihoods(spikes, log_rates).masked_fill(own, -torch.inf)
    log_evidence = clamp_log_likelihoods(by_others).logsumexp(dim=1) - math.log(n_others)
    return -log_evidence.sum() / (~spikes.isnan()).count_nonzero().clamp(min=1)
