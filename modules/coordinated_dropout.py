"""Coordinated dropout: take the loss on observed counts that were hidden from the encoder.

Keshtkaran & Pandarinath 2019. Letters in shapes: B trials, T time bins, N neurons.
A missing count is NaN.
"""

import torch
from torch import Tensor


def coordinated_dropout(spikes: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Hide a random part of the observed counts from the encoder.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        fraction: Probability of hiding an observed count. 0: nothing is hidden.

    Returns:
        The encoder's input and the target of the loss, both (B, T, N). No count is in both, so none
        can be copied. With a fraction of 0 both are `spikes`.
    """
    if fraction == 0:
        return spikes, spikes
    hidden = torch.rand_like(spikes).lt_(fraction)
    return rescale(mask_missing(spikes, 1 - hidden), spikes), mask_missing(spikes, hidden)


def mask_missing(spikes: Tensor, kept: Tensor) -> Tensor:
    """Return spikes (B, T, N) with NaN wherever `kept` (B, T, N; bool, or 1 and 0) is False."""
    return spikes * kept / kept  # 0 / 0 is NaN; faster than masked_fill


def rescale(shown: Tensor, spikes: Tensor) -> Tensor:
    """Scale up the counts that remain after some were hidden, as dropout does.

    Args:
        shown: (B, T, N) the counts that remain, NaN elsewhere.
        spikes: (B, T, N) all observed counts.

    Returns:
        `shown` times the number of observed entries of each trial, divided by the number of those
        that remain.
    """
    # 0 * count + 1 is 1 where a count was observed, else NaN; faster than isnan()
    ones = ((0.0 * counts + 1.0).nan_to_num(nan=0.0) for counts in (spikes, shown))
    n_observed, n_shown = (entries.sum((1, 2), keepdim=True) for entries in ones)
    return shown * (n_observed / n_shown.clamp(min=1))


def true_indices(entries: Tensor) -> Tensor:
    """Return the indices where `entries` (n,) is True. On a CPU, numpy is faster than torch."""
    if entries.device.type != "cpu":
        return entries.nonzero().squeeze(1)
    return torch.from_numpy(entries.numpy().nonzero()[0])
