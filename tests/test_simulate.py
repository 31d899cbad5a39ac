"""The demonstration's data are what they are said to be."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT

from command_line import InputError
from simulate import LORENZ_PER_BIN, STEPS_PER_BIN, rk4_step, simulate, split_trials


def contents(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {key: file[key][()] for key in file} | dict(file.attrs)


@pytest.fixture(scope="module")
def committed() -> dict[str, np.ndarray]:
    return contents(ROOT / "lorenz_data.h5")


def test_committed_data_set_is_rebuilt_bit_for_bit(tmp_path, committed):
    simulate(path=str(tmp_path / "again.h5"))
    again = contents(tmp_path / "again.h5")
    assert committed.keys() == again.keys()
    for key, value in committed.items():
        np.testing.assert_array_equal(value, again[key], err_msg=key)
        assert np.asarray(value).dtype == np.asarray(again[key]).dtype, key


def test_committed_data_set_is_the_prescribed_one(committed):
    assert committed["train_data"].shape == (1248, 50, 29)
    assert committed["valid_data"].shape == (312, 50, 29)
    assert set(np.bincount(committed["valid_condition"])) == {4, 5}
    rates = np.concatenate([committed["train_truth"], committed["valid_truth"]])
    assert rates.mean() == pytest.approx(15.0, rel=1e-4)
    assert np.log(rates).std() == pytest.approx(1.25, rel=1e-4)
    latents = np.concatenate([committed["train_latents"], committed["valid_latents"]])
    np.testing.assert_allclose(latents.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(latents.std((0, 1)), 1, atol=1e-4)


def test_counts_are_poisson_with_the_true_rates(committed):
    expected = committed["train_truth"] * committed["bin_width"]
    z = (committed["train_data"] - expected) / np.sqrt(expected)
    assert z.mean() == pytest.approx(0, abs=0.01)
    assert z.var() == pytest.approx(1, abs=0.02)


def test_rates_are_log_linear_in_the_latents(committed):
    latents = committed["train_latents"].reshape(-1, 3)
    design = np.column_stack([latents, np.ones(len(latents))])
    log_rates = np.log(committed["train_truth"].reshape(-1, 29))
    loadings, *_ = np.linalg.lstsq(design, log_rates, rcond=None)
    np.testing.assert_allclose(design @ loadings, log_rates, atol=1e-3)
    assert ((loadings[0] < 0).sum(), (loadings[0] > 0).sum()) == (12, 17)


def test_integration_has_converged():
    ends = []
    for n_steps in (STEPS_PER_BIN, 2 * STEPS_PER_BIN):
        state = np.random.default_rng(0).normal(0.0, 8.0, (20, 3)) + np.array([0.0, 0.0, 25.0])
        for _ in range(50 * n_steps):
            state = rk4_step(state, LORENZ_PER_BIN / n_steps)
        ends.append(state)
    np.testing.assert_allclose(*ends, atol=1e-4)


def test_other_sizes_and_seeds(tmp_path):
    files = []
    for seed in (1, 3):
        path = tmp_path / f"{seed}.h5"
        simulate(path=str(path), conditions=3, trials=5, neurons=7, bins=4, seed=seed)
        files.append(contents(path))
    assert files[0]["train_data"].shape == (12, 4, 7)
    assert files[0]["valid_truth"].shape == (3, 4, 7)
    assert not np.array_equal(files[0]["train_truth"], files[1]["train_truth"])


def test_split_is_as_equal_as_arithmetic_allows():
    valid = split_trials(np.random.default_rng(0), conditions=7, trials=10, valid_fraction=0.25)
    assert valid.sum() == 18  # round(17.5)
    assert set(valid.sum(1)) == {2, 3}


@pytest.mark.parametrize(
    "wrong",
    [
        {"neurons": 0},
        {"bin_width": -1.0},
        {"valid_fraction": 1.0},
        {"seed": -1},
        {"pulses": 11},
        {"mean_rate": 1e12},
        {"mean_rate": 15.0, "log_rate_sd": 1e6},
        {"conditions": 1, "bins": 1},
    ],
)
def test_wrong_parameters_are_named(tmp_path, wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
        simulate(path=str(tmp_path / "none.h5"), **wrong)
    assert not list(tmp_path.iterdir())
