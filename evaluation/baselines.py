"""Baselines on the same masked data: an ideal observer, smoothed spikes and means over trials.

Shapes: B trials, T time bins, N neurons.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from data import Batch, SpikeDataModule
from modules.coordinated_dropout import mask_missing
from modules.metrics import R2, BitsPerSpike
from modules.posterior import posterior_weights
from recordings.hdf5 import SPLITS, Trials

KERNEL_SDS = (1, 2, 3, 5, 8, 12)  # bins
PRIOR_WEIGHTS = (1, 3, 10, 30, 100, 300)  # bins
SETTINGS = list(product(KERNEL_SDS, PRIOR_WEIGHTS))


def r2_of_ideal_observer(data: SpikeDataModule) -> float:
    """Return the R² of the ideal observer on the validation trials; NaN if it cannot be known."""
    metric = R2(data.n_neurons)
    for batch in data.val_dataloader():
        ideal = ideal_observer(batch.spikes, data.trials["valid"], data.bin_width)
        if ideal is None:
            return math.nan
        metric.update(ideal, batch.rates)
    return float(metric.compute())


def ideal_observer(spikes: Tensor, trials: Trials, bin_width: float) -> Tensor | None:
    """Infer rates like an observer who knows each condition's true rates, but no trial's condition.

    The rates (B, T, N; spikes/s) are the posterior mean of those of the conditions of `trials`,
    with equal priors, given the observed counts (B, T, N). No method has a smaller expected squared
    error. None if true rates or conditions are not known.
    """
    if trials.rates is None or trials.condition is None:
        return None
    first_trial = np.unique(trials.condition, return_index=True)[1]
    expected_counts = torch.from_numpy(trials.rates[first_trial]).double() * bin_width
    weights = posterior_weights(spikes, expected_counts.clamp(min=1e-9).log())
    return (torch.tensordot(weights, expected_counts, 1) / bin_width).float()


def scores_of_smoothing(data: SpikeDataModule) -> tuple[float, float]:
    """Return R² (NaN without true rates) and bits per spike of smoothed validation trials.

    Each neuron is smoothed with the settings that best predict its held-out counts. The trials are
    read anew for each step, a batch at a time.
    """
    batches = data.val_dataloader()
    both = (torch.cat((batch.shown, batch.spikes), dim=-1) for batch in batches)
    mean_shown, mean = mean_counts(both).chunk(2)

    def smooth_shown(batch: Batch) -> Callable[..., Tensor]:
        return partial(smoothed_counts, batch.shown, mean=mean_shown)

    chosen = choose_settings((smooth_shown(batch), heldout_counts(batch)) for batch in batches)
    bits, r2 = BitsPerSpike(data.n_neurons), R2(data.n_neurons)
    for batch in batches:
        bits.update(combine(smooth_shown(batch), chosen).log(), heldout_counts(batch))
        if batch.rates is not None:
            inferred = combine(partial(smoothed_counts, batch.spikes, mean=mean), chosen)
            r2.update(inferred / data.bin_width, batch.rates)
    return float(r2.compute()) if r2.update_called else math.nan, float(bits.compute())


def r2_of_psth(data: SpikeDataModule) -> float:
    """Return the R² of PSTHs: the smoothed mean over the training trials of a trial's condition.

    Each neuron is smoothed with the settings that best predict its held-out counts. NaN if rates or
    labels are not known, or a condition is not in training.
    """
    batch = data.datasets["valid"][:]
    train, valid = (data.trials[split].condition for split in SPLITS)
    is_known = batch.rates is not None and train is not None and valid is not None
    if not is_known or not np.isin(valid, train).all():
        return math.nan
    training = data.datasets["train"][:].spikes
    names, indices = np.unique(train, return_inverse=True)
    indices, of_trial = torch.from_numpy(indices), torch.from_numpy(np.searchsorted(names, valid))
    sums, n_observed = torch.zeros(2, len(names), *training.shape[1:])
    sums.index_add_(0, indices, training.nan_to_num(nan=0.0))
    n_observed.index_add_(0, indices, (~training.isnan()).float())
    mean = mean_counts([training])

    def psth(kernel_sd: float, prior: float) -> Tensor:
        return smooth(sums, n_observed, mean, kernel_sd, prior)[of_trial]

    chosen = choose_settings([(psth, heldout_counts(batch))])
    return float(R2(data.n_neurons)(combine(psth, chosen) / data.bin_width, batch.rates))


def bps_of_mean_over_trials(data: SpikeDataModule) -> float:
    """Return the bits per spike of each bin's mean over training trials on validation trials."""
    sums, n_trials = torch.zeros(2, *data.trials["train"].spikes.shape[1:])
    for training in data.train_dataloader():
        sums += training.spikes.nansum(0)
        n_trials += (~training.spikes.isnan()).sum(0)
    mean_rates = (sums.sum(0) / n_trials.sum(0).clamp(min=1)).clamp(min=1e-6)
    psth = (sums + mean_rates) / (n_trials + 1)  # the mean rate counts as one trial: no log of zero
    bits = BitsPerSpike(data.n_neurons)
    for batch in data.val_dataloader():
        bits.update(psth.log().expand(batch.spikes.shape), heldout_counts(batch))
    return float(bits.compute())


def heldout_counts(batch: Batch) -> Tensor:
    """Return the held-out counts (B, T, N) of validation trials, NaN elsewhere."""
    return mask_missing(batch.spikes, batch.heldout)


def choose_settings(parts: Iterable[tuple[Callable[..., Tensor], Tensor]]) -> Tensor:
    """Return each neuron's index (N,) in SETTINGS that best predicts hidden counts.

    `parts` of the trials are what predicts counts (B, T, N), and the hidden counts (B, T, N).
    """
    losses = 0.0
    for predict, hidden in parts:
        predictions = (predict(*setting) for setting in SETTINGS)
        of_part = [(counts - hidden * counts.log()).nansum((0, 1)) for counts in predictions]
        losses = losses + torch.stack(of_part)
    return losses.argmin(0)


def combine(predict: Callable[..., Tensor], chosen: Tensor) -> Tensor:
    """Return predictions (B, T, N), each neuron's with its own settings."""
    result = None
    for index in chosen.unique():
        predicted = predict(*SETTINGS[index])
        result = predicted if result is None else torch.where(chosen == index, predicted, result)
    return result


def smoothed_counts(
    spikes: Tensor, kernel_sd: float, prior: float, mean: Tensor | None = None
) -> Tensor:
    """Infer expected counts per bin (B, T, N) by smoothing each neuron's observed counts in time.

    The mean of the counts around a bin under a Gaussian of SD `kernel_sd` (bins), shrunk towards
    the neuron's `mean` (N,; None: that of these trials) with the weight of `prior` observed bins
    (the posterior mean under a Gamma prior).
    """
    sums, n_observed = spikes.nan_to_num(nan=0.0), (~spikes.isnan()).float()
    mean = mean_counts([spikes]) if mean is None else mean
    return smooth(sums, n_observed, mean, kernel_sd, prior)


def mean_counts(parts: Iterable[Tensor]) -> Tensor:
    """Return each neuron's mean count per bin (N,) over observed entries of all parts (B, T, N)."""
    sums, n_observed = 0.0, 0
    for spikes in parts:
        sums = sums + spikes.nansum((0, 1))
        n_observed = n_observed + (~spikes.isnan()).sum((0, 1))
    return (sums / n_observed).nan_to_num(nan=1.0).clamp(min=1e-6)


def smooth(
    sums: Tensor, n_observed: Tensor, mean: Tensor, kernel_sd: float, prior: float
) -> Tensor:
    """Return `sums` / `n_observed` (B, T, N) around each bin, shrunk towards `mean` (N,)."""
    bins = torch.arange(sums.shape[1])
    kernel = torch.exp(-0.5 * ((bins[:, None] - bins) / kernel_sd) ** 2)
    return (kernel @ sums + prior * mean) / (kernel @ n_observed + prior)
