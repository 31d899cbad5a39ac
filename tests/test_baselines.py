"""What the models are compared with, against formulas written another way."""

import math

import numpy as np
import pytest
import torch
from conftest import ROOT

from data import SpikeDataModule
from evaluation.baselines import (
    bps_of_mean_over_trials,
    ideal_observer,
    r2_of_psth,
    scores_of_smoothing,
    smoothed_counts,
)
from evaluation.reference import is_demonstration, read_published, read_seeds
from experiments.learning_curves import ABLATION_CSV, read_ablation
from recordings.hdf5 import Trials


def test_ideal_observer_is_the_posterior_mean_over_conditions():
    rng = np.random.default_rng(0)
    condition_rates = rng.uniform(5, 80, (3, 4, 5)).astype(np.float32)
    condition = np.array([2, 0, 1, 1])
    counts = torch.from_numpy(rng.poisson(condition_rates[condition] * 0.02).astype(np.float32))
    counts[torch.from_numpy(rng.random(counts.shape) < 0.6)] = torch.nan
    inferred = ideal_observer(
        counts, Trials(counts.numpy(), condition_rates[condition], condition), bin_width=0.02
    )
    for trial in range(4):
        posterior = []
        for rates in condition_rates * 0.02:
            likelihood = 1.0
            for count, rate in zip(
                counts[trial].flatten().tolist(), rates.flatten().tolist(), strict=True
            ):
                if not math.isnan(count):
                    likelihood *= rate**count * math.exp(-rate) / math.factorial(int(count))
            posterior.append(likelihood)
        expected = np.einsum("c,ctn->tn", np.array(posterior) / sum(posterior), condition_rates)
        np.testing.assert_allclose(inferred[trial], expected, rtol=1e-3)


def test_ideal_observer_needs_the_truth():
    counts = torch.zeros(2, 3, 4)
    assert ideal_observer(counts, Trials(counts.numpy(), None, None), 0.02) is None


def test_smoothing_is_a_weighted_mean_of_observed_counts_and_the_mean_rate():
    rng = np.random.default_rng(0)
    spikes = rng.poisson(2.0, (3, 6, 2)).astype(np.float32)
    spikes[rng.random(spikes.shape) < 0.5] = np.nan
    smoothed = smoothed_counts(torch.from_numpy(spikes), kernel_sd=1.5, prior=4.0).numpy()
    for trial, time, neuron in np.ndindex(spikes.shape):
        total = 4.0 * np.nanmean(spikes[:, :, neuron])
        weights = 4.0
        for other_time in range(6):
            if not math.isnan(spikes[trial, other_time, neuron]):
                weight = math.exp(-((time - other_time) ** 2) / (2 * 1.5**2))
                total, weights = (
                    total + weight * spikes[trial, other_time, neuron],
                    weights + weight,
                )
        assert smoothed[trial, time, neuron] == pytest.approx(total / weights, rel=1e-5)


def test_smoothing_is_better_the_more_is_seen_and_worse_than_the_ideal_observer(small_lorenz):
    scores = []
    for bandwidth in (2, 12):
        data = SpikeDataModule(small_lorenz, bandwidth)
        data.setup()
        scores.append(scores_of_smoothing(data)[0])
    assert -0.1 < scores[0] < scores[1] < 0.9
    assert scores[1] > 0.1


def test_the_mean_of_a_condition_is_better_than_smoothing_a_trial(small_lorenz):
    data = SpikeDataModule(small_lorenz, 4)
    data.setup()
    told = r2_of_psth(data)
    assert scores_of_smoothing(data)[0] + 0.1 < told < 0.95
    trials = data.trials["valid"]
    data.trials["valid"] = trials._replace(condition=(trials.condition + 1) % 4)
    assert r2_of_psth(data) < told - 0.3, "the wrong labels"
    data.trials["valid"] = trials._replace(condition=None)
    assert math.isnan(r2_of_psth(data))


def test_smoothing_has_no_score_without_truth(data_arrays, write_file):
    data = SpikeDataModule(
        write_file({key: array for key, array in data_arrays.items() if "data" in key})
    )
    data.setup()
    assert math.isnan(scores_of_smoothing(data)[0])


def test_the_mean_over_trials_is_scored_as_the_benchmark_does(small_lorenz):
    data = SpikeDataModule(small_lorenz, bandwidth=6)
    data.setup()
    train, valid = data.datasets["train"][:], data.datasets["valid"][:]
    mean = train.spikes.nanmean((0, 1))
    psth = (train.spikes.nansum(0) + mean) / ((~train.spikes.isnan()).sum(0) + 1)
    counts = torch.where(valid.heldout, valid.spikes, torch.nan)
    null = counts.nanmean((0, 1))
    gain = (counts * psth.log() - psth).nansum() - (counts * null.log() - null).nansum()
    assert bps_of_mean_over_trials(data) == pytest.approx(
        float(gain / counts.nansum() / math.log(2)), abs=1e-4
    )


def test_reference_numbers_are_of_the_demonstrations_data_alone(small_lorenz, data_file):
    assert is_demonstration(ROOT / "lorenz_data.h5")
    assert not is_demonstration(small_lorenz)
    assert not is_demonstration(data_file)


def test_committed_measurements_are_read():
    published, (dropped, mean, sd) = read_published(), read_seeds()
    assert len(published) == len(dropped) == 8
    assert ((mean > 0.7) & (mean < 1)).all()
    assert ((sd > 0) & (sd < 0.05)).all()
    for recipes in read_ablation(ABLATION_CSV).values():
        for history in recipes.values():
            assert history["r2"].shape == history["heldout_nll"].shape == (3, len(history["epoch"]))
