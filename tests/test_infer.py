"""From a checkpoint and a file to rates."""

import json
import sys

import h5py
import numpy as np
import pytest
import torch

import infer
from command_line import InputError, read_table
from evaluation.checkpoints import load_checkpoint
from evaluation.scoring import load_model_and_data


@pytest.fixture(scope="module")
def checkpoint(sweep) -> str:
    return str(sweep[0] / "bandwidth_04" / "best.ckpt")


def run_infer(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["infer.py", *words])
    infer.main()


def test_rates_of_a_file_are_those_of_the_model(monkeypatch, tmp_path, checkpoint, small_lorenz):
    out = tmp_path / "rates.h5"
    run_infer(monkeypatch, checkpoint, small_lorenz, "--out", str(out))
    model, data = load_model_and_data(checkpoint)
    data.hparams.bandwidth = None
    data.setup()
    with h5py.File(out) as file:
        for split in ("train", "valid"):
            spikes = data.datasets[split].trials.spikes
            with torch.no_grad():
                rates = model.rates(model.infer(spikes).log_rates)
            np.testing.assert_allclose(file[f"{split}_rates"], rates, rtol=1e-4)
            np.testing.assert_allclose(
                np.exp(file[f"{split}_log_rates"][:]) / 0.02, file[f"{split}_rates"], rtol=1e-4
            )
            assert file[f"{split}_latents"].shape == (len(spikes), 20, 8)
            assert file[f"{split}_initial_condition"].shape == (len(spikes), 8)
        assert file["train_rates"].attrs["unit"] == "spikes/s"
        assert file.attrs["data_sha256"] == infer.fingerprint(small_lorenz)
        assert json.loads(file.attrs["hyperparameters"])["hidden_size"] == 8


def test_new_trials_of_another_length_and_any_batch_size(monkeypatch, tmp_path, checkpoint):
    spikes = np.random.default_rng(0).poisson(0.5, (7, 33, 12)).astype(np.float32)
    spikes[2:4, :, 3] = np.nan
    for name, batch in (("one", 512), ("many", 3)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["data"], file.attrs["bin_width"] = spikes, 0.02
        monkeypatch.setattr(infer, "BATCH_SIZE", batch)
        run_infer(
            monkeypatch,
            checkpoint,
            str(tmp_path / f"{name}.h5"),
            "--out",
            str(tmp_path / f"{name}_rates.h5"),
        )
    with h5py.File(tmp_path / "one_rates.h5") as one, h5py.File(tmp_path / "many_rates.h5") as many:
        assert one["rates"].shape == (7, 33, 12)
        np.testing.assert_allclose(one["rates"], many["rates"], rtol=1e-3)
        from_arrays = infer.infer_arrays(load_checkpoint(checkpoint)[0], spikes)
        for name in from_arrays:
            np.testing.assert_allclose(one[name], from_arrays[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "shape", "bin_width", "message"),
    [
        ("data", (3, 4, 5), 0.02, "data has 5 neurons; expected 12"),
        ("data", (3, 4, 12), 0.01, "its bins are 0.01 s wide; expected 0.02"),
        ("data", (3, 12), 0.02, r"data has shape \(3, 12\)"),
        ("spikes", (3, 4, 12), 0.02, "has no key data"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    monkeypatch, tmp_path, checkpoint, key, shape, bin_width, message
):
    with h5py.File(tmp_path / "new.h5", "w") as file:
        file[key], file.attrs["bin_width"] = np.zeros(shape), bin_width
    with pytest.raises(InputError, match=message):
        run_infer(
            monkeypatch, checkpoint, str(tmp_path / "new.h5"), "--out", str(tmp_path / "rates.h5")
        )
    assert [path.name for path in tmp_path.iterdir()] == ["new.h5"]


def test_wrong_counts_and_files_in_the_way_leave_everything_as_it_was(
    monkeypatch, tmp_path, checkpoint, small_lorenz
):
    with h5py.File(tmp_path / "new.h5", "w") as file:
        file["data"], file.attrs["bin_width"] = np.full((3, 4, 12), -1), 0.02
    with pytest.raises(InputError, match="data holds 144 negative"):
        run_infer(
            monkeypatch, checkpoint, str(tmp_path / "new.h5"), "--out", str(tmp_path / "rates.h5")
        )
    (tmp_path / "rates.h5").write_text("mine")
    with pytest.raises(InputError, match="rates.h5: exists"):
        run_infer(monkeypatch, checkpoint, small_lorenz, "--out", str(tmp_path / "rates.h5"))
    assert (tmp_path / "rates.h5").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"new.h5", "rates.h5"}


def test_rates_that_underflow_have_finite_logarithms(checkpoint):
    model, _ = load_checkpoint(checkpoint)
    model.readout.bias.data -= 200
    inferred = infer.infer_arrays(model, np.zeros((3, 10, 12)))
    assert all(np.isfinite(array).all() for array in inferred.values())
    assert (inferred["rates"] < 1e-30).all()


def test_the_example_leads_from_spike_times_to_rates(tmp_path, call, commands_in_process):
    done = call(
        tmp_path,
        "examples/own_recording.py",
        "--train",
        "--trainer.max_epochs 1 --model.refinement 0 --trainer.logger false",
    )
    assert (done.status, done.errors) == (0, "")
    assert "bits/spike" in "".join(commands_in_process)
    with h5py.File(tmp_path / "own_rates.h5") as file:
        assert file["valid_rates"].shape == (32, 60, 20)
        assert np.isfinite(file["valid_rates"]).all()
    assert (tmp_path / "own_figures" / "bits_curve.png").exists()
    model, _ = load_checkpoint(tmp_path / "lightning_logs" / "own" / "bandwidth_05" / "best.ckpt")
    assert isinstance(model.readout.bias, torch.Tensor)


def test_the_real_example_predicts_the_interval_of_its_trials(tmp_path, call, commands_in_process):
    """On a small imitation of the source file: a wave of spikes over the units, slower in trials
    with longer intervals."""
    rng = np.random.default_rng(0)
    interval = rng.uniform(300, 1000, 80)  # ms
    trial, unit = (part.ravel() for part in np.meshgrid(np.arange(80), np.arange(8), indexing="ij"))
    trial, unit = np.repeat(trial, 6), np.repeat(unit, 6)
    times = (0.1 + 0.2 * unit) * interval[trial] + rng.normal(0, 30, len(trial))
    kept = (times > -500) & (times < 1500)
    np.savez(
        tmp_path / "source.npz", spiketimes=times[kept], trial_ids=trial[kept], neuron_ids=unit[kept],
        tmin=[-500.0], tmax=[1500.0], tap1=np.zeros(80), tap2=interval,
    )  # fmt: skip
    words = [
        "--bandwidths",
        "8",
        "2",
        "--train",
        "--trainer.max_epochs 1 --model.refinement 0 --model.hidden_size 8 --trainer.logger false",
    ]
    done = call(tmp_path, "examples/real_recording.py", "source.npz", *words)
    assert (done.status, done.errors) == (0, "")
    (all_units, two_units) = read_table(tmp_path / "rat_figures" / "interval.csv")
    assert float(all_units["r2_smoothed"]) > 0.7
    assert float(all_units["r2_smoothed"]) > float(two_units["r2_smoothed"])
    assert {"interval.png", "bits_curve.png", "psth.png"} <= {
        path.name for path in (tmp_path / "rat_figures").iterdir()
    }
    with h5py.File(tmp_path / "rat.h5") as file:
        assert file["train_data"].shape == (64, 100, 8)
        assert file["train_data"][:].sum() + file["valid_data"][:].sum() == kept.sum()
    np.savez(tmp_path / "other.npz", a=1)
    done = call(tmp_path, "examples/real_recording.py", "other.npz")
    assert done.status == 2
    assert "other.npz: lacks neuron_ids" in done.errors
