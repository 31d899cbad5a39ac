"""Inferred inputs: from a training to the files and figures that show them."""

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import SMALL

from data import SpikeDataModule
from evaluation.checkpoints import load_checkpoint
from evaluation.inference import infer_arrays
from model import SequentialAutoencoder
from plotting.trials import Example, plot_examples
from simulate import simulate
from training.refinement import refine


def test_inputs_are_in_files_and_figures(call, tmp_path, small_lorenz):
    words = ["--data.path", small_lorenz, "--bandwidths", "6", "--model.input_size", "2", "--name", "driven"]
    done = call(tmp_path, "train.py", *words, *SMALL)
    assert (done.status, done.errors) == (0, "")
    checkpoint = tmp_path / "lightning_logs" / "driven" / "bandwidth_06" / "best.ckpt"
    done = call(tmp_path, "infer.py", str(checkpoint), small_lorenz, "--out", "rates.h5")
    assert (done.status, done.errors) == (0, "")
    model, _ = load_checkpoint(checkpoint)
    with h5py.File(tmp_path / "rates.h5") as inferred, h5py.File(small_lorenz) as data:
        inputs = inferred["valid_inputs"][:]
        assert inputs.shape == (*data["valid_data"].shape[:2], 2)
        spikes = torch.from_numpy(data["valid_data"][:].astype(np.float32))
    with torch.no_grad():
        expected = model.infer(spikes).inputs
    np.testing.assert_allclose(inputs, 0 if expected is None else expected, atol=1e-5)
    done = call(tmp_path, "plot_results.py", "lightning_logs/driven", "--out", "figures")
    assert (done.status, done.errors) == (0, "")


def test_held_out_counts_decide_whether_the_decoder_keeps_its_inputs(tmp_path):
    driven = str(tmp_path / "driven.h5")
    simulate(path=driven, conditions=40, trials=8, neurons=12, bins=20, mean_rate=60.0, pulses=2)
    for useful in (True, False):
        pl.seed_everything(0, verbose=False)
        data = SpikeDataModule(driven, batch_size=32)
        model = SequentialAutoencoder(12, data.bin_width, hidden_size=16, learning_rate=5e-2, input_size=2)
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        limits = {"limit_val_batches": 0, "enable_checkpointing": False, "gradient_clip_val": 1.0}
        pl.Trainer(max_epochs=40, **limits, **options).fit(model, data)
        if not useful:
            model.input_linear.weight.data.mul_(-30.0)
        refine(model.eval(), data.datasets["train"], n_epochs=20, seed=0)
        assert (model.prior == "encoder") == useful
        inputs = infer_arrays(model, data.datasets["valid"][:].spikes)["inputs"]
        assert inputs.any() == useful


def test_a_figure_shows_inputs_above_the_rates():
    rng = np.random.default_rng(0)
    spikes, rates, inputs = rng.poisson(1.0, (20, 5)), rng.random((20, 5)) + 0.1, rng.normal(size=(20, 2))
    example = Example(3, spikes.astype(float), rates, rates, 0.02, inputs)
    figure = plot_examples([example, example], ["one", "two"])
    lines = [[line.get_ydata() for line in axes.lines] for axes in figure.axes if axes.lines]
    assert len(lines) == 2
    np.testing.assert_array_equal(np.transpose(lines[0]), inputs)


@pytest.mark.parametrize("pulses", [1, 3])
def test_pulses_change_a_trial_from_their_bin_on(tmp_path, pulses):
    options = dict(conditions=4, trials=5, neurons=6, bins=30, log_rate_sd=1.0)
    simulate(path=str(tmp_path / "pulses.h5"), pulses=pulses, **options)
    with h5py.File(tmp_path / "pulses.h5") as file:
        is_pulse, latents, condition = (file[f"train_{key}"][:] for key in ("pulses", "latents", "condition"))
        rates = file["train_truth"][:]
    assert (is_pulse.sum(1) == pulses).all()
    assert not is_pulse[:, :6].any()
    assert not is_pulse[:, 24:].any()
    first = is_pulse.argmax(1)
    for i, j in [(0, 1), (1, 2)]:
        assert condition[i] == condition[j]
        before = min(first[i], first[j])
        np.testing.assert_array_equal(latents[i, :before], latents[j, :before])
        assert (latents[i, before] != latents[j, before]).any()
        assert (rates[i, before] != rates[j, before]).any()
