"""Refine a trained model: fit what generates rates, and let held-out counts choose how to infer.

The encoder's guess of an initial condition is not the best one, and a decoder that learns from poor
guesses learns blurred dynamics. So at the end each training trial gets an initial condition of its
own, in a table. Table, decoder and readout are fitted together, without the encoder. The decoder
then runs without inputs. If the model has any, the whole model is also trained further with inputs
in every trial.

Recordings differ in how many factors the readout needs, in whether trials share trajectories, as
those of one condition do, and in whether the refinement helps. The held-out counts of some training
trials decide. For new conditions, those of validation trials choose the fit.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from model import SequentialAutoencoder
from modules.posterior import n_affordable
from modules.priors import EncoderAlone
from modules.readout import rank
from refinement.choices import (
    DRIVEN_STEPS,
    ENCODER_MARGIN,
    LENGTHS,
    MAX_BATCH_SIZE,
    MAX_STATE,
    MAX_TRIALS,
)
from refinement.contest import Contest
from refinement.fits import Candidate, Fits, copy_weights
from refinement.heldout import HeldOut, choose_readouts, choose_rows, have_heldout, spread

Report = Callable[[int, int], None]  # is told how many epochs were fitted, and of how many


def refine(
    model: SequentialAutoencoder,
    trials: Dataset,
    n_epochs: int,
    seed: int,
    new_conditions: Dataset | None = None,
    report: Report = lambda done, total: None,
) -> dict[str, float]:
    """Refine a model in place, in the way that best predicts held-out counts of training trials.

    Args:
        model: The model, in evaluation mode. Its decoder, readout and prior change.
        trials: The training trials, some of them with held-out counts.
        n_epochs: Epochs of the longest fit. The others have parts of them.
        seed: Seed of the fits.
        new_conditions: Validation trials, if the model is to infer conditions that are not in
            training. Then trajectories that training trials share still teach the decoder, but each
            new trial gets one of its own. Held-out counts of the new trials choose the fit, as they
            choose the best epoch: all training trials are of known conditions.
        report: Called with the progress after each epoch of a fit.

    Returns:
        The SBTT loss (nats per held-out count) of each way to infer that was tried. None were tried
        if nothing can decide, or if the model has diverged.
    """
    n_affordable_trials = n_affordable(*trials[:1].spikes.shape[1:], model.hparams.hidden_size)
    n_at_most = min(MAX_TRIALS, n_affordable_trials)
    rows = choose_rows(trials, n_at_most)
    has_heldout = have_heldout(trials, rows)
    if not has_heldout.any():
        return {}
    heldout = HeldOut(trials, rows[has_heldout], model)
    encoded, typical = encode_trials(model, trials, rows)
    if not encoded.abs().max() < MAX_STATE:
        return {}
    whole = Candidate("driven", copy_weights(model), rank(model.readout), EncoderAlone())
    few, *more = choose_starts(model, typical, heldout)
    parts = [(prior, part) for prior in LENGTHS for part in LENGTHS[prior]]
    lengths = sorted({(prior, max(1, round(n_epochs * part))) for prior, part in parts})
    n_more = n_epochs * (len(more) + (model.input_linear is not None))  # at most
    progress = Progress(sum(n for _, n in lengths) + n_more, report)
    fits = Fits(model, trials, rows, encoded, seed, progress.advance)
    contest = Contest(model, heldout, ~has_heldout)  # like new trials, they are no reference

    # 1. Own and shared trajectories, in fits of several lengths: the best opens the contest.
    fitted = [fits.fit(few, prior, n) for prior, n in lengths]
    contest.open(fitted)
    # 2. Similar trajectories, near the shared ones.
    for candidate in fitted:
        if candidate.name == "shared":
            contest.challenge(candidate.explain_by("similar"))
    # 3. A readout of one factor more, with the best so far; the encoder, if all fits diverged.
    for start in more:
        if contest.best.prior.knows_trials:
            progress.total -= n_epochs - contest.best.n_epochs
            start = fits.fit(start, contest.best.name, contest.best.n_epochs)
            fitted.append(start)
        contest.challenge(start)
    # 4. The encoder alone, with inputs if the model has any.
    by_encoder = few
    if model.input_linear is not None:
        by_encoder = fits.fit_driven(whole, n_epochs * DRIVEN_STEPS)
    contest.challenge(by_encoder, ENCODER_MARGIN)
    # 5. For new conditions own trajectories, from the fit that held-out counts of theirs prefer.
    tried, best = contest.tried, contest.best
    if new_conditions is not None and best.name in ("shared", "similar"):
        new_rows = spread(len(new_conditions), max(1, n_at_most // 4))
        new = Contest(model, HeldOut(new_conditions, new_rows, model), title="new")
        new.open(c.explain_by("own") for c in fitted if c.name in ("shared", "similar"))
        tried, best = tried | new.tried, new.best
    best.install(model)
    return tried


class Progress:
    """How many epochs were fitted, and of how many."""

    def __init__(self, total: int, report: Report) -> None:
        self.done, self.total, self.report = 0, total, report

    def advance(self) -> None:
        """Count an epoch."""
        self.done += 1
        self.report(self.done, self.total)


@torch.no_grad()
def encode_trials(
    model: SequentialAutoencoder, trials: Dataset, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the encoder's initial conditions (J, H) of trials, and their latents (J, T, H)."""
    parts = [trials[part].shown.to(model.readout.bias) for part in rows.split(MAX_BATCH_SIZE)]
    encoded, inputs = zip(*map(model.encode, parts), strict=True)
    encoded, inputs = torch.cat(encoded), None if inputs[0] is None else torch.cat(inputs, dim=1)
    return encoded, model.decode(encoded, parts[0].shape[1], inputs)[1]


def choose_starts(
    model: SequentialAutoencoder, typical: Tensor, heldout: HeldOut
) -> list[Candidate]:
    """Return where fits start: the model with a readout of few factors, and with one of one more.

    A readout that is frozen stays as it is.
    """
    readouts = {rank(model.readout): model.readout}
    if model.readout.weight.requires_grad:
        readouts = choose_readouts(model, typical, heldout)
    return [
        Candidate("encoder", copy_weights(model, readout=readout), n_factors, EncoderAlone())
        for n_factors, readout in readouts.items()
    ]
