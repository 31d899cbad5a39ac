"""Readouts of low rank."""

import pytest
import torch
from torch import nn

from modules.readout import merge_readout, principal_readouts, split_readout


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_each_rank_keeps_most_of_the_variation_and_the_last_all(shape):
    torch.manual_seed(0)
    readout = nn.Linear(*shape)
    latents = torch.randn(8, 5, shape[0]) + 1
    readouts, full = principal_readouts(readout, latents), readout(latents)
    assert len(readouts) == min(shape)
    left = []
    for rank, lower in enumerate(readouts, start=1):
        assert torch.linalg.matrix_rank(lower.weight, rtol=1e-4) == rank
        torch.testing.assert_close(lower(latents).mean((0, 1)), full.mean((0, 1)))
        left.append((lower(latents) - full).square().sum())
    # what is left out is what a singular value decomposition leaves out
    sizes = torch.linalg.svdvals((full - full.mean((0, 1))).flatten(0, 1))
    expected = sizes.square().flip(0).cumsum(0).flip(0)[1 : len(left)]
    torch.testing.assert_close(torch.stack(left[:-1]), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(readouts[-1](latents), full, rtol=1e-4, atol=1e-4)


def test_a_readout_of_low_rank_is_split_and_merged_without_loss():
    torch.manual_seed(0)
    lower = principal_readouts(nn.Linear(10, 6), torch.randn(30, 10))[2]
    layers = split_readout(lower, 3)
    assert [tuple(layer.weight.shape) for layer in layers] == [(3, 10), (6, 3)]
    merged = merge_readout(layers)
    torch.testing.assert_close(merged.weight, lower.weight)
    torch.testing.assert_close(merged.bias, lower.bias)
