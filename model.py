"""Selective backpropagation through time (SBTT): the loss, and the sequential autoencoder that it trains.

Letters in shapes: B trials in a batch, T time bins, N neurons, H hidden units.
A missing count is NaN; nothing else marks it.
"""

from typing import Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import poisson_nll_loss

from metrics import R2, BitsPerSpike
from optimizer import MuonAdamW

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": MuonAdamW}


def sbtt_loss(log_rates: Tensor, spikes: Tensor) -> Tensor:
    """Poisson negative log-likelihood per observed entry: the selective loss of SBTT.

    The loss is the mean of `exp(log_rates) - spikes * log_rates` over the entries where `spikes` is not NaN. The others
    are left out before anything is computed, so their gradient is exactly zero (Zhu, Sedler et al. 2021).

    Args:
        log_rates: (B, T, N) log expected counts per bin.
        spikes: (B, T, N) counts per bin, NaN = missing.

    Returns:
        A scalar (nats per entry, without the constant log k!); zero, with zero gradient, where nothing is observed.
    """
    observed = ~spikes.isnan()
    total = poisson_nll_loss(log_rates[observed], spikes[observed], log_input=True, reduction="sum")
    return total / observed.sum().clamp(min=1)


def split_entries(spikes: Tensor, hide: Tensor) -> tuple[Tensor, Tensor]:
    """Split observed entries into those the encoder is shown and those it is not.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.
        hide: (B, T, N) bool, True for the entries to hide.

    Returns:
        Two (B, T, N) tensors with NaN elsewhere: the shown counts, scaled up in each trial by the number of observed
        over the number of shown entries, as dropout does; and the hidden counts.
    """
    shown = spikes.masked_fill(hide, torch.nan)
    n_observed, n_shown = ((~entries.isnan()).sum((1, 2), keepdim=True) for entries in (spikes, shown))
    return shown * (n_observed / n_shown.clamp(min=1)), spikes.masked_fill(~hide, torch.nan)


class Inference(NamedTuple):
    """What the model infers from the spikes of B trials."""

    log_rates: Tensor  # (B, T, N) log expected counts per bin
    latents: Tensor  # (B, T, H) states of the decoder
    initial_condition: Tensor  # (B, H) state of the decoder before the first bin


class SequentialAutoencoder(pl.LightningModule):
    """Two GRUs: one reads the observed spikes of a trial, the other generates the firing rates from an initial condition.

    spikes -> zero-fill -> bidirectional GRU -> final states -> dropout -> linear -> dropout -> initial condition
    -> GRU without input -> linear -> log-rates

    Args:
        n_neurons: Number of neurons; taken from the data.
        bin_width: Width of a time bin (s); taken from the data.
        hidden_size: Units in each GRU.
        dropout: Probability of dropping a unit between encoder and decoder.
        coordinated_dropout: Probability of hiding an observed entry from the encoder in training; the model then learns
            from the hidden entries alone, which it cannot copy (Keshtkaran & Pandarinath 2019). 0 learns from all.
        start_at_mean_rates: Set the readout's bias to the log mean counts of the first batch, so that learning starts from
            each neuron's mean rate instead of one spike per bin.
        optimizer: adam (weight decay as an L2 penalty), adamw (decoupled weight decay), or muon (for the matrices, with
            adamw for the biases).
        learning_rate: Learning rate, the peak of it under the one_cycle schedule.
        weight_decay: Weight decay.
        schedule: constant, or one_cycle (Smith & Topin 2019) over all the steps of the training.
    """

    def __init__(
        self,
        n_neurons: int,
        bin_width: float,
        hidden_size: int = 50,
        dropout: float = 0.1,
        coordinated_dropout: float = 0.5,
        start_at_mean_rates: bool = True,
        optimizer: Literal["adam", "adamw", "muon"] = "muon",
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-4,
        schedule: Literal["constant", "one_cycle"] = "one_cycle",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.GRU(n_neurons, hidden_size, batch_first=True, bidirectional=True)
        self.ic_linear = nn.Linear(2 * hidden_size, hidden_size)
        self.decoder = nn.GRU(1, hidden_size, batch_first=True)  # its one input is always zero
        self.readout = nn.Linear(hidden_size, n_neurons)
        self.dropout = nn.Dropout(dropout)
        self.r2 = nn.ModuleDict({part: R2(n_neurons) for part in ("r2", "r2_observed", "r2_unobserved")})
        self.bps = BitsPerSpike(n_neurons)

    def encode(self, spikes: Tensor) -> Tensor:
        """Guess the initial condition (B, H) from spikes (B, T, N); what is missing (NaN) is read as zero."""
        _, final_states = self.encoder(spikes.nan_to_num(nan=0.0))
        both_directions = torch.cat((final_states[0], final_states[1]), dim=-1)
        return self.dropout(self.ic_linear(self.dropout(both_directions)))

    def decode(self, initial_condition: Tensor, n_bins: int) -> tuple[Tensor, Tensor]:
        """Unroll the decoder for `n_bins` from the initial condition (B, H): log-rates (B, T, N) and latents (B, T, H)."""
        no_input = initial_condition.new_zeros(len(initial_condition), n_bins, 1)
        latents, _ = self.decoder(no_input, initial_condition.unsqueeze(0))
        return self.readout(latents), latents

    def forward(self, spikes: Tensor) -> Inference:
        """Infer rates, latents and initial condition from spikes (B, T, N), NaN = missing."""
        initial_condition = self.encode(spikes)
        return Inference(*self.decode(initial_condition, spikes.shape[1]), initial_condition)

    def rates(self, log_rates: Tensor) -> Tensor:
        """Convert log expected counts per bin to firing rates in spikes/s; the shape stays."""
        return log_rates.exp() / self.hparams.bin_width

    def score_hidden(self, spikes: Tensor, hide: Tensor) -> tuple[Tensor, Tensor]:
        """Infer from the entries (B, T, N) not in `hide`; return the loss on those in it, and the log-rates."""
        shown, hidden = split_entries(spikes, hide)
        log_rates = self(shown).log_rates
        return sbtt_loss(log_rates, hidden), log_rates

    def on_train_batch_start(self, batch: NamedTuple, batch_index: int) -> None:
        if self.global_step == 0 and self.hparams.start_at_mean_rates:
            mean_counts = batch.spikes.nanmean((0, 1))
            mean_counts = mean_counts.where(~mean_counts.isnan(), batch.spikes.nanmean().nan_to_num(nan=1.0))
            mean_counts = self.trainer.strategy.reduce(mean_counts)  # the same on every device
            self.readout.bias.data = mean_counts.clamp(min=1e-3).log()

    def training_step(self, batch: NamedTuple, batch_index: int) -> Tensor:
        """One step of SBTT: zero-filled spikes in, loss on observed entries out, with coordinated dropout if wanted."""
        if self.hparams.coordinated_dropout > 0:
            hide = torch.rand_like(batch.spikes) < self.hparams.coordinated_dropout
            loss, _ = self.score_hidden(batch.spikes, hide)
        else:
            loss = sbtt_loss(self(batch.spikes).log_rates, batch.spikes)
        self.log("train/nll", loss, on_step=False, on_epoch=True, batch_size=len(batch.spikes))
        return loss

    def validation_step(self, batch: NamedTuple, batch_index: int) -> None:
        """Score the rates inferred from all observed entries, and those inferred without the held-out ones."""
        observed = ~batch.spikes.isnan()
        log_rates = self(batch.spikes).log_rates
        self.log("valid/nll", sbtt_loss(log_rates, batch.spikes), batch_size=int(observed.sum()))
        if batch.rates is not None:
            for name, entries in (("r2", None), ("r2_observed", observed), ("r2_unobserved", ~observed)):
                self.r2[name].update(self.rates(log_rates), batch.rates, entries)
        heldout_nll, log_rates = self.score_hidden(batch.spikes, batch.heldout)
        self.log("valid/heldout_nll", heldout_nll, batch_size=int(batch.heldout.sum()))
        self.bps.update(log_rates, batch.spikes, batch.heldout)

    def on_validation_epoch_end(self) -> None:
        for name, metric in (*self.r2.items(), ("bps", self.bps)):
            if metric.update_called and not (score := metric.compute()).isnan():
                self.log(f"valid/{name}", score, prog_bar=name == "r2")
            metric.reset()
        self.log("step", float(self.current_epoch + 1))  # the x-axis of TensorBoard

    def on_train_epoch_end(self) -> None:
        self.log("train/learning_rate", self.optimizers().param_groups[0]["lr"])
        self.log("step", float(self.current_epoch + 1))

    def configure_optimizers(self) -> dict:
        optimizer_class = OPTIMIZERS[self.hparams.optimizer]
        rate = self.hparams.learning_rate
        optimizer = optimizer_class(self.parameters(), lr=rate, weight_decay=self.hparams.weight_decay)
        if self.hparams.schedule == "constant":
            return {"optimizer": optimizer}
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=self.trainer.estimated_stepping_batches, cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
