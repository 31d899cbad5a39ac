"""Bayes' rule for counts with gaps, and the priors, against plain loops and integrals on grids."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Poisson

from modules.posterior import (
    leave_one_out_loss,
    log_likelihoods,
    mean_trajectories,
    posterior_weights,
)
from modules.priors import PRIORS, KernelDensity, most_probable, whiten

WITH_REFERENCE = [name for name in PRIORS if name != "encoder"]


def some_trials() -> tuple[Tensor, Tensor]:
    """Spikes (5, 6, 4) with gaps, and log-rates of as many trajectories."""
    generator = torch.Generator().manual_seed(0)
    log_rates = torch.randn(5, 6, 4, generator=generator)
    spikes = torch.poisson(log_rates.exp(), generator)
    return drop_half(spikes, generator), log_rates


def drop_half(spikes: Tensor, generator: torch.Generator) -> Tensor:
    return spikes.masked_fill(torch.rand(spikes.shape, generator=generator) < 0.5, torch.nan)


def by_hand(spikes: Tensor, log_rates: Tensor) -> Tensor:
    """Log-likelihoods (trials, trajectories), one entry after the other, without the constant."""
    result = torch.zeros(len(spikes), len(log_rates))
    for i, t, n in (~spikes.isnan()).nonzero().tolist():
        count = spikes[i, t, n]
        for j in range(len(log_rates)):
            rate = log_rates[j, t, n].exp()
            result[i, j] += Poisson(rate).log_prob(count) + torch.lgamma(count + 1)
    return result


def test_log_likelihoods_agree_with_a_plain_loop():
    spikes, log_rates = some_trials()
    ours, expected = log_likelihoods(spikes, log_rates), by_hand(spikes, log_rates)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_posterior_is_bayes_rule():
    spikes, log_rates = some_trials()
    likelihood = by_hand(spikes, log_rates).exp()
    expected = likelihood / likelihood.sum(1, keepdim=True)
    torch.testing.assert_close(posterior_weights(spikes, log_rates), expected)
    nothing = torch.full_like(spikes, torch.nan)  # leaves the prior
    torch.testing.assert_close(posterior_weights(nothing, log_rates), torch.full((5, 5), 0.2))


def test_leave_one_out_loss_agrees_with_a_plain_loop():
    spikes, log_rates = some_trials()
    likelihood, total = by_hand(spikes, log_rates), 0.0
    for i in range(5):
        total -= math.log(sum(math.exp(likelihood[i, j]) for j in range(5) if j != i) / 4)
    expected = total / (~spikes.isnan()).sum().item()
    assert leave_one_out_loss(log_rates, spikes).item() == pytest.approx(expected, rel=1e-4)


def test_leave_one_out_loss_ignores_missing_entries_and_own_trajectories():
    spikes, log_rates = some_trials()
    spikes[:, :, 2] = torch.nan  # a neuron that nobody saw
    spikes[0] = torch.nan  # and a trial
    log_rates.requires_grad_()
    (gradient,) = torch.autograd.grad(leave_one_out_loss(log_rates, spikes), log_rates)
    assert (gradient[:, :, 2] == 0).all()
    assert (gradient[0] != 0).any()  # it explains others, though nothing was seen of it
    alone = torch.stack([spikes[1], torch.full_like(spikes[1], torch.nan)])
    (gradient,) = torch.autograd.grad(leave_one_out_loss(log_rates[:2], alone), log_rates)
    # the one trial with counts does not learn from its own trajectory
    assert (gradient[0] == 0).all()


def test_nothing_to_compare_with_is_no_loss():
    spikes, log_rates = some_trials()
    log_rates.requires_grad_()
    for few, rates in ((spikes[:1], log_rates[:1]), (spikes * torch.nan, log_rates)):
        loss = leave_one_out_loss(rates, few)
        assert loss.item() == 0
        assert (torch.autograd.grad(loss, log_rates)[0] == 0).all()


def test_no_number_is_so_small_that_it_slows_the_cpu_down():
    spikes, log_rates = some_trials()
    log_rates = torch.linspace(-40, 5, 5)[:, None, None] + log_rates  # from impossible to likely
    weights = posterior_weights(spikes, log_rates)
    assert weights.min() > 1e-30
    assert (weights < 1e-20).any()
    log_rates.requires_grad_()
    gradient = torch.autograd.grad(leave_one_out_loss(log_rates, spikes), log_rates)[0].abs()
    assert gradient.max() > 0
    assert not ((gradient > 0) & (gradient < torch.finfo(torch.float32).tiny)).any()


def test_trajectories_of_each_trial_are_averaged_like_common_ones():
    spikes, log_rates = some_trials()
    weights, latents = posterior_weights(spikes, log_rates), torch.randn(5, 6, 2)
    common = mean_trajectories(weights, log_rates, latents)
    own = mean_trajectories(weights, log_rates.expand(5, -1, -1, -1), latents.expand(5, -1, -1, -1))
    torch.testing.assert_close(own, common)
    expected = sum(w * rates for w, rates in zip(weights[1], log_rates.exp(), strict=True))
    torch.testing.assert_close(common[0].exp()[1], expected)


def some_centres(n: int, generator: torch.Generator) -> Tensor:
    mixing = torch.randn(3, 3, generator=generator)
    return torch.randn(n, 3, generator=generator) @ mixing + 5


def test_the_kernel_density_is_a_mixture_of_gaussians():
    generator = torch.Generator().manual_seed(0)
    centres, width = some_centres(40, generator), 0.7
    points = torch.randn(6, 3, generator=generator) + 5
    covariance = torch.cov(centres.T) + 1e-4 * torch.eye(3)
    kernels = MultivariateNormal(centres, width**2 * covariance)
    expected = kernels.log_prob(points.unsqueeze(1)).logsumexp(1)
    ours = KernelDensity(centres, width).log_density(points)
    torch.testing.assert_close(ours - ours[0], expected - expected[0], rtol=1e-3, atol=1e-3)


def test_whitened_centres_have_unit_covariance_also_if_they_are_few_or_equal():
    scale = torch.tensor([1.0, 5.0, 20.0])
    centres = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * scale
    mean, whitening = whiten(centres)
    covariance = torch.cov(((centres - mean) @ whitening).T)
    torch.testing.assert_close(covariance, torch.eye(3), atol=1e-3, rtol=1e-3)
    for few in (centres[:1], centres[:2], centres[:1].expand(4, -1)):
        assert KernelDensity(few, 1.0).log_density(centres).isfinite().all()
    far_apart = 1e6 * torch.randn(4, 60, generator=torch.Generator().manual_seed(0))
    assert all(part.isfinite().all() for part in whiten(far_apart))


def test_samples_of_the_kernel_density_lie_around_its_centres():
    centres = some_centres(50, torch.Generator().manual_seed(0))
    samples = KernelDensity(centres, 0.3).sample(20_000)
    torch.testing.assert_close(samples.mean(0), centres.mean(0), atol=0.05, rtol=0)
    expected = (1 + 0.3**2) * torch.cov(centres.T)
    torch.testing.assert_close(torch.cov(samples.T), expected, atol=0.1, rtol=0.05)
    few = KernelDensity(centres, 1e-6).sample(5)  # of fewer samples, each is of another centre
    torch.testing.assert_close(few, centres[[0, 12, 24, 36, 49]], atol=1e-3, rtol=0)
    around = (samples[::50] - centres[0]) @ whiten(centres)[1]  # in turn, each centre has a sample
    torch.testing.assert_close(around.std(0), torch.full((3,), 0.3), atol=0.04, rtol=0)


def test_the_most_probable_initial_condition_balances_counts_and_prior():
    """One dimension, so that a fine grid gives the maximum."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(6, 4, generator=generator)
    prior = KernelDensity(torch.randn(30, 1, generator=generator), 0.5)

    def decode(points: Tensor) -> Tensor:
        return points[:, :, None] * slopes

    spikes = torch.poisson(decode(torch.tensor([[0.8], [-0.5]])).exp(), generator)
    spikes[:, 2] = torch.nan
    starts = torch.tensor([[[0.3], [0.0]], [[-0.3], [0.0]]])
    found, weights = most_probable(decode, spikes, starts, prior)
    grid = torch.linspace(-2, 2, 4001).unsqueeze(1)
    posterior = log_likelihoods(spikes, decode(grid)) + prior.log_density(grid)
    torch.testing.assert_close(found[:, 0], grid[posterior.argmax(1)], atol=0.02, rtol=0)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


class Linear(nn.Module):
    """Log-rates that are linear in the initial condition, at all time bins the same."""

    bin_width = 1.0  # s, so that rates are expected counts

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
        self.weights = nn.Parameter(weights)

    def encode(self, spikes: Tensor) -> tuple[Tensor, None]:
        return spikes.new_zeros(len(spikes), 2), None

    def decode(self, points: Tensor, n_bins: int) -> tuple[Tensor, Tensor]:
        latents = points.unsqueeze(1).expand(-1, n_bins, -1)
        return latents @ self.weights, latents

    @torch.no_grad()
    def draw(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Spikes (trials, 30, 4) with gaps."""
        return drop_half(torch.poisson(self.decode(points, 30)[0].exp(), generator), generator)


def test_samples_between_trajectories_explain_a_trial_better_where_none_is_the_true_one():
    model, generator = Linear(), torch.Generator().manual_seed(0)
    reference = torch.randn(10, 2, generator=generator)
    rates = model.decode(torch.randn(40, 2, generator=generator), 30)[0].exp().detach()
    spikes, errors = torch.poisson(rates, generator), []
    for name in ("shared", "similar"):
        inferred = PRIORS[name](reference).infer(model, spikes).log_rates.exp()
        errors.append(float((inferred - rates).square().mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_trials_are_explained_alike_one_by_one_and_in_inference_mode(monkeypatch, name):
    model, generator = Linear(), torch.Generator().manual_seed(1)
    prior = PRIORS[name](torch.randn(20, 2, generator=generator))
    spikes = model.draw(torch.randn(5, 2, generator=generator), generator)
    together = prior.infer(model, spikes)
    if name == "own":  # a few trials at a time
        monkeypatch.setattr("modules.posterior.MAX_ENTRIES", 400)
    with torch.inference_mode():
        torch.testing.assert_close(prior.infer(model, spikes)[0], together[0], rtol=1e-3, atol=1e-3)
        apart = [prior.infer(model, trial.unsqueeze(0).clone()) for trial in spikes]
    for parts, joined in zip(list(zip(*apart, strict=True))[:3], together[:3], strict=True):
        torch.testing.assert_close(torch.cat(parts), joined, rtol=1e-3, atol=1e-3)
    assert model.weights.requires_grad
    assert model.weights.grad is None
