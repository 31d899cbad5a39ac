"""Baselines on the same masked data: an ideal observer, smoothed spikes and the mean over
trials."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from data import Batch, SpikeDataModule
from modules.coordinated_dropout import mask_missing
from modules.metrics import R2, BitsPerSpike
from modules.posterior import posterior_weights
from recordings.hdf5 import Trials

KERNEL_SDS = (1, 2, 3, 5, 8, 12)  # bins
PRIOR_WEIGHTS = (1, 3, 10, 30, 100, 300)  # bins
SETTINGS = list(product(KERNEL_SDS, PRIOR_WEIGHTS))


def r2_of_ideal_observer(data: SpikeDataModule) -> float:
    """Return the R² of the ideal observer on the validation trials; NaN if true rates or conditions
    are not known."""
    metric = R2(data.n_neurons)
    for batch in data.val_dataloader():
        ideal = ideal_observer(batch.spikes, data.trials["valid"], data.bin_width)
        if ideal is None:
            return math.nan
        metric.update(ideal, batch.rates)
    return float(metric.compute())


def ideal_observer(spikes: Tensor, trials: Trials, bin_width: float) -> Tensor | None:
    """Infer rates like an observer who knows the true rates of each condition, but not the
    condition of a trial.

    The posterior mean of the conditions' true rates given the observed counts, with equal priors.
    No method has a smaller expected squared error.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        trials: The trials of the split, with true rates and conditions.
        bin_width: Width of a time bin (s).

    Returns:
        (B, T, N) rates in spikes/s; None if true rates or conditions are not known.
    """
    if trials.rates is None or trials.condition is None:
        return None
    first_trial = np.unique(trials.condition, return_index=True)[1]
    expected_counts = torch.from_numpy(trials.rates[first_trial]).double() * bin_width
    weights = posterior_weights(spikes, expected_counts.clamp(min=1e-9).log())
    return (torch.tensordot(weights, expected_counts, 1) / bin_width).float()


def scores_of_smoothing(data: SpikeDataModule) -> tuple[float, float]:
    """Return R² and bits per spike of smoothed spikes on the validation trials; an R² of NaN if
    true rates are not known.

    Each neuron is smoothed with the settings that best predict its held-out counts.
    """
    spikes, heldout, rates = validation_trials(data)
    shown, hidden = mask_missing(spikes, ~heldout), mask_missing(spikes, heldout)
    chosen = choose_settings(lambda *setting: smoothed_counts(shown, *setting), hidden)
    inferred, from_shown = (
        combine(lambda *setting, c=counts: smoothed_counts(c, *setting), chosen)
        for counts in (spikes, shown)
    )
    bits, r2 = BitsPerSpike(data.n_neurons), R2(data.n_neurons)
    bits.update(from_shown.log(), hidden)
    if rates is None:
        return math.nan, float(bits.compute())
    r2.update(inferred / data.bin_width, rates)
    return float(r2.compute()), float(bits.compute())


def r2_of_psth(data: SpikeDataModule) -> float:
    """Return the R² of PSTHs: each validation trial is predicted by the smoothed mean over its
    condition's training trials.

    Each neuron is smoothed with the settings that best predict its held-out counts. NaN if rates or
    labels are not known, or a condition is not in training.
    """
    spikes, heldout, rates = validation_trials(data)
    labels = [data.trials[split].condition for split in ("train", "valid")]
    if (
        rates is None
        or labels[0] is None
        or labels[1] is None
        or not np.isin(labels[1], labels[0]).all()
    ):
        return math.nan
    training = data.datasets["train"][:].spikes
    names, indices = np.unique(labels[0], return_inverse=True)
    sums, n_observed = torch.zeros(2, len(names), *spikes.shape[1:])
    sums.index_add_(0, torch.from_numpy(indices), training.nan_to_num(nan=0.0))
    n_observed.index_add_(0, torch.from_numpy(indices), (~training.isnan()).float())
    of_trial = torch.from_numpy(np.searchsorted(names, labels[1]))
    mean = mean_counts(training)

    def psth(kernel_sd: float, prior: float) -> Tensor:
        return smooth(sums, n_observed, mean, kernel_sd, prior)[of_trial]

    r2 = R2(data.n_neurons)
    r2.update(
        combine(psth, choose_settings(psth, mask_missing(spikes, heldout))) / data.bin_width, rates
    )
    return float(r2.compute())


def choose_settings(predict: Callable[..., Tensor], hidden: Tensor) -> Tensor:
    """Return for each neuron (N,) the index in SETTINGS that best predicts the hidden counts (B, T,
    N)."""
    predictions = (predict(*setting) for setting in SETTINGS)
    return torch.stack(
        [(counts - hidden * counts.log()).nansum((0, 1)) for counts in predictions]
    ).argmin(0)


def combine(predict: Callable[..., Tensor], chosen: Tensor) -> Tensor:
    """Return predictions (B, T, N), each neuron's with its own settings."""
    result = None
    for index in chosen.unique():
        predicted = predict(*SETTINGS[index])
        result = predicted if result is None else torch.where(chosen == index, predicted, result)
    return result


def bps_of_mean_over_trials(data: SpikeDataModule) -> float:
    """Return the bits per spike of the mean over training trials in each bin (PSTH) on the
    validation trials."""
    spikes, heldout, _ = validation_trials(data)
    sums, n_trials = torch.zeros(2, *spikes.shape[1:])
    for batch in data.train_dataloader():
        sums += batch.spikes.nansum(0)
        n_trials += (~batch.spikes.isnan()).sum(0)
    mean_rates = (sums.sum(0) / n_trials.sum(0).clamp(min=1)).clamp(min=1e-6)
    psth = (sums + mean_rates) / (n_trials + 1)  # the mean rate counts as one trial: no log of zero
    bits = BitsPerSpike(data.n_neurons)
    bits.update(psth.log().expand(spikes.shape), mask_missing(spikes, heldout))
    return float(bits.compute())


def validation_trials(data: SpikeDataModule) -> Batch:
    """Return all validation trials as one batch."""
    spikes, heldout, rates = zip(*data.val_dataloader(), strict=True)
    return Batch(
        torch.cat(spikes), torch.cat(heldout), None if rates[0] is None else torch.cat(rates)
    )


def smoothed_counts(spikes: Tensor, kernel_sd: float, prior: float) -> Tensor:
    """Infer expected counts per bin (B, T, N) by smoothing the observed counts of each neuron in
    time.

    The estimate is the Gaussian-weighted mean of the counts around a bin, shrunk towards the
    neuron's mean over all trials (the posterior mean under a Gamma prior).

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        kernel_sd: Standard deviation of the Gaussian (bins).
        prior: Weight of the neuron's mean, in observed bins.
    """
    return smooth(
        spikes.nan_to_num(nan=0.0), (~spikes.isnan()).float(), mean_counts(spikes), kernel_sd, prior
    )


def mean_counts(spikes: Tensor) -> Tensor:
    """Return each neuron's mean count per bin (N,) over observed entries (B, T, N)."""
    return spikes.nanmean((0, 1)).nan_to_num(nan=1.0).clamp(min=1e-6)


def smooth(
    sums: Tensor, n_observed: Tensor, mean: Tensor, kernel_sd: float, prior: float
) -> Tensor:
    """Return means (B, T, N) of counts around each bin: `sums` of `n_observed` counts (B, T, N),
    shrunk towards `mean` (N,)."""
    bins = torch.arange(sums.shape[1])
    kernel = torch.exp(-0.5 * ((bins[:, None] - bins) / kernel_sd) ** 2)
    return (kernel @ sums + prior * mean) / (kernel @ n_observed + prior)
