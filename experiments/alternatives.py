"""Compare with the alternatives on the same masked counts: smoothing, PSTHs, a factor model.

pip install -r requirements-evidence.txt
python -m experiments.alternatives lightning_logs/evidence_default --bandwidths 29 10 5 2
python -m experiments.alternatives --bandwidths 5

The first takes 5 minutes on two cores; its models are what experiments.evidence trains first, with
three seeds. The second takes a minute and compares the pretrained models.

PSTHs are told the condition of each trial, the others are not. The dynamic factor model
(statsmodels) is linear and Gaussian, and its Kalman filter skips missing counts. It is fitted by
expectation-maximisation to the first training trials, then its smoother infers the validation
trials. Writes docs/evidence/alternatives.csv and alternatives.png.
"""

import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.tsa.statespace.dynamic_factor_mq import DynamicFactorMQ

from command_line import require, run, silence_lightning
from data import SpikeDataModule
from evaluation.baselines import r2_of_psth, scores_of_smoothing
from evaluation.checkpoints import load_model_and_data
from evaluation.run_folders import find_checkpoints, run_folder
from evaluation.scoring import evaluate
from experiments import grid
from experiments.commands import parse_options
from training.options import DEMO_BANDWIDTHS
from training.pool import n_cores, use_one_thread

GAP = 10  # missing bins between trials, so that one does not predict the next
N_TRIALS, N_ITERATIONS = 200, 40  # that the factor model is fitted to, and for
FACTORS = {"factors": 4, "factor_orders": 2, "idiosyncratic_ar1": False, "standardize": False}


def join_trials(spikes: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return trials (B, T, N) as one series (B * (T + GAP), N) around the neurons' means."""
    padded = np.pad(spikes - mean, ((0, 0), (0, GAP), (0, 0)), constant_values=np.nan)
    return padded.reshape(-1, spikes.shape[2])


def r2_of_factor_model(data: SpikeDataModule) -> float:
    """Return the R² of a dynamic factor model on the validation trials."""
    train, valid = (data.datasets[split][:].spikes.double().numpy() for split in ("train", "valid"))
    mean = np.nanmean(train, axis=(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # iterations end before it converges
        model = DynamicFactorMQ(join_trials(train[:N_TRIALS], mean), **FACTORS)
        fitted = model.fit(maxiter=N_ITERATIONS, disp=False)
        smoothed = fitted.apply(join_trials(valid, mean), retain_standardization=False)
    states = np.asarray(smoothed.states.smoothed)
    loadings = smoothed.filter_results.design[:, : states.shape[1], 0]
    counts = mean + (states @ loadings.T).reshape(len(valid), -1, data.n_neurons)
    counts = counts[:, : valid.shape[1]].astype(np.float32).clip(min=0)
    return grid.r2_of_rates(counts / data.bin_width, data)


def compare(checkpoint: Path) -> pd.DataFrame:
    """Return a row for each method on the masked validation trials of a checkpoint."""
    use_one_thread()
    silence_lightning()
    model, data = load_model_and_data(checkpoint)
    scores = {
        "this repo": evaluate(model, data)[0]["r2"],
        "dynamic factor model": r2_of_factor_model(data),
        "PSTH, knows the condition": r2_of_psth(data),
        "smoothed spikes": scores_of_smoothing(data)[0],
    }
    of_run = {"x": data.n_observed, "seed": data.hparams.seed, "r2": scores.values()}
    return pd.DataFrame({"label": scores.keys()} | of_run)


def main() -> None:
    places = {"runs": ["lightning_logs/pretrained"], "out": "docs/evidence"}
    options = parse_options(__doc__, bandwidths=DEMO_BANDWIDTHS, **places)
    folders = {run_folder(bandwidth) for bandwidth in options.bandwidths}
    checkpoints = [path for path in find_checkpoints(options.runs) if folders & set(path.parts)]
    found = f"{' '.join(options.runs)}: holds no model of these bandwidths"
    require(len(checkpoints) > 0, found)
    with ProcessPoolExecutor(min(n_cores(), len(checkpoints))) as pool:
        table = pd.concat(pool.map(compare, checkpoints))
    table = table.sort_values("x", ascending=False, kind="stable")
    grid.write(options.out, "alternatives", table)
    of_figure = ("neurons observed", "r2", "R² of inferred to true rates")
    grid.draw(options.out, "alternatives", grid.plot_lines, table, *of_figure)
    means = table.groupby(["x", "label"], sort=False)["r2"].agg(grid.mean_and_sd).unstack()
    grid.print_table(means.reset_index(names="observed"))


if __name__ == "__main__":
    run(main)
