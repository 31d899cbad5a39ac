"""Readouts of low rank: log-rates that are linear in a few factors.

A population of N neurons often has far fewer dimensions. A readout of full rank learns noise in
the others. Letters in shapes: H hidden units, N neurons, F factors.
"""

import torch
from torch import Tensor, nn


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer with a weight (N, H) and a bias (N,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()
    return layer


def principal_readouts(readout: nn.Linear, latents: Tensor) -> list[nn.Linear]:
    """Return readouts of rank 1, 2, ..., which keep the principal components of the log-rates.

    Args:
        readout: From H latents to N log-rates.
        latents: (..., H) typical latents. For these the mean log-rates stay the same.

    Returns:
        As many as the readout's full rank; the last one is equivalent to `readout`.
    """
    latents = latents.flatten(0, -2)
    weight, mean = readout.weight, latents.mean(0)
    directions = torch.linalg.eigh(
        weight @ torch.cov(latents.T).view(len(mean), -1) @ weight.T
    ).eigenvectors.flip(1)
    result = []
    for rank in range(1, min(weight.shape) + 1):
        projected = directions[:, :rank] @ (directions[:, :rank].T @ weight)
        result.append(linear(projected, readout.bias + (weight - projected) @ mean))
    return result


def split_readout(readout: nn.Linear, n_factors: int) -> nn.Sequential:
    """Return a readout of rank `n_factors` as two layers: latents -> factors -> log-rates."""
    left, sizes, right = torch.linalg.svd(readout.weight.detach(), full_matrices=False)
    roots = sizes[:n_factors].sqrt()
    to_factors = nn.Linear(right.shape[1], n_factors, bias=False)
    to_factors.weight.data = roots.unsqueeze(1) * right[:n_factors]
    return nn.Sequential(to_factors, linear(left[:, :n_factors] * roots, readout.bias))


def merge_readout(layers: nn.Sequential) -> nn.Linear:
    """Return the two layers of `split_readout` as one."""
    to_factors, to_log_rates = layers
    return linear(to_log_rates.weight @ to_factors.weight, to_log_rates.bias)


def rank(readout: nn.Linear) -> int:
    """Return the number of factors that the log-rates are a linear function of."""
    return int(torch.linalg.matrix_rank(readout.weight.detach().float(), rtol=1e-4))
