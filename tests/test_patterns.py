"""Sampling patterns: the same bandwidth, spent in different ways."""

import numpy as np
import pytest

from data import SpikeDataModule
from recordings.patterns import sample


def masks(pattern: str, n_trials: int = 300, bandwidth: int = 5, seed: int = 3) -> np.ndarray:
    recorded = np.ones((20, 12), dtype=bool)
    return np.stack([sample(pattern, recorded, bandwidth, seed, np.random.default_rng(i)) for i in range(n_trials)])


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
    fixed, staggered, blocks, random = (masks(pattern) for pattern in ("fixed", "staggered", "blocks", "random"))
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
