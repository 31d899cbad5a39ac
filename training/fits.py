"""The fits of the refinement: of training trials' initial conditions together with what generates
rates from them.

Letters in shapes: J training trials, H hidden units.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import PolynomialLR
from torch.utils.data import Dataset

from model import SequentialAutoencoder, sbtt_loss
from modules.optimizer import MuonAdam
from modules.posterior import PRIOR_WIDTHS, leave_one_out_loss
from modules.prior import whiten
from modules.readout import merge_readout, split_readout

MAX_BATCH_SIZE = 208  # at most a third of the trials
LEARNING_RATE, TABLE_RATE, DRIVEN_RATE = 1.2e-2, 5e-2, 2e-2
MAX_STATE = 1e6  # of an initial condition; the decoder's states are between -1 and 1
PRIOR_WEIGHT = 2.0  # of the Gaussian prior over a table of own initial conditions


class Candidate(NamedTuple):
    """A way to infer."""

    prior: str  # what explains a trial: the encoder alone, with inputs if any, or how far trials have trajectories in common
    weights: dict[str, Tensor]  # of the model
    n_factors: int  # rank of the readout
    reference: (
        Tensor  # (J, H) initial conditions of training trials; empty: the encoder alone infers
    )
    n_epochs: int = 0  # of its fit, if it has one

    def install(self, model: SequentialAutoencoder, trials: Tensor | slice = slice(None)) -> None:
        """Make the model infer in this way, with some of the reference trials."""
        model.load_state_dict(self.weights)
        model.reference = self.reference[trials if len(self.reference) else slice(None)]
        model.prior_width = PRIOR_WIDTHS.get(self.prior, 0.0)


def weights_of(model: SequentialAutoencoder, **parts: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's weights, with those of some parts in place of its own."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return weights | {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def fit(
    model: SequentialAutoencoder,
    start: Candidate,
    prior: str,
    trials: Dataset,
    rows: Tensor,
    n_epochs: int,
    decay: float,
    seed: int,
) -> Candidate:
    """Fit decoder, readout and the initial conditions of training trials together.

    Args:
        model: The model. It gets the weights of `start`.
        start: Where the fit starts.
        prior: own: each trial is explained by its own trajectory, with a Gaussian prior over the
            initial conditions. shared, similar: by the trajectories of the other trials in its
            batch (`leave_one_out_loss`).
        trials: Training trials.
        rows: (J,) which of them are in the table.
        n_epochs: Number of epochs.
        decay: Weight decay.
        seed: Seed of the order of the trials.
    """
    model.load_state_dict(start.weights)
    decoder, is_frozen = model.decoder, not model.readout.weight.requires_grad
    readout = model.readout if is_frozen else split_readout(model.readout, start.n_factors)
    table = nn.Embedding.from_pretrained(start.reference.clone(), freeze=False, sparse=True)
    # of the table only the rows of a batch change, each with a momentum of its own
    optimizers = [
        MuonAdam([decoder, readout], None, LEARNING_RATE, decay),
        torch.optim.SparseAdam(table.parameters(), TABLE_RATE, betas=(0.9, 0.99)),
    ]
    n_batches = max(3, round(len(rows) / MAX_BATCH_SIZE))
    schedules = [PolynomialLR(optimizer, n_epochs * n_batches) for optimizer in optimizers]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_epochs):
        mean, whitening = whiten(table.weight.detach())
        for batch in torch.randperm(len(rows), generator=generator).tensor_split(n_batches):
            spikes = trials[rows[batch]].shown.to(table.weight)
            initial_conditions = table(batch.to(table.weight.device))
            log_rates = readout(decoder(initial_conditions, spikes.shape[1])).transpose(0, 1)
            if prior != "own":
                loss = leave_one_out_loss(log_rates, spikes)
            else:
                n_observed = (~spikes.isnan()).sum().clamp(min=1)
                distance = ((initial_conditions - mean) @ whitening).square().sum()
                loss = sbtt_loss(log_rates, spikes) + PRIOR_WEIGHT * 0.5 * distance / n_observed
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
        if not table.weight.abs().max() < MAX_STATE:  # it diverged
            return start._replace(reference=start.reference[:0])
    merged = readout if is_frozen else merge_readout(readout)
    return Candidate(
        prior, weights_of(model, readout=merged), start.n_factors, table.weight.detach(), n_epochs
    )


def fit_driven(
    model: SequentialAutoencoder,
    start: Candidate,
    trials: Dataset,
    rows: Tensor,
    n_steps: int,
    seed: int,
) -> Candidate:
    """Train the whole model further, now with inputs in every trial.

    Args:
        model: The model. It gets the weights of `start`.
        start: Where the fit starts.
        trials: Training trials.
        rows: (J,) which of them to use.
        n_steps: Number of steps.
        seed: Seed of the batches and of dropout.
    """
    model.load_state_dict(start.weights)
    hidden = [model.encoder, model.ic_linear, model.decoder, model.input_linear]
    optimizer = MuonAdam(hidden, model.readout, DRIVEN_RATE, model.weight_decay(len(trials)))
    schedule = PolynomialLR(optimizer, n_steps, power=1.5)
    batch_size = min(MAX_BATCH_SIZE // 2, max(1, len(rows) // 3))
    model.train()
    model.input_dropout = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(n_steps):
            batch = rows[torch.randperm(len(rows))[:batch_size]]
            nll, penalty, _ = model.losses(trials[batch].shown.to(model.reference))
            optimizer.zero_grad()
            (nll + penalty).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()
    return start._replace(weights=weights_of(model))
