"""Learning and inferring by comparison: which of several known trajectories explains the observed counts of a trial?

Trials of one condition share a trajectory, though nobody says which trials these are. A few observed counts are little to
guess an initial condition from, yet enough to tell known trajectories apart. So trajectories inferred from many trials
serve as an empirical prior (the aggregate posterior of Tomczak & Welling 2018, with the trials as they are), and Bayes'
rule does the rest.

Letters in shapes: B trials, J trajectories, T time bins, N neurons.
"""

import math

import torch
from torch import Tensor

FLOOR = -60.0  # nats; what explains a trial worse than the best by more is as good as impossible


def floored(log_likelihoods: Tensor) -> Tensor:
    """Cut off (B, J) log-likelihoods at FLOOR below each trial's best.

    Their exponentials would be too small to matter, yet denormal numbers, with which a processor takes many times as long.
    """
    best = log_likelihoods.detach().amax(dim=1, keepdim=True)
    return log_likelihoods.clamp(min=best + FLOOR)


def log_likelihoods(spikes: Tensor, log_rates: Tensor) -> Tensor:
    """Poisson log-likelihood of the observed counts of every trial under every trajectory.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        log_rates: (J, T, N) log expected counts per bin.

    Returns:
        (B, J), in nats, without the constant log k!.
    """
    observed, log_rates = (~spikes.isnan()).flatten(1).to(log_rates.dtype), log_rates.flatten(1)
    return spikes.nan_to_num(nan=0.0).flatten(1).to(log_rates.dtype) @ log_rates.T - observed @ log_rates.exp().T


def posterior_weights(spikes: Tensor, log_rates: Tensor) -> Tensor:
    """Posterior probability (B, J) of every trajectory given each trial's observed counts, all equally likely before.

    Shapes as for `log_likelihoods`. The mean of the trajectories' rates under these weights is the estimate with the
    least expected squared error, if one of the trajectories is the true one.
    """
    return floored(log_likelihoods(spikes, log_rates)).softmax(dim=1)


def leave_one_out_loss(log_rates: Tensor, spikes: Tensor) -> Tensor:
    """SBTT loss where each trial is explained by the trajectories of the other trials instead of its own.

    The loss is `-log mean_j p(spikes_i | log_rates_j)` over the trajectories j other than i, summed over the trials i and
    divided by the number of observed entries. A trial's counts never meet the trajectory inferred from them, so there is
    nothing to copy; and trials of one condition, which explain each other, are drawn together. Like `sbtt_loss` it looks
    at observed entries only.

    Args:
        log_rates: (B, T, N) log expected counts per bin, inferred from `spikes`.
        spikes: (B, T, N) counts per bin, NaN = missing.

    Returns:
        A scalar (nats per entry, without the constant log k!); zero for a single trial, or where nothing is observed.
    """
    n_others = len(spikes) - 1
    if n_others < 1:
        return 0.0 * log_rates.sum()
    itself = torch.eye(len(spikes), dtype=torch.bool, device=spikes.device)
    by_others = log_likelihoods(spikes, log_rates).masked_fill(itself, -torch.inf)
    log_evidence = floored(by_others).logsumexp(dim=1) - math.log(n_others)
    return -log_evidence.sum() / (~spikes.isnan()).count_nonzero().clamp(min=1)
