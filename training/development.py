"""Held-out counts of training trials: what the refinement asks before it chooses.

Letters in shapes: J training trials, D of which have held-out counts, T time bins, N neurons, H
    hidden units.
"""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from model import SequentialAutoencoder
from modules.coordinated_dropout import mask_missing, rescale
from modules.readout import principal_readouts

N_TOGETHER = 208  # trials that are read at a time


def have_heldout(trials: Dataset, rows: Tensor) -> Tensor:
    """Return which (J,) of some training trials have held-out counts."""
    return torch.cat(
        [trials[part].heldout.flatten(1).any(1).cpu() for part in rows.split(N_TOGETHER)]
    )


def choose_rows(trials: Dataset, n_at_most: int) -> Tensor:
    """Return the rows (J,) of at most so many training trials: up to a quarter with held-out
    counts, the others without.

    Both are spaced evenly. If there are not too many trials, all are chosen.
    """
    rows = torch.arange(len(trials))
    if len(rows) <= n_at_most:
        return rows
    chosen, has_heldout = [], have_heldout(trials, rows)
    n_heldout = min(int(has_heldout.sum()), max(1, n_at_most // 4))
    for part, n in ((rows[has_heldout], n_heldout), (rows[~has_heldout], n_at_most - n_heldout)):
        chosen.append(part[torch.linspace(0, len(part) - 1, min(n, len(part))).long()])
    return torch.cat(chosen).sort().values


class Development:
    """D trials with held-out counts, of training or of validation."""

    def __init__(self, trials: Dataset, rows: Tensor, like: Tensor) -> None:
        chosen = trials[rows]
        self.spikes = chosen.spikes.to(like)
        self.n_heldout = chosen.heldout.sum().clamp(min=1)
        self.shown, self.target = (
            chosen.shown.to(like),
            mask_missing(self.spikes, chosen.heldout.to(like.device)),
        )

    def losses(self, log_rates: Tensor) -> Tensor:
        """Return the SBTT loss (D,) of each trial's held-out counts, summed over them."""
        losses = (log_rates.exp() - self.target * log_rates).masked_fill(self.target.isnan(), 0.0)
        return losses.sum((1, 2)).nan_to_num(nan=torch.inf)  # a model that diverged is the worst

    @torch.no_grad()
    def score(self, model: SequentialAutoencoder) -> Tensor:
        """Return the losses (D,) of what the model infers from the other counts."""
        shown = self.shown if len(model.reference) else rescale(self.shown, self.spikes)
        return self.losses(model.infer(shown).log_rates)


def standard_error(values: Tensor) -> Tensor:
    """Return the standard error of the sums of values (..., D) over independent trials."""
    return values.std(-1, correction=0) * values.shape[-1] ** 0.5


@torch.no_grad()
def choose_readouts(
    model: SequentialAutoencoder, typical: Tensor, development: Development
) -> dict[int, nn.Linear]:
    """Return two readouts of typical latents (J, T, H) with as few factors as held-out counts
    allow, by their number of factors.

    They have one and two factors more than the fewest whose loss is within two standard errors
    (over trials) of the least: more, because the fit has yet to find the exact directions. One
    readout, if there are no more factors.
    """
    readouts = principal_readouts(model.readout, typical)
    latents = model(rescale(development.shown, development.spikes)).latents
    losses = torch.stack([development.losses(readout(latents)) for readout in readouts])
    best = int(losses.sum(1).argmin())
    excess = losses - losses[best]
    is_good = excess.sum(1) <= 2 * standard_error(excess)
    is_good[best] = True
    fewest = 1 + int(is_good.nonzero()[0])
    numbers = [min(fewest + more, len(readouts)) for more in (1, 2)]
    return {n_factors: readouts[n_factors - 1] for n_factors in numbers}
