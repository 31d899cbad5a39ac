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
from evaluation.run_folders import read_results
from model import SequentialAutoencoder, sbtt_loss
from plotting.labels import Labels
from plotting.trials import Example, plot_examples
from refinement import fits
from refinement.contest import Contest
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


def test_inputs_that_are_added_change_nothing_until_they_are_trained():
    spikes, model = some_spikes(), make_model()
    before = model(spikes)
    assert before.inputs is None
    model.set_inputs(3)
    assert torch.equal(model(spikes).log_rates, before.log_rates)
    assert model(spikes).inputs.shape == (4, 7, 3)
    again = SequentialAutoencoder(**model.hparams).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(spikes).log_rates, before.log_rates)
    model.set_inputs(0)
    assert model.state_dict().keys() == make_model().state_dict().keys()
    assert torch.equal(model(spikes).log_rates, before.log_rates)


def prefer_inputs(monkeypatch) -> None:
    """Let the driven candidate win."""
    score = Contest.score
    worse = lambda contest, c: score(contest, c) + (0.0 if c.n_inputs else 9.0)  # noqa: E731
    monkeypatch.setattr(Contest, "score", worse)


def test_inputs_are_in_files_and_figures(monkeypatch, call, train, tmp_path, small_lorenz):
    prefer_inputs(monkeypatch)
    train("--bandwidths 6 --refinement.inputs 2 --trainer.logger=true")
    checkpoint = tmp_path / RUN / "bandwidth_06" / "best.ckpt"
    done = call(tmp_path, "infer.py", str(checkpoint), small_lorenz, "--out", "rates.h5")
    assert (done.status, done.errors) == (0, "")
    with h5py.File(tmp_path / "rates.h5") as inferred, h5py.File(small_lorenz) as data:
        inputs, spikes = inferred["valid_inputs"][:], data["valid_data"][:].astype(np.float32)
    assert inputs.shape == (*spikes.shape[:2], 2)
    with torch.no_grad():
        expected = load_checkpoint(checkpoint)[0].infer(torch.from_numpy(spikes)).inputs
    np.testing.assert_allclose(inputs, expected, atol=1e-5)
    assert inputs.any()
    done = call(tmp_path, "plot_results.py", str(RUN), "--out", "figures")
    assert (done.status, done.errors) == (0, "")
    # stopped after the last epoch: what was refined is read and scored
    (tmp_path / RUN / "results.csv").rename(tmp_path / "results.csv")
    done = call(tmp_path, "train.py", "--resume", str(RUN), "--jobs", "1")
    assert (done.status, done.errors) == (0, "")
    before, after = map(read_results, (tmp_path, tmp_path / RUN))
    assert [row | {"seconds": 0} for row in before] == [row | {"seconds": 0} for row in after]


def test_held_out_counts_decide_whether_inputs_drive_the_decoder(monkeypatch, tmp_path):
    driven = str(tmp_path / "driven.h5")
    simulate(path=driven, conditions=40, trials=8, neurons=12, bins=20, mean_rate=60.0, pulses=2)
    pl.seed_everything(0, verbose=False)
    data = SpikeDataModule(driven, batch_size=32)
    trained = SequentialAutoencoder(12, data.bin_width, hidden_size=16, learning_rate=5e-2)
    limits = {"max_epochs": 30, "limit_val_batches": 0, "gradient_clip_val": 1.0}
    pl.Trainer(**BARE, **limits).fit(trained, data)
    for rate in (fits.DRIVEN_RATE, 0.0):  # without training, inputs are of no use
        monkeypatch.setattr(fits, "DRIVEN_RATE", rate)
        model = copy.deepcopy(trained)
        refine(model.eval(), data.datasets["train"], n_epochs=15, seed=0, n_inputs=3)
        assert model.hparams.input_size == (3 if rate else 0)
        assert (model.prior.name == "encoder") == (rate > 0)


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
