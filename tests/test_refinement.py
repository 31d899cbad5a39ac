"""The refinement at the end of a training: what it finds out about the data, and what it gains."""

import copy
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from data import Batch, SpikeDataModule
from model import SequentialAutoencoder, sbtt_loss
from modules.coordinated_dropout import mask_missing
from modules.posterior import leave_one_out_loss
from modules.readout import rank
from recordings.hdf5 import has_new_conditions
from simulate import simulate
from training.development import choose_rows, have_heldout
from training.fits import Candidate, fit, weights_of
from training.refinement import refine

QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def train(
    path: str, bandwidth: int, epochs: int, **options
) -> tuple[SequentialAutoencoder, SpikeDataModule]:
    """Train without refinement; return model and data."""
    pl.seed_everything(0, verbose=False)
    data = SpikeDataModule(path, bandwidth=bandwidth, batch_size=32)
    model = SequentialAutoencoder(
        data.n_neurons, data.bin_width, hidden_size=16, learning_rate=5e-2, **options
    )
    limits = {"enable_checkpointing": False, "limit_val_batches": 0, "gradient_clip_val": 1.0}
    pl.Trainer(max_epochs=epochs, **QUIET, **limits).fit(model, data)
    return model.eval(), data


def score(model: SequentialAutoencoder, data: SpikeDataModule) -> dict[str, float]:
    return pl.Trainer(**QUIET).validate(model, data, verbose=False)[0]


def test_trials_that_repeat_share_trajectories_and_are_inferred_better(small_lorenz):
    model, data = train(small_lorenz, bandwidth=4, epochs=40)
    before, for_new = score(model, data), copy.deepcopy(model)
    tried = refine(model, data.datasets["train"], n_epochs=30, seed=0)
    after = score(model, data)
    assert min(tried, key=tried.__getitem__).startswith("shared_")
    assert model.prior == "shared"
    assert f"shared_{rank(model.readout)}_factors_30_epochs" in tried
    numbers_of_factors = sorted({int(name.split("_")[1]) for name in tried})
    assert numbers_of_factors[1] - numbers_of_factors[0] == len(numbers_of_factors) - 1 == 1
    for kind, lengths in {
        "shared": {"10_epochs", "30_epochs"},
        "own": {"4_epochs", "15_epochs"},
    }.items():
        assert {name.split("_factors_")[1] for name in tried if name.startswith(kind)} == lengths
    assert rank(model.readout) < 12
    assert len(model.reference) == len(data.datasets["train"])
    assert after["valid/r2"] > before["valid/r2"] + 0.03
    assert after["valid/heldout_nll"] < before["valid/heldout_nll"]

    # for conditions that are not in training, each trial has a trajectory of its own, and new
    # trials choose the fit
    tried_for_new = refine(
        for_new, data.datasets["train"], n_epochs=30, seed=0, new_conditions=data.datasets["valid"]
    )
    assert for_new.prior == "own"
    assert {
        name: loss for name, loss in tried_for_new.items() if not name.startswith("new_")
    } == tried
    losses = {
        name.split("_epochs")[0]: loss
        for name, loss in tried_for_new.items()
        if name.startswith("new_")
    }
    assert {int(name.split("_")[-1]) for name in losses} == {10, 30}
    assert score(for_new, data)["valid/heldout_nll"] == pytest.approx(
        min(losses.values()), abs=1e-5
    )
    assert max(losses.values()) > min(losses.values()) + 1e-4


def test_conditions_are_new_if_none_is_in_training(data_arrays, write_file):
    for valid, are_new in (([7, 8] * 6, True), ([7, 2] * 6, False), ([0, 1] * 6, False)):
        data = SpikeDataModule(write_file(data_arrays | {"valid_condition": np.array(valid)}))
        assert has_new_conditions(data.trials) == are_new
    once = {"train_condition": np.arange(24), "valid_condition": np.arange(24, 36)}
    assert not has_new_conditions(SpikeDataModule(write_file(data_arrays | once)).trials), (
        "no condition repeats"
    )
    del data_arrays["valid_condition"]
    assert not has_new_conditions(SpikeDataModule(write_file(data_arrays)).trials)


def test_trials_that_do_not_repeat_have_trajectories_of_their_own(tmp_path):
    path = str(tmp_path / "unique.h5")
    simulate(path=path, conditions=240, trials=1, neurons=12, bins=20, mean_rate=60.0)
    model, data = train(path, bandwidth=12, epochs=60)
    before = score(model, data)
    refine(model, data.datasets["train"], n_epochs=20, seed=0)
    assert model.prior == "own"
    assert score(model, data)["valid/heldout_nll"] < before["valid/heldout_nll"]


def test_an_encoder_that_knows_the_training_trials_by_heart_is_not_kept(tmp_path):
    path = str(tmp_path / "few.h5")
    simulate(path=path, conditions=60, trials=1, neurons=12, bins=20, mean_rate=40.0)
    model, data = train(path, bandwidth=6, epochs=120, coordinated_dropout=0.0)
    before = score(model, data)
    tried = refine(model, data.datasets["train"], n_epochs=20, seed=0)
    assert min(tried, key=tried.__getitem__).startswith("encoder_")
    assert model.prior == "own"
    assert score(model, data)["valid/heldout_nll"] < before["valid/heldout_nll"]


def test_the_same_seed_refines_to_the_same_bits_and_another_does_not(small_lorenz):
    results = []
    for seed in (0, 0, 1):
        model, data = train(small_lorenz, bandwidth=4, epochs=5)
        refine(model, data.datasets["train"], n_epochs=3, seed=seed)
        results.append(
            torch.cat([model.reference.flatten(), model.readout.weight.detach().flatten()])
        )
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


class Trials(Dataset):
    def __init__(self, spikes: torch.Tensor, heldout: torch.Tensor) -> None:
        self.batch = Batch(spikes, heldout, None)

    def __len__(self) -> int:
        return len(self.batch.spikes)

    def __getitem__(self, rows: torch.Tensor) -> Batch:
        return Batch(self.batch.spikes[rows], self.batch.heldout[rows], None)


def some_trials() -> Trials:
    """16 trials of constant rates, with gaps; half of the trials have held-out counts."""
    generator = torch.Generator().manual_seed(0)
    spikes = torch.poisson(
        torch.rand(16, 1, 5, generator=generator).expand(-1, 12, -1) * 2, generator
    )
    spikes[torch.rand(spikes.shape, generator=generator) < 0.3] = torch.nan
    heldout = (torch.rand(spikes.shape, generator=generator) < 0.3) & ~spikes.isnan()
    heldout[1::2] = False
    return Trials(spikes, heldout)


@pytest.mark.parametrize("prior", ["shared", "own"])
def test_a_fit_lowers_the_loss_of_what_it_sees_and_sees_no_held_out_count(prior):
    trials, fitted = some_trials(), []
    torch.manual_seed(0)
    model = SequentialAutoencoder(5, 0.02, hidden_size=6)
    start = Candidate(prior, weights_of(model), 5, 0.3 * torch.randn(16, 6))
    for change in (0.0, 9.0):
        spikes = torch.where(
            trials.batch.heldout, trials.batch.spikes + change, trials.batch.spikes
        )
        changed = Trials(spikes, trials.batch.heldout)
        fitted.append(
            fit(model, start, prior, changed, torch.arange(16), n_epochs=40, decay=0.0, seed=0)
        )
    assert torch.equal(fitted[0].reference, fitted[1].reference)
    assert torch.equal(fitted[0].weights["readout.weight"], fitted[1].weights["readout.weight"])
    seen = mask_missing(trials.batch.spikes, ~trials.batch.heldout)
    losses = []
    for candidate in (start, fitted[0]):
        candidate.install(model)
        loss = leave_one_out_loss if prior == "shared" else sbtt_loss
        losses.append(float(loss(model.decode(model.reference, 12)[0], seen)))
    assert losses[1] < losses[0] - 0.05


def test_of_many_trials_some_are_chosen_a_quarter_of_them_with_held_out_counts():
    heldout = torch.zeros(1000, 2, 3, dtype=torch.bool)
    heldout[::5, 0, 1] = True  # 200 trials
    trials = Trials(torch.zeros(1000, 2, 3), heldout)
    for n, n_heldout in ((399, 99), (900, 200), (1000, 200), (3000, 200)):
        rows = choose_rows(trials, n)
        assert len(set(rows.tolist())) == len(rows) == min(n, 1000)
        assert have_heldout(trials, rows).sum() == n_heldout
        assert rows.tolist() == sorted(rows.tolist())
    heldout[:800, 0, 1] = True  # more than a quarter must have them
    assert have_heldout(trials, choose_rows(trials, 400)).sum() >= 100


@pytest.mark.parametrize("n_trials", [2, 5])
def test_very_few_trials_and_silent_neurons_can_be_refined(n_trials):
    trials = some_trials()
    spikes, heldout = trials.batch.spikes[:n_trials], trials.batch.heldout[:n_trials]
    spikes[:, :, 3] = 0
    torch.manual_seed(0)
    model = SequentialAutoencoder(5, 0.02, hidden_size=6).eval()
    tried = refine(model, Trials(spikes, heldout), n_epochs=3, seed=0)
    assert all(math.isfinite(score) for score in tried.values())
    assert model.infer(spikes).log_rates.isfinite().all()


def test_a_model_that_diverged_is_left_as_an_encoder():
    trials = some_trials()
    torch.manual_seed(0)
    model = SequentialAutoencoder(5, 0.02, hidden_size=6).eval()
    model.readout.bias.data += 200.0  # rates overflow
    model.ic_linear.weight.data *= 1e30
    refine(model, trials, n_epochs=2, seed=0)
    assert model.prior == "encoder"


def test_without_held_out_counts_the_encoder_is_kept():
    """Nothing was observed in the trials that were to have some."""
    trials = some_trials()
    torch.manual_seed(0)
    model = SequentialAutoencoder(5, 0.02, hidden_size=6).eval()
    nothing = Trials(trials.batch.spikes, torch.zeros_like(trials.batch.heldout))
    refine(model, nothing, n_epochs=2, seed=0)
    assert model.prior == "encoder"
