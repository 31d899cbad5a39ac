"""Held-out counts of some trials: what a way to infer is scored on.

Letters in shapes: J training trials, D of which have held-out counts, T time bins, N neurons,
H hidden units.
"""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from model import SequentialAutoencoder
from modules.coordinated_dropout import mask_missing, rescale
from modules.readout import principal_readouts
from refinement.choices import MAX_BATCH_SIZE, MORE_FACTORS, READOUT_MARGIN


def have_heldout(trials: Dataset, rows: Tensor) -> Tensor:
    """Return which (J,) of some trials have held-out counts."""
    parts = rows.split(MAX_BATCH_SIZE)
    return torch.cat([trials[part].heldout.flatten(1).any(1).cpu() for part in parts])


def spread(n_trials: int, n_chosen: int) -> Tensor:
    """Return the rows of at most `n_chosen` trials, evenly spaced."""
    return torch.linspace(0, n_trials - 1, min(n_chosen, n_trials)).long()


def choose_rows(trials: Dataset, n_at_most: int) -> Tensor:
    """Return the rows (J,) of the trials in the table: all, if they are not too many.

    Else up to a quarter of them have held-out counts, and the others have none. Both are spaced
    evenly.
    """
    rows = torch.arange(len(trials))
    if len(rows) <= n_at_most:
        return rows
    has_heldout = have_heldout(trials, rows)
    n_heldout = min(int(has_heldout.sum()), max(1, n_at_most // 4))
    parts = (rows[has_heldout], n_heldout), (rows[~has_heldout], n_at_most - n_heldout)
    return torch.cat([part[spread(len(part), n)] for part, n in parts]).sort().values


class HeldOut:
    """D trials with held-out counts, of training or of validation."""

    def __init__(self, trials: Dataset, rows: Tensor, model: SequentialAutoencoder) -> None:
        chosen, like = trials[rows], model.readout.bias.detach()
        spikes, self.shown = chosen.spikes.to(like), model.hide_heldout(chosen.shown.to(like))
        self.for_encoder = rescale(self.shown, model.hide_heldout(spikes))  # as in its training
        self.target = mask_missing(spikes, chosen.heldout.to(like.device))
        self.n_counts = chosen.heldout.sum().clamp(min=1)

    def losses(self, log_rates: Tensor) -> Tensor:
        """Return the SBTT loss (D,) of each trial's held-out counts, summed over them."""
        losses = (log_rates.exp() - self.target * log_rates).masked_fill(self.target.isnan(), 0.0)
        return losses.sum((1, 2)).nan_to_num(nan=torch.inf)  # a model that diverged is the worst

    @torch.no_grad()
    def score(self, model: SequentialAutoencoder) -> Tensor:
        """Return the losses (D,) of what the model infers from the other counts."""
        shown = self.shown if model.prior.knows_trials else self.for_encoder
        return self.losses(model.infer(shown).log_rates)


def standard_error(values: Tensor) -> Tensor:
    """Return the standard error of the sums of values (..., D) over independent trials."""
    return values.std(-1, correction=0) * values.shape[-1] ** 0.5


@torch.no_grad()
def choose_readouts(
    model: SequentialAutoencoder, typical: Tensor, heldout: HeldOut
) -> dict[int, nn.Linear]:
    """Return two readouts with as few factors as held-out counts allow, by their numbers.

    They have one and two factors more than the fewest that do about as well as the best number
    (refinement/choices.py). One readout, if there are no more factors.

    Args:
        model: The model, whose readout has full rank.
        typical: (J, T, H) typical latents.
        heldout: Trials that decide.
    """
    readouts = principal_readouts(model.readout, typical)
    latents = model(heldout.for_encoder).latents
    losses = torch.stack([heldout.losses(readout(latents)) for readout in readouts])
    best = int(losses.sum(1).argmin())
    excess = losses - losses[best]
    is_good = excess.sum(1) <= READOUT_MARGIN * standard_error(excess)
    is_good[best] = True
    fewest = 1 + int(is_good.nonzero()[0])
    numbers = [min(fewest + more, len(readouts)) for more in MORE_FACTORS]
    return {n_factors: readouts[n_factors - 1] for n_factors in numbers}
