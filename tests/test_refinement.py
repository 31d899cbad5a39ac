"""The refinement at the end of a run: what it finds out about the data, and what it gains."""

import copy
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import BARE
from torch.utils.data import Dataset

from data import Batch, SpikeDataModule
from evaluation.scoring import evaluate
from model import SequentialAutoencoder, sbtt_loss
from modules.coordinated_dropout import mask_missing
from modules.posterior import leave_one_out_loss
from modules.priors import PRIORS, EncoderAlone
from modules.readout import rank
from recordings.splitting import has_new_conditions
from refinement.contest import Contest
from refinement.fits import Candidate, Fits, copy_weights
from refinement.heldout import HeldOut, choose_rows, have_heldout
from refinement.refine import refine
from simulate import simulate


def train(
    path: str, bandwidth: int, epochs: int, **options
) -> tuple[SequentialAutoencoder, SpikeDataModule]:
    """Train without refinement; return model and data."""
    pl.seed_everything(0, verbose=False)
    data = SpikeDataModule(path, bandwidth=bandwidth, batch_size=32)
    options = {"hidden_size": 16, "learning_rate": 5e-2} | options
    model = SequentialAutoencoder(data.n_neurons, data.bin_width, **options)
    limits = {"max_epochs": epochs, "limit_val_batches": 0, "gradient_clip_val": 1.0}
    pl.Trainer(**BARE, **limits).fit(model, data)
    return model.eval(), data


def score(model: SequentialAutoencoder, data: SpikeDataModule) -> dict[str, float]:
    return evaluate(model, data)[0]


def lengths(tried: dict[str, float], start: str) -> set[str]:
    return {name.split("_factors_")[1] for name in tried if name.startswith(start)}


def test_trials_that_repeat_share_trajectories_and_are_inferred_better(small_lorenz):
    model, data = train(small_lorenz, bandwidth=4, epochs=40)
    before, for_new, trials = score(model, data), copy.deepcopy(model), data.datasets["train"]
    reports = []
    tried = refine(model, trials, 30, 0, report=lambda *progress: reports.append(progress))
    after = score(model, data)
    assert min(tried, key=tried.get).startswith("shared_")
    assert model.prior.name == "shared"
    assert f"shared_{rank(model.readout)}_factors_30_epochs" in tried
    mean, few, *more = sorted({int(name.split("_")[1]) for name in tried})
    assert mean == 0, "the mean rates"
    assert more == [few + 1]
    assert lengths(tried, "shared") == {"10_epochs", "30_epochs"}
    assert lengths(tried, "own") == {"4_epochs"}, "the worse kind has no long fit"
    assert rank(model.readout) < 12
    assert len(model.prior.reference) == len(trials)
    assert after["r2"] > before["r2"] + 0.03
    assert after["heldout_nll"] < before["heldout_nll"]
    # three fits, and one with a factor more, of the length of the best
    n_epochs = 4 + 10 + 30 + 30
    assert [done for done, _ in reports] == list(range(1, n_epochs + 1))
    assert {total for _, total in reports} == {n_epochs}

    # for conditions that are not in training, each trial has a trajectory of its own, and new
    # trials choose the fit
    tried_for_new = refine(for_new, trials, 30, 0, new_conditions=data.datasets["valid"])
    assert for_new.prior.name == "own"
    new = {name: loss for name, loss in tried_for_new.items() if name.startswith("new_")}
    assert {name: loss for name, loss in tried_for_new.items() if name not in new} == tried
    assert lengths(new, "new") == {"10_epochs", "30_epochs"}
    assert score(for_new, data)["heldout_nll"] == pytest.approx(min(new.values()), abs=1e-5)
    assert max(new.values()) > min(new.values()) + 1e-4


def test_conditions_are_new_if_none_is_in_training(data_arrays, write_file):
    def are_new(**conditions) -> bool:
        return has_new_conditions(SpikeDataModule(write_file(data_arrays | conditions)).trials)

    assert are_new(valid_condition=np.array([7, 8] * 6))
    assert not are_new(valid_condition=np.array([7, 2] * 6))
    assert not are_new(valid_condition=np.array([0, 1] * 6))
    # no condition repeats
    assert not are_new(train_condition=np.arange(24), valid_condition=np.arange(24, 36))
    del data_arrays["valid_condition"]
    assert not are_new()


@pytest.mark.parametrize(
    ("conditions", "bandwidth", "epochs", "options"),
    [(240, 12, 60, {}), (60, 6, 120, {"coordinated_dropout": 0.0})],
    ids=["many trials", "few trials, which the encoder has memorised"],
)
def test_trials_that_do_not_repeat_have_trajectories_of_their_own(
    tmp_path, conditions, bandwidth, epochs, options
):
    path, rate = str(tmp_path / "unique.h5"), 60.0 if conditions == 240 else 40.0
    simulate(path=path, conditions=conditions, trials=1, neurons=12, bins=20, mean_rate=rate)
    model, data = train(path, bandwidth, epochs, **options)
    before = score(model, data)
    tried = refine(model, data.datasets["train"], n_epochs=20, seed=0)
    if options:  # its score is the best, but it is not kept
        assert min(tried, key=tried.get).startswith("encoder_")
    assert model.prior.name == "own"
    assert score(model, data)["heldout_nll"] < before["heldout_nll"]


def test_the_same_seed_refines_to_the_same_bits_and_another_does_not(small_lorenz):
    trained, data = train(small_lorenz, bandwidth=4, epochs=5)
    results = []
    for seed in (0, 0, 1):
        model = copy.deepcopy(trained)
        refine(model, data.datasets["train"], n_epochs=3, seed=seed)
        results.append((model.prior.reference, model.readout.weight))
    first, again, other = results
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


class Trials(Dataset):
    def __init__(self, spikes: torch.Tensor, heldout: torch.Tensor) -> None:
        self.batch = Batch(spikes, heldout, None)

    def __len__(self) -> int:
        return len(self.batch.spikes)

    def __getitem__(self, rows: torch.Tensor) -> Batch:
        return Batch(self.batch.spikes[rows], self.batch.heldout[rows], None)


@pytest.fixture
def trials() -> Trials:
    """16 trials of constant rates, with gaps; half of the trials have held-out counts."""
    generator = torch.Generator().manual_seed(0)
    rates = torch.rand(16, 1, 5, generator=generator).expand(-1, 12, -1) * 2
    spikes = torch.poisson(rates, generator)
    spikes[torch.rand(spikes.shape, generator=generator) < 0.3] = torch.nan
    heldout = (torch.rand(spikes.shape, generator=generator) < 0.3) & ~spikes.isnan()
    heldout[1::2] = False
    return Trials(spikes, heldout)


@pytest.fixture
def model() -> SequentialAutoencoder:
    torch.manual_seed(0)
    return SequentialAutoencoder(5, 0.02, hidden_size=6).eval()


@pytest.mark.parametrize("prior", ["shared", "own"])
def test_a_fit_lowers_the_loss_of_what_it_sees_and_sees_no_held_out_count(trials, model, prior):
    model.hparams.weight_decay, fitted = 0.0, []
    encoded, (spikes, heldout, _) = 0.3 * torch.randn(16, 6), trials.batch
    start = Candidate("encoder", copy_weights(model), 5, PRIORS[prior](encoded))
    for change in (0.0, 9.0):
        changed = Trials(torch.where(heldout, spikes + change, spikes), heldout)
        fits = Fits(model, changed, torch.arange(16), encoded, seed=0)
        fitted.append(fits.fit(start, prior, n_epochs=40))
    first, second = fitted
    assert (first.name, first.n_epochs, type(first.prior)) == (prior, 40, PRIORS[prior])
    assert torch.equal(first.prior.reference, second.prior.reference)
    assert torch.equal(first.weights["readout.weight"], second.weights["readout.weight"])
    seen, losses = mask_missing(spikes, ~heldout), []
    for candidate in (start, first):
        candidate.install(model)
        loss = leave_one_out_loss if prior == "shared" else sbtt_loss
        losses.append(loss(model.decode(model.prior.reference, 12)[0], seen).item())
    assert losses[1] < losses[0] - 0.05


def test_a_contest_keeps_what_is_better_by_a_margin(monkeypatch, trials, model):
    contest = Contest(model, HeldOut(trials, torch.arange(16), model))
    losses = {"best": 1.0, "worse": 2.0, "slightly better": 0.9, "better": 0.5}
    noise = torch.linspace(-1, 1, 16)
    monkeypatch.setattr(contest, "score", lambda name: losses[name] + noise * (name == "best"))
    contest.open(["worse", "best"])
    assert contest.best == "best"
    contest.challenge("slightly better")  # 1.6 better, with a standard error of 2.5
    contest.challenge("better", margin=4.0)
    assert contest.best == "best"
    contest.challenge("better")
    assert contest.best == "better"


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
def test_very_few_trials_and_silent_neurons_can_be_refined(trials, model, n_trials):
    spikes, heldout = trials.batch.spikes[:n_trials], trials.batch.heldout[:n_trials]
    spikes[:, :, 3] = 0
    tried = refine(model, Trials(spikes, heldout), n_epochs=3, seed=0)
    assert all(math.isfinite(loss) for loss in tried.values())
    assert model.infer(spikes).log_rates.isfinite().all()


def test_a_model_that_diverged_is_left_as_an_encoder(trials, model):
    model.readout.bias.data += 200.0  # rates overflow
    model.ic_linear.weight.data *= 1e30
    assert refine(model, trials, n_epochs=2, seed=0) == {}
    assert type(model.prior) is EncoderAlone


def test_without_held_out_counts_the_encoder_is_kept(trials, model):
    """Nothing was observed in the trials that were to have some."""
    nothing = Trials(trials.batch.spikes, torch.zeros_like(trials.batch.heldout))
    assert refine(model, nothing, n_epochs=2, seed=0) == {}
    assert type(model.prior) is EncoderAlone


def test_where_nothing_can_be_learned_the_mean_rates_are_kept(model):
    """Few spikes, at random: what the model has learned of them is noise."""
    generator = torch.Generator().manual_seed(0)
    spikes = torch.poisson(torch.full((16, 12, 5), 0.05), generator)
    heldout = torch.rand(spikes.shape, generator=generator) < 0.3
    heldout[::2] = False
    model.readout.weight.data *= 5
    tried = refine(model, Trials(spikes, heldout), n_epochs=3, seed=0)
    assert min(tried, key=tried.get) == "mean_0_factors"
    shown = spikes.masked_fill(heldout, torch.nan)
    expected = shown.nanmean((0, 1)).clamp(min=1e-3)
    torch.testing.assert_close(model.infer(shown).log_rates.exp(), expected.expand_as(spikes))
