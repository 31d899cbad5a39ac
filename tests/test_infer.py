"""From a checkpoint and a file to rates."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import check_end, small_disk

import infer as module
from command_line import InputError, read_table
from evaluation.checkpoints import load_checkpoint, load_model_and_data
from evaluation.inference import infer_arrays
from recordings import write_recording


@pytest.fixture(scope="module")
def checkpoint(sweep) -> str:
    return str(sweep[0] / "bandwidth_04" / "best.ckpt")


@pytest.fixture
def infer(call, tmp_path, checkpoint) -> Callable:
    """A function that infers from a file into another and returns its path. If an `error` is
    expected: in one line."""

    def infer(path: str | Path, out: str = "rates.h5", error: str = "") -> Path:
        done = call(tmp_path, "infer.py", checkpoint, str(path), "--out", out)
        assert error in done.errors
        assert (done.status, done.errors.count("\n")) == ((2, 1) if error else (0, 0)), done.errors
        return tmp_path / out

    return infer


def test_rates_of_a_file_are_those_of_the_model(infer, checkpoint, small_lorenz):
    model, data = load_model_and_data(checkpoint)
    data.hparams.bandwidth = None
    data.setup()
    with h5py.File(infer(small_lorenz)) as file:
        for split, trials in data.datasets.items():
            rates = file[f"{split}_rates"][:]
            with torch.no_grad():
                expected = model.rates(model.infer(trials[:].spikes).log_rates)
            np.testing.assert_allclose(rates, expected, rtol=1e-4)
            np.testing.assert_allclose(np.exp(file[f"{split}_log_rates"]) / 0.02, rates, rtol=1e-4)
            assert file[f"{split}_latents"].shape == (len(trials), 20, 8)
            assert file[f"{split}_initial_condition"].shape == (len(trials), 8)
        assert file["train_rates"].attrs["unit"] == "spikes/s"
        assert file.attrs["data_sha256"] == module.fingerprint(small_lorenz)
        assert json.loads(file.attrs["hyperparameters"])["hidden_size"] == 8


def test_new_trials_of_another_length_and_any_batch_size(
    infer, monkeypatch, write_file, checkpoint
):
    spikes = np.random.default_rng(0).poisson(0.5, (7, 33, 12)).astype(np.float32)
    spikes[2:4, :, 3] = np.nan
    path = write_file({"data": spikes})
    one = infer(path, "one.h5")
    monkeypatch.setattr(module, "BATCH_SIZE", 3)
    many = infer(path, "many.h5")
    from_arrays = infer_arrays(load_checkpoint(checkpoint)[0], spikes)
    assert from_arrays["rates"].shape == (7, 33, 12)
    with h5py.File(one) as one, h5py.File(many) as many:
        for name, expected in from_arrays.items():
            for inferred in (one, many):
                np.testing.assert_allclose(inferred[name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "array", "bin_width", "error"),
    [
        ("data", np.zeros((3, 4, 5)), 0.02, "data has 5 neurons; expected 12"),
        ("data", np.zeros((3, 4, 12)), 0.01, "its bins are 0.01 s wide; expected 0.02"),
        ("data", np.zeros((3, 12)), 0.02, "data has shape (3, 12)"),
        ("spikes", np.zeros((3, 4, 12)), 0.02, "has no key data"),
        ("data", np.full((3, 4, 12), -1), 0.02, "data holds 144 negative"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    infer, tmp_path, write_file, key, array, bin_width, error
):
    infer(write_file({key: array}, bin_width=bin_width), error=error)
    assert [path.name for path in tmp_path.iterdir()] == ["data.h5"]


def test_a_file_in_the_way_is_left_as_it_was(infer, tmp_path, small_lorenz):
    (tmp_path / "rates.h5").write_text("mine")
    infer(small_lorenz, error="rates.h5: exists")
    assert (tmp_path / "rates.h5").read_text() == "mine"


def test_labels_of_trials_are_copied_and_links_are_not(infer, tmp_path):
    rng, choice = np.random.default_rng(0), np.array(["left", "right"])[np.arange(30) % 2]
    spikes, tap = rng.poisson(0.5, (30, 20, 12)), rng.random((30, 2))
    write_recording(
        tmp_path / "a.h5", spikes, 0.02, condition=choice, per_trial={"tap": tap, "choice": choice}
    )
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["train_secret"] = h5py.ExternalLink("/etc/passwd", "x")
        file["train_latents"] = np.zeros((24, 3))
    for out in ("rates.h5", "rates.npz"):
        infer("a.h5", out)
    with h5py.File(tmp_path / "rates.h5") as file, np.load(tmp_path / "rates.npz") as arrays:
        assert set(file) == set(arrays) - {"about"}
        assert "train_secret" not in file
        assert file["train_latents"].shape == (24, 20, 8)
        assert file["condition_names"][:].tolist() == [b"left", b"right"]
        for split in ("train", "valid"):
            index = file[f"{split}_index"][:]
            np.testing.assert_array_equal(file[f"{split}_tap"], tap[index])
            np.testing.assert_array_equal(arrays[f"{split}_choice"].astype(str), choice[index])
            np.testing.assert_array_equal(file[f"{split}_condition"], index % 2)


def test_the_encoder_alone_infers_if_asked(call, tmp_path, checkpoint, small_lorenz):
    model, data = load_model_and_data(checkpoint)
    words = ("--out", "rates.h5", "--prior", "encoder")
    assert call(tmp_path, "infer.py", checkpoint, small_lorenz, *words).status == 0
    with h5py.File(tmp_path / "rates.h5") as file, torch.no_grad():
        expected = model.rates(model(torch.from_numpy(data.trials["valid"].spikes)).log_rates)
        np.testing.assert_allclose(file["valid_rates"], expected, rtol=1e-4)
        assert file.attrs["prior"] == "encoder"


@pytest.mark.parametrize("out", ["rates.h5", "rates.npz"])
def test_a_full_disk_is_one_line_and_leaves_nothing(call, tmp_path, checkpoint, small_lorenz, out):
    with small_disk(50_000):
        done = call(tmp_path, "infer.py", checkpoint, small_lorenz, "--out", out)
    check_end(done, 1)
    assert f"File too large: '{out}'" in done.errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spikes", "error"),
    [
        (np.ones((3, 12, 20)), r"shape \(3, 12, 20\); expected 12 neurons on the last axis"),
        (np.ones((20, 12)), r"shape \(20, 12\)"),
        (np.full((3, 20, 12), -1), "720 negative"),
        (np.full((3, 20, 12), 0.5), "720 fractional"),
        (np.ones((0, 20, 12)), r"shape \(0, 20, 12\)"),
        (np.full((3, 20, 12), np.nan), "holds NaN alone"),
        ([[[1, 2], [1]]], "lists of different lengths"),
    ],
)
def test_arrays_that_are_no_counts_are_refused(checkpoint, spikes, error):
    with pytest.raises(InputError, match=error):
        infer_arrays(load_checkpoint(checkpoint)[0], spikes)


def test_rates_that_underflow_have_finite_logarithms(checkpoint):
    model, _ = load_checkpoint(checkpoint)
    model.readout.bias.data -= 200
    inferred = infer_arrays(model, np.zeros((3, 10, 12)))
    assert all(np.isfinite(array).all() for array in inferred.values())
    assert (inferred["rates"] < 1e-30).all()


SHORT = "--trainer.max_epochs 1 --refinement.epochs 0 --trainer.logger false --model.hidden_size 8"


def test_the_example_leads_from_spike_times_to_rates(tmp_path, call, commands_in_process):
    done = call(tmp_path, "examples/own_recording.py", "--train", SHORT)
    assert (done.status, done.errors) == (0, "")
    assert "bits/spike" in "".join(commands_in_process)
    with h5py.File(tmp_path / "own_rates.h5") as file:
        assert file["valid_rates"].shape == (32, 60, 20)
        assert np.isfinite(file["valid_rates"]).all()
    assert (tmp_path / "own_figures" / "bits_curve.png").exists()


def test_the_real_example_predicts_the_interval_of_its_trials(tmp_path, call, commands_in_process):
    """On a small imitation of the source file: a wave of spikes over the units, slower in trials
    with longer intervals."""
    rng = np.random.default_rng(0)
    interval = rng.uniform(300, 1000, 80)  # ms
    trial, unit = (part.ravel().repeat(6) for part in np.indices((80, 8)))
    times = (0.1 + 0.2 * unit) * interval[trial] + rng.normal(0, 30, len(trial))
    kept = (times > -500) & (times < 1500)
    spikes = {"spiketimes": times[kept], "trial_ids": trial[kept], "neuron_ids": unit[kept]}
    events = {"tmin": [-500.0], "tmax": [1500.0], "tap1": np.zeros(80), "tap2": interval}
    np.savez(tmp_path / "source.npz", **spikes, **events)
    words = ["source.npz", "--bandwidths", "8", "2", "--train", SHORT]
    done = call(tmp_path, "examples/real_recording.py", *words)
    assert (done.status, done.errors) == (0, "")
    rows = read_table(tmp_path / "rat_figures" / "interval.csv")
    all_units, two_units = (float(row["r2_smoothed"]) for row in rows)
    assert all_units > max(0.7, two_units)
    for name in ("interval", "bits_curve", "psth"):
        assert (tmp_path / "rat_figures" / f"{name}.png").exists()
    with h5py.File(tmp_path / "rat.h5") as file:
        assert file["train_data"].shape == (64, 100, 8)
        assert file["train_data"][:].sum() + file["valid_data"][:].sum() == kept.sum()
    np.savez(tmp_path / "other.npz", a=1)
    done = call(tmp_path, "examples/real_recording.py", "other.npz")
    assert done.status == 2
    assert "other.npz: lacks neuron_ids" in done.errors
