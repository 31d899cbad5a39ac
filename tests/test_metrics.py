"""R² and bits per spike, against torchmetrics and plain formulas."""

import numpy as np
import pytest
import torch
from torch.distributions import Poisson
from torchmetrics import R2Score

from modules.metrics import R2, BitsPerSpike


def some_rates(seed: int, shape=(6, 10, 4)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 50 + 1


def test_r2_is_torchmetrics_r2_over_all_batches():
    true, inferred = some_rates(0), some_rates(0) + 0.2 * some_rates(1)
    ours, theirs = R2(4), R2Score(multioutput="uniform_average")
    for part in (slice(0, 1), slice(1, 6)):
        ours.update(inferred[part], true[part])
        theirs.update(inferred[part].flatten(0, 1), true[part].flatten(0, 1))
    torch.testing.assert_close(ours.compute(), theirs.compute())


def test_r2_on_a_part_of_the_entries():
    true, inferred = some_rates(0), some_rates(0) + 0.2 * some_rates(1)
    entries = torch.rand(true.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    metric = R2(4)
    metric.update(inferred, true, entries)
    expected = []
    for neuron in range(4):
        y, f = (rates[..., neuron][entries[..., neuron]].numpy() for rates in (true, inferred))
        expected.append(1 - ((y - f) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    np.testing.assert_allclose(metric.per_neuron(), expected, rtol=1e-4)
    assert float(metric.compute()) == pytest.approx(np.mean(expected), rel=1e-4)


def test_r2_leaves_out_neurons_that_have_none():
    true = some_rates(0)
    true[..., 1] = 3.7  # constant
    entries = torch.ones(true.shape, dtype=torch.bool)
    entries[..., 2] = False  # never looked at
    metric = R2(4)
    metric.update(true + 1, true, entries)
    assert metric.per_neuron().isnan().tolist() == [False, True, True, False]
    assert metric.compute().isfinite()


def test_bits_per_spike_agrees_with_the_formula():
    log_rates = some_rates(0).log() - 3
    spikes = torch.poisson(some_rates(3) / 20, torch.Generator().manual_seed(0))
    entries = torch.rand(spikes.shape, generator=torch.Generator().manual_seed(4)) < 0.5
    metric = BitsPerSpike(4)
    for part in (slice(0, 2), slice(2, 6)):
        metric.update(log_rates[part], spikes.where(entries, torch.nan)[part])
    gain, n_spikes = 0.0, 0.0
    for neuron in range(4):
        scored = entries[..., neuron]
        k, rate = spikes[..., neuron][scored], log_rates[..., neuron][scored].exp()
        gain += (Poisson(rate).log_prob(k) - Poisson(k.mean()).log_prob(k)).sum().item()
        n_spikes += k.sum().item()
    assert float(metric.compute()) == pytest.approx(gain / n_spikes / np.log(2), rel=1e-4)


def test_a_neuron_without_any_spike_has_no_bits_per_spike():
    metric = BitsPerSpike(2)
    metric.update(torch.zeros(3, 5, 2), torch.tensor([1.0, 0.0]).expand(3, 5, 2))
    assert metric.per_neuron().isnan().tolist() == [False, True]


def test_without_any_spike_there_is_no_score():
    metric = BitsPerSpike(2)
    metric.update(torch.zeros(3, 5, 2), torch.zeros(3, 5, 2))
    assert metric.compute().isnan()


def test_bits_per_spike_beyond_given_mean_rates():
    """Of one spike in ten bins: a model that knows the mean rate of training has no bits."""
    metric, spikes = BitsPerSpike(1), torch.zeros(1, 10, 1)
    spikes[0, 3] = 1.0
    for mean_counts, expected in ((None, -0.443), (torch.tensor([0.2]), 0.0)):
        metric.reset()
        metric.mean_counts = mean_counts
        metric.update(torch.full_like(spikes, 0.2).log(), spikes)
        assert float(metric.compute()) == pytest.approx(expected, abs=1e-3)
        assert metric.per_neuron().tolist() == pytest.approx([expected], abs=1e-3)


def test_mean_rates_have_zero_bits_per_spike():
    spikes = torch.poisson(some_rates(0) / 20, torch.Generator().manual_seed(0))
    metric = BitsPerSpike(4)
    metric.update(spikes.mean((0, 1)).log().expand_as(spikes), spikes)
    assert float(metric.compute()) == pytest.approx(0, abs=1e-5)
