"""Selective backpropagation through time (SBTT): the loss, and the sequential autoencoder that it
trains.

Letters in shapes: B trials in a batch, T time bins, N neurons, H hidden units.
A missing count is NaN. Nothing else marks it.
"""

import math
from typing import Literal, NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from command_line import expect
from modules.coordinated_dropout import coordinated_dropout, mask_missing, rescale, true_indices
from modules.gru import GRUDecoder, GRUEncoder, at_least_single
from modules.initialization import init_orthogonal, log_mean_counts
from modules.metrics import make_scores
from modules.optimizer import make_optimizer
from modules.posterior import PRIOR_NAMES, Inference, explain_trials


def sbtt_loss(log_rates: Tensor, spikes: Tensor) -> Tensor:
    """Return the Poisson negative log-likelihood per observed entry: the selective loss of SBTT.

    The mean of `exp(log_rates) - spikes * log_rates` over the entries where `spikes` is not NaN.
    The other entries are left out before anything is computed, so their gradient is exactly zero
    (Zhu, Sedler et al. 2021).

    Args:
        log_rates: (B, T, N) log expected counts per bin.
        spikes: (B, T, N) counts per bin, NaN = missing.

    Returns:
        A scalar (nats per entry, without the constant log k!). Zero, with zero gradient, if nothing
        is observed.
    """
    log_rates, spikes = log_rates.flatten(), spikes.flatten()
    observed = true_indices(~spikes.isnan())
    log_rates, spikes = log_rates.index_select(0, observed), spikes.index_select(0, observed)
    return F.poisson_nll_loss(log_rates, spikes, reduction="sum") / max(len(observed), 1)


class SequentialAutoencoder(pl.LightningModule):
    """Two GRUs: one reads the observed spikes of a trial, the other generates firing rates from an
    initial condition.

    spikes -> zero-fill -> bidirectional GRU -> final states -> dropout -> linear -> dropout ->
    initial condition -> GRU without input -> linear -> log-rates

    `forward` infers a trial with the encoder alone. `infer` also uses the initial conditions of
    training trials, in `reference`, as a prior. The larger `prior_width` is, the less trials have
    in common (modules/posterior.py). With an `input_size` above 0, the encoder's states at each bin
    give inputs that drive the decoder.

    Args:
        n_neurons: Number of neurons; taken from the data.
        bin_width: Width of a time bin (s); taken from the data.
        n_heldin: Number of neurons, the first ones, that the encoder sees; taken from the data.
            None: all.
        hidden_size: Units in each GRU.
        input_size: Number of inferred inputs that drive the decoder. 0: it runs without input.
        input_penalty: Weight of the mean square of the inputs in the loss (nats per entry).
        input_dropout: Probability, in training, of decoding a trial without inputs, to learn all
            dynamics that need none.
        dropout: Probability of dropping a unit between encoder and decoder.
        coordinated_dropout: Probability of hiding an observed entry from the encoder in training.
            The loss is then taken on the hidden entries alone, which cannot be copied (Keshtkaran &
            Pandarinath 2019). 0: on all entries.
        coordinated_dropout_start: Fraction of the training before it begins; until then a model
            copies little. None: 0.5, or 0 with inferred inputs, which copy at once. A training
            without end has it from the start.
        refinement: Epochs in which decoder, readout and the training trials' initial conditions are
            fitted at the end of the training (training/refinement.py), up to twice as many for
            large data. 0: none, and `infer` equals `forward`.
        start_at_mean_rates: Initialise the readout's bias with the log mean counts of the first
            batch, so that the training starts from each neuron's mean rate instead of one spike per
            bin.
        orthogonal_start: Initialise with orthogonal recurrent matrices and quick update gates
            (modules/initialization.py).
        optimizer: adam (weight decay as an L2 penalty), adamw (decoupled weight decay), or muon
            (for hidden matrices; modules/optimizer.py).
        learning_rate: Learning rate at the start.
        weight_decay: Weight decay; with muon of the hidden matrices alone. None: 0.2 for 1248
            training trials, in inverse proportion to the square root of their number. With adam
            much less is enough (1e-4).
        schedule: constant, or polynomial: proportional to (fraction of the training that is left) ^
            1.5.

    Raises:
        InputError: a value out of range.
    """

    _ddp_params_and_buffers_to_ignore = ("reference",)  # each process computes the same

    def __init__(
        self,
        n_neurons: int,
        bin_width: float,
        n_heldin: int | None = None,
        hidden_size: int = 50,
        input_size: int = 0,
        input_penalty: float = 0.01,
        input_dropout: float = 0.5,
        dropout: float = 0.1,
        coordinated_dropout: float = 0.5,
        coordinated_dropout_start: float | None = None,
        refinement: int = 40,
        start_at_mean_rates: bool = True,
        orthogonal_start: bool = True,
        optimizer: Literal["adam", "adamw", "muon"] = "muon",
        learning_rate: float = 2e-2,
        weight_decay: float | None = None,
        schedule: Literal["constant", "polynomial"] = "polynomial",
    ) -> None:
        super().__init__()
        fractions = {
            "coordinated_dropout": coordinated_dropout,
            "dropout": dropout,
            "input_dropout": input_dropout,
        }
        for name, value in (
            fractions | {"coordinated_dropout_start": coordinated_dropout_start or 0.0}
        ).items():
            expect(0 <= value <= 1, f"--model.{name}", value, "a fraction from 0 to 1")
        for name, value in {"hidden_size": hidden_size, "learning_rate": learning_rate}.items():
            expect(0 < value < math.inf, f"--model.{name}", value, "a number above 0")
        sizes = {"refinement": refinement, "input_size": input_size, "input_penalty": input_penalty}
        for name, value in ({"weight_decay": weight_decay or 0.0} | sizes).items():
            expect(0 <= value < math.inf, f"--model.{name}", value, "a number of at least 0")
        self.save_hyperparameters()
        self.encoder = GRUEncoder(n_heldin or n_neurons, hidden_size)
        self.ic_linear = nn.Linear(2 * hidden_size, hidden_size)
        self.decoder = GRUDecoder(hidden_size, input_size)
        self.input_linear = (
            nn.Linear(2 * hidden_size, input_size, bias=False) if input_size else None
        )
        self.readout = nn.Linear(hidden_size, n_neurons)
        self.dropout = nn.Dropout(dropout)
        if orthogonal_start:
            init_orthogonal(self.encoder, gain=1.0)
            init_orthogonal(self.decoder, gain=1.5)
        # (trials, H) initial conditions of training trials; not in the state dict, but saved by
        # `on_save_checkpoint`
        self.register_buffer("reference", torch.empty(0, hidden_size), persistent=False)
        self.prior_width = 0.0
        self.input_dropout = input_dropout  # the refinement changes it
        self.scores = make_scores(n_neurons)

    def encode(self, spikes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Infer initial conditions (B, H) and inputs (T, B, I), if any, from spikes (B, T, N), NaN
        read as zero."""
        heldin = spikes[..., : self.encoder.input_size].nan_to_num(nan=0.0)
        final_states, states = self.encoder(heldin, each_bin=self.input_linear is not None)
        initial_condition = at_least_single(
            self.dropout(self.ic_linear(self.dropout(final_states)))
        )
        if states is None:
            return initial_condition, None
        inputs = at_least_single(self.input_linear(self.dropout(states)))
        if self.training:
            inputs = inputs * (
                torch.rand(len(spikes), 1, device=inputs.device) >= self.input_dropout
            )
        return initial_condition, inputs

    def decode(
        self, initial_condition: Tensor, n_bins: int, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Unroll the decoder for `n_bins` from initial conditions (B, H): log-rates (B, T, N) and
        latents (B, T, H)."""
        latents = at_least_single(self.decoder(initial_condition, n_bins, inputs))  # (T, B, H)
        return at_least_single(self.readout(latents)).transpose(0, 1), latents.transpose(0, 1)

    def forward(self, spikes: Tensor) -> Inference:
        """Infer from spikes (B, T, N), NaN = missing, with the encoder alone."""
        initial_condition, inputs = self.encode(spikes)
        inferred = self.decode(initial_condition, spikes.shape[1], inputs)
        return Inference(
            *inferred, initial_condition, None if inputs is None else inputs.transpose(0, 1)
        )

    def infer(self, spikes: Tensor) -> Inference:
        """Infer from spikes (B, T, N) with the reference trials as a prior; without any, as
        `forward`."""
        if len(self.reference) == 0:
            return self(spikes)
        with torch.autocast(
            spikes.device.type, enabled=False
        ):  # bfloat16 has too few digits for covariances
            return explain_trials(self, spikes, self.reference, self.prior_width)

    @property
    def prior(self) -> str:
        """What `infer` explains a trial by: the encoder alone, or trajectories that trials share,
        similar ones, or its own."""
        return PRIOR_NAMES[self.prior_width] if len(self.reference) else "encoder"

    def rates(self, log_rates: Tensor) -> Tensor:
        """Convert log expected counts per bin to firing rates in spikes/s, of the same shape."""
        return log_rates.exp() / self.hparams.bin_width

    def on_train_batch_start(self, batch: NamedTuple, batch_index: int) -> None:
        self.reference = self.reference.new_empty(
            0, self.hparams.hidden_size
        )  # it was made with earlier weights
        if self.global_step == 0 and self.hparams.start_at_mean_rates:
            spikes = self.all_gather(batch.shown).flatten(0, -3)
            self.readout.bias.data = log_mean_counts(spikes).to(self.dtype)

    def losses(self, spikes: Tensor, is_hiding: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a step lowers, the SBTT loss and a penalty of inputs, and the counts (B, T,
        N) that the loss is of."""
        shown, target = coordinated_dropout(
            spikes, self.hparams.coordinated_dropout if is_hiding else 0.0
        )
        inferred = self(shown)
        penalty = (
            0.0
            if inferred.inputs is None
            else self.hparams.input_penalty * inferred.inputs.square().mean()
        )
        return sbtt_loss(inferred.log_rates, target), penalty, target

    def training_step(self, batch: NamedTuple, batch_index: int) -> Tensor:
        n_steps, start = (
            self.trainer.estimated_stepping_batches,
            self.hparams.coordinated_dropout_start,
        )
        start = (0.0 if self.hparams.input_size else 0.5) if start is None else start
        nll, penalty, target = self.losses(
            batch.shown, math.isinf(n_steps) or self.global_step >= start * n_steps
        )
        self.log(
            "train/nll", nll, on_step=False, on_epoch=True, batch_size=len(target), sync_dist=True
        )
        loss = nll + penalty
        if (
            self.trainer.world_size > 1
        ):  # gradients are averaged over processes: weight them by observed entries
            n_observed = (~target.isnan()).sum().to(loss.dtype)
            loss = loss * n_observed / self.all_gather(n_observed).mean().clamp(min=1e-6)
        return loss

    def on_validation_epoch_start(self) -> None:
        for score in self.scores.values():
            score.reset()

    def validation_step(self, batch: NamedTuple, batch_index: int) -> None:
        """Score what is inferred from all observed entries, and what is inferred without the
        held-out ones."""
        spikes, observed = batch.spikes, ~batch.spikes.isnan()
        shown, heldout = batch.shown, mask_missing(spikes, batch.heldout)
        # counts are rescaled for the encoder, as in coordinated dropout; the posterior needs counts
        # as they are
        heldin, shown_heldin = (
            counts[..., : self.encoder.input_size] for counts in (spikes, shown)
        )
        amortised, amortised_heldout = self(
            torch.cat((heldin, rescale(shown_heldin, heldin)))
        ).log_rates.chunk(2)
        inferred, inferred_heldout = amortised, amortised_heldout
        if len(self.reference):
            inferred, inferred_heldout = self.infer(torch.cat((spikes, shown))).log_rates.chunk(2)

        self.scores["nll"].update(sbtt_loss(inferred, spikes), observed.sum())
        self.scores["heldout_nll"].update(sbtt_loss(inferred_heldout, heldout), batch.heldout.sum())
        self.scores["heldout_nll_amortised"].update(
            sbtt_loss(amortised_heldout, heldout), batch.heldout.sum()
        )
        self.scores["bps"].update(inferred_heldout, heldout)
        if batch.rates is not None:
            for name, entries in (
                ("r2", None),
                ("r2_observed", observed),
                ("r2_unobserved", ~observed),
            ):
                self.scores[name].update(self.rates(inferred), batch.rates, entries)
            self.scores["r2_amortised"].update(self.rates(amortised), batch.rates)

    def on_validation_epoch_end(self) -> None:
        for name, score in self.scores.items():
            if score.update_called:
                value = score.compute()
                if (
                    isinstance(score, MeanMetric) or not value.isnan()
                ):  # NaN: no neuron has this R², or no spike
                    self.log(f"valid/{name}", value)
                    if (
                        name == "bps" and self.encoder.input_size < self.hparams.n_neurons
                    ):  # of held-out neurons
                        self.log("valid/co_bps", value)
        self.log("step", float(self.current_epoch + 1))  # the x-axis of TensorBoard

    def on_train_epoch_end(self) -> None:
        rate = self.optimizers().param_groups[0]["lr"]
        self.log_dict({"train/learning_rate": rate, "step": self.current_epoch + 1.0})

    def weight_decay(self, n_trials: int) -> float:
        """Return the weight decay for a number of training trials. The fewer there are, the easier
        they are overfitted."""
        return (
            0.2 * (1248 / n_trials) ** 0.5
            if self.hparams.weight_decay is None
            else self.hparams.weight_decay
        )

    def configure_optimizers(self) -> dict:
        self.trainer.fit_loop.setup_data()  # loads the training trials
        decay = self.weight_decay(len(self.trainer.train_dataloader.dataset))
        hidden = [self.encoder, self.ic_linear, self.decoder] + (
            [self.input_linear] if self.input_linear else []
        )
        optimizer = make_optimizer(
            self.hparams.optimizer, hidden, self.readout, self.hparams.learning_rate, decay
        )
        if self.hparams.schedule == "constant":
            return {"optimizer": optimizer}
        schedule = torch.optim.lr_scheduler.PolynomialLR(
            optimizer, self.trainer.estimated_stepping_batches, power=1.5
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint |= {"reference": self.reference, "prior_width": self.prior_width}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.reference = checkpoint.get("reference", self.reference).to(self.device, self.dtype)
        self.prior_width = checkpoint.get("prior_width", 0.0)
