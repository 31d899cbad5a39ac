"""Gather the evidence for SBTT on simulated data: what the selective loss is worth, how to sample,
what is memory, what adapts.

python -m experiments.evidence                       all pieces; two hours on two cores
python -m experiments.evidence --pieces patterns     one of them
python -m experiments.evidence --quick               each in small, to see that it works

Each piece writes docs/evidence/PIECE.csv and PIECE.png. If it was stopped, the same command resumes
it. docs/evidence.md tells what came out.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch

from command_line import expect, markdown_table, run, writable_folder
from evaluation.checkpoints import LOGS, bandwidth_folder, training_folder
from evaluation.inference import infer_arrays
from evaluation.scoring import load_model_and_data
from experiments.evidence_figures import plot_evidence
from experiments.trainings import (
    add_cluster,
    check_truth,
    command,
    evidence_parser,
    mean_and_sd,
    train,
    write_evidence,
)
from modules.metrics import R2
from plotting.latents import apply_map, fit_linear_map
from recordings.hdf5 import read_latents
from recordings.writing import write_splits
from training.options import DEMO_BANDWIDTHS

SCORES = ["r2", "r2_observed", "r2_unobserved", "r2_latents"]
SIMULATION_SEED = 1  # another than that of lorenz_data.h5
UNSEEN = ["--data.split", "conditions"]


class Scale(NamedTuple):
    """How much a piece of evidence trains."""

    name: str  # start of the names of runs and data files
    data: str  # data file of the first three pieces
    bandwidths: list[int]
    n_seeds: int
    words: tuple[str, ...] = ()  # options of all trainings
    conditions: tuple[tuple[int, int, int], ...] = (
        (65, 81, 19),
        (250, 312, 5),
        (1248, 1560, 1),
    )  # in training; all; trials
    pool: tuple[int, int] = (
        130,
        24,
    )  # conditions, and trials of each, of which a half is pretrained on
    n_trials: tuple[int, ...] = (50, 200, 1248)  # for training after that
    cluster: str = "local"  # where to train


class Training(NamedTuple):
    """A run of train.py in a piece of evidence."""

    label: str  # what is compared: a line in the figure; may name the {bandwidth}
    run: str  # name of its folder; pieces that need the same run share it
    data: str  # data file
    bandwidths: list[int]
    words: list[str]  # options of train.py
    x: int | None = None  # where on the x-axis; None: at the bandwidth
    rescaled: bool = False  # divide the inferred rates by the fraction observed


def simulated(scale: Scale, name: str, conditions: int, trials: int) -> str:
    """Return the path of a simulated data set under lightning_logs. It is made if it is not
    there."""
    path = writable_folder(LOGS, "lightning_logs") / f"{scale.name}_{name}.h5"
    if not path.exists():
        words = [
            "--conditions",
            str(conditions),
            "--trials",
            str(trials),
            "--seed",
            str(SIMULATION_SEED),
        ]
        command("simulate.py", "--path", str(path), *words)
    return str(path)


def selective_loss(scale: Scale) -> Iterator[Training]:
    """Missing counts left out, as SBTT has it; or taken as zeros; or interpolated in time: in the
    input and in the loss."""
    data, bandwidths = scale.data, scale.bandwidths
    yield Training("SBTT", "default", data, bandwidths, [])
    zeros = Training("missing as zeros", "zeros", data, bandwidths, ["--data.fill", "zero"])
    yield zeros
    yield zeros._replace(label="missing as zeros, rates rescaled", rescaled=True)
    yield Training(
        "interpolated", "interpolated", data, bandwidths, ["--data.fill", "interpolated"]
    )


def patterns(scale: Scale) -> Iterator[Training]:
    """The same bandwidth spent in four ways."""
    yield Training("random", "default", scale.data, scale.bandwidths, [])
    for pattern in ("staggered", "blocks", "fixed"):
        yield Training(
            pattern, pattern, scale.data, scale.bandwidths[2:], ["--data.pattern", pattern]
        )


def unseen_conditions(scale: Scale) -> Iterator[Training]:
    """Validation trials of conditions that are in training, and of conditions that are not."""
    yield Training("conditions seen in training", "default", scale.data, scale.bandwidths, [])
    yield Training("conditions never seen", "unseen", scale.data, scale.bandwidths, UNSEEN)


def number_of_conditions(scale: Scale) -> Iterator[Training]:
    """Conditions never seen, against the number of conditions in training; as many trials in
    all."""
    some = [
        scale.bandwidths[0],
        scale.bandwidths[len(scale.bandwidths) * 5 // 8],
    ]  # all neurons, and few
    for n_training, n_all, trials in scale.conditions:
        name = f"{n_training}_conditions"
        path = simulated(scale, name, n_all, trials)
        yield Training("{bandwidth} observed", name, path, some, UNSEEN, n_training)


def transfer(scale: Scale) -> Iterator[Training]:
    """A model of all neurons on some conditions adapts to few neurons and few trials of other
    conditions."""
    pool, all_neurons = (
        simulated(scale, f"{scale.pool[0]}_conditions", *scale.pool),
        scale.bandwidths[0],
    )
    half = divide(scale, pool, "first_half", slice(0, None, 2), None)
    pretrained = f"{scale.name}_pretrained"
    train(
        pretrained,
        ["--data.path", half, "--bandwidths", str(all_neurons), *scale.words],
        scale.cluster,
    )
    checkpoint = str(LOGS / pretrained / bandwidth_folder(all_neurons) / "best.ckpt")
    start = ["--init_from", checkpoint, "--model.learning_rate", "1e-2"]
    ways = {
        "from scratch": [],
        "adapted": start,
        "generator frozen": [*start, "--freeze", "generator"],
    }
    for n_trials in scale.n_trials:
        path = divide(scale, pool, f"{n_trials}_trials", slice(1, None, 2), n_trials)
        for way, words in ways.items():
            run_name = f"{n_trials}_trials_{way.replace(' ', '_')}"
            yield Training(
                f"{{bandwidth}} observed, {way}",
                run_name,
                path,
                scale.bandwidths[-2:],
                words,
                n_trials,
            )


PIECES = {
    piece.__name__: piece
    for piece in (selective_loss, patterns, unseen_conditions, number_of_conditions, transfer)
}
X_LABELS = {"number_of_conditions": "conditions in training", "transfer": "trials in training"}
SCORE_OF = {"patterns": "r2_latents"}  # else R² of the rates


def divide(scale: Scale, path: str, name: str, conditions: slice, n_train: int | None) -> str:
    """Write the trials of some conditions, at most `n_train` of them for training, to a file of
    their own; return its path."""
    out = LOGS / f"{scale.name}_{name}.h5"
    if out.exists():
        return str(out)
    splits = {}
    with h5py.File(path) as file:
        bin_width = float(file.attrs["bin_width"])
        labels = np.unique(file["train_condition"][:])[conditions]
        for split in ("train", "valid"):
            arrays = {key: file[f"{split}_{key}"][:] for key in ("data", "truth", "condition")}
            chosen = np.flatnonzero(np.isin(arrays["condition"], labels))
            if split == "train" and n_train is not None:
                chosen = np.random.default_rng(0).permutation(chosen)[:n_train]
            splits[split] = {key: array[chosen] for key, array in arrays.items()}
    write_splits(out, splits, bin_width)
    return str(out)


def r2_of_latents(checkpoint: Path) -> float:
    """Return the R² between true latents and the model's, after a linear map that was fitted on
    training trials.

    NaN if the true latents are not known for these trials.
    """
    model, data = load_model_and_data(checkpoint)
    true = None if data.hparams.split == "conditions" else read_latents(data.hparams.path, 10**6)
    if true is None:
        return np.nan
    inferred = {
        split: infer_arrays(model, data.datasets[split][:].spikes)["latents"]
        for split in ("train", "valid")
    }
    residual = true["valid"] - apply_map(
        fit_linear_map(inferred["train"], true["train"]), inferred["valid"]
    )
    return float(np.mean(1 - np.square(residual).mean((0, 1)) / true["valid"].var((0, 1))))


def r2_of_rescaled_rates(checkpoint: Path) -> float:
    """Return the R² of the inferred rates divided by the fraction observed.

    Missing counts that are taken as zeros lower the rates by this fraction.
    """
    model, data = load_model_and_data(checkpoint)
    rates = infer_arrays(model, data.datasets["valid"][:].spikes)["rates"] / (
        1 - data.fraction_dropped
    )
    metric = R2(data.n_neurons)
    metric.update(torch.from_numpy(rates), torch.from_numpy(data.trials["valid"].rates))
    return float(metric.compute())


def gather(piece: str, scale: Scale) -> list[dict]:
    """Train what a piece asks for. Return a row for each training: a line of the figure, bandwidth
    and seed."""
    rows, n_seeds = [], scale.n_seeds
    for training in PIECES[piece](scale):
        name = f"{scale.name}_{training.run}"
        words = [
            "--data.path",
            training.data,
            "--bandwidths",
            *map(str, training.bandwidths),
            *training.words,
        ]
        results = train(name, [*words, "--seeds", str(n_seeds), *scale.words], scale.cluster)
        for bandwidth in training.bandwidths:
            for seed in range(n_seeds):
                scores = {score: results[bandwidth, seed].get(score, np.nan) for score in SCORES}
                best = (
                    LOGS
                    / name
                    / training_folder(bandwidth, seed if n_seeds > 1 else None)
                    / "best.ckpt"
                )
                if SCORE_OF.get(piece) == "r2_latents":
                    scores["r2_latents"] = r2_of_latents(best)
                if training.rescaled:
                    scores = dict.fromkeys(SCORES, np.nan) | {"r2": r2_of_rescaled_rates(best)}
                x = bandwidth if training.x is None else training.x
                label = training.label.format(bandwidth=bandwidth)
                rows.append({"label": label, "x": x, "bandwidth": bandwidth, "seed": seed} | scores)
    return rows


def results_table(rows: list[dict], x_label: str, scores: list[str]) -> str:
    """Return a table of means ± SD over seeds."""
    groups = {}
    for row in rows:
        groups.setdefault((row["label"], row["x"]), []).append(row)
    columns = {"": [label for label, _ in groups], x_label: [str(x) for _, x in groups]}
    columns |= {
        score: [mean_and_sd([row[score] for row in seeds]) for seeds in groups.values()]
        for score in scores
    }
    return markdown_table(columns, n_left=1)


def main() -> None:
    parser = evidence_parser(__doc__)
    parser.add_argument(
        "--pieces", choices=list(PIECES), nargs="+", default=list(PIECES), help="Pieces of evidence"
    )
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds")
    parser.add_argument(
        "--data", type=str, default="lorenz_data.h5", help="Data of the first three pieces"
    )
    add_cluster(parser)
    parser.add_argument(
        "--quick", action="store_true", help="One seed, one epoch, three bandwidths"
    )
    options = parser.parse_args()
    out = writable_folder(options.out, "--out")
    scale = Scale("evidence", options.data, DEMO_BANDWIDTHS, options.seeds)
    if options.quick:
        words = (
            "--trainer.max_epochs",
            "1",
            "--model.refinement",
            "0",
            "--trainer.logger",
            "false",
        )
        scale = Scale("quick", "", [29, 10, 3], 1, words, ((5, 6, 3), (10, 12, 2)), (10, 8), (16,))
        scale = scale._replace(data=simulated(scale, "demonstration", 10, 5))
    expect(options.seeds >= 1, "--seeds", options.seeds, "at least 1")
    scale = scale._replace(cluster=options.cluster)
    check_truth(scale.data)
    for piece in options.pieces:
        rows = gather(piece, scale)
        score, x_label = SCORE_OF.get(piece, "r2"), X_LABELS.get(piece, "neurons observed")
        write_evidence(piece, rows, functools.partial(plot_evidence, rows, x_label, score), out)
        print(
            f"\n{PIECES[piece].__doc__}\n\n{results_table(rows, x_label, [*dict.fromkeys([score, 'r2'])])}"
        )


if __name__ == "__main__":
    run(main)
