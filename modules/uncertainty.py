"""How wide the posterior over rates is: what the model says it does not know.

Letters in shapes: B trials, J trajectories, T time bins, N neurons, H hidden units. A missing count
    is NaN.
"""

import torch
from torch import Tensor, nn

from modules.posterior import (
    N_SAMPLES,
    PRIOR_WIDTHS,
    Inference,
    mean_trajectories,
    n_affordable,
    posterior_weights,
)
from modules.prior import KernelDensity

DIFFERENCE = 0.02  # step of the finite differences, in standard deviations of the prior
N_TOGETHER = 16  # trials whose perturbed trajectories are decoded at a time


@torch.inference_mode(False)
@torch.no_grad()
def counts_sd(
    model: nn.Module, spikes: Tensor, inference: Inference, reference: Tensor, width: float
) -> Tensor:
    """Return the posterior standard deviation of the expected counts per bin (B, T, N).

    Where trials share trajectories, or have similar ones, the standard deviation over trajectories
    under their posterior weights. Where each has its own, the Laplace approximation around the
    inferred initial condition: the log-rates are taken as linear in it, and the prior as one
    Gaussian. What is uncertain about the decoder and the readout is not in it.

    Args:
        model: Has `decode`.
        spikes: (B, T, N) counts per bin, NaN = missing.
        inference: What was inferred from them.
        reference: (J, H) initial conditions of reference trials.
        width: Width of the prior's kernels, as in `explain_trials`.
    """
    spikes, n_bins = spikes.clone(), spikes.shape[1]
    n_at_most = n_affordable(*spikes.shape[1:], reference.shape[1])
    prior = KernelDensity(reference, width)
    if width > PRIOR_WIDTHS["similar"]:
        n_together = max(1, min(N_TOGETHER, n_at_most // reference.shape[1]))
        parts = zip(*(part.split(n_together) for part in (spikes, *inference[:3:2])), strict=True)
        return torch.cat([laplace_sd(model, *part, prior) for part in parts])
    log_rates = model.decode(
        reference if width == 0 else prior.sample(min(N_SAMPLES, n_at_most)), n_bins
    )[0]
    log_mean, mean_square = mean_trajectories(
        posterior_weights(spikes, log_rates), log_rates, log_rates.mul(2).exp()
    )
    return (mean_square - log_mean.mul(2).exp()).clamp(min=0).sqrt()


def laplace_sd(
    model: nn.Module, spikes: Tensor, log_rates: Tensor, point: Tensor, prior: KernelDensity
) -> Tensor:
    """Return the standard deviation of expected counts (B, T, N) around initial conditions `point`
    (B, H)."""
    n_hidden, n_bins = point.shape[1], spikes.shape[1]
    steps = DIFFERENCE * torch.linalg.inv(
        prior.whitening
    )  # rows: one standard deviation of the prior in each direction
    moved = model.decode((point.unsqueeze(1) + steps).flatten(0, 1), n_bins)[0].unflatten(
        0, (-1, n_hidden)
    )
    slopes = ((moved - model.decode(point, n_bins)[0].unsqueeze(1)) / DIFFERENCE).flatten(
        2
    )  # (B, H, T N)
    information = (
        log_rates.exp().masked_fill(spikes.isnan(), 0.0).flatten(1)
    )  # of each count about its log-rate
    precision = (slopes * information.unsqueeze(1)) @ slopes.mT
    precision += torch.eye(n_hidden).to(precision) / (
        1 + prior.width**2
    )  # a kernel around each of many centres
    covariance = torch.linalg.inv(precision)
    variance = ((covariance @ slopes) * slopes).sum(1).clamp(min=0)
    return log_rates.exp() * variance.sqrt().view_as(log_rates)
