"""What the model says it does not know, against integrals over a grid."""

import pytest
import torch
from test_posterior import WITH_REFERENCE, Linear

from modules.posterior import log_likelihoods
from modules.priors import PRIORS, EncoderAlone, KernelDensity


@pytest.fixture
def trials() -> tuple[Linear, torch.Tensor, torch.Tensor]:
    """A model, spikes (40, 30, 4) with gaps, and reference initial conditions."""
    model, generator = Linear(), torch.Generator().manual_seed(3)
    reference = torch.randn(400, 2, generator=generator)
    points = 0.7 * torch.randn(40, 2, generator=generator)
    return model, model.draw(points, generator), reference


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_the_width_is_that_of_the_posterior(trials, name):
    (model, spikes, points), log_prior = trials, torch.zeros(1, 400)
    prior = PRIORS[name](points)
    sd = prior.rates_sd(model, spikes, prior.infer(model, spikes))
    if name != "shared":
        side = torch.linspace(-5, 5, 201)
        density, points = KernelDensity(points, prior.width), torch.cartesian_prod(side, side)
        log_prior = density.log_density(points)
    log_rates = model.decode(points, 30)[0].detach()
    posterior = (log_likelihoods(spikes, log_rates) + log_prior).softmax(1)
    mean, square = (torch.tensordot(posterior, (k * log_rates).exp(), 1) for k in (1, 2))
    ratio = sd / (square - mean**2).sqrt()
    assert ratio.median() == pytest.approx(1, abs=0.02 if name == "shared" else 0.15)
    assert ratio.quantile(0.05) > 0.6


@pytest.mark.parametrize("name", ["similar", "own"])
def test_the_less_was_observed_the_wider_it_is(trials, name):
    (model, spikes, reference), widths = trials, []
    prior = PRIORS[name](reference)
    for n_bins in (30, 10, 3, 0):
        fewer = spikes.clone()
        fewer[:, n_bins:] = torch.nan
        inferred = prior.infer(model, fewer)
        sd = prior.rates_sd(model, fewer, inferred)
        widths.append(float((sd / inferred.log_rates.exp()).median()))
    assert widths == sorted(widths)
    assert widths[3] > 2 * widths[0]


def test_the_encoder_alone_does_not_know_it(trials):
    model, spikes, _ = trials
    assert EncoderAlone().rates_sd(model, spikes, None) is None
