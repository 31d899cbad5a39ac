"""Selective backpropagation through time (SBTT): the loss, and the sequential autoencoder that it trains.

Letters in shapes: B trials in a batch, T time bins, N neurons, H hidden units.
A missing count is NaN; nothing else marks it.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from command_line import InputError
from gru import GRUDecoder, GRUEncoder
from metrics import R2, BitsPerSpike
from optimizer import MuonAdamW
from posterior import leave_one_out_loss, posterior_weights
from start import log_mean_counts, start_orthogonal

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": MuonAdamW}
LIBRARY_SIZE = 2000  # training trials in the library at most


def sbtt_loss(log_rates: Tensor, spikes: Tensor) -> Tensor:
    """Poisson negative log-likelihood per observed entry: the selective loss of SBTT.

    The loss is the mean of `exp(log_rates) - spikes * log_rates` over the entries where `spikes` is not NaN. What the
    model says of the other entries is left out before anything is computed, so that their gradient is exactly zero (Zhu,
    Sedler et al. 2021).

    Args:
        log_rates: (B, T, N) log expected counts per bin.
        spikes: (B, T, N) counts per bin, NaN = missing.

    Returns:
        A scalar (nats per entry, without the constant log k!); zero, with zero gradient, where nothing is observed.
    """
    log_rates, spikes = log_rates.flatten(), spikes.flatten()
    observed = indices(~spikes.isnan())
    log_rates, spikes = log_rates.index_select(0, observed), spikes.index_select(0, observed)
    return F.poisson_nll_loss(log_rates, spikes, reduction="sum") / max(len(observed), 1)


def indices(entries: Tensor) -> Tensor:
    """Return where `entries` (n,) is True; on the processor by numpy, which is ten times as fast as torch."""
    return entries.nonzero().squeeze(1) if entries.device.type != "cpu" else torch.from_numpy(np.flatnonzero(entries))


def keep(spikes: Tensor, entries: Tensor) -> Tensor:
    """Return spikes (B, T, N) with NaN (missing) wherever `entries` (B, T, N; bool, or 1 and 0) is False."""
    return spikes * entries / entries  # 0 / 0 is NaN; several times as fast as masked_fill


def rescale(shown: Tensor, spikes: Tensor) -> Tensor:
    """Scale up counts of which a part was hidden, as dropout does.

    Args:
        shown: (B, T, N) the counts that were left, NaN elsewhere.
        spikes: (B, T, N) the counts before.

    Returns:
        `shown`, times the number of observed entries that each trial had over the number it has left.
    """
    # 0 * count + 1 is one where there is a count, else NaN; several times as fast as isnan()
    ones = ((0.0 * entries + 1.0).nan_to_num(nan=0.0) for entries in (spikes, shown))
    n_before, n_left = (entries.sum((1, 2), keepdim=True) for entries in ones)
    return shown * (n_before / n_left.clamp(min=1))


class Inference(NamedTuple):
    """What the model infers from the spikes of B trials."""

    log_rates: Tensor  # (B, T, N) log expected counts per bin
    latents: Tensor  # (B, T, H) states of the decoder
    initial_condition: Tensor  # (B, H) state of the decoder before the first bin


class SequentialAutoencoder(pl.LightningModule):
    """Two GRUs: one reads the observed spikes of a trial, the other generates the firing rates from an initial condition.

    spikes -> zero-fill -> bidirectional GRU -> final states -> dropout -> linear -> dropout -> initial condition
    -> GRU without input -> linear -> log-rates

    `forward` infers a trial from its own encoding alone. `infer`, which validation and the scripts use, compares the trial
    with the trajectories of the training trials (posterior.py), whose initial conditions are kept in `library`.

    Args:
        n_neurons: Number of neurons; taken from the data.
        bin_width: Width of a time bin (s); taken from the data.
        hidden_size: Units in each GRU.
        dropout: Probability of dropping a unit between encoder and decoder.
        coordinated_dropout: Probability of hiding an observed entry from the encoder in training; the model then learns
            from the hidden entries alone, which it cannot copy (Keshtkaran & Pandarinath 2019). 0 learns from all.
        sharing: Fraction of the training, at its end, in which each trial is learned from the trajectories of the other
            trials in its batch. 0: never, and `infer` is `forward`, which suits recordings where no trial is repeated.
        start_at_mean_rates: Set the readout's bias to the log mean counts of the first batch, so that learning starts from
            each neuron's mean rate instead of one spike per bin.
        orthogonal_start: Start from orthogonal recurrent matrices and quick update gates (start.py).
        optimizer: adam (weight decay as an L2 penalty), adamw (decoupled weight decay), or muon (for the matrices, with
            adamw for the biases).
        learning_rate: Learning rate at the start.
        weight_decay: Weight decay; with muon of the matrices alone, with adam much less will do (1e-4).
        schedule: constant, or polynomial: falls to zero as (fraction of the training that is left) ^ 1.5.

    Raises:
        InputError: a value out of range.
    """

    def __init__(
        self,
        n_neurons: int,
        bin_width: float,
        hidden_size: int = 50,
        dropout: float = 0.1,
        coordinated_dropout: float = 0.5,
        sharing: float = 0.2,
        start_at_mean_rates: bool = True,
        orthogonal_start: bool = True,
        optimizer: Literal["adam", "adamw", "muon"] = "muon",
        learning_rate: float = 2e-2,
        weight_decay: float = 0.2,
        schedule: Literal["constant", "polynomial"] = "polynomial",
    ) -> None:
        super().__init__()
        for name, value in {"dropout": dropout, "coordinated_dropout": coordinated_dropout, "sharing": sharing}.items():
            if not 0 <= value <= 1:
                raise InputError(f"--model.{name} {value}: expected a fraction from 0 to 1")
        for name, value in {"hidden_size": hidden_size, "learning_rate": learning_rate}.items():
            if not 0 < value < math.inf:
                raise InputError(f"--model.{name} {value}: expected a number above 0")
        if not 0 <= weight_decay < math.inf:
            raise InputError(f"--model.weight_decay {weight_decay}: expected a number of at least 0")
        self.save_hyperparameters()
        self.encoder = GRUEncoder(n_neurons, hidden_size)
        self.ic_linear = nn.Linear(2 * hidden_size, hidden_size)
        self.decoder = GRUDecoder(hidden_size)
        self.readout = nn.Linear(hidden_size, n_neurons)
        self.dropout = nn.Dropout(dropout)
        if orthogonal_start:
            start_orthogonal(self.encoder, gain=1.0)
            start_orthogonal(self.decoder, gain=1.5)
        # (J, H) initial conditions of training trials; saved by the hooks below, so that state dicts hold weights alone
        self.register_buffer("library", torch.empty(0, hidden_size), persistent=False)
        self.r2 = nn.ModuleDict(
            {name: R2(n_neurons) for name in ("r2", "r2_observed", "r2_unobserved", "r2_amortised")}
        )
        self.bps = BitsPerSpike(n_neurons)

    def encode(self, spikes: Tensor) -> Tensor:
        """Guess the initial condition (B, H) from spikes (B, T, N); what is missing (NaN) is read as zero."""
        final_states = self.encoder(spikes.nan_to_num(nan=0.0))
        return self.dropout(self.ic_linear(self.dropout(final_states)))

    def decode(self, initial_condition: Tensor, n_bins: int) -> tuple[Tensor, Tensor]:
        """Unroll the decoder for `n_bins` from the initial condition (B, H): log-rates (B, T, N) and latents (B, T, H)."""
        latents = self.decoder(initial_condition, n_bins)  # (T, B, H)
        return self.readout(latents).transpose(0, 1), latents.transpose(0, 1)

    def forward(self, spikes: Tensor) -> Inference:
        """Infer rates, latents and initial condition from spikes (B, T, N), NaN = missing."""
        initial_condition = self.encode(spikes)
        return Inference(*self.decode(initial_condition, spikes.shape[1]), initial_condition)

    def infer(self, spikes: Tensor) -> Inference:
        """Infer as `forward` does, but as the posterior mean over the trajectories in the library, if there are any."""
        if len(self.library) == 0:
            return self(spikes)
        log_rates, latents = self.decode(self.library, spikes.shape[1])
        weights = posterior_weights(spikes, log_rates)
        return Inference(
            torch.tensordot(weights, log_rates.exp(), 1).log(),  # twice as fast as einsum
            torch.tensordot(weights, latents, 1),
            weights @ self.library,
        )

    def rates(self, log_rates: Tensor) -> Tensor:
        """Convert log expected counts per bin to firing rates in spikes/s; the shape stays."""
        return log_rates.exp() / self.hparams.bin_width

    def is_sharing(self) -> bool:
        """Tell whether the training has come to its last part, where trials share their trajectories."""
        n_epochs = self.trainer.max_epochs or -1  # -1: without end, so there is no last part
        return n_epochs > 0 and self.current_epoch >= (1 - self.hparams.sharing) * n_epochs

    def on_train_batch_start(self, batch: NamedTuple, batch_index: int) -> None:
        if self.global_step == 0 and self.hparams.start_at_mean_rates:
            self.readout.bias.data = self.trainer.strategy.reduce(log_mean_counts(batch.spikes))  # one on all devices

    def training_step(self, batch: NamedTuple, batch_index: int) -> Tensor:
        """One step of SBTT: zero-filled spikes in, loss on observed entries out."""
        spikes = shown = target = batch.spikes
        if self.is_sharing():
            name, loss = "train/shared_nll", leave_one_out_loss(self(spikes).log_rates, spikes)
        else:
            if self.hparams.coordinated_dropout > 0:
                hide = torch.rand_like(spikes).lt_(self.hparams.coordinated_dropout)
                shown, target = rescale(keep(spikes, 1 - hide), spikes), keep(spikes, hide)
            name, loss = "train/nll", sbtt_loss(self(shown).log_rates, target)
        self.log(name, loss, on_step=False, on_epoch=True, batch_size=len(spikes))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Fill the library with training trials, evenly chosen, as the present weights encode them."""
        if self.hparams.sharing > 0 and self.trainer.state.fn == "fit":
            trials = self.trainer.train_dataloader.dataset
            chosen = torch.linspace(0, len(trials) - 1, min(len(trials), LIBRARY_SIZE)).long()
            parts = chosen.split(self.trainer.train_dataloader.batch_size)  # as in training: faster, in less memory
            self.library = torch.cat([self.encode(trials[part].spikes.to(self.device)) for part in parts])

    def validation_step(self, batch: NamedTuple, batch_index: int) -> None:
        """Score what is inferred from all observed entries, and what is inferred without the held-out ones."""
        spikes, observed = batch.spikes, ~batch.spikes.isnan()
        shown, heldout = keep(spikes, ~batch.heldout), keep(spikes, batch.heldout)
        amortised, amortised_heldout = self(torch.cat((spikes, rescale(shown, spikes)))).log_rates.chunk(2)
        inferred, inferred_heldout = amortised, amortised_heldout
        if len(self.library):
            inferred, inferred_heldout = self.infer(torch.cat((spikes, shown))).log_rates.chunk(2)

        self.log("valid/nll", sbtt_loss(inferred, spikes), batch_size=int(observed.sum()))
        for name, log_rates in (("heldout_nll", inferred_heldout), ("heldout_nll_amortised", amortised_heldout)):
            self.log(f"valid/{name}", sbtt_loss(log_rates, heldout), batch_size=int(batch.heldout.sum()))
        self.bps.update(inferred_heldout, heldout)
        if batch.rates is not None:
            for name, entries in (("r2", None), ("r2_observed", observed), ("r2_unobserved", ~observed)):
                self.r2[name].update(self.rates(inferred), batch.rates, entries)
            self.r2["r2_amortised"].update(self.rates(amortised), batch.rates)

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
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, self.trainer.estimated_stepping_batches, power=1.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["library"] = self.library

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.library = checkpoint.get("library", self.library).to(self.device)
