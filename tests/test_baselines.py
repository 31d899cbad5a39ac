"""What the models are compared with, against formulas written another way."""

import math
import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT

from command_line import read_table
from data import SpikeDataModule
from evaluation.baselines import (
    bps_of_mean_over_trials,
    ideal_observer,
    r2_of_ideal_observer,
    r2_of_psth,
    scores_of_smoothing,
    smoothed_counts,
)
from evaluation.reference import is_demonstration, read_published, read_seeds
from recordings.hdf5 import Trials


def load(path: str, bandwidth: int | None = None) -> SpikeDataModule:
    data = SpikeDataModule(path, bandwidth)
    data.setup()
    return data


def test_ideal_observer_is_the_posterior_mean_over_conditions():
    rng, condition = np.random.default_rng(0), np.array([2, 0, 1, 1])
    rates_of = rng.uniform(5, 80, (3, 4, 5)).astype(np.float32)
    counts = rng.poisson(rates_of[condition] * 0.02).astype(np.float32)
    counts[rng.random(counts.shape) < 0.6] = np.nan
    trials = Trials(counts, rates_of[condition], condition)
    inferred = ideal_observer(torch.from_numpy(counts), trials, bin_width=0.02)
    means, factorial = rates_of * 0.02, np.vectorize(math.factorial)
    for spikes, of_trial in zip(counts, inferred, strict=True):
        seen = ~np.isnan(spikes)
        k, mean = spikes[seen].astype(int), means[:, seen]
        likelihoods = (mean**k * np.exp(-mean) / factorial(k)).prod(1)
        expected = np.einsum("c,ctn->tn", likelihoods / likelihoods.sum(), rates_of)
        np.testing.assert_allclose(of_trial, expected, rtol=1e-3)


def test_smoothing_is_a_weighted_mean_of_observed_counts_and_the_mean_rate():
    rng, bins = np.random.default_rng(0), np.arange(6)
    spikes = rng.poisson(2.0, (3, 6, 2)).astype(np.float32)
    spikes[rng.random(spikes.shape) < 0.5] = np.nan
    smoothed = smoothed_counts(torch.from_numpy(spikes), kernel_sd=1.5, prior=4.0).numpy()
    for trial, time, neuron in np.ndindex(spikes.shape):
        counts = spikes[trial, :, neuron]
        weights = np.exp(-((bins - time) ** 2) / (2 * 1.5**2)) * ~np.isnan(counts)
        total = 4.0 * np.nanmean(spikes[:, :, neuron]) + np.nansum(weights * counts)
        assert smoothed[trial, time, neuron] == pytest.approx(total / (4 + weights.sum()), rel=1e-5)


def test_smoothing_is_better_the_more_is_seen(small_lorenz):
    few, all_neurons = (scores_of_smoothing(load(small_lorenz, seen))[0] for seen in (2, 12))
    assert -0.1 < few < all_neurons < 0.9
    assert all_neurons > 0.1


def test_the_mean_of_a_condition_is_better_than_smoothing_a_trial(small_lorenz):
    data = load(small_lorenz, 4)
    told = r2_of_psth(data)
    assert scores_of_smoothing(data)[0] + 0.1 < told < 0.95
    trials = data.trials["valid"]
    data.trials["valid"] = trials._replace(condition=(trials.condition + 1) % 4)
    assert r2_of_psth(data) < told - 0.3, "the wrong labels"
    data.trials["valid"] = trials._replace(condition=None)
    assert math.isnan(r2_of_psth(data))


def test_there_is_no_ideal_observer_of_conditions_where_their_trials_differ(small_lorenz):
    data = load(small_lorenz)
    assert r2_of_ideal_observer(data) > 0.9
    data.trials["valid"].rates[0] *= 2
    assert math.isnan(r2_of_ideal_observer(data))


def test_smoothing_predicts_the_mean_rates_of_neurons_that_are_not_seen(data_arrays, write_file):
    hidden = data_arrays["train_data"].copy(), data_arrays["valid_data"].copy()
    hidden[0][..., 4], hidden[1][..., 5] = np.nan, np.nan  # never in training; never in validation
    data = load(write_file(data_arrays | {"train_data": hidden[0], "valid_data": hidden[1]}), 3)
    assert all(-0.3 < score < 0.5 for score in scores_of_smoothing(data))
    assert -0.3 < bps_of_mean_over_trials(data) < 0.5


def test_without_truth_there_is_no_r2(data_arrays, write_file):
    data = load(write_file({key: data_arrays[key] for key in ("train_data", "valid_data")}))
    scores = scores_of_smoothing(data)[0], r2_of_psth(data), r2_of_ideal_observer(data)
    assert np.isnan(scores).all()


def test_the_mean_over_trials_is_scored_beyond_the_mean_rates_of_training(small_lorenz):
    data = load(small_lorenz, 6)
    train, valid = (trials[:] for trials in data.datasets.values())
    null = torch.from_numpy(data.trials["train"].spikes).mean((0, 1))
    psth = (train.spikes.nansum(0) + null) / ((~train.spikes.isnan()).sum(0) + 1)
    counts = torch.where(valid.heldout, valid.spikes, torch.nan)
    gain = (counts * psth.log() - psth).nansum() - (counts * null.log() - null).nansum()
    expected = float(gain / counts.nansum() / math.log(2))
    assert bps_of_mean_over_trials(data) == pytest.approx(expected, abs=1e-4)


def test_reference_numbers_are_of_the_demonstration_alone(tmp_path, small_lorenz):
    path, other = str(ROOT / "lorenz_data.h5"), str(tmp_path / "other.h5")
    shutil.copy(path, other)
    with h5py.File(other, "r+") as file:  # with the same shapes and attributes
        file["valid_data"][0, 0, 0] += 1
    assert not any(is_demonstration(SpikeDataModule(path)) for path in (other, small_lorenz))
    for masks in ({"split": "conditions"}, {"pattern": "blocks"}, {"fill": "zero"}):
        assert not is_demonstration(SpikeDataModule(path, **masks))
    assert is_demonstration(SpikeDataModule(path, 5, seed=3))


def test_baselines_read_a_batch_at_a_time(monkeypatch, small_lorenz):
    data = load(small_lorenz, 6)
    at_once = *scores_of_smoothing(data), bps_of_mean_over_trials(data)
    monkeypatch.setattr("data.VALID_BATCH_SIZE", 5)
    monkeypatch.delattr("data.MaskedTrials.__getitem__")  # a loader reads a batch in another way
    in_parts = *scores_of_smoothing(data), bps_of_mean_over_trials(data)
    assert in_parts == pytest.approx(at_once, abs=1e-5)


def test_committed_measurements_are_read():
    published, (dropped, mean, sd) = read_published(), read_seeds()
    assert len(published) == len(dropped) == 8
    assert ((mean > 0.7) & (mean < 1)).all()
    assert ((sd > 0) & (sd < 0.05)).all()
    histories = read_table(ROOT / "docs" / "ablation.csv")
    seeds = Counter((row["bandwidth"], row["recipe"], row["epoch"]) for row in histories)
    assert set(seeds.values()) == {3}
    for name in ("r2", "heldout_nll"):
        assert all(math.isfinite(float(row[name])) for row in histories)
