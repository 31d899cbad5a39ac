"""Selective backpropagation through time (SBTT): the loss, and the autoencoder that it trains.

Letters in shapes: B trials in a batch, T time bins, N neurons, H hidden units, I inputs.
A missing count is NaN. Nothing else marks it.
"""

import math
from typing import Literal, NamedTuple

import pytorch_lightning as pl
import torch
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor, nn
from torchmetrics import MeanMetric

from modules.coordinated_dropout import (
    coordinated_dropout,
    mask_missing,
    rescale,
    true_indices,
)
from modules.gru import GRUDecoder, GRUEncoder
from modules.initialization import init_orthogonal, log_mean_counts
from modules.metrics import make_scores
from modules.optimizer import make_optimizer
from modules.posterior import Inference
from modules.priors import EncoderAlone, read_prior


def sbtt_loss(log_rates: Tensor, spikes: Tensor) -> Tensor:
    """Return the Poisson negative log-likelihood per observed entry: the selective loss of SBTT.

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
    observed = true_indices(~spikes.isnan())  # a bool index takes up to a tenth of an epoch more
    log_rates, spikes = log_rates.index_select(0, observed), spikes.index_select(0, observed)
    return (log_rates.exp() - spikes * log_rates).sum() / max(len(spikes), 1)


class SequentialAutoencoder(pl.LightningModule):
    """Two GRUs: one reads the spikes of a trial, the other generates rates from what it inferred.

    spikes -> zero-fill -> bidirectional GRU -> final states -> dropout -> linear -> dropout
    -> initial condition -> GRU without input -> linear -> log-rates

    `forward` infers a trial with the encoder alone; `infer` uses the model's `prior`, which may
    know the trials of training (modules/priors.py). The refinement may add inputs (`set_inputs`):
    the encoder's states at each bin then drive the decoder.

    Args:
        n_neurons: Number of neurons; taken from the data.
        bin_width: Width of a time bin (s); taken from the data.
        n_heldin: Number of neurons, the first ones, that the encoder sees; taken from the data.
            None: all.
        input_size: Number of inferred inputs that drive the decoder. 0: it runs without input.
        hidden_size: Units in each GRU.
        input_penalty: Weight of the mean square of the inputs in the loss (nats per entry).
        dropout: Probability of dropping a unit between encoder and decoder.
        coordinated_dropout: Probability of hiding an observed entry from the encoder in training.
            The loss is then taken on the hidden entries alone, which cannot be copied (Keshtkaran &
            Pandarinath 2019). 0: on all entries.
        coordinated_dropout_start: Fraction of the training before it begins; until then a model
            copies little. None: 0.5. A run without end has it from the start.
        start_at_mean_rates: Initialise the readout's bias with the log mean counts of the first
            batch, so that each neuron starts from its mean rate instead of one spike per bin.
        orthogonal_start: Initialise with orthogonal recurrent matrices and quick update gates
            (modules/initialization.py).
        optimizer: adam (weight decay as an L2 penalty), adamw (decoupled weight decay), or muon
            (for hidden matrices; modules/optimizer.py).
        learning_rate: Learning rate at the start.
        weight_decay: Weight decay; with muon of the hidden matrices alone. None: 0.2 for 1248
            training trials, in inverse proportion to the square root of their number. With adam
            much less is enough (1e-4).
        schedule: constant, or polynomial: proportional to (fraction of the training left) ^ 1.5.
    """

    def __init__(
        self,
        n_neurons: int,
        bin_width: float,
        n_heldin: int | None = None,
        input_size: NonNegativeInt = 0,
        hidden_size: PositiveInt = 50,
        input_penalty: NonNegativeFloat = 0.01,
        dropout: ClosedUnitInterval = 0.1,
        coordinated_dropout: ClosedUnitInterval = 0.5,
        coordinated_dropout_start: ClosedUnitInterval | None = None,
        start_at_mean_rates: bool = True,
        orthogonal_start: bool = True,
        optimizer: Literal["adam", "adamw", "muon"] = "muon",
        learning_rate: PositiveFloat = 2e-2,
        weight_decay: NonNegativeFloat | None = None,
        schedule: Literal["constant", "polynomial"] = "polynomial",
    ) -> None:
        super().__init__()
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
        self.prior = EncoderAlone()
        self.bin_width = bin_width
        self.scores = make_scores(n_neurons)

    def encode(self, spikes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Infer initial conditions (B, H) and inputs (T, B, I), if any, from spikes (B, T, N)."""
        heldin = spikes[..., : self.encoder.input_size].nan_to_num(nan=0.0)
        final_states, states = self.encoder(heldin, each_bin=self.input_linear is not None)
        initial_condition = self.dropout(self.ic_linear(self.dropout(final_states)))
        if self.input_linear is None:
            return initial_condition, None
        return initial_condition, self.input_linear(self.dropout(states))

    def decode(
        self, initial_condition: Tensor, n_bins: int, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Unroll from initial conditions (B, H): log-rates (B, T, N) and latents (B, T, H)."""
        latents = self.decoder(initial_condition, n_bins, inputs)  # (T, B, H)
        return self.readout(latents).transpose(0, 1), latents.transpose(0, 1)

    def forward(self, spikes: Tensor) -> Inference:
        """Infer from spikes (B, T, N), NaN = missing, with the encoder alone."""
        initial_condition, inputs = self.encode(spikes)
        inferred = self.decode(initial_condition, spikes.shape[1], inputs)
        inputs = None if inputs is None else inputs.transpose(0, 1)
        return Inference(*inferred, initial_condition, inputs)

    def set_inputs(self, n_inputs: int) -> None:
        """Let inferred inputs drive the decoder, which are zero until they are trained; 0: none."""
        if n_inputs == self.hparams.input_size:
            return
        self.hparams.input_size, bias = n_inputs, self.readout.bias
        self.decoder.set_inputs(n_inputs)
        self.input_linear = None
        if n_inputs > 0:
            self.input_linear = nn.Linear(2 * self.decoder.hidden_size, n_inputs, bias=False).to(
                bias
            )
            nn.init.zeros_(self.input_linear.weight)

    def infer(self, spikes: Tensor) -> Inference:
        """Infer from spikes (B, T, N), NaN = missing, with the prior that training chose."""
        return self.prior.infer(self, self.hide_heldout(spikes))

    def rates_sd(self, spikes: Tensor, inference: Inference) -> Tensor | None:
        """Return the posterior SD (B, T, N; spikes/s) of inferred rates; None if it is unknown."""
        return self.prior.rates_sd(self, self.hide_heldout(spikes), inference)

    def hide_heldout(self, spikes: Tensor) -> Tensor:
        """Return spikes (B, T, N) without those of the neurons that the model never sees."""
        n_heldin = self.encoder.input_size
        return spikes.where(
            torch.arange(spikes.shape[2], device=spikes.device) < n_heldin, math.nan
        )

    def rates(self, log_rates: Tensor) -> Tensor:
        """Convert log expected counts per bin to rates in spikes/s, of the same shape."""
        return log_rates.exp() / self.bin_width

    def on_train_batch_start(self, batch: NamedTuple, batch_index: int) -> None:
        self.prior = EncoderAlone()  # any other was made with earlier weights
        if self.global_step == 0 and self.hparams.start_at_mean_rates:
            self.readout.bias.data = log_mean_counts(batch.shown).to(self.dtype)

    def losses(self, spikes: Tensor, is_hiding: bool = True) -> tuple[Tensor, Tensor | float]:
        """Return what a step lowers: the SBTT loss, and a penalty of inputs."""
        fraction = self.hparams.coordinated_dropout if is_hiding else 0.0
        shown, target = coordinated_dropout(spikes, fraction)
        inferred = self(shown)
        inputs, weight = inferred.inputs, self.hparams.input_penalty
        penalty = 0.0 if inputs is None else weight * inputs.square().mean()
        return sbtt_loss(inferred.log_rates, target), penalty

    def training_step(self, batch: NamedTuple, batch_index: int) -> Tensor:
        start, n_steps = (
            self.hparams.coordinated_dropout_start,
            self.trainer.estimated_stepping_batches,
        )
        start = 0.5 if start is None else start
        is_hiding = math.isinf(n_steps) or self.global_step >= start * n_steps
        nll, penalty = self.losses(batch.shown, is_hiding)
        self.log("train/nll", nll, on_step=False, on_epoch=True, batch_size=len(batch.spikes))
        return nll + penalty

    def reset_scores(self, mean_counts: Tensor | None = None) -> None:
        """Begin a validation. `mean_counts` (N,) per bin of training are what `bps` goes beyond."""
        for score in self.scores.values():
            score.reset()
        self.scores["bps"].mean_counts = mean_counts

    def score_batch(self, batch: NamedTuple) -> Inference:
        """Score what is inferred from all observed counts, and from those not held out.

        Returns:
            What is inferred from all observed counts.
        """
        batch = batch._replace(spikes=batch.spikes.to(self.dtype))
        spikes, shown = batch.spikes, self.hide_heldout(batch.shown)
        seen, heldout = self.hide_heldout(spikes), mask_missing(spikes, batch.heldout)
        observed, n_heldout = ~seen.isnan(), batch.heldout.sum()
        # counts are rescaled for the encoder, as in coordinated dropout; other priors need them raw
        inferred = amortised = self(torch.cat((seen, rescale(shown, seen))))
        if self.prior.knows_trials:
            inferred = self.infer(torch.cat((seen, shown)))
        by_encoder, by_encoder_shown = amortised.log_rates.chunk(2)
        log_rates, log_rates_shown = inferred.log_rates.chunk(2)

        self.scores["nll"].update(sbtt_loss(log_rates, spikes), (~spikes.isnan()).sum())
        self.scores["heldout_nll"].update(sbtt_loss(log_rates_shown, heldout), n_heldout)
        nll = sbtt_loss(by_encoder_shown, heldout)
        self.scores["heldout_nll_amortised"].update(nll, n_heldout)
        self.scores["bps"].update(log_rates_shown, heldout)
        if self.encoder.input_size < spikes.shape[2]:
            self.scores["co_bps"].update(log_rates_shown, heldout)
        if batch.rates is not None:
            inferred_rates, true = self.rates(log_rates), batch.rates.to(self.dtype)
            self.scores["r2"].update(inferred_rates, true)
            self.scores["r2_observed"].update(inferred_rates, true, observed)
            self.scores["r2_unobserved"].update(inferred_rates, true, ~observed)
            self.scores["r2_amortised"].update(self.rates(by_encoder), true)
        return Inference(*(None if part is None else part.chunk(2)[0] for part in inferred))

    def compute_scores(self) -> dict[str, float]:
        """Return the scores of a validation; those that cannot be had are left out."""
        scores = {name: score for name, score in self.scores.items() if score.update_called}
        values = {name: float(score.compute()) for name, score in scores.items()}
        for name, value in list(values.items()):
            if math.isnan(value) and not isinstance(scores[name], MeanMetric):
                del values[name]  # no neuron has this R², or there is no spike
        return values

    def on_validation_epoch_start(self) -> None:
        self.reset_scores(getattr(self.trainer.datamodule, "mean_counts", None))

    def validation_step(self, batch: NamedTuple, batch_index: int) -> None:
        self.score_batch(batch)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"valid/{name}": value for name, value in self.compute_scores().items()})
        self.log("step", float(self.current_epoch + 1))  # the x-axis of TensorBoard

    def on_train_epoch_end(self) -> None:
        rate = self.optimizers().param_groups[0]["lr"]
        self.log_dict({"train/learning_rate": rate, "step": self.current_epoch + 1.0})

    def weight_decay(self, n_trials: int) -> float:
        """Return the weight decay: stronger for few training trials, which are soon overfitted."""
        decay = self.hparams.weight_decay
        return 0.2 * (1248 / n_trials) ** 0.5 if decay is None else decay

    def configure_optimizers(self) -> dict:
        self.trainer.fit_loop.setup_data()  # loads the training trials
        decay = self.weight_decay(len(self.trainer.train_dataloader.dataset))
        kind, rate = self.hparams.optimizer, self.hparams.learning_rate
        optimizer = make_optimizer(kind, self.hidden_modules(), self.readout, rate, decay)
        if self.hparams.schedule == "constant":
            return {"optimizer": optimizer}
        n_steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, n_steps, power=1.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def hidden_modules(self) -> list[nn.Module]:
        """Return the modules whose matrices lead to hidden units."""
        modules = [self.encoder, self.ic_linear, self.decoder, self.input_linear]
        return [module for module in modules if module is not None]

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["prior"] = {"name": self.prior.name, "numbers": self.prior.numbers()}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        n_inputs = checkpoint["hyper_parameters"].get("input_size", 0)
        if n_inputs != self.hparams.input_size:  # of a run that was stopped after its refinement
            self.set_inputs(n_inputs)
            checkpoint["optimizer_states"] = []  # of the other weights; no step follows
        self.prior = read_prior(checkpoint).to(self.device, self.dtype)
