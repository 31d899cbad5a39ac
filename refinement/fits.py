"""The fits of the refinement: initial conditions, together with what generates rates from them.

Letters in shapes: J training trials in the table, B of them in a batch, H hidden units.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import PolynomialLR
from torch.utils.data import Dataset

from model import SequentialAutoencoder, sbtt_loss
from modules.initialization import log_mean_counts
from modules.optimizer import MuonAdam
from modules.posterior import leave_one_out_loss
from modules.priors import PRIORS, EncoderAlone, Prior, whiten
from modules.readout import merge_readout, split_readout
from refinement.choices import (
    DRIVEN_RATE,
    DRIVEN_STEPS,
    LEARNING_RATE,
    MAX_BATCH_SIZE,
    MAX_STATE,
    PRIOR_WEIGHT,
    TABLE_BETAS,
    TABLE_RATE,
)


class Candidate(NamedTuple):
    """A way to infer."""

    name: str
    weights: dict[str, Tensor]  # of the model
    n_factors: int  # rank of the readout
    prior: Prior
    n_epochs: int = 0  # of its fit, if it has one
    n_inputs: int = 0  # that drive the decoder

    def install(self, model: SequentialAutoencoder, trials: Tensor | slice = slice(None)) -> None:
        """Make the model infer in this way, with some of the reference trials."""
        model.set_inputs(self.n_inputs)
        model.load_state_dict(self.weights)
        model.prior = self.prior.select(trials)

    def explain_by(self, prior: str) -> "Candidate":
        """Return the same fit with another prior over its initial conditions."""
        return self._replace(name=prior, prior=PRIORS[prior](self.prior.reference))


def copy_weights(model: SequentialAutoencoder, **parts: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's weights, with those of some parts in place of its own."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for part, module in parts.items():
        weights |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    return weights


class Fits:
    """What all fits of a model have in common.

    Args:
        model: The model. A fit changes its weights.
        trials: Training trials.
        rows: (J,) which of them are in the table.
        encoded: (J, H) the encoder's guesses of their initial conditions, where fits start.
        seed: Seed of the order of the trials.
        report: Called after each epoch of a fit.
    """

    def __init__(
        self,
        model: SequentialAutoencoder,
        trials: Dataset,
        rows: Tensor,
        encoded: Tensor,
        seed: int,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.trials, self.rows, self.encoded = model, trials, rows, encoded
        self.seed, self.report = seed, report
        self.decay = model.weight_decay(len(trials))

    def fit(self, start: Candidate, prior: str, n_epochs: int) -> Candidate:
        """Fit decoder, readout and the initial conditions of training trials together.

        Args:
            start: Whose weights the fit starts from.
            prior: own: each trial is explained by its own trajectory, with a Gaussian prior over
                the initial conditions. shared, similar: by those of other trials of its batch.
            n_epochs: Number of epochs.

        Returns:
            The fit; if it diverged, the encoder alone.
        """
        model = self.model
        start.install(model)
        is_frozen = not model.readout.weight.requires_grad
        readout = model.readout if is_frozen else split_readout(model.readout, start.n_factors)
        table = nn.Embedding.from_pretrained(self.encoded.clone(), freeze=False, sparse=True)
        # of the table only the rows of a batch change, each with a momentum of its own
        optimizers = [
            MuonAdam([model.decoder, readout], None, LEARNING_RATE, self.decay),
            torch.optim.SparseAdam(table.parameters(), TABLE_RATE, betas=TABLE_BETAS),
        ]
        n_batches = max(3, round(len(self.rows) / MAX_BATCH_SIZE))
        schedules = [PolynomialLR(optimizer, n_epochs * n_batches) for optimizer in optimizers]
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(n_epochs):
            whitened = whiten(table.weight.detach())
            order = torch.randperm(len(self.rows), generator=generator)
            for batch in order.tensor_split(n_batches):
                spikes = self.trials[self.rows[batch]].shown.to(table.weight)
                points = table(batch.to(table.weight.device))
                log_rates = readout(model.decoder(points, spikes.shape[1])).transpose(0, 1)
                if prior == "own":
                    loss = sbtt_loss(log_rates, spikes) + prior_loss(points, *whitened, spikes)
                else:
                    loss = leave_one_out_loss(log_rates, spikes)
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss.backward()
                for optimizer, schedule in zip(optimizers, schedules, strict=True):
                    optimizer.step()
                    schedule.step()
            self.report()
            if not table.weight.abs().max() < MAX_STATE:
                return start._replace(name="encoder", prior=EncoderAlone())
        merged = readout if is_frozen else merge_readout(readout)
        weights, fitted = copy_weights(model, readout=merged), PRIORS[prior](table.weight.detach())
        return Candidate(prior, weights, start.n_factors, fitted, n_epochs)

    def fit_driven(self, start: Candidate, n_inputs: int, n_epochs: int) -> Candidate:
        """Train the whole model further, with inferred inputs that drive the decoder.

        A model learns dynamics better without inputs, and inputs better once it has dynamics.

        Args:
            start: Whose weights the fit starts from, with or without inputs.
            n_inputs: Number of inputs.
            n_epochs: Number of epochs, of DRIVEN_STEPS steps each.
        """
        model = self.model
        start.install(model)
        batch_size = min(MAX_BATCH_SIZE // 2, max(1, len(self.rows) // 3))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model.set_inputs(n_inputs)
            optimizer = MuonAdam(model.hidden_modules(), model.readout, DRIVEN_RATE, self.decay)
            schedule = PolynomialLR(optimizer, n_epochs * DRIVEN_STEPS, power=1.5)
            model.train()
            for step in range(n_epochs * DRIVEN_STEPS):
                batch = self.rows[torch.randperm(len(self.rows))[:batch_size]]
                nll, penalty = model.losses(self.trials[batch].shown.to(self.encoded))
                optimizer.zero_grad()
                (nll + penalty).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                if step % DRIVEN_STEPS == 0:
                    self.report()
        model.eval()
        n_epochs += start.n_epochs
        return start._replace(
            name="driven", weights=copy_weights(model), n_epochs=n_epochs, n_inputs=n_inputs
        )


def hold_mean_rates(model: SequentialAutoencoder, spikes: Tensor) -> Candidate:
    """Return the mean rates of spikes (J, T, N) at all times: what is left if nothing is known."""
    readout = copy.deepcopy(model.readout)
    readout.weight.data.zero_()
    readout.bias.data.copy_(log_mean_counts(spikes))
    return Candidate("mean", copy_weights(model, readout=readout), 0, EncoderAlone())


def prior_loss(points: Tensor, mean: Tensor, whitening: Tensor, spikes: Tensor) -> Tensor:
    """Return the weighted negative log density of points (B, H) under a Gaussian prior.

    Args:
        points: (B, H) initial conditions.
        mean: (H,) of the prior.
        whitening: (H, H) matrix that makes its covariance the identity.
        spikes: (B, T, N) counts per bin, NaN = missing. The loss is per observed entry.
    """
    n_observed = (~spikes.isnan()).sum().clamp(min=1)
    distance = ((points - mean) @ whitening).square().sum()
    return PRIOR_WEIGHT * 0.5 * distance / n_observed
