"""Scores over a whole validation set: R² to the true rates, and bits per spike of the counts.

Both are torchmetrics objects: fed batch by batch, on the device, and read once at the end.
"""

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class R2(Metric):
    """Coefficient of determination of inferred to true rates, averaged over neurons (uniform).

    Unlike torchmetrics' R2Score, it can look at a part of the entries: the observed ones, say, of which every neuron has
    another number. Neurons without entries, or with constant true rates, have no R² and are left out; with none left
    the result is NaN.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, n_neurons: int) -> None:
        super().__init__()
        for state in ("count", "total", "squares", "residual"):
            self.add_state(state, torch.zeros(n_neurons), dist_reduce_fx="sum")

    def update(self, inferred: Tensor, true: Tensor, entries: Tensor | None = None) -> None:
        """Add rates (trials, time, neurons), both in the same unit; `entries` (same shape, bool) are those that count."""
        # states are replaced, not changed: Lightning makes them in inference mode and updates them outside of it
        weight = torch.ones_like(true) if entries is None else entries.to(true.dtype)
        self.count = self.count + weight.sum((0, 1))
        self.total = self.total + (weight * true).sum((0, 1))
        self.squares = self.squares + (weight * true**2).sum((0, 1))
        self.residual = self.residual + (weight * (true - inferred) ** 2).sum((0, 1))

    def compute(self) -> Tensor:
        """Return the mean R², a scalar."""
        return self.per_neuron().nanmean()

    def per_neuron(self) -> Tensor:
        """Return the R² of each neuron (neurons,), NaN where there is none."""
        variation = self.squares - self.total**2 / self.count.clamp(min=1)
        # what single precision leaves of a constant is not variation
        return torch.where(variation > 1e-5 * self.squares, 1 - self.residual / variation, torch.nan)


class BitsPerSpike(Metric):
    """Information that the inferred rates have on counts beyond each neuron's mean rate, in bits per spike.

    The difference of the two Poisson log-likelihoods, divided by the number of spikes and log 2 (Pei et al. 2021,
    "Neural Latents Benchmark '21"). The mean rates are those of the scored counts.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, n_neurons: int) -> None:
        super().__init__()
        self.add_state("log_likelihood", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("spikes", torch.zeros(n_neurons), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(n_neurons), dist_reduce_fx="sum")

    def update(self, log_rates: Tensor, spikes: Tensor) -> None:
        """Add log expected counts and counts per bin (trials, time, neurons); entries with a count of NaN do not count."""
        chosen = ~spikes.isnan()
        spikes, log_rates = spikes.where(chosen, 0.0), log_rates.where(chosen, 0.0)
        self.log_likelihood = self.log_likelihood + ((spikes * log_rates - log_rates.exp()) * chosen).sum()
        self.spikes = self.spikes + spikes.sum((0, 1))
        self.count = self.count + chosen.sum((0, 1))

    def compute(self) -> Tensor:
        """Return the score, a scalar; NaN where there was no spike."""
        mean_rates = self.spikes / self.count.clamp(min=1)
        null = (torch.xlogy(self.spikes, mean_rates) - self.spikes).sum()
        return (self.log_likelihood - null) / (self.spikes.sum() * math.log(2))
