"""Explain a trial by what is known of other trials: Bayes' rule, with the initial conditions of
training trials as the prior.

Where trials share trajectories, as those of one condition do, the trajectories of training trials
are the candidates. No label says which trials belong together. A few observed counts are not enough
to guess an initial condition. They are enough to choose among known trajectories (an aggregate
posterior as the prior, Tomczak & Welling 2018). Where no trial repeats another, the prior is a
density over initial conditions, and each trial has one of its own.

Letters in shapes: B trials, J trajectories, T time bins, N neurons, H hidden units. A missing count
    is NaN.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules.prior import KernelDensity

# width of the prior's kernels, by what trials have in common
PRIOR_WIDTHS = {"shared": 0.0, "similar": 0.3, "own": 2.0}
PRIOR_NAMES = {width: name for name, width in PRIOR_WIDTHS.items()}
N_SAMPLES = 5000  # initial conditions that are drawn where trajectories are similar
MAX_ENTRIES = 100_000_000  # of log-rates (trials or trajectories, time, neurons): 0.4 GB; memory holds about ten such arrays
N_NEAREST = 1  # reference trials from which the search for a trial's initial condition starts, beside its encoding
ASCENT_STEPS, ASCENT_RATE = 60, 0.05  # of this search
MAX_DIFFERENCE = 60.0  # nats; a trajectory whose log-likelihood is lower than the best one's by more has no weight


class Inference(NamedTuple):
    """What the model infers from the spikes of B trials."""

    log_rates: Tensor  # (B, T, N) log expected counts per bin
    latents: Tensor  # (B, T, H) states of the decoder
    initial_condition: Tensor  # (B, H) state of the decoder before the first bin
    inputs: Tensor | None = None  # (B, T, I) what drives the decoder at each bin, if anything does


def n_affordable(n_bins: int, n_neurons: int, n_hidden: int = 0) -> int:
    """Return how many trials, or trajectories, a computation may take at a time to stay within
    MAX_ENTRIES."""
    return max(1, MAX_ENTRIES // (n_bins * max(n_neurons, n_hidden)))


def clamp_log_likelihoods(log_likelihoods: Tensor) -> Tensor:
    """Raise log-likelihoods (B, J) to at least MAX_DIFFERENCE below the best of each trial.

    Lower ones do not matter, but their exponentials are denormal numbers, which slow a CPU down
    many times."""
    best = log_likelihoods.detach().amax(dim=1, keepdim=True)
    return log_likelihoods.clamp(min=best - MAX_DIFFERENCE)


def log_likelihoods(spikes: Tensor, log_rates: Tensor) -> Tensor:
    """Return the Poisson log-likelihood of each trial's observed counts under each trajectory.

    The sum over observed entries of `spikes * log_rates - exp(log_rates)`. Always computed in the
    precision of the log-rates, also under autocast: near 700 nats, bfloat16 has steps of 4 nats.

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
    """Return the posterior probability (B, J) of each trajectory given each trial's observed
    counts, with equal priors.

    Shapes as in `log_likelihoods`. If one of the trajectories is the true one, the mean of their
    rates under these weights has the least expected squared error."""
    return clamp_log_likelihoods(log_likelihoods(spikes, log_rates)).softmax(dim=1)


def mean_trajectories(weights: Tensor, log_rates: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Average trajectories.

    Args: weights: (B, J) of each trial's trajectories; they sum to one. log_rates: (J, T, N), the
        same trajectories for all trials, or (B, J, T, N): log expected counts per bin. others: (J,
        ...) or (B, J, ...) other values of the trajectories, such as latents.

    Returns: The log of the mean expected counts (B, T, N), finite also where these underflow, and
        the means (B, ...) of the others.
    """

    def mean(values: Tensor) -> Tensor:
        if log_rates.ndim == 3:
            return torch.tensordot(weights, values, 1)  # faster than einsum
        return torch.einsum("bj,bj...->b...", weights, values)

    with torch.autocast(log_rates.device.type, enabled=False):
        mean_counts = mean(log_rates.exp())
        return mean_counts.clamp(min=torch.finfo(mean_counts.dtype).tiny).log(), *map(mean, others)


def most_probable(
    decode: Callable[[Tensor], Tensor], spikes: Tensor, starts: Tensor, prior: KernelDensity
) -> tuple[Tensor, Tensor]:
    """Find initial conditions that have a high posterior density given each trial's observed
    counts.

    Gradient ascent (Adam) from several starts, because the density has several maxima.

    Args:
        decode: Gives log expected counts per bin (B, T, N) from initial conditions (B, H).
        spikes: (B, T, N) counts per bin, NaN = missing.
        starts: (B, J, H) initial conditions to start from.
        prior: Density of initial conditions.

    Returns: The initial conditions (B, J, H) and their weights (B, J), in proportion to the
        posterior density.
    """
    repeated = spikes.repeat_interleave(starts.shape[1], 0)
    observed, counts = (
        (~repeated.isnan()).to(starts.dtype),
        repeated.nan_to_num(nan=0.0).to(starts.dtype),
    )

    def log_posterior(initial_conditions: Tensor) -> Tensor:
        log_rates = decode(initial_conditions)
        log_likelihood = (counts * log_rates - observed * log_rates.exp()).sum((1, 2))
        return log_likelihood + prior.log_density(initial_conditions)

    points = starts.flatten(0, 1).clone().requires_grad_()
    optimizer = torch.optim.Adam([points], ASCENT_RATE)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, ASCENT_STEPS)
    for _ in range(ASCENT_STEPS):
        (points.grad,) = torch.autograd.grad(-log_posterior(points).sum(), points)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        weights = log_posterior(points).view(starts.shape[:2]).softmax(dim=1)
    return points.detach().view_as(starts), weights


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of the module's parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True


@torch.inference_mode(False)
@torch.no_grad()
def explain_trials(model: nn.Module, spikes: Tensor, reference: Tensor, width: float) -> Inference:
    """Infer trials with the initial conditions of reference trials as the prior.

    Args:
        model: Has `encode` and `decode`.
        spikes: (B, T, N) counts per bin, NaN = missing.
        reference: (J, H) initial conditions.
        width: 0: trials share trajectories with the reference trials. Else: width of the prior's kernels (`KernelDensity`).
            Up to that of similar trajectories, samples of the prior explain the trials, with a larger one gradient ascent.

    Returns:
        Posterior means.
    """
    spikes, n_bins = (
        spikes.clone(),
        spikes.shape[1],
    )  # a tensor of inference mode cannot have gradients
    prior = KernelDensity(reference, width)
    if 0 < width <= PRIOR_WIDTHS["similar"]:
        reference = prior.sample(
            min(N_SAMPLES, n_affordable(*spikes.shape[1:], reference.shape[1]))
        )
    log_rates, latents = model.decode(reference, n_bins)
    if width <= PRIOR_WIDTHS["similar"]:
        return Inference(
            *mean_trajectories(posterior_weights(spikes, log_rates), log_rates, latents, reference)
        )
    nearest = log_likelihoods(spikes, log_rates).topk(min(N_NEAREST, len(reference))).indices
    starts = torch.cat((model.encode(spikes)[0].unsqueeze(1), reference[nearest]), dim=1)
    with torch.enable_grad(), frozen(model):
        found, weights = most_probable(
            lambda points: model.decode(points, n_bins)[0], spikes, starts, prior
        )
    log_rates, latents = (
        part.unflatten(0, starts.shape[:2]) for part in model.decode(found.flatten(0, 1), n_bins)
    )
    return Inference(*mean_trajectories(weights, log_rates, latents, found))


def leave_one_out_loss(log_rates: Tensor, spikes: Tensor) -> Tensor:
    """Return the SBTT loss of trials that are explained by the trajectories of other trials.

    For trial i the loss is `-log mean_j p(spikes_i | log_rates_j)` over the trajectories j of the
    other trials. The sum over trials is divided by the number of observed entries. No trial is
    explained by a trajectory that was fitted to its own counts, so nothing can be copied. Trials of
    one condition explain each other, so their trajectories move together. As in `sbtt_loss`, only
    observed entries count.

    Args:
        log_rates: (B, T, N) log expected counts per bin.
        spikes: (B, T, N) counts per bin, NaN = missing.

    Returns: A scalar (nats per entry, without the constant log k!). Zero where there is no other
        trajectory, or nothing is observed.
    """
    n_others = len(spikes) - 1
    if n_others < 1:
        return 0.0 * log_rates.sum()
    own = torch.eye(len(spikes), dtype=torch.bool, device=spikes.device)
    by_others = log_likelihoods(spikes, log_rates).masked_fill(own, -torch.inf)
    log_evidence = clamp_log_likelihoods(by_others).logsumexp(dim=1) - math.log(n_others)
    return -log_evidence.sum() / (~spikes.isnan()).count_nonzero().clamp(min=1)
