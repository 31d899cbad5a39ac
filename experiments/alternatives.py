"""Compare with what one would take instead, on the same masked counts: smoothing, PSTHs, a dynamic
factor model (statsmodels).

pip install -r requirements-evidence.txt python -m experiments.alternatives
lightning_logs/evidence_default --bandwidths 29 10 5 2      5 minutes on two cores python -m
experiments.alternatives --bandwidths 5                        of the pretrained models, in a minute

lightning_logs/evidence_default is what experiments.evidence trains first, with three seeds. Each
method gets the same masked counts. PSTHs are told the condition of each trial, the others are not.

The dynamic factor model is linear and Gaussian and takes missing counts as they are: a Kalman
    filter skips them. It is fitted by
expectation-maximisation to some of the training trials, then its smoother infers the validation
trials. Writes docs/evidence/alternatives.csv and alternatives.png.
"""

import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from command_line import InputError, expect, markdown_table, run, silence_lightning, writable_folder
from data import SpikeDataModule
from evaluation.baselines import r2_of_psth, scores_of_smoothing
from evaluation.checkpoints import LOGS, bandwidth_folder, find_checkpoints
from evaluation.scoring import load_model_and_data, validate
from experiments.evidence_figures import plot_evidence
from experiments.trainings import evidence_parser, mean_and_sd, write_evidence
from modules.metrics import R2
from training.options import DEMO_BANDWIDTHS, n_cores
from training.parallel import use_one_thread

GAP = 10  # missing bins between trials, so that one does not predict the next
ORDER = 2  # of the factors' autoregression
INSTALL = "statsmodels is not installed; expected it for the dynamic factor model: pip install -r requirements-evidence.txt"


def one_after_the_other(spikes: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return trials (trials, time, neurons) as one series (trials * (time + GAP), neurons) around
    the neurons' means."""
    gaps = np.full((len(spikes), GAP, spikes.shape[2]), np.nan)
    return np.concatenate([spikes - mean, gaps], axis=1).reshape(-1, spikes.shape[2])


def r2_of_factor_model(
    data: SpikeDataModule, n_factors: int, n_trials: int, n_iterations: int
) -> float:
    """Return the R² of a dynamic factor model on the validation trials.

    Args:
        data: Masked trials with true rates.
        n_factors: Number of factors.
        n_trials: Number of training trials to fit it to.
        n_iterations: Iterations of expectation-maximisation.

    Raises:
        InputError: statsmodels is not installed.
    """
    try:
        from statsmodels.tsa.statespace.dynamic_factor_mq import DynamicFactorMQ
    except ImportError:
        raise InputError(INSTALL) from None
    train, valid = (data.datasets[split][:].spikes.double().numpy() for split in ("train", "valid"))
    mean = np.nanmean(train, axis=(0, 1))
    options = {
        "factors": n_factors,
        "factor_orders": ORDER,
        "idiosyncratic_ar1": False,
        "standardize": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # iterations end before it converges
        model = DynamicFactorMQ(one_after_the_other(train[:n_trials], mean), **options)
        fitted = model.fit(maxiter=n_iterations, disp=False)
        smoothed = fitted.apply(one_after_the_other(valid, mean), retain_standardization=False)
    states = np.asarray(smoothed.states.smoothed)
    loadings = smoothed.filter_results.design[:, : states.shape[1], 0]
    counts = (
        mean + (states @ loadings.T).reshape(len(valid), -1, data.n_neurons)[:, : valid.shape[1]]
    )
    metric = R2(data.n_neurons)
    metric.update(
        torch.from_numpy(counts).float().clamp(min=0) / data.bin_width,
        torch.from_numpy(data.trials["valid"].rates),
    )
    return float(metric.compute())


def compare(checkpoint: Path, n_factors: int, n_trials: int, n_iterations: int) -> list[dict]:
    """Return a row for each method on the masked validation trials of a checkpoint."""
    use_one_thread()
    silence_lightning()
    model, data = load_model_and_data(checkpoint)
    if data.trials["valid"].rates is None:
        raise InputError(f"{data.hparams.path}: has no true rates; expected a simulated data set")
    scores = {
        "this repo": validate(model, data)["r2"],
        "dynamic factor model": r2_of_factor_model(data, n_factors, n_trials, n_iterations),
        "PSTH, knows the condition": r2_of_psth(data),
        "smoothed spikes": scores_of_smoothing(data)[0],
    }
    return [
        {"label": label, "x": data.n_observed, "seed": data.hparams.seed, "r2": r2}
        for label, r2 in scores.items()
    ]


def main() -> None:
    parser = evidence_parser(__doc__)
    parser.add_argument(
        "runs", nargs="*", type=str, default=[str(LOGS / "pretrained")], help="Runs or checkpoints"
    )
    parser.add_argument(
        "--bandwidths", type=int, nargs="+", default=DEMO_BANDWIDTHS, help="Neurons observed"
    )
    parser.add_argument(
        "--factors", type=int, default=4, help="Factors of the dynamic factor model"
    )
    parser.add_argument(
        "--trials", type=int, default=200, help="Training trials that it is fitted to"
    )
    parser.add_argument(
        "--iterations", type=int, default=40, help="Iterations of its expectation-maximisation"
    )
    options = parser.parse_args()
    out = writable_folder(options.out, "--out")
    for name in ("factors", "trials", "iterations"):
        expect(options[name] >= 1, f"--{name}", options[name], "at least 1")
    folders = {bandwidth_folder(bandwidth) for bandwidth in options.bandwidths}
    checkpoints = [path for path in find_checkpoints(options.runs) if folders & set(path.parts)]
    if not checkpoints:
        raise InputError(f"{' '.join(options.runs)}: holds no model of these bandwidths")
    settings = options.factors, options.trials, options.iterations
    with ProcessPoolExecutor(min(n_cores(), len(checkpoints))) as pool:
        futures = [pool.submit(compare, checkpoint, *settings) for checkpoint in checkpoints]
        rows = sorted(
            (row for future in futures for row in future.result()), key=lambda row: -row["x"]
        )
    write_evidence("alternatives", rows, lambda: plot_evidence(rows, "neurons observed", "r2"), out)
    columns = {"observed": [str(x) for x in dict.fromkeys(row["x"] for row in rows)]}
    for label in dict.fromkeys(row["label"] for row in rows):
        of_label = [
            [row["r2"] for row in rows if (row["label"], row["x"]) == (label, int(x))]
            for x in columns["observed"]
        ]
        columns[label] = [mean_and_sd(r2) for r2 in of_label]
    print(markdown_table(columns))


if __name__ == "__main__":
    run(main)
