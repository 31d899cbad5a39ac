import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from data import Batch, SpikeDataModule
from model import SequentialAutoencoder, sbtt_loss
from modules.coordinated_dropout import mask_missing, rescale
from modules.posterior import PRIOR_WIDTHS


def some_spikes(n_observed_share: float = 0.3, shape=(4, 7, 5)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    spikes = torch.poisson(torch.full(shape, 0.8), generator)
    return spikes.masked_fill(torch.rand(shape, generator=generator) > n_observed_share, torch.nan)


def make_model(**options) -> SequentialAutoencoder:
    torch.manual_seed(0)
    return SequentialAutoencoder(n_neurons=5, bin_width=0.02, **({"hidden_size": 6} | options))


def test_loss_and_gradient_agree_with_a_plain_loop():
    spikes = some_spikes()
    log_rates = torch.randn(spikes.shape, requires_grad=True)
    loss = sbtt_loss(log_rates, spikes)
    loss.backward()

    total, n_observed = 0.0, 0
    gradient = [[[0.0] * 5 for _ in range(7)] for _ in range(4)]
    for b in range(4):
        for t in range(7):
            for n in range(5):
                count, log_rate = spikes[b, t, n].item(), log_rates[b, t, n].item()
                if not math.isnan(count):
                    total += math.exp(log_rate) - count * log_rate
                    n_observed += 1
                    gradient[b][t][n] = math.exp(log_rate) - count
    assert loss.item() == pytest.approx(total / n_observed, rel=1e-5)
    torch.testing.assert_close(log_rates.grad, torch.tensor(gradient) / n_observed)
    assert (log_rates.grad[spikes.isnan()] == 0).all()


@pytest.mark.parametrize("value", [1e4, torch.inf, torch.nan])
def test_nothing_at_a_missing_entry_reaches_the_gradient(value):
    spikes = some_spikes()
    log_rates = torch.randn(spikes.shape)
    log_rates = torch.where(spikes.isnan(), value, log_rates).requires_grad_()
    loss = sbtt_loss(log_rates, spikes)
    loss.backward()
    assert loss.isfinite()
    assert (log_rates.grad[spikes.isnan()] == 0).all()
    assert (log_rates.grad[~spikes.isnan()] != 0).all()


def test_weights_learn_nothing_from_missing_entries():
    """The gradient of the weights is the one of the observed entries' own losses, whatever stands
    at the others."""
    spikes = some_spikes()
    model = make_model().eval()
    sbtt_loss(model(spikes).log_rates, spikes).backward()
    by_sbtt = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    log_rates = model(spikes).log_rates
    observed = [tuple(index) for index in (~spikes.isnan()).nonzero().tolist()]
    (
        sum(log_rates[i].exp() - spikes[i] * log_rates[i] for i in observed) / len(observed)
    ).backward()
    plain_sbtt = [p.grad for p in model.parameters() if p.requires_grad]
    for ours, plain in zip(by_sbtt, plain_sbtt, strict=True):
        torch.testing.assert_close(ours, plain)


def test_a_batch_without_observed_entries_gives_zero_loss_and_gradient():
    model = make_model(coordinated_dropout=0.0)
    spikes = torch.full((3, 7, 5), torch.nan)
    loss = sbtt_loss(model(spikes).log_rates, spikes)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_encoder_reads_missing_entries_as_zero():
    spikes, model = some_spikes(), make_model().eval()
    torch.testing.assert_close(model.encode(spikes)[0], model.encode(spikes.nan_to_num(nan=0.0))[0])


def test_the_inferred_rates_do_not_depend_on_what_is_missing():
    model, whole = make_model().eval(), some_spikes(1.0)
    missing = some_spikes().isnan()
    changed = torch.where(missing, whole + 5, whole)
    torch.testing.assert_close(
        model(whole.masked_fill(missing, torch.nan)), model(changed.masked_fill(missing, torch.nan))
    )


def test_shapes_and_the_way_from_initial_condition_to_rates():
    spikes, model = some_spikes(), make_model().eval()
    inference = model(spikes)
    assert inference.log_rates.shape == (4, 7, 5)
    assert inference.latents.shape == (4, 7, 6)
    assert inference.initial_condition.shape == (4, 6)
    # the decoder has no input: the initial condition alone decides
    torch.testing.assert_close(model.decode(inference.initial_condition, 7)[0], inference.log_rates)
    torch.testing.assert_close(model.rates(inference.log_rates), inference.log_rates.exp() / 0.02)


def test_mixed_precision_gives_initial_conditions_and_log_rates_in_single_precision():
    spikes, model = some_spikes(), make_model().eval()
    with torch.autocast("cpu", torch.bfloat16):
        inference = model(spikes)
    assert all(part is None or part.dtype == torch.float32 for part in inference)
    torch.testing.assert_close(inference.log_rates, model(spikes).log_rates, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("width", PRIOR_WIDTHS.values())
def test_trials_explain_others_in_single_precision_under_mixed_precision(width):
    spikes, model = some_spikes(), make_model().eval()
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(40, 1, generator=generator) @ torch.randn(1, 6, generator=generator)
    model.reference, model.prior_width = (
        line + 0.02 * torch.randn(40, 6, generator=generator),
        width,
    )
    with torch.autocast("cpu", torch.bfloat16):
        inference = model.infer(spikes)
    torch.testing.assert_close(inference.log_rates, model.infer(spikes).log_rates)


def test_dropout_is_between_encoder_and_decoder_only():
    spikes = some_spikes()
    model = make_model(dropout=0.5).train()
    assert not torch.equal(model(spikes).log_rates, model(spikes).log_rates)
    # one initial condition, one set of rates: the decoder itself drops nothing
    initial_condition, _ = model.encode(spikes)
    assert torch.equal(model.decode(initial_condition, 7)[0], model.decode(initial_condition, 7)[0])


def test_weights_of_the_public_demo_fit():
    """Its state dict has these names and shapes: hidden size 50, 29 neurons."""
    demo = nn.ModuleDict(
        {
            "encoder": nn.GRU(29, 50, batch_first=True, bidirectional=True),
            "ic_linear": nn.Linear(100, 50),
            "decoder": nn.GRU(1, 50, batch_first=True),
            "readout": nn.Linear(50, 29),
        }
    )
    model = SequentialAutoencoder(n_neurons=29, bin_width=0.02)
    model.load_state_dict(demo.state_dict(), strict=True)


def test_hiding_parts_the_observed_entries_and_rescaling_keeps_the_size_of_a_trial():
    spikes = some_spikes(0.8)
    hide = torch.rand(spikes.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    shown, hidden = mask_missing(spikes, ~hide), mask_missing(spikes, hide)
    observed = ~spikes.isnan()
    assert torch.equal(~shown.isnan(), observed & ~hide)
    assert torch.equal(~hidden.isnan(), observed & hide)
    assert torch.equal(hidden[observed & hide], spikes[observed & hide])
    rescaled = rescale(shown, spikes)
    for trial in range(4):
        seen = observed[trial] & ~hide[trial]
        torch.testing.assert_close(
            rescaled[trial][seen], spikes[trial][seen] * observed[trial].sum() / seen.sum()
        )


def train(
    model: SequentialAutoencoder,
    spikes: torch.Tensor,
    heldout: torch.Tensor | None = None,
    **limits,
) -> list[torch.Tensor]:
    """Train on one batch, once if there are no limits; return what the encoder was given at each
    step."""
    seen = []
    model.encoder.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().clone())
    )
    batch = Batch(
        spikes, torch.zeros(spikes.shape, dtype=torch.bool) if heldout is None else heldout, None
    )
    loader = torch.utils.data.DataLoader([0], collate_fn=lambda _: batch)
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(accelerator="cpu", **{"max_epochs": 1} | options | limits).fit(model, loader)
    return seen


def test_coordinated_dropout_hides_what_it_learns_from():
    """Counts that the encoder does not see can be changed without changing its input; they decide
    the loss."""
    spikes = (
        some_spikes(0.9, shape=(32, 7, 5)) + 1
    )  # no zeros: in the encoder's input zero means not shown
    (shown,) = train(make_model(coordinated_dropout=0.4, coordinated_dropout_start=0.0), spikes)
    observed = ~spikes.isnan()
    share_hidden = (shown == 0)[observed].float().mean()
    assert share_hidden == pytest.approx(0.4, abs=0.05)
    assert (shown[~observed] == 0).all()


def test_without_coordinated_dropout_the_encoder_sees_all_that_is_observed():
    spikes = some_spikes(0.9)
    (shown,) = train(make_model(coordinated_dropout=0.0), spikes)
    torch.testing.assert_close(shown, spikes.nan_to_num(nan=0.0))


class StopAtOnce(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        trainer.should_stop = True


def test_coordinated_dropout_begins_after_a_part_of_the_training_and_at_once_if_that_has_no_end_or_infers_inputs():
    spikes = some_spikes(0.9, shape=(32, 7, 5)) + 1

    def hides(options: dict[str, float], **limits) -> list[bool]:
        model = make_model(coordinated_dropout=0.4, **options)
        return [
            bool((shown == 0)[~spikes.isnan()].any()) for shown in train(model, spikes, **limits)
        ]

    assert hides({"coordinated_dropout_start": 0.4}, max_epochs=5) == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert hides({}, max_epochs=4) == [False, False, True, True]
    assert hides({"input_size": 2}, max_epochs=2) == [True, True]
    assert hides({"input_size": 2, "coordinated_dropout_start": 0.5}, max_epochs=2) == [False, True]
    assert hides({}, max_epochs=-1, callbacks=[StopAtOnce()]) == [True]


def test_a_training_never_sees_held_out_counts():
    spikes = some_spikes(0.9) + 1
    heldout = ~spikes.isnan() & (torch.rand(spikes.shape) < 0.3)
    outcomes = []
    for change in (0.0, 5.0):
        model = make_model(coordinated_dropout=0.0, dropout=0.0)
        (shown,) = train(model, torch.where(heldout, spikes + change, spikes), heldout=heldout)
        assert (shown[heldout] == 0).all()
        outcomes.append(model.state_dict())
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0, atol=0)


def test_the_reference_trials_decide_what_is_inferred():
    spikes = some_spikes(0.9)
    model = make_model().eval()
    assert torch.equal(
        model.infer(spikes).log_rates, model(spikes).log_rates
    )  # nothing to compare with
    model.reference = 3 * torch.randn(4, 6)
    log_rates, latents = model.decode(model.reference, 7)
    for j in range(4):  # trials that one trajectory explains by far the best
        counts = torch.poisson(100 * log_rates[j].exp()).expand(1, 7, 5)
        model.readout.bias.data += math.log(100)
        inference = model.infer(counts)
        model.readout.bias.data -= math.log(100)
        torch.testing.assert_close(
            inference.log_rates[0], log_rates[j] + math.log(100), atol=1e-2, rtol=1e-2
        )
        torch.testing.assert_close(inference.latents[0], latents[j], atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(
            inference.initial_condition[0], model.reference[j], atol=1e-2, rtol=1e-2
        )


def test_the_reference_travels_with_the_checkpoint_not_with_the_weights(tmp_path, small_lorenz):
    data = SpikeDataModule(small_lorenz, bandwidth=4, batch_size=32)
    model = SequentialAutoencoder(12, data.bin_width, hidden_size=8)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    trainer.fit(model, data)
    model.reference, model.prior_width = torch.randn(5, 8), PRIOR_WIDTHS["similar"]
    assert "reference" not in model.state_dict()
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = SequentialAutoencoder.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert torch.equal(again.reference, model.reference)
    assert again.prior == "similar"


def test_weight_decay_is_stronger_for_fewer_trials():
    assert make_model().weight_decay(1248) == pytest.approx(0.2)
    assert make_model().weight_decay(312) == pytest.approx(0.4)
    assert make_model(weight_decay=0.0).weight_decay(312) == 0.0
