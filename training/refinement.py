"""The last part of a training: refine what generates rates, and find out from held-out counts what
suits the data.

The encoder's guess of an initial condition is not the best one, and a decoder that learns from poor
guesses learns blurred dynamics. So at the end each training trial gets an initial condition of its
own, in a table. Table, decoder and readout are fitted together, without the encoder. This takes
nearly half of a training. The decoder then runs without inputs. If the model has any, the whole
model is also trained further with inputs in every trial, and held-out counts decide whether they
are needed.

Three things differ between recordings: how many factors the readout needs, whether trials share
    trajectories, as those of
one condition do, and whether the refinement helps. The held-out counts of some training trials
decide. For new conditions, those of validation trials choose the fit. The fits are in
`training/fits.py`.

Letters in shapes: D trials with held-out counts.
"""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from model import SequentialAutoencoder
from modules.posterior import n_affordable
from modules.readout import rank
from training.development import (
    Development,
    choose_readouts,
    choose_rows,
    have_heldout,
    standard_error,
)
from training.fits import MAX_BATCH_SIZE, MAX_STATE, Candidate, fit, fit_driven, weights_of

MAX_TRIALS = 2000  # training trials in the table
# of the fits, as parts of the epochs: the fewer neurons are observed, the sooner a fit learns
# noise, own ones first
LENGTHS = {"shared": (1 / 3, 1), "own": (1 / 8, 1 / 2)}
DRIVEN_STEPS = 6  # for each epoch of the longest fit
ENCODER_MARGIN = 4.0  # standard errors; an encoder knows the training trials by heart, also those with held-out counts


def choose_for_new(
    model: SequentialAutoencoder, fitted: list[Candidate], trials: Dataset, n_at_most: int
) -> tuple[Candidate, dict[str, float]]:
    """Return the fit of common trajectories that best infers new conditions, each trial with a
    trajectory of its own.

    Args:
        model: The model. Its weights change.
        fitted: Fits.
        trials: Trials of new conditions, with held-out counts.
        n_at_most: Number of trials that decide, spaced evenly.

    Returns:
        The fit, and the SBTT loss (nats per held-out count) of each.
    """
    rows = torch.linspace(0, len(trials) - 1, min(len(trials), n_at_most)).long()
    new, candidates = Development(trials, rows, model.reference), {}
    for candidate in fitted:
        if candidate.prior in (
            "shared",
            "similar",
        ):  # neither own trajectories nor a fit that diverged
            candidates[f"new_{candidate.n_factors}_factors_{candidate.n_epochs}_epochs"] = (
                candidate._replace(prior="own")
            )
    losses = {}
    for name, candidate in candidates.items():
        candidate.install(model)
        losses[name] = float(new.score(model).sum() / new.n_heldout)
    return candidates[min(losses, key=losses.__getitem__)], losses


def refine(
    model: SequentialAutoencoder,
    trials: Dataset,
    n_epochs: int,
    seed: int,
    new_conditions: Dataset | None = None,
) -> dict[str, float]:
    """Refine a trained model in place, in the way that best predicts held-out counts of training
    trials.

    Args:
        model: The model, in evaluation mode. Its decoder, readout and reference change.
        trials: The training trials, some of them with held-out counts.
        n_epochs: Epochs of the longest fit. The others have parts of them.
        seed: Seed of the fits.
        new_conditions: Validation trials, if the model is to infer conditions that are not in
            training. Then the trajectories that training trials share still teach the decoder, but
            each new trial gets one of its own. Held-out counts of the new trials choose the fit
            (its length and number of factors), as they choose the best epoch: all training trials
            are of known conditions.

    Returns:
        The SBTT loss (nats per held-out count) of each way to infer that was tried.
    """
    n_trials = min(MAX_TRIALS, n_affordable(*trials[0].spikes.shape, model.hparams.hidden_size))
    rows = choose_rows(trials, n_trials)
    parts, has_heldout = rows.split(MAX_BATCH_SIZE), have_heldout(trials, rows)
    development = Development(trials, rows[has_heldout], model.reference)
    with torch.no_grad():
        encoded, inputs = zip(
            *(model.encode(trials[part].shown.to(model.reference)) for part in parts), strict=True
        )
        encoded, inputs = (
            torch.cat(encoded),
            None if inputs[0] is None else torch.cat(inputs, dim=1),
        )
        typical = model.decode(encoded, development.spikes.shape[1], inputs)[1]
    if not (
        encoded.abs().max() < MAX_STATE and has_heldout.any()
    ):  # the training diverged, or nothing can decide
        return {}
    is_frozen = not model.readout.weight.requires_grad  # the fits are of the table alone
    readouts = (
        {rank(model.readout): model.readout}
        if is_frozen
        else choose_readouts(model, typical, development)
    )
    few, *more = (
        Candidate("encoder", weights_of(model, readout=readout), n, encoded)
        for n, readout in readouts.items()
    )
    whole = Candidate("driven", weights_of(model), rank(model.readout), encoded[:0])
    tried, decay = {}, model.weight_decay(len(trials))

    def score(candidate: Candidate) -> Tensor:
        """Return the losses (D,) of the development trials. Like new trials, they are not in the
        reference."""
        candidate.install(model, ~has_heldout)
        losses = development.score(model)
        epochs = f"_{candidate.n_epochs}_epochs" if candidate.n_epochs else ""
        name = f"{candidate.prior}_{candidate.n_factors}_factors{epochs}"
        tried[name] = float(losses.sum() / development.n_heldout)
        return losses

    lengths = {
        (prior, max(1, round(part * n_epochs)))
        for prior, parts in LENGTHS.items()
        for part in parts
    }
    fitted = [fit(model, few, prior, trials, rows, n, decay, seed) for prior, n in sorted(lengths)]
    least, best = min(
        ((score(candidate), candidate) for candidate in fitted), key=lambda pair: pair[0].sum()
    )

    def better(candidate: Candidate, margin: float = 1.0) -> tuple[Tensor, Candidate]:
        """Return the candidate if it is better than the best one by `margin` standard errors, else
        that one."""
        losses = score(candidate)
        gain = least - losses
        return (losses, candidate) if gain.sum() > margin * standard_error(gain) else (least, best)

    for candidate in fitted:
        if candidate.prior == "shared":
            least, best = better(candidate._replace(prior="similar"))
    for start in more:
        if best.prior == "encoder":
            least, best = better(start._replace(reference=encoded[:0]))
        else:
            fitted.append(fit(model, start, best.prior, trials, rows, best.n_epochs, decay, seed))
            least, best = better(fitted[-1])
    if model.input_linear is None:
        by_encoder = few._replace(reference=encoded[:0])
    else:
        by_encoder = fit_driven(model, whole, trials, rows, n_epochs * DRIVEN_STEPS, seed)
    least, best = better(by_encoder, ENCODER_MARGIN)
    if new_conditions is not None and best.prior in ("shared", "similar"):
        best, tried_for_new = choose_for_new(model, fitted, new_conditions, max(1, n_trials // 4))
        tried |= tried_for_new
    best.install(model)
    return tried
