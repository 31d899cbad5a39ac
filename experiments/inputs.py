"""Measure what inferred inputs are worth: where pulses drive the population, and where nothing
does.

python -m experiments.inputs         one to one and a half hours on two cores; writes
docs/inputs.csv

If it was stopped, the same command resumes it. The data sets are simulated with another seed than
the demonstration.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

from command_line import command_parser, markdown_table, run, writable_folder, write_table
from evaluation.checkpoints import LOGS, bandwidth_folder
from evaluation.inference import infer_arrays
from evaluation.scoring import load_model_and_data
from experiments.trainings import add_cluster, command, mean_and_sd, train

DATA = {
    "repeated conditions": [],
    "trials that do not repeat": ["--conditions", "1560", "--trials", "1"],
    "pulses": ["--pulses", "1"],
}
BANDWIDTHS = [29, 10, 5]
INPUT_SIZES = [0, 4]
QUICK_DATA = ["--conditions", "40", "--trials", "2", "--neurons", "12", "--bins", "20"]


def find_pulses(checkpoint: Path) -> tuple[float, float]:
    """Return the area under the ROC curve for the bins of pulses in validation trials, and the RMS
    of the inputs.

    The classifier is the size of a bin's inputs. Both are NaN without inputs, the area also without
    pulses.
    """
    model, data = load_model_and_data(checkpoint)
    inputs = infer_arrays(model, data.datasets["valid"][:].spikes).get("inputs")
    with h5py.File(data.hparams.path) as file:
        is_pulse = file["valid_pulses"][:] if "valid_pulses" in file else None
    if inputs is None:
        return np.nan, np.nan
    sizes = torch.from_numpy(np.linalg.norm(inputs, axis=-1))
    area = (
        np.nan
        if is_pulse is None
        else float(binary_auroc(sizes.flatten(), torch.from_numpy(is_pulse).flatten().int()))
    )
    return area, float(np.sqrt(np.mean(inputs**2)))


def results_table(rows: list[dict]) -> str:
    """Return a table of means ± SD over seeds: a row for each data set and bandwidth."""
    groups = {}
    for row in rows:
        groups.setdefault((row["data"], row["bandwidth"]), {}).setdefault(
            row["input_size"], []
        ).append(row)
    without, with_inputs = ([sizes[size] for sizes in groups.values()] for size in INPUT_SIZES)

    def column(seeds: list[list[dict]], name: str) -> list[str]:
        return [mean_and_sd([row[name] for row in of_seeds]) for of_seeds in seeds]

    columns = {
        "data": [data for data, _ in groups],
        "observed": [str(bandwidth) for _, bandwidth in groups],
        "R² without inputs": column(without, "r2"),
        "R² with inputs": column(with_inputs, "r2"),
        "prior without": [", ".join(row["prior"] for row in of_seeds) for of_seeds in without],
        "prior with": [", ".join(row["prior"] for row in of_seeds) for of_seeds in with_inputs],
        "RMS of the inputs": column(with_inputs, "rms"),
        "area under the ROC curve": column(with_inputs, "auc"),
        "time with / without": [
            f"{np.mean([row['seconds'] for row in driven]) / np.mean([row['seconds'] for row in free]):.2f}"
            for driven, free in zip(with_inputs, without, strict=True)
        ],
    }
    return markdown_table(columns, n_left=1)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--bandwidths", type=int, nargs="+", default=BANDWIDTHS, help="Numbers of observed neurons"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Seeds")
    parser.add_argument(
        "--quick", action="store_true", help="Pulses alone, one bandwidth and seed, one epoch"
    )
    add_cluster(parser)
    parser.add_argument("--name", type=str, default="inputs", help="Start of the names of the runs")
    parser.add_argument("--out", type=str, default="docs", help="Folder for inputs.csv")
    options = parser.parse_args()
    out = writable_folder(options.out, "--out")
    quick = ["--trainer.max_epochs", "1", "--model.refinement", "2"] if options.quick else []
    seeds, bandwidths = ([0], [5]) if options.quick else (options.seeds, options.bandwidths)

    rows = []
    for number, (data, arguments) in enumerate(DATA.items()):
        if options.quick and data != "pulses":
            continue
        path = LOGS / f"{options.name}_{number}.h5"
        if not path.exists():
            writable_folder(LOGS, "lightning_logs")
            command(
                "simulate.py",
                "--path",
                str(path),
                "--seed",
                "1",
                *arguments,
                *(QUICK_DATA if options.quick else []),
            )
        for input_size in INPUT_SIZES:
            for seed in seeds:
                name = f"{options.name}_{number}_{input_size}_{seed}"
                words = [
                    "--data.path",
                    str(path),
                    "--bandwidths",
                    *map(str, bandwidths),
                    "--seed_everything",
                    str(seed),
                ]
                results = train(
                    name, [*words, "--model.input_size", str(input_size), *quick], options.cluster
                )
                for bandwidth in bandwidths:
                    auc, rms = find_pulses(LOGS / name / bandwidth_folder(bandwidth) / "best.ckpt")
                    scores = {
                        key: results[bandwidth, seed][key]
                        for key in ("r2", "bps", "prior", "seconds")
                    }
                    rows.append(
                        {
                            "data": data,
                            "input_size": input_size,
                            "seed": seed,
                            "bandwidth": bandwidth,
                            **scores,
                        }
                    )
                    rows[-1] |= {"auc": auc, "rms": rms}
    write_table(out / "inputs.csv", rows)
    print(f"\n{results_table(rows)}\nThe results of each training are in {out / 'inputs.csv'}")


if __name__ == "__main__":
    run(main)
