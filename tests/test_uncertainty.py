"""What the model says it does not know, against integrals over a grid."""

import pytest
import torch
from test_posterior import Linear

from modules.posterior import PRIOR_WIDTHS, explain_trials, log_likelihoods
from modules.prior import KernelDensity
from modules.uncertainty import counts_sd


def some_trials(model: Linear, n_trials: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(400, 2, generator=generator)
    spikes = torch.poisson(
        model.decode(0.7 * torch.randn(n_trials, 2, generator=generator), 30)[0].exp(), generator
    )
    spikes[torch.rand(spikes.shape, generator=generator) < 0.5] = torch.nan
    return spikes.detach(), reference


@pytest.mark.parametrize("prior", ["shared", "similar", "own"])
def test_the_width_is_that_of_the_posterior(prior):
    model, width = Linear(), PRIOR_WIDTHS[prior]
    spikes, reference = some_trials(model)
    sd = counts_sd(model, spikes, explain_trials(model, spikes, reference, width), reference, width)
    points = reference
    weights = torch.zeros(1, len(reference))
    if prior != "shared":
        side = torch.linspace(-5, 5, 201)
        points = torch.cartesian_prod(side, side)
        weights = KernelDensity(reference, width).log_density(points)
    log_rates = model.decode(points, 30)[0].detach()
    posterior = (log_likelihoods(spikes, log_rates) + weights).softmax(1)
    mean, square = (torch.tensordot(posterior, (k * log_rates).exp(), 1) for k in (1, 2))
    expected = (square - mean**2).sqrt()
    ratio = sd / expected
    assert ratio.median() == pytest.approx(1, abs=0.02 if prior == "shared" else 0.15)
    assert ratio.quantile(0.05) > 0.6


@pytest.mark.parametrize("prior", ["similar", "own"])
def test_the_less_was_observed_the_wider_it_is(prior):
    model, width = Linear(), PRIOR_WIDTHS[prior]
    spikes, reference = some_trials(model)
    widths = []
    for n_bins in (30, 10, 3, 0):
        fewer = spikes.clone()
        fewer[:, n_bins:] = torch.nan
        inference = explain_trials(model, fewer, reference, width)
        widths.append(
            float(
                (
                    counts_sd(model, fewer, inference, reference, width) / inference.log_rates.exp()
                ).median()
            )
        )
    assert widths == sorted(widths)
    assert widths[3] > 2 * widths[0]
