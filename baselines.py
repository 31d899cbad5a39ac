"""What the models are compared with: an ideal observer, smoothed spikes, published numbers, and our own of other runs."""

import csv
import math
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import SpikeDataModule
from metrics import R2
from model import keep
from posterior import posterior_weights
from recording import Trials

HERE = Path(__file__).parent
PUBLISHED, ABLATION, SEEDS = (
    HERE / "reference" / "published_r2.csv",
    HERE / "docs" / "ablation.csv",
    HERE / "docs" / "seeds.csv",
)
KERNEL_SDS = (1, 2, 3, 5, 8, 12)  # bins
PRIORS = (1, 3, 10, 30, 100, 300)  # bins


def r2_of_ideal_observer(data: SpikeDataModule) -> float:
    """Score the ideal observer on the validation trials; NaN where the truth is not known."""
    metric = R2(data.n_neurons)
    for batch in data.val_dataloader():
        ideal = ideal_observer(batch.spikes, data.trials["valid"], data.bin_width)
        if ideal is None:
            return math.nan
        metric.update(ideal, batch.rates)
    return float(metric.compute())


def ideal_observer(spikes: Tensor, trials: Trials, bin_width: float) -> Tensor | None:
    """Infer rates as one who knows the rates of every condition, but not which one a trial belongs to.

    The mean of the true rates of the conditions under their posterior given the observed counts, with equal priors: no
    method can do better on average, in squared error.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        trials: The trials that the spikes were taken from, with their true rates and conditions.
        bin_width: Width of a time bin (s).

    Returns:
        (B, T, N) rates in spikes/s; None where the truth is not known.
    """
    if trials.rates is None or trials.condition is None:
        return None
    first_trial = np.unique(trials.condition, return_index=True)[1]
    expected_counts = torch.from_numpy(trials.rates[first_trial]).double() * bin_width
    weights = posterior_weights(spikes, expected_counts.clamp(min=1e-9).log())
    return (torch.tensordot(weights, expected_counts, 1) / bin_width).float()


def r2_of_smoothing(data: SpikeDataModule) -> float:
    """Score smoothed spikes on the validation trials, each neuron's with the settings that best predict its held-out counts.

    NaN where the truth is not known.
    """
    if data.trials["valid"].rates is None:
        return math.nan
    spikes, heldout, rates = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    shown, hidden = keep(spikes, ~heldout), keep(spikes, heldout)
    settings = list(product(KERNEL_SDS, PRIORS))
    predictions = (smoothed_counts(shown, *setting) for setting in settings)
    best = torch.stack([(counts - hidden * counts.log()).nansum((0, 1)) for counts in predictions]).argmin(0)
    inferred = torch.empty_like(spikes)
    for index in best.unique():
        inferred[..., best == index] = smoothed_counts(spikes, *settings[index])[..., best == index]
    metric = R2(data.n_neurons)
    metric.update(inferred / data.bin_width, rates)
    return float(metric.compute())


def smoothed_counts(spikes: Tensor, kernel_sd: float, prior: float) -> Tensor:
    """Infer expected counts per bin by smoothing each neuron's observed counts in time, each neuron for itself.

    A bin's estimate is the Gaussian-weighted mean of the counts around it, shrunk to the neuron's mean over all trials (the
    posterior mean under a Gamma prior).

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        kernel_sd: Standard deviation of the Gaussian (bins).
        prior: Weight of the neuron's mean, as a number of observed bins.
    """
    bins = torch.arange(spikes.shape[1])
    kernel = torch.exp(-0.5 * ((bins[:, None] - bins) / kernel_sd) ** 2)
    mean = spikes.nanmean((0, 1)).nan_to_num(nan=1.0).clamp(min=1e-6)
    weight = kernel @ (~spikes.isnan()).to(kernel.dtype)
    return (kernel @ spikes.nan_to_num(nan=0.0) + prior * mean) / (weight + prior)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_published() -> list[dict[str, float]]:
    """Return the published R² of each level, widest first."""
    return [{key: float(value) for key, value in row.items()} for row in read_rows(PUBLISHED)]


def read_seeds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what this repo's recipe reaches over seeds: fraction dropped, mean R² and its SD, each (levels,)."""
    rows = read_rows(SEEDS)
    dropped = sorted({float(row["fraction_dropped"]) for row in rows})
    r2 = np.array([[float(row["r2"]) for row in rows if float(row["fraction_dropped"]) == level] for level in dropped])
    return np.array(dropped), r2.mean(1), r2.std(1, ddof=1)


def read_ablation() -> dict[int, dict[str, dict[str, np.ndarray]]]:
    """Return what ablation.py measured: for each bandwidth and recipe `epoch` (epochs,) and the scores (seeds, epochs)."""
    rows, histories = read_rows(ABLATION), {}
    for bandwidth, recipe in dict.fromkeys((row["bandwidth"], row["recipe"]) for row in rows):
        same = [row for row in rows if (row["bandwidth"], row["recipe"]) == (bandwidth, recipe)]
        seeds = {
            seed: [row for row in same if row["seed"] == seed] for seed in dict.fromkeys(row["seed"] for row in same)
        }
        scores = [name for name in same[0] if name not in ("recipe", "seed", "bandwidth", "epoch")]
        history = {
            name: np.array([[float(row[name]) for row in of_seed] for of_seed in seeds.values()]) for name in scores
        }
        history["epoch"] = np.array([int(row["epoch"]) for row in next(iter(seeds.values()))])
        histories.setdefault(int(bandwidth), {})[recipe] = history
    return histories
