"""A contest between ways to infer, which held-out counts decide."""

from collections.abc import Iterable

from torch import Tensor

from model import SequentialAutoencoder
from refinement.choices import MARGIN
from refinement.fits import Candidate
from refinement.heldout import HeldOut, standard_error


class Contest:
    """The best way to infer so far, and all that were tried.

    Args:
        model: The model. Its weights change with each candidate.
        heldout: Trials whose held-out counts decide.
        reference: (J,) bool, which of the reference trials may explain them. None: all.
        title: Start of the names in `tried`.

    Attributes:
        best: The best candidate.
        losses: (D,) its SBTT loss of each trial's held-out counts.
        tried: The SBTT loss of each candidate, by name (nats per held-out count).
    """

    def __init__(
        self,
        model: SequentialAutoencoder,
        heldout: HeldOut,
        reference: Tensor | None = None,
        title: str = "",
    ) -> None:
        self.model, self.heldout, self.title = model, heldout, title
        self.reference = slice(None) if reference is None else reference
        self.best: Candidate | None = None
        self.losses: Tensor | None = None
        self.tried: dict[str, float] = {}

    def score(self, candidate: Candidate) -> Tensor:
        """Return the losses (D,) of a candidate."""
        candidate.install(self.model, self.reference)
        losses = self.heldout.score(self.model)
        epochs = f"_{candidate.n_epochs}_epochs" if candidate.n_epochs else ""
        name = f"{self.title or candidate.name}_{candidate.n_factors}_factors{epochs}"
        self.tried[name] = float(losses.sum() / self.heldout.n_counts)
        return losses

    def open(self, candidates: Iterable[Candidate]) -> None:
        """Begin with the best of several candidates."""
        scored = [(self.score(candidate), candidate) for candidate in candidates]
        self.losses, self.best = min(scored, key=lambda pair: pair[0].sum())

    def challenge(self, candidate: Candidate, margin: float = MARGIN) -> float:
        """Replace the best candidate if this one is better by `margin` standard errors.

        Returns:
            How much better it is than the best before, in standard errors.
        """
        losses = self.score(candidate)
        gain = self.losses - losses
        if gain.sum() > margin * standard_error(gain):
            self.losses, self.best = losses, candidate
        return float(gain.sum() / standard_error(gain).clamp(min=1e-9))
