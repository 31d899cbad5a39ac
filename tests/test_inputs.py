"""Inferred inputs: from a run to the files and figures that show them."""

import copy
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import BARE, RUN

from data import Batch, SpikeDataModule
from evaluation.checkpoints import load_checkpoint
from evaluation.inference import infer_arrays
from model import SequentialAutoencoder, sbtt_loss
from plotting.labels import Labels
from plotting.trials import Example, plot_examples
from refinement import fits
from refinement.refine import refine
from simulate import simulate


def make_model(**options) -> SequentialAutoencoder:
    torch.manual_seed(0)
    return SequentialAutoencoder(5, 0.02, hidden_size=6, **options).eval()


def some_spikes() -> torch.Tensor:
    """4 trials of 7 bins of 5 neurons, with gaps."""
    generator = torch.Generator().manual_seed(0)
    spikes = torch.poisson(torch.full((4, 7, 5), 0.7), generator)
    return spikes.masked_fill(torch.rand(spikes.shape, generator=generator) < 0.4, torch.nan)


def test_inputs_drive_the_decoder_and_are_penalised():
    spikes, model = some_spikes(), make_model(input_size=3, coordinated_dropout=0.0)
    log_rates, _, initial_condition, inputs = model(spikes)
    assert inputs.shape == (4, 7, 3)
    by_inputs = model.decode(initial_condition, 7, inputs.transpose(0, 1))[0]
    torch.testing.assert_close(by_inputs, log_rates)
    pushed = inputs.clone()
    pushed[:, 4] += 1.0
    changed = model.decode(initial_condition, 7, pushed.transpose(0, 1))[0]
    assert torch.equal(changed[:, :4], by_inputs[:, :4])
    assert not torch.allclose(changed[:, 4:], by_inputs[:, 4:])
    model.log = lambda *_, **__: None  # no trainer logs
    model.trainer = SimpleNamespace(global_step=0, estimated_stepping_batches=1)
    loss = model.training_step(Batch(spikes, torch.zeros_like(spikes, dtype=torch.bool), None), 0)
    expected = sbtt_loss(log_rates, spikes) + 0.01 * inputs.square().mean()
    torch.testing.assert_close(loss, expected)


def test_without_inputs_the_model_is_as_before():
    expected, given = make_model().state_dict(), make_model(input_size=0).state_dict()
    assert expected.keys() == given.keys()
    assert not any("input_linear" in name for name in given)
    assert make_model()(some_spikes()).inputs is None


def test_inputs_are_in_files_and_figures(call, train, tmp_path, small_lorenz):
    train("--bandwidths 6 --model.input_size 2 --trainer.logger=true")
    checkpoint = tmp_path / RUN / "bandwidth_06" / "best.ckpt"
    done = call(tmp_path, "infer.py", str(checkpoint), small_lorenz, "--out", "rates.h5")
    assert (done.status, done.errors) == (0, "")
    with h5py.File(tmp_path / "rates.h5") as inferred, h5py.File(small_lorenz) as data:
        inputs, spikes = inferred["valid_inputs"][:], data["valid_data"][:].astype(np.float32)
    assert inputs.shape == (*spikes.shape[:2], 2)
    with torch.no_grad():
        expected = load_checkpoint(checkpoint)[0].infer(torch.from_numpy(spikes)).inputs
    np.testing.assert_allclose(inputs, 0 if expected is None else expected, atol=1e-5)
    done = call(tmp_path, "plot_results.py", str(RUN), "--out", "figures")
    assert (done.status, done.errors) == (0, "")


def test_held_out_counts_decide_whether_the_decoder_keeps_its_inputs(monkeypatch, tmp_path):
    driven = str(tmp_path / "driven.h5")
    simulate(path=driven, conditions=40, trials=8, neurons=12, bins=20, mean_rate=60.0, pulses=2)
    pl.seed_everything(0, verbose=False)
    data, options = SpikeDataModule(driven, batch_size=32), {"hidden_size": 16, "input_size": 2}
    trained = SequentialAutoencoder(12, data.bin_width, learning_rate=5e-2, **options)
    limits = {"max_epochs": 40, "limit_val_batches": 0, "gradient_clip_val": 1.0}
    pl.Trainer(**BARE, **limits).fit(trained, data)
    for useful in (True, False):
        model = copy.deepcopy(trained)
        if not useful:
            model.input_linear.weight.data.mul_(-30.0)
            monkeypatch.setattr(fits, "DRIVEN_RATE", 0.0)  # or it would unlearn this
        refine(model.eval(), data.datasets["train"], n_epochs=20, seed=0)
        assert (model.prior.name == "encoder") == useful
        inputs = infer_arrays(model, data.datasets["valid"][:].spikes)["inputs"]
        assert inputs.any() == useful


def test_a_figure_shows_inputs_above_the_rates():
    rng = np.random.default_rng(0)
    spikes, rates = rng.poisson(1.0, (20, 5)).astype(float), rng.random((20, 5)) + 0.1
    inputs = rng.normal(size=(20, 2))
    example = Example("trial 1", 3, spikes, rates, rates, Labels(0.02), inputs)
    figure = plot_examples([example, example], ["one", "two"])
    lines = [[line.get_ydata() for line in axes.lines] for axes in figure.axes if axes.lines]
    assert len(lines) == 2
    np.testing.assert_array_equal(np.transpose(lines[0]), inputs)


@pytest.mark.parametrize("pulses", [1, 3])
def test_pulses_change_a_trial_from_their_bin_on(tmp_path, pulses):
    path, sizes = str(tmp_path / "pulses.h5"), {"conditions": 4, "trials": 5, "neurons": 6}
    simulate(path=path, pulses=pulses, bins=30, log_rate_sd=1.0, **sizes)
    with h5py.File(path) as file:
        keys = ("pulses", "latents", "condition", "truth")
        is_pulse, latents, condition, rates = (file[f"train_{key}"][:] for key in keys)
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
