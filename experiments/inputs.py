"""Measure what inferred inputs are worth, where pulses drive the population and where nothing does.

pip install -r requirements-evidence.txt
python -m experiments.inputs         an hour to one and a half on two cores; writes docs/inputs.csv

If it was stopped, the same command resumes it.
"""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from torchmetrics.functional.classification import binary_auroc

from command_line import run
from evaluation.checkpoints import load_model_and_data
from evaluation.inference import infer_arrays
from experiments import grid
from experiments.commands import parse_options

DATA = {
    "repeated conditions": {},
    "trials that do not repeat": {"conditions": 1560, "trials": 1},
    "pulses": {"pulses": 1},
}
INPUT_SIZES = [0, 8]
QUICK_DATA = {"pulses": {"pulses": 1, "conditions": 40, "trials": 2, "neurons": 12, "bins": 20}}
QUICK = ["--trainer.max_epochs", "1", "--refinement.epochs", "2"]
COLUMNS = ["data", "input_size", "seed", "bandwidth", "r2", "bps", "prior", "seconds", "auc", "rms"]


def find_pulses(folder: Path, results: grid.Results) -> list[dict]:
    """Return a run's results with the area under the ROC curve (`auc`) for the bins of pulses in
    validation trials, and the RMS of the inputs.

    The classifier is the size of a bin's inputs. Both are NaN without inputs, the area also without
    pulses."""
    model, data = load_model_and_data(folder / "best.ckpt")
    inputs = infer_arrays(model, data.datasets["valid"][:].spikes).get("inputs")
    if inputs is None:
        return [results | {"auc": np.nan, "rms": np.nan}]
    area = np.nan
    with h5py.File(data.hparams.path) as file:
        if "valid_pulses" in file:
            sizes = torch.from_numpy(np.linalg.norm(inputs, axis=-1))
            is_pulse = torch.from_numpy(file["valid_pulses"][:])
            area = float(binary_auroc(sizes.flatten(), is_pulse.flatten().int()))
    return [results | {"auc": area, "rms": float(np.sqrt(np.mean(inputs**2)))}]


def compare_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table (text) of models without and with inputs on each data set, over seeds."""
    statistics = dict.fromkeys(("r2", "rms", "auc"), grid.mean_and_sd)
    statistics |= {"prior": ", ".join, "seconds": "mean"}
    seeds = table.groupby(["data", "bandwidth", "input_size"], sort=False)
    sizes = seeds.agg(statistics).unstack()
    free, driven = (sizes.xs(size, axis=1, level="input_size") for size in INPUT_SIZES)
    columns = {
        "R² without inputs": free["r2"],
        "R² with inputs": driven["r2"],
        "prior without": free["prior"],
        "prior with": driven["prior"],
        "RMS of the inputs": driven["rms"],
        "area under the ROC curve": driven["auc"],
        "time with / without": (driven["seconds"] / free["seconds"]).map("{:.2f}".format),
    }
    return pd.DataFrame(columns).reset_index(names=["data", "observed"])


def main() -> None:
    sizes = {"bandwidths": [29, 10, 5], "seeds": 3, "quick": False}
    options = parse_options(__doc__, **sizes, name="inputs", cluster="local", out="docs")
    data, base = DATA, grid.start(options, options.name, find_pulses)
    if options.quick:
        data, base = QUICK_DATA, base.vary("", "quick", *QUICK, bandwidths=[5], seeds=1)
    sweeps = []
    for number, (label, sizes) in enumerate(data.items()):
        path = grid.simulate_once(f"{base.name}_{number}", **sizes)
        for size in INPUT_SIZES:
            words = ["--data.path", path, "--refinement.inputs", str(size)]
            sweeps.append(base.vary(label, f"{number}_{size}", *words, x=size))
    table = grid.gather(sweeps).rename(columns={"label": "data", "x": "input_size"})[COLUMNS]
    grid.write(options.out, "inputs", table)
    grid.print_table(compare_sizes(table), n_left=1)
    print(f"The results of each run are in {options.out / 'inputs.csv'}")


if __name__ == "__main__":
    run(main)
