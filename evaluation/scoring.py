"""Score checkpoints on validation trials."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from command_line import InputError
from data import SpikeDataModule
from evaluation.baselines import bps_of_mean_over_trials, r2_of_ideal_observer, scores_of_smoothing
from evaluation.checkpoints import load_checkpoint
from model import SequentialAutoencoder


@dataclass
class Score:
    """Scores of one checkpoint on the validation trials. NaN if a score needs true rates that are
    not known."""

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


def load_model_and_data(
    checkpoint: Path, data_path: str | None = None
) -> tuple[SequentialAutoencoder, SpikeDataModule]:
    """Return the model of a checkpoint, and its data with the masks of its training.

    Args:
        checkpoint: The checkpoint.
        data_path: The data file. None: where it was in training.

    Raises:
        InputError: a checkpoint or a data file that cannot be read, or that do not fit each other.
    """
    model, options = load_checkpoint(checkpoint)
    data = SpikeDataModule(**options | ({"path": data_path} if data_path else {}))
    if data.n_neurons != model.hparams.n_neurons:
        raise InputError(
            f"{checkpoint}: is for {model.hparams.n_neurons} neurons, {data.hparams.path} has {data.n_neurons}; "
            "expected the same"
        )
    data.setup()
    return model, data


def validate(model: SequentialAutoencoder, data: SpikeDataModule) -> dict[str, float]:
    """Score a model on the validation trials. The names are those of training, without `valid/`."""
    trainer = pl.Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    scores = trainer.validate(model, data, verbose=False)[0]
    return {name.removeprefix("valid/"): value for name, value in scores.items()}


def score(checkpoint: Path, model: SequentialAutoencoder, data: SpikeDataModule) -> Score:
    """Score a model and the baselines on the same validation trials."""
    scores = validate(model, data)
    r2_smoothed, bps_smoothed = scores_of_smoothing(data)
    return Score(
        bandwidth=data.n_observed,
        fraction_dropped=data.fraction_dropped,
        **{
            name: scores.get(name, np.nan)
            for name in ("r2", "r2_observed", "r2_unobserved", "r2_amortised", "bps")
        },
        r2_ideal=r2_of_ideal_observer(data),
        r2_smoothed=r2_smoothed,
        bps_smoothed=bps_smoothed,
        bps_mean_over_trials=bps_of_mean_over_trials(data),
        seed=data.hparams.seed,
        checkpoint=str(checkpoint),
    )


def mean_and_sd(scores: list[Score]) -> list[tuple[Score, Score]]:
    """Return the means and the SDs over seeds (NaN for one seed) of each bandwidth, the largest
    bandwidth first."""
    result = []
    for bandwidth in sorted({score.bandwidth for score in scores}, reverse=True):
        seeds = [score for score in scores if score.bandwidth == bandwidth]
        values = {
            field.name: [getattr(score, field.name) for score in seeds] for field in fields(Score)
        }
        first = {name: of_seeds[0] for name, of_seeds in values.items()}
        numbers = {field.name: values[field.name] for field in fields(Score) if field.type is float}
        means = {name: float(np.mean(of_seeds)) for name, of_seeds in numbers.items()}
        sds = {
            name: float(np.std(of_seeds, ddof=1)) if len(seeds) > 1 else np.nan
            for name, of_seeds in numbers.items()
        }
        result.append((Score(**first | means), Score(**first | sds)))
    return result
