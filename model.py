"""Selective backpropagation through time (SBTT): the loss, and the sequential autoencoder that it trains.

Letters in shapes: B trials in a batch, T time bins, N neurons, H hidden units.
A missing count is NaN. Nothing else marks it.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from command_line import InputError
from modules.coordinated_dropout import coordinated_dropout, mask_missing, rescale
from modules.gru import GRUDecoder, GRUEncoder
from modules.initialization import init_orthogonal, log_mean_counts
from modules.metrics import R2, BitsPerSpike
from modules.optimizer import MuonAdam
from modules.posterior import leave_one_out_loss, posterior_means

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": MuonAdam}
MAX_REFERENCE_TRIALS = 2000  # training trials that a trial is compared with


def sbtt_loss(log_rates: Tensor, spikes: Tensor) -> Tensor:
    """Return the Poisson negative log-likelihood per observed entry: the selective loss of SBTT.

    The mean of `exp(log_rates) - spikes * log_rates` over the entries where `spikes` is not NaN. The other entries are left
    out before anything is computed, so their gradient is exactly zero (Zhu, Sedler et al. 2021).

    Args:
        log_rates: (B, T, N) log expected counts per bin.
        spikes: (B, T, N) counts per bin, NaN = missing.

    Returns:
        A scalar (nats per entry, without the constant log k!). Zero, with zero gradient, if nothing is observed.
    """
    log_rates, spikes = log_rates.flatten(), spikes.flatten()
    observed = true_indices(~spikes.isnan())
    log_rates, spikes = log_rates.index_select(0, observed), spikes.index_select(0, observed)
    return F.poisson_nll_loss(log_rates, spikes, reduction="sum") / max(len(observed), 1)


def true_indices(entries: Tensor) -> Tensor:
    """Return the indices where `entries` (n,) is True. On a CPU, numpy is faster than torch."""
    return entries.nonzero().squeeze(1) if entries.device.type != "cpu" else torch.from_numpy(np.flatnonzero(entries))


def at_least_single(values: Tensor) -> Tensor:
    """Convert half precision, which autocast gives, to single precision. Return other precisions unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Inference(NamedTuple):
    """What the model infers from the spikes of B trials."""

    log_rates: Tensor  # (B, T, N) log expected counts per bin
    latents: Tensor  # (B, T, H) states of the decoder
    initial_condition: Tensor  # (B, H) state of the decoder before the first bin


class SequentialAutoencoder(pl.LightningModule):
    """Two GRUs: one reads the observed spikes of a trial, the other generates firing rates from an initial condition.

    spikes -> zero-fill -> bidirectional GRU -> final states -> dropout -> linear -> dropout -> initial condition
    -> GRU without input -> linear -> log-rates

    `forward` infers a trial with the encoder alone. `infer` compares the trial with the trajectories of training trials
    (modules/posterior.py), whose initial conditions are in `reference`.

    Args:
        n_neurons: Number of neurons; taken from the data.
        bin_width: Width of a time bin (s); taken from the data.
        hidden_size: Units in each GRU.
        dropout: Probability of dropping a unit between encoder and decoder.
        coordinated_dropout: Probability of hiding an observed entry from the encoder in training. The loss is then taken on
            the hidden entries alone, which cannot be copied (Keshtkaran & Pandarinath 2019). 0: on all entries.
        sharing: Fraction of the training, at its end, in which each trial is explained by the trajectories of the other
            trials in its batch. 0: never, and `infer` equals `forward`; for recordings whose conditions do not repeat.
        start_at_mean_rates: Initialise the readout's bias with the log mean counts of the first batch, so that the training
            starts from each neuron's mean rate instead of one spike per bin.
        orthogonal_start: Initialise with orthogonal recurrent matrices and quick update gates (modules/initialization.py).
        optimizer: adam (weight decay as an L2 penalty), adamw (decoupled weight decay), or muon (for the matrices, with
            Adam for the biases).
        learning_rate: Learning rate at the start.
        weight_decay: Weight decay; with muon of the matrices alone. With adam much less is enough (1e-4).
        schedule: constant, or polynomial: proportional to (fraction of the training that is left) ^ 1.5.

    Raises:
        InputError: a value out of range.
    """

    _ddp_params_and_buffers_to_ignore = ("reference",)  # each process computes the same

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
            init_orthogonal(self.encoder, gain=1.0)
            init_orthogonal(self.decoder, gain=1.5)
        # (trials, H) initial conditions of training trials; not in the state dict, but saved by `on_save_checkpoint`
        self.register_buffer("reference", torch.empty(0, hidden_size), persistent=False)
        self.scores = nn.ModuleDict(
            # a NaN loss counts as infinite
            {name: MeanMetric(nan_strategy=math.inf) for name in ("nll", "heldout_nll", "heldout_nll_amortised")}
            | {name: R2(n_neurons) for name in ("r2", "r2_observed", "r2_unobserved", "r2_amortised")}
            | {"bps": BitsPerSpike(n_neurons)}
        )

    def encode(self, spikes: Tensor) -> Tensor:
        """Infer the initial condition (B, H) from spikes (B, T, N). Missing counts (NaN) are read as zeros."""
        final_states = self.encoder(spikes.nan_to_num(nan=0.0))
        return at_least_single(self.dropout(self.ic_linear(self.dropout(final_states))))

    def decode(self, initial_condition: Tensor, n_bins: int) -> tuple[Tensor, Tensor]:
        """Unroll the decoder for `n_bins` from initial conditions (B, H): log-rates (B, T, N) and latents (B, T, H)."""
        latents = at_least_single(self.decoder(initial_condition, n_bins))  # (T, B, H)
        return at_least_single(self.readout(latents)).transpose(0, 1), latents.transpose(0, 1)

    def forward(self, spikes: Tensor) -> Inference:
        """Infer from spikes (B, T, N), NaN = missing, with the encoder alone."""
        initial_condition = self.encode(spikes)
        return Inference(*self.decode(initial_condition, spikes.shape[1]), initial_condition)

    def infer(self, spikes: Tensor) -> Inference:
        """Infer from spikes (B, T, N) as the posterior mean over the reference trajectories; without any, as `forward`."""
        if len(self.reference) == 0:
            return self(spikes)
        log_rates, latents = self.decode(self.reference, spikes.shape[1])
        return Inference(*posterior_means(spikes, log_rates, latents, self.reference))

    def rates(self, log_rates: Tensor) -> Tensor:
        """Convert log expected counts per bin to firing rates in spikes/s, of the same shape."""
        return log_rates.exp() / self.hparams.bin_width

    def compares_trials(self) -> bool:
        """Return whether the training is in its last part, where other trials' trajectories explain each trial."""
        n_epochs = self.trainer.max_epochs or -1  # -1: without end, so without a last part
        return n_epochs > 0 and self.current_epoch >= (1 - self.hparams.sharing) * n_epochs

    def on_train_batch_start(self, batch: NamedTuple, batch_index: int) -> None:
        self.reference = self.reference.new_empty(0, self.hparams.hidden_size)  # it was made with earlier weights
        if self.global_step == 0 and self.hparams.start_at_mean_rates:
            self.readout.bias.data = log_mean_counts(self.gather(batch.spikes)).to(self.dtype)

    def gather(self, values: Tensor) -> Tensor:
        """Return the `values` (B, ...) of all processes, concatenated (processes * B, ...), with gradient."""
        return self.all_gather(values, sync_grads=True).flatten(0, -values.ndim)

    def training_step(self, batch: NamedTuple, batch_index: int) -> Tensor:
        """Return the loss of a step: `sbtt_loss`, or `leave_one_out_loss` in the last part of the training."""
        if self.compares_trials():
            target, name = batch.spikes, "train/shared_nll"
            first_own = self.global_rank * len(target)
            loss = leave_one_out_loss(self.gather(self(target).log_rates), target, first_own)
        else:
            spikes, target = coordinated_dropout(batch.spikes, self.hparams.coordinated_dropout)
            name, loss = "train/nll", sbtt_loss(self(spikes).log_rates, target)
        self.log(name, loss, on_step=False, on_epoch=True, batch_size=len(target), sync_dist=True)
        if self.trainer.world_size > 1:  # gradients are averaged over processes: weight them by observed entries
            n_observed = (~target.isnan()).sum().to(loss.dtype)
            loss = loss * n_observed / self.all_gather(n_observed).mean().clamp(min=1e-6)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Reset the scores. In a training, encode the reference trials (evenly spaced training trials) again."""
        for score in self.scores.values():
            score.reset()
        if self.hparams.sharing > 0 and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            trials = self.trainer.train_dataloader.dataset
            chosen = torch.linspace(0, len(trials) - 1, min(len(trials), MAX_REFERENCE_TRIALS)).long()
            parts = chosen.split(self.trainer.train_dataloader.batch_size)  # as in training: faster, in less memory
            spikes = (trials[part].spikes.to(self.device, self.dtype) for part in parts)
            self.reference = torch.cat([self.encode(part) for part in spikes])

    def validation_step(self, batch: NamedTuple, batch_index: int) -> None:
        """Score what is inferred from all observed entries, and what is inferred without the held-out ones."""
        spikes, observed = batch.spikes, ~batch.spikes.isnan()
        shown, heldout = mask_missing(spikes, ~batch.heldout), mask_missing(spikes, batch.heldout)
        # counts are rescaled for the encoder, as in coordinated dropout; the posterior needs counts as they are
        amortised, amortised_heldout = self(torch.cat((spikes, rescale(shown, spikes)))).log_rates.chunk(2)
        inferred, inferred_heldout = amortised, amortised_heldout
        if len(self.reference):
            inferred, inferred_heldout = self.infer(torch.cat((spikes, shown))).log_rates.chunk(2)

        self.scores["nll"].update(sbtt_loss(inferred, spikes), observed.sum())
        self.scores["heldout_nll"].update(sbtt_loss(inferred_heldout, heldout), batch.heldout.sum())
        self.scores["heldout_nll_amortised"].update(sbtt_loss(amortised_heldout, heldout), batch.heldout.sum())
        self.scores["bps"].update(inferred_heldout, heldout)
        if batch.rates is not None:
            for name, entries in (("r2", None), ("r2_observed", observed), ("r2_unobserved", ~observed)):
                self.scores[name].update(self.rates(inferred), batch.rates, entries)
            self.scores["r2_amortised"].update(self.rates(amortised), batch.rates)

    def on_validation_epoch_end(self) -> None:
        for name, score in self.scores.items():
            if score.update_called:
                value = score.compute()
                if isinstance(score, MeanMetric) or not value.isnan():  # NaN: no neuron has this R², or no spike
                    self.log(f"valid/{name}", value)
        self.log("step", float(self.current_epoch + 1))  # the x-axis of TensorBoard

    def on_train_epoch_end(self) -> None:
        self.log("train/learning_rate", self.optimizers().param_groups[0]["lr"])
        self.log("step", float(self.current_epoch + 1))

    def configure_optimizers(self) -> dict:
        options = {"lr": self.hparams.learning_rate, "weight_decay": self.hparams.weight_decay}
        optimizer = OPTIMIZERS[self.hparams.optimizer](self.parameters(), **options)
        if self.hparams.schedule == "constant":
            return {"optimizer": optimizer}
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, self.trainer.estimated_stepping_batches, power=1.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["library"] = self.reference  # the key of the first checkpoints

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.reference = checkpoint.get("library", self.reference).to(self.device, self.dtype)
