"""What a model has learned after a short training, and how it is scored."""

import pytest
import pytorch_lightning as pl
import torch
from conftest import BARE

from data import SpikeDataModule
from evaluation.scoring import evaluate
from model import SequentialAutoencoder


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "muon", "learning_rate": 5e-2, "schedule": "polynomial"},
        {"optimizer": "adamw", "schedule": "polynomial"},
        {"optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 1e-4, "schedule": "constant"},
    ],
)
def test_the_model_learns_and_fills_in_what_it_did_not_see(small_lorenz, options):
    pl.seed_everything(0)
    data = SpikeDataModule(small_lorenz, bandwidth=4, batch_size=16)
    options = {"hidden_size": 16, "coordinated_dropout": 0.3} | options
    model = SequentialAutoencoder(12, data.bin_width, **options)
    limits = {"max_epochs": 60, "check_val_every_n_epoch": 60, "gradient_clip_val": 1.0}
    trainer = pl.Trainer(**BARE, **limits)
    before = trainer.validate(model, data, verbose=False)[0]
    trainer.fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]

    assert before["valid/r2"] < 0.1
    assert after["valid/r2"] > 0.3
    assert after["valid/r2_unobserved"] > 0.3
    assert after["valid/bps"] > 0.05 > before["valid/bps"]
    assert after["valid/heldout_nll"] < before["valid/heldout_nll"]


def test_training_starts_at_the_mean_rates(small_lorenz):
    data = SpikeDataModule(small_lorenz, bandwidth=4, batch_size=96)
    data.setup()
    data.datasets["train"].kept.spikes[:, :, 2] = torch.nan  # a neuron never seen
    data.setup = lambda stage: None
    options = {"hidden_size": 4, "learning_rate": 1e-9, "schedule": "constant"}
    model = SequentialAutoencoder(12, data.bin_width, **options)
    pl.Trainer(**BARE, max_epochs=1, limit_val_batches=0).fit(model, data)
    spikes = data.datasets["train"][:].shown
    expected = spikes.nanmean((0, 1))
    expected[2] = spikes.nanmean()
    torch.testing.assert_close(model.readout.bias.exp(), expected)


def test_metrics_are_over_the_whole_set_and_left_out_where_undefined(
    monkeypatch, data_file, data_arrays, write_file
):
    pl.seed_everything(0)
    model, trainer = SequentialAutoencoder(6, 0.02, hidden_size=8), pl.Trainer(**BARE)

    def validate(path: str, bandwidth: int | None = 3) -> dict[str, float]:
        return trainer.validate(model, SpikeDataModule(path, bandwidth), verbose=False)[0]

    whole, data = validate(data_file), SpikeDataModule(data_file, bandwidth=3)
    data.setup()
    scores = {f"valid/{name}": score for name, score in evaluate(model, data)[0].items()}
    assert whole == scores | {"step": 1.0}
    monkeypatch.setattr("data.VALID_BATCH_SIZE", 5)
    assert validate(data_file) == pytest.approx(whole, rel=1e-4)
    assert "valid/r2_unobserved" not in validate(data_file, bandwidth=None)
    counts = {key: data_arrays[key] for key in ("train_data", "valid_data")}
    assert "valid/r2" not in validate(write_file(counts, "no_truth.h5"))
