"""Scores over a whole validation set: R² to the true rates, and bits per spike of the counts.

Both are torchmetrics: updated batch by batch, computed once at the end.
Letters in shapes: B trials, T time bins, N neurons.
"""

import math

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric


class R2(Metric):
    """Coefficient of determination of inferred to true rates, averaged over neurons (uniform).

    Unlike torchmetrics' R2Score, it can score some of the entries, with a different number of them
    for each neuron. Neurons without entries, or with constant true rates, have no R² and are left
    out. Without any neuron the R² is NaN.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, n_neurons: int) -> None:
        super().__init__()
        for state in ("count", "total", "squares", "residual"):
            self.add_state(state, torch.zeros(n_neurons))

    def update(self, inferred: Tensor, true: Tensor, entries: Tensor | None = None) -> None:
        """Add rates (B, T, N) in the same unit. `entries` (B, T, N; bool) are those to score; None:
        all."""
        weight = torch.ones_like(true) if entries is None else entries.to(true.dtype)
        self.count += weight.sum((0, 1))
        self.total += (weight * true).sum((0, 1))
        self.squares += (weight * true**2).sum((0, 1))
        self.residual += (weight * (true - inferred) ** 2).sum((0, 1))

    def compute(self) -> Tensor:
        """Return the mean R² over neurons, a scalar."""
        return self.per_neuron().nanmean()

    def per_neuron(self) -> Tensor:
        """Return the R² (N,) of each neuron, NaN where it has none."""
        variation = self.squares - self.total**2 / self.count.clamp(min=1)
        # less is the rounding error of a constant in single precision
        return torch.where(
            variation > 1e-5 * self.squares, 1 - self.residual / variation, torch.nan
        )


class BitsPerSpike(Metric):
    """Information about counts in the inferred rates, beyond each neuron's mean rate, in bits per
    spike.

    The Poisson log-likelihood under the inferred rates minus that under the mean rates, divided by
    the number of spikes and by log 2 (Pei et al. 2021, "Neural Latents Benchmark '21").

    Args:
        n_neurons: Number of neurons.
        mean_counts: (N,) the mean rates, in counts per bin. None: those of the scored counts, as in
            the benchmark. No model can beat these where a neuron has but a few spikes.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, n_neurons: int, mean_counts: Tensor | None = None) -> None:
        super().__init__()
        self.mean_counts = mean_counts
        for state in ("log_likelihood", "spikes", "count"):
            self.add_state(state, torch.zeros(n_neurons))

    def update(self, log_rates: Tensor, spikes: Tensor) -> None:
        """Add log expected counts and counts per bin (B, T, N), NaN where not scored."""
        chosen = ~spikes.isnan()
        spikes, log_rates = spikes.where(chosen, 0.0), log_rates.where(chosen, 0.0)
        self.log_likelihood += ((spikes * log_rates - log_rates.exp()) * chosen).sum((0, 1))
        self.spikes += spikes.sum((0, 1))
        self.count += chosen.sum((0, 1))

    def compute(self) -> Tensor:
        """Return the score, a scalar; NaN without any spike."""
        n_spikes = self.spikes.sum()
        return torch.where(n_spikes > 0, self.gain().sum() / (n_spikes * math.log(2)), torch.nan)

    def per_neuron(self) -> Tensor:
        """Return the score (N,) of each neuron, NaN for one without any spike."""
        return torch.where(self.spikes > 0, self.gain() / (self.spikes * math.log(2)), torch.nan)

    def gain(self) -> Tensor:
        """Return each neuron's log-likelihood (N,; nats) beyond that under its mean rate."""
        mean_counts = self.spikes / self.count.clamp(min=1)
        if self.mean_counts is not None:
            mean_counts = self.mean_counts.to(self.spikes)
        by_means = torch.xlogy(self.spikes, mean_counts) - self.count * mean_counts
        return self.log_likelihood - by_means


def make_scores(n_neurons: int) -> nn.ModuleDict:
    """Return the scores of a validation. A NaN loss counts as infinite."""
    losses = ("nll", "heldout_nll", "heldout_nll_amortised")
    losses = {name: MeanMetric(nan_strategy=math.inf) for name in losses}
    r2 = {name: R2(n_neurons) for name in ("r2", "r2_observed", "r2_unobserved", "r2_amortised")}
    bits = {name: BitsPerSpike(n_neurons) for name in ("bps", "co_bps")}
    return nn.ModuleDict(losses | r2 | bits)
