"""Sampling patterns: the same bandwidth, spent in different ways."""

import numpy as np
import pytest
import torch

from command_line import InputError
from data import SpikeDataModule
from recordings.masks import fill_missing, sample
from simulate import simulate


def masks(pattern: str, recorded: np.ndarray | None = None, seed: int = 3) -> np.ndarray:
    """Return the masks (300, 20, 12) of trials of which 5 neurons are observed at a time."""
    recorded = np.ones((20, 12), dtype=bool) if recorded is None else recorded
    rngs = map(np.random.default_rng, range(300))
    return np.stack([sample(pattern, recorded, 5, seed, rng) for rng in rngs])


def load(path: str, **options) -> SpikeDataModule:
    data = SpikeDataModule(path, **options)
    data.setup()
    return data


@pytest.mark.parametrize("pattern", ["random", "fixed", "staggered", "blocks"])
def test_all_patterns_observe_as_much_of_what_was_recorded(pattern):
    observed = masks(pattern)
    assert observed.sum((1, 2)).mean() == pytest.approx(20 * 5, rel=0.02)
    if pattern != "blocks":
        assert (observed.sum(2) == 5).all()
    recorded = np.random.default_rng(0).random((20, 12)) < 0.4
    observed = masks(pattern, recorded)
    assert not (observed & ~recorded).any()
    if pattern == "random":
        assert (observed.sum(2) == np.minimum(recorded.sum(1), 5)).all()


def test_each_pattern_has_its_order():
    fixed, staggered, blocks, random = map(masks, ("fixed", "staggered", "blocks", "random"))
    assert (fixed == fixed[0, 0]).all()
    assert not np.array_equal(fixed[0], masks("fixed", seed=4)[0])
    assert np.isin(blocks.sum(2), [0, 12]).all()
    times = np.flatnonzero(staggered[0, :, 7])  # of one neuron: 12 / 5 bins apart
    assert np.isin(np.diff(times), [2, 3]).all()
    assert (staggered[0].sum(0) >= 8).all()  # no neuron is left out
    assert not np.array_equal(staggered[0], staggered[1])
    # every neuron is as likely as any other, and the next bin is another draw
    assert np.abs(random.mean((0, 1)) - 5 / 12).max() < 0.05
    assert (random[:, 1:] & random[:, :-1]).mean() == pytest.approx((5 / 12) ** 2, rel=0.05)


def test_the_data_module_takes_the_pattern(small_lorenz):
    data = load(small_lorenz, bandwidth=4, pattern="fixed")
    train, valid = (~trials[:].spikes.isnan() for trials in data.datasets.values())
    assert (train == train[0, 0]).all()
    assert (valid == train[0, 0]).all()


def test_missing_counts_can_be_filled():
    nan = np.nan
    spikes = np.array([[nan, 1, nan], [2, nan, nan], [nan, nan, nan], [4, 3, nan]])
    np.testing.assert_array_equal(fill_missing(spikes, "none"), spikes)
    np.testing.assert_array_equal(fill_missing(spikes, "zero"), np.nan_to_num(spikes))
    expected = [[2, 1, 0], [2, 5 / 3, 0], [3, 7 / 3, 0], [4, 3, 0]]
    np.testing.assert_allclose(fill_missing(spikes, "interpolated"), expected)


def test_filled_counts_are_in_input_and_loss(small_lorenz):
    none, zero = (
        load(small_lorenz, bandwidth=4, fill=fill, development_fraction=0)
        .datasets["train"][:]
        .shown
        for fill in ("none", "zero")
    )
    assert none.isnan().float().mean() == pytest.approx(8 / 12)
    assert torch.equal(zero, none.nan_to_num(nan=0.0))


def test_filled_counts_do_not_tell_held_out_ones(data_arrays, write_file):
    shown = []
    for _ in range(2):
        data = load(write_file(data_arrays), bandwidth=3, fill="interpolated")
        trials = data.datasets["valid"][:]
        shown.append(trials.shown)
        data_arrays["valid_data"] += 50 * trials.heldout.numpy()
    assert trials.heldout.any()
    torch.testing.assert_close(*shown, equal_nan=True)


def test_whole_conditions_can_be_held_out(tmp_path):
    path = str(tmp_path / "a.h5")
    simulate(path=path, conditions=11, trials=5, neurons=6, bins=10)
    trials = SpikeDataModule(path, split="conditions").trials
    train, valid = (set(part.condition) for part in trials.values())
    assert (len(train), len(valid), len(train | valid)) == (9, 2, 11)
    assert sum(len(part.spikes) for part in trials.values()) == 55
    usual = SpikeDataModule(path, split="trials").trials
    assert set(usual["train"].condition) == train | valid


def test_conditions_that_cannot_be_held_out(write_file, data_arrays):
    with pytest.raises(InputError, match="has 3 conditions; expected at least 5"):
        SpikeDataModule(write_file(data_arrays), split="conditions")
    unlabelled = {key: array for key, array in data_arrays.items() if "condition" not in key}
    with pytest.raises(InputError, match="has no train_condition"):
        SpikeDataModule(write_file(unlabelled), split="conditions")
