import math

import pytest
import torch
from torch.distributions import Poisson

from modules.posterior import leave_one_out_loss, log_likelihoods, posterior_means, posterior_weights


def some_trials() -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes (5, 6, 4) with gaps, and log-rates of as many trajectories."""
    generator = torch.Generator().manual_seed(0)
    log_rates = torch.randn(5, 6, 4, generator=generator)
    spikes = torch.poisson(log_rates.exp(), generator)
    return spikes.masked_fill(torch.rand(spikes.shape, generator=generator) < 0.5, torch.nan), log_rates


def by_hand(spikes: torch.Tensor, log_rates: torch.Tensor) -> torch.Tensor:
    """Log-likelihoods (trials, trajectories), one entry after the other, without the constant."""
    result = torch.zeros(len(spikes), len(log_rates))
    for i in range(len(spikes)):
        for j in range(len(log_rates)):
            for t in range(spikes.shape[1]):
                for n in range(spikes.shape[2]):
                    count, rate = spikes[i, t, n], log_rates[j, t, n].exp()
                    if not count.isnan():
                        result[i, j] += Poisson(rate).log_prob(count) + torch.lgamma(count + 1)
    return result


def test_log_likelihoods_agree_with_a_plain_loop():
    spikes, log_rates = some_trials()
    torch.testing.assert_close(log_likelihoods(spikes, log_rates), by_hand(spikes, log_rates), rtol=1e-4, atol=1e-4)


def test_posterior_is_bayes_rule():
    spikes, log_rates = some_trials()
    likelihood = by_hand(spikes, log_rates).exp()
    torch.testing.assert_close(posterior_weights(spikes, log_rates), likelihood / likelihood.sum(1, keepdim=True))


def test_log_likelihoods_of_whole_trials_keep_their_precision_under_autocast():
    """Near 700 nats bfloat16 has steps of 4 nats."""
    log_rates = torch.randn(6, 50, 29, generator=torch.Generator().manual_seed(1)) - 1
    spikes = torch.poisson(log_rates[:4].exp(), torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = (
            log_likelihoods(spikes, log_rates),
            leave_one_out_loss(log_rates[:4], spikes),
            posterior_means(spikes, log_rates),
        )
    single = (
        log_likelihoods(spikes, log_rates),
        leave_one_out_loss(log_rates[:4], spikes),
        posterior_means(spikes, log_rates),
    )
    assert single[0].abs().max() > 500
    torch.testing.assert_close(mixed, single)


def test_trials_may_be_a_part_of_those_that_the_trajectories_are_from():
    """In a distributed training each process has its own trials, and the trajectories of all."""
    spikes, log_rates = some_trials()
    whole = leave_one_out_loss(log_rates, spikes) * (~spikes.isnan()).sum()
    parts = [(spikes[:2], 0), (spikes[2:], 2)]
    total = sum(leave_one_out_loss(log_rates, part, first) * (~part.isnan()).sum() for part, first in parts)
    torch.testing.assert_close(total, whole)


def test_a_trial_without_observed_entries_leaves_the_prior():
    spikes, log_rates = some_trials()
    weights = posterior_weights(torch.full_like(spikes, torch.nan), log_rates)
    torch.testing.assert_close(weights, torch.full((5, 5), 0.2))


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
    leave_one_out_loss(log_rates, spikes).backward()
    assert (log_rates.grad[:, :, 2] == 0).all()
    assert (log_rates.grad[0] != 0).any()  # it explains others, though nothing was seen of it
    alone = torch.stack([spikes[1], torch.full_like(spikes[1], torch.nan)])
    log_rates.grad = None
    leave_one_out_loss(log_rates[:2], alone).backward()
    assert (log_rates.grad[0] == 0).all()  # the one trial with counts does not learn from its own trajectory


def test_nothing_to_compare_with_is_no_loss():
    spikes, log_rates = some_trials()
    log_rates.requires_grad_()
    for few, rates in ((spikes[:1], log_rates[:1]), (torch.full_like(spikes, torch.nan), log_rates)):
        loss = leave_one_out_loss(rates, few)
        loss.backward()
        assert loss.item() == 0
        assert (log_rates.grad == 0).all()


def test_no_number_is_so_small_that_it_slows_the_cpu_down():
    spikes, log_rates = some_trials()
    log_rates = torch.linspace(-40, 5, 5)[:, None, None] + log_rates  # from impossible to likely
    weights = posterior_weights(spikes, log_rates)
    assert weights.min() > 1e-30
    assert (weights < 1e-20).any()
    log_rates.requires_grad_()
    leave_one_out_loss(log_rates, spikes).backward()
    gradient = log_rates.grad.abs()
    assert gradient.max() > 0
    assert not ((gradient > 0) & (gradient < torch.finfo(torch.float32).tiny)).any()
