"""Initial weights and biases."""

import pytest
import torch
from torch import nn

from modules.initialization import init_orthogonal, log_mean_counts


def started(gain: float) -> nn.GRU:
    torch.manual_seed(0)
    gru = nn.GRU(1, 50)
    init_orthogonal(gru, gain)
    return gru


@torch.no_grad()
def left_after_ten_steps(gru: nn.GRU) -> float:
    """Return which part of the differences between trials is left after ten steps without input."""
    torch.manual_seed(1)
    initial_condition = 0.5 * torch.randn(1, 200, 50)
    states, _ = gru(torch.zeros(10, 200, 1), initial_condition)
    return (states[-1].std(0).mean() / initial_condition[0].std(0).mean()).item()


@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_each_gate_has_an_orthogonal_matrix_and_states_are_updated_quickly(gain):
    gru = started(gain)
    for matrix, size in zip(gru.weight_hh_l0.detach().split(50), (1.0, 1.0, gain), strict=True):
        torch.testing.assert_close(matrix @ matrix.T, size**2 * torch.eye(50), atol=1e-5, rtol=1e-5)
    update_gates = (gru.bias_hh_l0 + gru.bias_ih_l0).detach()[50:100].sigmoid()
    assert update_gates.mean().item() == pytest.approx(0.38, abs=0.03)


def test_trials_stay_apart_for_longer_with_a_higher_gain():
    assert left_after_ten_steps(nn.GRU(1, 50)) == pytest.approx(0.006, abs=0.002)
    assert left_after_ten_steps(started(1.0)) == pytest.approx(0.010, abs=0.003)
    assert left_after_ten_steps(started(1.5)) == pytest.approx(0.07, abs=0.02)


def test_log_mean_counts_are_of_observed_counts_alone():
    spikes = torch.tensor([[[1.0, torch.nan, torch.nan], [3.0, 0.0, torch.nan]]])
    means = log_mean_counts(spikes).exp()
    torch.testing.assert_close(means, torch.tensor([2.0, 1e-3, 4 / 3]))
    torch.testing.assert_close(log_mean_counts(torch.full((2, 3, 4), torch.nan)), torch.zeros(4))
