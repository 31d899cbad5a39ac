"""Compare trials: find the known trajectories that explain the observed counts of a trial.

Trials of one condition share a trajectory, but no label says which trials these are. A few observed counts are not enough
to guess an initial condition. They are enough to choose among known trajectories. So the trajectories of many trials serve
as an empirical prior (an aggregate posterior, Tomczak & Welling 2018), and Bayes' rule gives the weight of each.

Letters in shapes: B trials, J trajectories, T time bins, N neurons. A missing count is NaN.
"""

import math

import torch
from torch import Tensor

MAX_DIFFERENCE = 60.0  # nats; a trajectory whose log-likelihood is lower than the best one's by more has no weight


def clamp_log_likelihoods(log_likelihoods: Tensor) -> Tensor:
    """Raise log-likelihoods (B, J) to at least MAX_DIFFERENCE below the best of each trial.

    Lower ones do not matter, but their exponentials are denormal numbers, which slow a CPU down many times.
    """
    best = log_likelihoods.detach().amax(dim=1, keepdim=True)
    return log_likelihoods.clamp(min=best - MAX_DIFFERENCE)


def log_likelihoods(spikes: Tensor, log_rates: Tensor) -> Tensor:
    """Return the Poisson log-likelihood of each trial's observed counts under each trajectory.

    The sum over observed entries of `spikes * log_rates - exp(log_rates)`. Always computed in the precision of the
    log-rates, also under autocast: near 700 nats, bfloat16 has steps of 4 nats.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        log_rates: (J, T, N) log expected counts per bin.

    Returns:
        (B, J), in nats, without the constant log k!.
    """
    observed, log_rates = (~spikes.isnan()).flatten(1).to(log_rates.dtype), log_rates.flatten(1)
    counts = spikes.nan_to_num(nan=0.0).flatten(1).to(log_rates.dtype)
    with torch.autocast(spikes.device.type, enabled=False):
        return counts @ log_rates.T - observed @ log_rates.exp().T


def posterior_weights(spikes: Tensor, log_rates: Tensor) -> Tensor:
    """Return the posterior probability (B, J) of each trajectory given each trial's observed counts, with equal priors.

    Shapes as in `log_likelihoods`. If one of the trajectories is the true one, the mean of their rates under these weights
    has the least expected squared error.
    """
    return clamp_log_likelihoods(log_likelihoods(spikes, log_rates)).softmax(dim=1)


def posterior_means(spikes: Tensor, log_rates: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Average trajectories under their posterior probabilities given each trial's observed counts.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        log_rates: (J, T, N) log expected counts per bin.
        others: (J, ...) other values of the trajectories, such as latents.

    Returns:
        The log of the mean expected counts (B, T, N), finite also where these underflow, and the means (B, ...) of the others.
    """
    weights = posterior_weights(spikes, log_rates)
    with torch.autocast(spikes.device.type, enabled=False):
        mean_counts = torch.tensordot(weights, log_rates.exp(), 1)  # faster than einsum
        return (
            mean_counts.clamp(min=torch.finfo(mean_counts.dtype).tiny).log(),
            *(torch.tensordot(weights, other, 1) for other in others),
        )


def leave_one_out_loss(log_rates: Tensor, spikes: Tensor, first: int = 0) -> Tensor:
    """Return the SBTT loss of trials that are explained by the trajectories of other trials.

    For trial i the loss is `-log mean_j p(spikes_i | log_rates_j)` over the trajectories j other than its own. The sum over
    trials is divided by the number of observed entries. No trial is explained by the trajectory inferred from
    its own counts, so nothing can be copied. Trials of one condition explain each other, so their trajectories move
    together. As in `sbtt_loss`, only observed entries count.

    Args:
        log_rates: (J, T, N) log expected counts per bin of all trajectories.
        spikes: (B, T, N) counts per bin, NaN = missing.
        first: Index (0 to J - 1) of the first trial's own trajectory. Those of the other trials follow.

    Returns:
        A scalar (nats per entry, without the constant log k!). Zero where there is no other trajectory, or nothing is
        observed.
    """
    n_others = len(log_rates) - 1
    if n_others < 1:
        return 0.0 * log_rates.sum()
    trajectories = torch.arange(len(log_rates), device=spikes.device)
    own = trajectories == trajectories[first : first + len(spikes), None]
    by_others = log_likelihoods(spikes, log_rates).masked_fill(own, -torch.inf)
    log_evidence = clamp_log_likelihoods(by_others).logsumexp(dim=1) - math.log(n_others)
    return -log_evidence.sum() / (~spikes.isnan()).count_nonzero().clamp(min=1)
