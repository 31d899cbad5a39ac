"""Score models on validation trials. Shapes: B trials, T time bins, N neurons."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from data import SpikeDataModule
from evaluation.baselines import bps_of_mean_over_trials, r2_of_ideal_observer, scores_of_smoothing
from evaluation.inference import to_arrays
from model import SequentialAutoencoder


@dataclass
class Score:
    """Scores of a checkpoint on the validation trials. NaN where it takes unknown true rates."""

    bandwidth: int
    fraction_dropped: float
    r2: float
    r2_observed: float
    r2_unobserved: float
    r2_amortised: float
    r2_ideal: float
    r2_smoothed: float
    bps: float
    bps_smoothed: float
    bps_mean_over_trials: float
    seed: int
    checkpoint: str


@torch.no_grad()
def evaluate(
    model: SequentialAutoencoder, data: SpikeDataModule, n_kept: int = 0, split: str = "valid"
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Score a model on the trials of a split, and keep what it infers for the first of them.

    Returns:
        The scores, named as in training without `valid/`; and the arrays of `infer_arrays` for the
        first `n_kept` trials.
    """
    model.eval()
    model.reset_scores(data.mean_counts)
    kept = []
    for batch in data.score_dataloader(split):
        inferred = model.score_batch(batch.to(model.device))
        if sum(len(part["rates"]) for part in kept) < n_kept:
            kept.append(to_arrays(model, inferred))
    names = kept[0] if kept else ()
    arrays = {name: np.concatenate([part[name] for part in kept])[:n_kept] for name in names}
    return model.compute_scores(), arrays


def find_weaknesses(scores: dict[str, float], data: SpikeDataModule) -> list[str]:
    """Return a line for each baseline that predicts held-out counts as well as the model does."""
    bits = scores.get("bps", math.nan)
    baselines = {"the mean rates of training": 0.0, "smoothed spikes": scores_of_smoothing(data)[1]}
    return [
        f"it predicts held-out counts no better than {name} ({bits:.3f} bits/spike, {theirs:.3f})"
        for name, theirs in baselines.items()
        if bits <= theirs
    ]


def add_baselines(scores: dict[str, float], data: SpikeDataModule, checkpoint: Path) -> Score:
    """Return the scores of a checkpoint next to those of the baselines on the same trials."""
    of_model = ("r2", "r2_observed", "r2_unobserved", "r2_amortised", "bps")
    r2_smoothed, bps_smoothed = scores_of_smoothing(data)
    return Score(
        bandwidth=data.n_observed,
        fraction_dropped=data.fraction_dropped,
        **{name: scores.get(name, np.nan) for name in of_model},
        r2_ideal=r2_of_ideal_observer(data),
        r2_smoothed=r2_smoothed,
        bps_smoothed=bps_smoothed,
        bps_mean_over_trials=bps_of_mean_over_trials(data),
        seed=data.hparams.seed,
        checkpoint=str(checkpoint),
    )


def mean_and_sd(scores: list[Score]) -> tuple[Score, Score]:
    """Return mean and SD (NaN for one run) of scores of runs that differ in their seed alone."""
    names = [field.name for field in fields(Score) if field.type is float]
    values = {name: [getattr(score, name) for score in scores] for name in names}
    means = {name: float(np.mean(of)) for name, of in values.items()}
    sds = dict.fromkeys(names, np.nan)
    if len(scores) > 1:
        sds = {name: float(np.std(of, ddof=1)) for name, of in values.items()}
    return replace(scores[0], **means), replace(scores[0], **sds)


def r2_of_entries(inferred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the R² (T, N) of each entry of rates (B, T, N), relative to its neuron's variance."""
    variance = true.var((0, 1))
    return 1 - ((inferred - true) ** 2).mean(0) / np.where(variance > 0, variance, np.nan)
