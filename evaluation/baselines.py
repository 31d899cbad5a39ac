"""Baselines on the same masked data: an ideal observer, smoothed spikes and means over trials.

Shapes: B trials, T time bins, N neurons.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from data import Batch, SpikeDataModule
from modules.coordinated_dropout import mask_missing
from modules.initialization import log_mean_counts
from modules.metrics import R2, BitsPerSpike
from modules.posterior import n_affordable, posterior_weights
from recordings.hdf5 import SPLITS, Trials, blocks

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
    error. None if true rates or conditions are not known, or if trials of a condition differ in
    their rates.
    """
    if trials.rates is None or trials.condition is None:
        return None
    _, first_trial, condition = np.unique(trials.condition, return_index=True, return_inverse=True)
    of_conditions = trials.rates[first_trial]
    for block in blocks(trials.rates):
        if not np.array_equal(trials.rates[block], of_conditions[condition[block]]):
            return None
    expected_counts = torch.from_numpy(of_conditions).double() * bin_width
    weights = posterior_weights(spikes, expected_counts.clamp(min=1e-9).log())
    return (torch.tensordot(weights, expected_counts, 1) / bin_width).float()


def scores_of_smoothing(data: SpikeDataModule) -> tuple[float, float]:
    """Return R² (NaN without true rates) and bits per spike of smoothed validation trials.

    Each neuron is smoothed with the settings that best predict its held-out counts.
    """
    batch, mean = read_affordable(data, "valid"), data.mean_counts.float()
    hidden = mask_missing(batch.spikes, batch.heldout)
    from_shown = partial(smoothed_counts, batch.shown, mean=mean)
    chosen = choose_settings(from_shown, hidden)
    bits = bits_per_spike(combine(from_shown, chosen).log(), hidden, data)
    if batch.rates is None:
        return math.nan, bits
    inferred = combine(partial(smoothed_counts, batch.spikes, mean=mean), chosen) / data.bin_width
    return float(R2(data.n_neurons)(inferred, batch.rates)), bits


def r2_of_psth(data: SpikeDataModule) -> float:
    """Return the R² of PSTHs: the smoothed mean over the training trials of a trial's condition.

    Each neuron is smoothed with the settings that best predict its held-out counts. NaN if rates or
    labels are not known, or a condition is not in training.
    """
    batch = read_affordable(data, "valid")
    train, valid = (data.trials[split].condition for split in SPLITS)
    is_known = batch.rates is not None and train is not None and valid is not None
    if not is_known or not np.isin(valid, train).all():
        return math.nan
    training = read_affordable(data, "train").spikes
    names, indices = np.unique(train, return_inverse=True)
    indices = torch.from_numpy(indices[: len(training)])
    of_trial = torch.from_numpy(np.searchsorted(names, valid[: len(batch.spikes)]))
    sums, n_observed = torch.zeros(2, len(names), *training.shape[1:])
    sums.index_add_(0, indices, training.nan_to_num(nan=0.0))
    n_observed.index_add_(0, indices, (~training.isnan()).float())
    mean = data.mean_counts.float()

    def psth(kernel_sd: float, prior: float) -> Tensor:
        return smooth(sums, n_observed, mean, kernel_sd, prior)[of_trial]

    chosen = choose_settings(psth, mask_missing(batch.spikes, batch.heldout))
    return float(R2(data.n_neurons)(combine(psth, chosen) / data.bin_width, batch.rates))


def bps_of_mean_over_trials(data: SpikeDataModule) -> float:
    """Return the bits per spike of each bin's mean over training trials on validation trials."""
    batch = read_affordable(data, "valid")
    sums, n_trials = torch.zeros(2, *batch.spikes.shape[1:])
    for training in data.train_dataloader():
        sums += training.spikes.nansum(0)
        n_trials += (~training.spikes.isnan()).sum(0)
    # the mean rate counts as one trial: no log of zero
    psth = (sums + data.mean_counts.float()) / (n_trials + 1)
    hidden = mask_missing(batch.spikes, batch.heldout)
    return bits_per_spike(psth.log().expand(hidden.shape), hidden, data)


def read_affordable(data: SpikeDataModule, split: str) -> Batch:
    """Return the masked trials of a split, the first ones if they are too many for memory."""
    return data.datasets[split][: n_affordable(*data.trials[split].spikes.shape[1:])]


def bits_per_spike(log_rates: Tensor, spikes: Tensor, data: SpikeDataModule) -> float:
    """Return the bits per spike of counts (B, T, N) beyond the mean rates of training trials."""
    metric = BitsPerSpike(data.n_neurons)
    metric.mean_counts = data.mean_counts
    return float(metric(log_rates, spikes))


def compute_psths(
    data: SpikeDataModule, inferred: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Average counted and inferred rates of the first validation trials over each condition.

    Without labels, all trials are of one condition. `inferred` are rates (B, T, N) in spikes/s.

    Returns:
        Mean counted and inferred rates (conditions, T, N), and the names of the conditions.
    """
    stored, n_trials = data.trials["valid"], len(inferred)
    counted = stored.spikes[:n_trials].astype(np.float32) / data.bin_width
    condition, names = np.zeros(n_trials, dtype=int), ["all trials"]
    if stored.condition is not None:
        condition, names = stored.condition[:n_trials], data.condition_names or []
    labels, names = np.unique(condition).tolist(), dict(enumerate(names))

    def average(rates: np.ndarray) -> np.ndarray:
        return np.stack([np.nanmean(rates[condition == label], axis=0) for label in labels])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an entry never recorded is NaN
        means = average(counted), average(inferred)
    return *means, [names.get(label, f"condition {label}") for label in labels]


def choose_settings(predict: Callable[..., Tensor], hidden: Tensor) -> Tensor:
    """Return each neuron's index (N,) in SETTINGS that best predicts hidden counts (B, T, N)."""
    predictions = (predict(*setting) for setting in SETTINGS)
    losses = [(counts - hidden * counts.log()).nansum((0, 1)) for counts in predictions]
    return torch.stack(losses).argmin(0)


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
    the neuron's `mean` (N,) with the weight of `prior` observed bins (the posterior mean under a
    Gamma prior). None: its mean over these trials.
    """
    sums, n_observed = spikes.nan_to_num(nan=0.0), (~spikes.isnan()).float()
    mean = log_mean_counts(spikes).exp() if mean is None else mean
    return smooth(sums, n_observed, mean, kernel_sd, prior)


def smooth(
    sums: Tensor, n_observed: Tensor, mean: Tensor, kernel_sd: float, prior: float
) -> Tensor:
    """Return `sums` / `n_observed` (B, T, N) around each bin, shrunk towards `mean` (N,)."""
    bins = torch.arange(sums.shape[1])
    kernel = torch.exp(-0.5 * ((bins[:, None] - bins) / kernel_sd) ** 2)
    return (kernel @ sums + prior * mean) / (kernel @ n_observed + prior)
