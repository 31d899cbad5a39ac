"""The loss, the autoencoder, and what it sees in training."""

import math

import pytest
import pytorch_lightning as pl
import torch
from conftest import BARE, ROOT
from torch import Tensor, nn

from data import Batch, SpikeDataModule
from evaluation.checkpoints import load_checkpoint
from model import SequentialAutoencoder, sbtt_loss
from modules.coordinated_dropout import mask_missing, rescale
from modules.priors import PRIORS

PRETRAINED = ROOT / "lightning_logs" / "pretrained"


def some_spikes(n_observed_share: float = 0.3, shape=(4, 7, 5)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    spikes = torch.poisson(torch.full(shape, 0.8), generator)
    return spikes.masked_fill(torch.rand(shape, generator=generator) > n_observed_share, torch.nan)


def make_model(**options) -> SequentialAutoencoder:
    torch.manual_seed(0)
    return SequentialAutoencoder(n_neurons=5, bin_width=0.02, **({"hidden_size": 6} | options))


@pytest.mark.parametrize("missing", [0.0, 1e4, torch.inf, torch.nan])
def test_loss_and_gradient_agree_with_a_plain_loop_whatever_stands_at_missing_entries(missing):
    spikes = some_spikes()
    log_rates = torch.randn(spikes.shape).where(~spikes.isnan(), missing).requires_grad_()
    loss = sbtt_loss(log_rates, spikes)
    loss.backward()

    total, gradient = 0.0, torch.zeros(spikes.shape)
    observed = [tuple(entry) for entry in (~spikes.isnan()).nonzero().tolist()]
    for entry in observed:
        count, log_rate = spikes[entry].item(), log_rates[entry].item()
        total += math.exp(log_rate) - count * log_rate
        gradient[entry] = math.exp(log_rate) - count
    assert loss.item() == pytest.approx(total / len(observed), rel=1e-5)
    torch.testing.assert_close(log_rates.grad, gradient / len(observed))
    assert ((log_rates.grad == 0) == spikes.isnan()).all()


def test_weights_learn_nothing_from_missing_entries():
    """The gradient of the weights is the one of the observed entries' own losses, whatever stands
    at the others."""
    spikes, model = some_spikes(), make_model().eval()
    weights = [p for p in model.parameters() if p.requires_grad]
    by_sbtt = torch.autograd.grad(sbtt_loss(model(spikes).log_rates, spikes), weights)
    log_rates = model(spikes).log_rates
    observed = [tuple(index) for index in (~spikes.isnan()).nonzero().tolist()]
    losses = [log_rates[i].exp() - spikes[i] * log_rates[i] for i in observed]
    torch.testing.assert_close(by_sbtt, torch.autograd.grad(sum(losses) / len(losses), weights))


def test_a_batch_without_observed_entries_gives_zero_loss_and_gradient():
    model, spikes = make_model(coordinated_dropout=0.0), torch.full((3, 7, 5), torch.nan)
    loss = sbtt_loss(model(spikes).log_rates, spikes)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_what_stands_at_a_missing_entry_changes_nothing():
    """The encoder reads zero there."""
    model, whole, missing = make_model().eval(), some_spikes(1.0), some_spikes().isnan()
    spikes = whole.masked_fill(missing, torch.nan)
    changed = torch.where(missing, whole + 5, whole).masked_fill(missing, torch.nan)
    torch.testing.assert_close(model(spikes), model(changed))
    torch.testing.assert_close(model.encode(spikes)[0], model.encode(spikes.nan_to_num(nan=0.0))[0])


def test_shapes_and_the_way_from_initial_condition_to_rates():
    spikes, model = some_spikes(), make_model().eval()
    log_rates, latents, initial_condition, inputs = model(spikes)
    shapes = [tuple(part.shape) for part in (log_rates, latents, initial_condition)]
    assert shapes == [(4, 7, 5), (4, 7, 6), (4, 6)]
    assert inputs is None
    # the decoder has no input: the initial condition alone decides
    torch.testing.assert_close(model.decode(initial_condition, 7)[0], log_rates)
    torch.testing.assert_close(model.rates(log_rates), log_rates.exp() / 0.02)


def test_dropout_is_between_encoder_and_decoder_only():
    spikes, model = some_spikes(), make_model(dropout=0.5).train()
    assert not torch.equal(model(spikes).log_rates, model(spikes).log_rates)
    # one initial condition, one set of rates: the decoder itself drops nothing
    initial_condition, _ = model.encode(spikes)
    assert torch.equal(model.decode(initial_condition, 7)[0], model.decode(initial_condition, 7)[0])


def test_weights_of_the_public_demo_fit():
    """Its state dict has these names and shapes: hidden size 50, 29 neurons."""
    encoder = nn.GRU(29, 50, batch_first=True, bidirectional=True)
    demo = {"encoder": encoder, "ic_linear": nn.Linear(100, 50)}
    demo |= {"decoder": nn.GRU(1, 50, batch_first=True), "readout": nn.Linear(50, 29)}
    model = SequentialAutoencoder(n_neurons=29, bin_width=0.02)
    model.load_state_dict(nn.ModuleDict(demo).state_dict(), strict=True)


def test_hiding_parts_the_observed_entries_and_rescaling_keeps_the_size_of_a_trial():
    spikes = some_spikes(0.8)
    hide = torch.rand(spikes.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    shown, hidden = mask_missing(spikes, ~hide), mask_missing(spikes, hide)
    observed = ~spikes.isnan()
    assert torch.equal(~shown.isnan(), observed & ~hide)
    assert torch.equal(~hidden.isnan(), observed & hide)
    assert torch.equal(hidden[observed & hide], spikes[observed & hide])
    rescaled, seen = rescale(shown, spikes), observed & ~hide
    for trial in range(4):
        scale = observed[trial].sum() / seen[trial].sum()
        expected = spikes[trial][seen[trial]] * scale
        torch.testing.assert_close(rescaled[trial][seen[trial]], expected)


def train(
    model: SequentialAutoencoder, spikes: Tensor, heldout: Tensor | None = None, **limits
) -> list[Tensor]:
    """Train on one batch, once if there are no limits; return what the encoder was given at each
    step."""
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    nothing = torch.zeros(spikes.shape, dtype=torch.bool)
    batch = Batch(spikes, nothing if heldout is None else heldout, None)
    loader = torch.utils.data.DataLoader([0], collate_fn=lambda _: batch)
    pl.Trainer(**BARE | {"max_epochs": 1} | limits).fit(model, loader)
    return seen


@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_coordinated_dropout_hides_what_it_learns_from(fraction):
    # no zeros: in the encoder's input zero means not shown
    spikes = some_spikes(0.9, shape=(32, 7, 5)) + 1
    model = make_model(coordinated_dropout=fraction, coordinated_dropout_start=0.0)
    (shown,) = train(model, spikes)
    observed = ~spikes.isnan()
    share_hidden = (shown == 0)[observed].float().mean()
    assert share_hidden == pytest.approx(fraction, abs=0.05 if fraction else 0)
    assert (shown[~observed] == 0).all()
    if fraction == 0:
        torch.testing.assert_close(shown, spikes.nan_to_num(nan=0.0))


class StopAtOnce(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        trainer.should_stop = True


@pytest.mark.parametrize(
    ("options", "limits", "expected"),
    [
        ({"coordinated_dropout_start": 0.4}, {"max_epochs": 5}, [False] * 2 + [True] * 3),
        ({}, {"max_epochs": 4}, [False, False, True, True]),
        ({}, {"max_epochs": -1, "callbacks": [StopAtOnce()]}, [True]),  # without end
    ],
)
def test_coordinated_dropout_begins_after_a_part_of_the_training(options, limits, expected):
    spikes = some_spikes(0.9, shape=(32, 7, 5)) + 1
    seen = train(make_model(coordinated_dropout=0.4, **options), spikes, **limits)
    assert [bool((shown == 0)[~spikes.isnan()].any()) for shown in seen] == expected


def test_training_never_sees_held_out_counts():
    spikes = some_spikes(0.9) + 1
    heldout, outcomes = ~spikes.isnan() & (torch.rand(spikes.shape) < 0.3), []
    for change in (0.0, 5.0):
        model = make_model(coordinated_dropout=0.0, dropout=0.0)
        (shown,) = train(model, torch.where(heldout, spikes + change, spikes), heldout)
        assert (shown[heldout] == 0).all()
        outcomes.append(model.state_dict())
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0, atol=0)


def test_the_reference_trials_decide_what_is_inferred():
    model, spikes = make_model().eval(), some_spikes(0.9)
    assert torch.equal(model.infer(spikes).log_rates, model(spikes).log_rates)  # the encoder's
    model.prior = PRIORS["shared"](3 * torch.randn(4, 6))
    model.readout.bias.data += math.log(100)
    log_rates, latents = model.decode(model.prior.reference, 7)
    for j in range(4):  # trials that one trajectory explains by far the best
        inferred = model.infer(torch.poisson(log_rates[j].exp()).expand(1, 7, 5))
        expected = log_rates[j], latents[j], model.prior.reference[j]
        for found, wanted in zip(inferred[:3], expected, strict=True):
            torch.testing.assert_close(found[0], wanted, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", PRIORS)
def test_the_prior_travels_with_the_checkpoint_not_with_the_weights(tmp_path, small_lorenz, name):
    data = SpikeDataModule(small_lorenz, bandwidth=4, batch_size=32)
    model = SequentialAutoencoder(12, data.bin_width, hidden_size=8)
    trainer = pl.Trainer(**BARE, max_epochs=1, limit_val_batches=0)
    trainer.fit(model, data)
    if name != "encoder":
        model.prior = PRIORS[name](torch.randn(5, 8))
    numbers = model.prior.numbers()
    assert not any("prior" in key for key in model.state_dict())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    stored = torch.load(tmp_path / "model.ckpt", weights_only=True)["prior"]
    again, _ = load_checkpoint(tmp_path / "model.ckpt")
    assert type(again.prior) is PRIORS[name]
    for found in (stored["numbers"], again.prior.numbers()):
        assert found.keys() == numbers.keys()
        assert all(
            torch.equal(torch.as_tensor(found[k]), torch.as_tensor(numbers[k])) for k in found
        )
    assert stored["name"] == name


@pytest.mark.parametrize(("width", "name"), [(0.0, "shared"), (0.3, "similar"), (2.0, "own")])
def test_checkpoints_of_earlier_versions_are_loaded(tmp_path, width, name):
    """They have the prior as a width, and `refinement` in the hyperparameters."""
    old = torch.load(PRETRAINED / "bandwidth_05" / "best.ckpt", weights_only=True)
    assert "refinement" in old["hyper_parameters"]
    assert "prior" not in old
    torch.save(old | {"prior_width": width}, tmp_path / "old.ckpt")
    model, _ = load_checkpoint(tmp_path / "old.ckpt")
    assert (type(model.prior), model.prior.name) == (PRIORS[name], name)
    assert torch.equal(model.prior.reference, old["reference"])
    assert getattr(model.prior, "width", 0.0) == width
    torch.save(old | {"reference": torch.empty(0)}, tmp_path / "old.ckpt")
    assert load_checkpoint(tmp_path / "old.ckpt")[0].prior.name == "encoder"


def test_weight_decay_is_stronger_for_fewer_trials():
    assert make_model().weight_decay(1248) == pytest.approx(0.2)
    assert make_model().weight_decay(312) == pytest.approx(0.4)
    assert make_model(weight_decay=0.0).weight_decay(312) == 0.0
