"""Sampling patterns: the same bandwidth, spent in different ways."""

import numpy as np
import pytest
import torch

from command_line import InputError
from data import SpikeDataModule
from recordings.patterns import fill_missing, sample
from simulate import simulate


def masks(pattern: str, n_trials: int = 300, bandwidth: int = 5, seed: int = 3) -> np.ndarray:
    recorded = np.ones((20, 12), dtype=bool)
    return np.stack(
        [
            sample(pattern, recorded, bandwidth, seed, np.random.default_rng(i))
            for i in range(n_trials)
        ]
    )


@pytest.mark.parametrize("pattern", ["random", "fixed", "staggered", "blocks"])
def test_all_patterns_observe_as_much(pattern):
    observed = masks(pattern)
    assert observed.sum((1, 2)).mean() == pytest.approx(20 * 5, rel=0.02)
    if pattern != "blocks":
        assert (observed.sum(2) == 5).all()
    gaps = np.ones((20, 12), dtype=bool)
    gaps[:, 3] = gaps[4] = False
    assert not (sample(pattern, gaps, 5, 0, np.random.default_rng(0)) & ~gaps).any()


def test_each_pattern_has_its_order():
    fixed, staggered, blocks, random = (
        masks(pattern) for pattern in ("fixed", "staggered", "blocks", "random")
    )
    assert (fixed == fixed[0, 0]).all()
    assert fixed[0, 0].sum() == 5
    assert not np.array_equal(fixed[0], masks("fixed", seed=4)[0])
    assert np.isin(blocks.sum(2), [0, 12]).all()
    times = np.flatnonzero(staggered[0, :, 7])  # of one neuron: 12 / 5 bins apart
    assert np.isin(np.diff(times), [2, 3]).all()
    assert (staggered[0].sum(0) >= 8).all()  # no neuron is left out
    assert not np.array_equal(staggered[0], staggered[1])
    assert (random.mean((0, 1)) > 0.3).all()


def test_the_data_module_takes_the_pattern(small_lorenz):
    data = SpikeDataModule(small_lorenz, bandwidth=4, pattern="fixed")
    data.setup()
    train, valid = (~data.datasets[split][:].spikes.isnan() for split in ("train", "valid"))
    assert (train == train[0, 0]).all()
    assert (valid == train[0, 0]).all()


def test_missing_counts_can_be_filled():
    spikes = np.array(
        [[np.nan, 1.0, np.nan], [2.0, np.nan, np.nan], [np.nan, np.nan, np.nan], [4.0, 3.0, np.nan]]
    )
    assert np.isnan(fill_missing(spikes, "none")).sum() == 8
    np.testing.assert_array_equal(fill_missing(spikes, "zero"), np.nan_to_num(spikes))
    expected = np.array([[2.0, 1.0, 0.0], [2.0, 5 / 3, 0.0], [3.0, 7 / 3, 0.0], [4.0, 3.0, 0.0]])
    np.testing.assert_allclose(fill_missing(spikes, "interpolated"), expected)


def test_filled_counts_are_in_input_and_loss(small_lorenz):
    shown = {}
    for fill in ("none", "zero"):
        data = SpikeDataModule(small_lorenz, bandwidth=4, fill=fill, development_fraction=0)
        data.setup()
        shown[fill] = data.datasets["train"][:].shown
    missing = shown["none"].isnan()
    assert missing.float().mean() == pytest.approx(8 / 12)
    assert not shown["zero"].isnan().any()
    assert not shown["zero"][missing].any()
    assert (shown["zero"][~missing] == shown["none"][~missing]).all()


def test_filled_counts_do_not_tell_held_out_ones(data_arrays, write_file):
    shown = []
    for _ in range(2):
        data = SpikeDataModule(write_file(data_arrays), bandwidth=3, fill="interpolated")
        data.setup()
        heldout = data.datasets["valid"][:].heldout.numpy()
        shown.append(data.datasets["valid"][:].shown)
        data_arrays["valid_data"] = data_arrays["valid_data"] + np.where(heldout, 50, 0).astype(
            np.float32
        )
    assert heldout.any()
    torch.testing.assert_close(*shown, equal_nan=True)


def test_whole_conditions_can_be_held_out(tmp_path):
    simulate(path=str(tmp_path / "a.h5"), conditions=11, trials=5, neurons=6, bins=10)
    data, usual = (
        SpikeDataModule(str(tmp_path / "a.h5"), split=split) for split in ("conditions", "trials")
    )
    conditions = {split: set(trials.condition) for split, trials in data.trials.items()}
    assert len(conditions["valid"]) == 2
    assert not conditions["train"] & conditions["valid"]
    assert len(conditions["train"] | conditions["valid"]) == 11
    assert sum(len(trials.spikes) for trials in data.trials.values()) == 55
    assert (
        conditions["train"]
        != {split: set(trials.condition) for split, trials in usual.trials.items()}["train"]
    )


def test_conditions_that_cannot_be_held_out(write_file, data_arrays):
    with pytest.raises(InputError, match="has 3 conditions; expected at least 5"):
        SpikeDataModule(write_file(data_arrays), split="conditions")
    unlabelled = {key: array for key, array in data_arrays.items() if "condition" not in key}
    with pytest.raises(InputError, match="has no train_condition"):
        SpikeDataModule(write_file(unlabelled), split="conditions")
