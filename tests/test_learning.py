"""What a model has learned after a short training, and how it is scored."""

import pytest
import pytorch_lightning as pl
import torch

from data import SpikeDataModule
from model import SequentialAutoencoder


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "muon", "learning_rate": 5e-2, "schedule": "polynomial"},
        {"optimizer": "adamw", "schedule": "polynomial"},
        {"optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 1e-4, "schedule": "constant"},
    ],
)
def test_the_model_learns_and_fills_in_what_it_did_not_see(tmp_path, small_lorenz, options):
    pl.seed_everything(0)
    data = SpikeDataModule(small_lorenz, bandwidth=4, batch_size=16)
    model = SequentialAutoencoder(
        12, data.bin_width, hidden_size=16, coordinated_dropout=0.3, **options
    )
    trainer = pl.Trainer(
        max_epochs=60, logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False, num_sanity_val_steps=0, check_val_every_n_epoch=60, gradient_clip_val=1.0, accelerator="cpu",
    )  # fmt: skip
    before = trainer.validate(model, data, verbose=False)[0]
    trainer.fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]

    assert before["valid/r2"] < 0.1
    assert after["valid/r2"] > 0.3
    assert after["valid/r2_unobserved"] > 0.3
    assert after["valid/bps"] > 0.05 > before["valid/bps"]
    assert after["valid/heldout_nll"] < before["valid/heldout_nll"]


def test_training_starts_at_the_mean_rates(tmp_path, small_lorenz):
    data = SpikeDataModule(small_lorenz, bandwidth=4, batch_size=96)
    data.setup()
    data.datasets["train"].trials.spikes[:, :, 2] = torch.nan  # a neuron never seen
    data.setup = lambda stage: None
    model = SequentialAutoencoder(
        12, data.bin_width, hidden_size=4, learning_rate=1e-9, schedule="constant"
    )
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_epochs=1, limit_val_batches=0, accelerator="cpu", **options).fit(model, data)
    spikes = data.datasets["train"][:].shown
    expected = spikes.nanmean((0, 1))
    expected[2] = spikes.nanmean()
    torch.testing.assert_close(model.readout.bias.exp(), expected)


def test_metrics_are_over_the_whole_set_and_left_out_where_undefined(
    monkeypatch, data_file, data_arrays, write_file
):
    trainer = pl.Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    pl.seed_everything(0)
    model, scores = SequentialAutoencoder(6, 0.02, hidden_size=8), []
    for batch_size in (5, 12):
        monkeypatch.setattr("data.VALID_BATCH_SIZE", batch_size)
        scores += trainer.validate(model, SpikeDataModule(data_file, bandwidth=3), verbose=False)
    for name, value in scores[0].items():
        assert value == pytest.approx(scores[1][name], rel=1e-4), name
    everything = trainer.validate(model, SpikeDataModule(data_file), verbose=False)[0]
    assert "valid/r2_unobserved" not in everything
    no_truth = write_file(
        {key: data_arrays[key] for key in ("train_data", "valid_data")}, "no_truth.h5"
    )
    assert (
        "valid/r2"
        not in trainer.validate(model, SpikeDataModule(no_truth, bandwidth=3), verbose=False)[0]
    )
