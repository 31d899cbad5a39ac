"""Inferred inputs: from a training to the files and figures that show them."""

import copy
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import LOGGED, SMALL

from data import Batch, SpikeDataModule
from evaluation.checkpoints import load_checkpoint
from evaluation.inference import infer_arrays
from model import SequentialAutoencoder, sbtt_loss
from plotting.trials import Example, plot_examples
from simulate import simulate
from training import fits
from training.refinement import refine
from training.runs import read_results


def make_model(**options) -> SequentialAutoencoder:
    return SequentialAutoencoder(5, 0.02, hidden_size=6, **options).eval()


def some_spikes() -> torch.Tensor:
    """4 trials of 7 bins of 5 neurons, with gaps."""
    generator = torch.Generator().manual_seed(0)
    spikes = torch.poisson(torch.full((4, 7, 5), 0.7), generator)
    return spikes.masked_fill(torch.rand(spikes.shape, generator=generator) < 0.4, torch.nan)


def test_inputs_drive_the_decoder_and_are_penalised():
    spikes, model = some_spikes(), make_model(input_size=3, coordinated_dropout=0.0)
    inference = model(spikes)
    assert inference.inputs.shape == (4, 7, 3)
    by_inputs = model.decode(inference.initial_condition, 7, inference.inputs.transpose(0, 1))[0]
    torch.testing.assert_close(by_inputs, inference.log_rates)
    pushed = inference.inputs.clone()
    pushed[:, 4] += 1.0
    changed = model.decode(inference.initial_condition, 7, pushed.transpose(0, 1))[0]
    assert torch.equal(changed[:, :4], by_inputs[:, :4])
    assert not torch.allclose(changed[:, 4:], by_inputs[:, 4:])
    model.log = lambda *_, **__: None  # no trainer logs
    model.trainer = SimpleNamespace(world_size=1, global_step=0, estimated_stepping_batches=1)
    batch = Batch(spikes, torch.zeros_like(spikes, dtype=torch.bool), None)
    assert model.training_step(batch, 0).item() == pytest.approx(
        float(sbtt_loss(inference.log_rates, spikes) + 0.01 * inference.inputs.square().mean())
    )


def test_without_inputs_the_model_is_as_before():
    torch.manual_seed(0)
    expected = make_model().state_dict()
    torch.manual_seed(0)
    given = make_model(input_size=0).state_dict()
    assert expected.keys() == given.keys()
    assert not any("input_linear" in name for name in given)
    assert make_model()(some_spikes()).inputs is None


def test_inputs_are_in_files_and_figures(call, tmp_path, small_lorenz):
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "6",
        "--model.input_size",
        "2",
        "--name",
        "driven",
    ]
    done = call(tmp_path, "train.py", *words, *LOGGED)
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


def test_held_out_counts_decide_whether_the_decoder_keeps_its_inputs(monkeypatch, tmp_path):
    driven = str(tmp_path / "driven.h5")
    simulate(path=driven, conditions=40, trials=8, neurons=12, bins=20, mean_rate=60.0, pulses=2)
    pl.seed_everything(0, verbose=False)
    data = SpikeDataModule(driven, batch_size=32)
    trained = SequentialAutoencoder(
        12, data.bin_width, hidden_size=16, learning_rate=5e-2, input_size=2
    )
    options = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    limits = {"limit_val_batches": 0, "enable_checkpointing": False, "gradient_clip_val": 1.0}
    pl.Trainer(max_epochs=40, **limits, **options).fit(trained, data)
    for useful in (True, False):
        model = copy.deepcopy(trained)
        if not useful:
            model.input_linear.weight.data.mul_(-30.0)
            monkeypatch.setattr(fits, "DRIVEN_RATE", 0.0)  # or it would unlearn this
        refine(model.eval(), data.datasets["train"], n_epochs=20, seed=0)
        assert (model.prior == "encoder") == useful
        inputs = infer_arrays(model, data.datasets["valid"][:].spikes)["inputs"]
        assert inputs.any() == useful


def test_a_figure_shows_inputs_above_the_rates():
    rng = np.random.default_rng(0)
    spikes, rates, inputs = (
        rng.poisson(1.0, (20, 5)),
        rng.random((20, 5)) + 0.1,
        rng.normal(size=(20, 2)),
    )
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
        is_pulse, latents, condition = (
            file[f"train_{key}"][:] for key in ("pulses", "latents", "condition")
        )
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


def test_the_output_says_whether_inputs_predict_held_out_counts_better(
    call, tmp_path, small_lorenz
):
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "6",
        *SMALL,
        "--model.refinement=0",
        "--trainer.max_epochs=2",
    ]
    outputs = {
        name: call(tmp_path, "train.py", *words, "--name", name, *more).output
        for name, more in {
            "free": [],
            "driven": ["--model.input_size", "2"],
            "other_seed": ["--seed_everything", "1"],
            "again": ["--model.input_size", "3"],
        }.items()
    }
    scores = {
        name: read_results(tmp_path / "lightning_logs" / name)[0]["heldout_nll"] for name in outputs
    }
    assert [name for name, output in outputs.items() if "inputs" in output] == ["driven", "again"]
    for name in ("driven", "again"):
        better = "better" if scores[name] < scores["free"] else "worse"
        line = f"bandwidth 6: held-out NLL {scores[name]:.4f} with inputs, {better} than {scores['free']:.4f} without inputs in"
        assert line in outputs[name]
        assert outputs[name].count("held-out NLL") == 1
