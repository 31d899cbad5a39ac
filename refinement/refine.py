"""Refine a trained model: fit what generates rates, and let held-out counts choose how to infer.

The encoder's guess of an initial condition is not the best one, and a decoder that learns from poor
guesses learns blurred dynamics. So at the end each training trial gets an initial condition of its
own, in a table. Table, decoder and readout are fitted together, without the encoder. Besides, the
whole model is trained further with inferred inputs, which may drive the population in a trial.

Recordings differ in how many factors the readout needs, in whether trials share trajectories, as
those of one condition do, in whether something drives them, and in whether the refinement helps.
The held-out counts of some training trials decide. For new conditions, those of validation trials
choose the fit.
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
    DRIVEN_MARGIN,
    ENCODER_MARGIN,
    LONG,
    MAX_BATCH_SIZE,
    MAX_STATE,
    MAX_TRIALS,
    NEAR,
    SHORT,
)
from refinement.contest import Contest
from refinement.fits import Candidate, Fits, copy_weights, hold_mean_rates
from refinement.heldout import HeldOut, choose_readouts, choose_rows, have_heldout, spread

Report = Callable[[int, int], None]  # is told how many epochs were fitted, and of how many


def refine(
    model: SequentialAutoencoder,
    trials: Dataset,
    n_epochs: int,
    seed: int,
    n_inputs: int = 0,
    new_conditions: Dataset | None = None,
    report: Report = lambda done, total: None,
) -> dict[str, float]:
    """Refine a model in place, in the way that best predicts held-out counts of training trials.

    Args:
        model: The model, in evaluation mode. Its decoder, readout and prior change.
        trials: The training trials, some of them with held-out counts.
        n_epochs: Epochs of the longest fit. The others have parts of them.
        seed: Seed of the fits.
        n_inputs: Inputs that may drive the decoder. 0: none.
        new_conditions: Validation trials, if the model is to infer conditions that are not in
            training. Then trajectories that training trials share still teach the decoder, but each
            new trial gets one of its own. Held-out counts of the new trials choose the fit, as they
            choose the best epoch: all training trials are of known conditions.
        report: Called with the progress after each epoch of a fit.

    Returns:
        The SBTT loss (nats per held-out count) of each way to infer that was tried. None were tried
        if nothing can decide, or if the model has diverged.
    """
    n_at_most = count_affordable(model, trials)
    rows = choose_rows(trials, n_at_most)
    has_heldout = have_heldout(trials, rows)
    encoded, typical = encode_trials(model, trials, rows)
    if not (has_heldout.any() and encoded.abs().max() < MAX_STATE):
        return {}
    heldout = HeldOut(trials, rows[has_heldout], model)
    whole = Candidate("encoder", copy_weights(model), rank(model.readout), EncoderAlone())
    few, *more = choose_starts(model, typical, heldout)
    short, long = choose_lengths(SHORT, n_epochs), choose_lengths(LONG, n_epochs)
    longest = max(long["own"], long["shared"])
    n_fitted = short["own"] + short["shared"] + (1 + len(more)) * longest
    progress = Progress(n_fitted + short["driven"] * (n_inputs > 0), report)
    fits = Fits(model, trials, rows, encoded, seed, progress.advance)
    contest = Contest(model, heldout, ~has_heldout)  # like new trials, they are no reference

    # 1. Own and shared trajectories, each in a short fit. The better kind has a long one, too.
    fitted = [fits.fit(few, kind, short[kind]) for kind in ("own", "shared")]
    contest.open(fitted)
    length = long.get(contest.best.name, 0)  # none, if both diverged
    progress.total -= longest - length
    if length > 0:
        fitted.append(fits.fit(few, contest.best.name, length))
        contest.challenge(fitted[-1], 0.0)
    # 2. Similar trajectories, near the shared ones.
    for candidate in fitted:
        if candidate.name == "shared":
            contest.challenge(candidate.explain_by("similar"))
    # 3. A readout of one factor more, with the best so far; the encoder, if all fits diverged.
    for start in more:
        progress.total -= longest - contest.best.n_epochs
        if contest.best.prior.knows_trials:
            start = fits.fit(start, contest.best.name, contest.best.n_epochs)
            fitted.append(start)
        contest.challenge(start)
    # 4. The encoder alone; and mean rates, if few spikes allow no more.
    contest.challenge(few, ENCODER_MARGIN)
    if model.readout.weight.requires_grad:
        contest.challenge(hold_mean_rates(model, trials[rows].shown), 0.0)
    # 5. The encoder with inputs that drive the decoder.
    if n_inputs > 0:
        challenge_by_inputs(contest, fits, whole, n_inputs, n_epochs, progress)
    # 6. For new conditions own trajectories, from the fit that held-out counts of theirs prefer.
    tried, best = contest.tried, contest.best
    if new_conditions is not None and best.name in ("shared", "similar"):
        new = choose_for_new(model, fitted, new_conditions, n_at_most)
        tried, best = tried | new.tried, new.best
    best.install(model)
    return tried


def challenge_by_inputs(
    contest: Contest,
    fits: Fits,
    start: Candidate,
    n_inputs: int,
    n_epochs: int,
    progress: "Progress",
) -> None:
    """Let a short fit with inputs challenge the best way to infer; if it comes near, a long one."""
    short, long = (choose_lengths(parts, n_epochs)["driven"] for parts in (SHORT, LONG))
    driven = fits.fit_driven(start, n_inputs, short)
    if contest.challenge(driven, DRIVEN_MARGIN) > -NEAR:
        progress.total += long
        driven = fits.fit_driven(driven, n_inputs, long)
        contest.challenge(driven, 0.0 if contest.best.n_inputs else DRIVEN_MARGIN)


def count_affordable(model: SequentialAutoencoder, trials: Dataset) -> int:
    """Return how many trials the table of initial conditions may have."""
    n_bins, n_neurons = trials[:1].spikes.shape[1:]
    return min(MAX_TRIALS, n_affordable(n_bins, n_neurons, model.hparams.hidden_size))


def choose_for_new(
    model: SequentialAutoencoder, fitted: list[Candidate], trials: Dataset, n_at_most: int
) -> Contest:
    """Return the contest of fits of shared trajectories where each new trial gets its own."""
    rows = spread(len(trials), max(1, n_at_most // 4))
    contest = Contest(model, HeldOut(trials, rows, model), title="new")
    contest.open(c.explain_by("own") for c in fitted if c.name in ("shared", "similar"))
    return contest


def choose_lengths(parts: dict[str, float], n_epochs: int) -> dict[str, int]:
    """Return the number of epochs of each kind of fit, from parts of `n_epochs`."""
    return {kind: max(1, round(n_epochs * part)) for kind, part in parts.items()}


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
