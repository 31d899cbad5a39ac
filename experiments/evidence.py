"""Gather the evidence for SBTT on simulated data: what the selective loss is worth, how to sample,
what is merely memorised, what transfers to few trials.

pip install -r requirements-evidence.txt
python -m experiments.evidence                       all pieces; two hours on two cores
python -m experiments.evidence --pieces patterns     one of them
python -m experiments.evidence --quick               each in small, to see that it works

Each piece writes docs/evidence/PIECE.csv and PIECE.png. If it was stopped, the same command resumes
it. docs/evidence.md tells what came out.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from command_line import expect, run
from data import SpikeDataModule
from evaluation.checkpoints import load_model_and_data
from evaluation.inference import infer_arrays
from evaluation.latents import r2_of_latents
from evaluation.run_folders import LOGS
from experiments import grid
from experiments.commands import parse_options
from recordings.hdf5 import read_file
from recordings.writing import write_splits
from training.options import DEMO_BANDWIDTHS

SCORES = ["r2", "r2_observed", "r2_unobserved", "r2_latents"]
UNSEEN = ("--data.split", "conditions")
QUICK = ("--trainer.max_epochs", "1", "--refinement.epochs", "0", "--trainer.logger", "false")


FULL = {  # what the last two pieces simulate
    "conditions": [(65, 81, 19), (250, 312, 5), (1248, 1560, 1)],  # in training; all; trials each
    "pool": (130, 24),  # conditions, half of them to pretrain on; trials of each
    "trials": [50, 200, 1248],  # for training after that
}
SMALL = {"conditions": [(5, 6, 3), (10, 12, 2)], "pool": (10, 8), "trials": [16]}


def read_scores(folder: Path, results: grid.Results) -> list[dict]:
    """Return the scores of a run's best checkpoint on the validation trials."""
    return [{score: results.get(score, np.nan) for score in SCORES}]


def score_latents(folder: Path, results: grid.Results) -> list[dict]:
    """Return the scores with the R² of the latent state."""
    r2_latents = r2_of_latents(*load_model_and_data(folder / "best.ckpt"))
    return read_scores(folder, results | {"r2_latents": r2_latents})


def score_rescaled(folder: Path, results: grid.Results) -> list[dict]:
    """Return the R² of rates divided by the fraction observed, by which missing counts that are
    taken as zeros lower them."""
    model, data = load_model_and_data(folder / "best.ckpt")
    rates = infer_arrays(model, data.datasets["valid"][:].spikes)["rates"]
    return read_scores(folder, {"r2": grid.r2_of_rates(rates / (1 - data.fraction_dropped), data)})


def selective_loss(base: grid.Sweep, _: dict) -> Iterator[grid.Sweep]:
    """Missing counts left out, as SBTT has it; or taken as zeros; or interpolated in time: in the
    input and in the loss."""
    yield base.vary("SBTT", "default")
    zeros = base.vary("missing as zeros", "zeros", "--data.fill", "zero")
    yield zeros
    yield replace(zeros, label="missing as zeros, rates rescaled", measure=score_rescaled)
    yield base.vary("interpolated", "interpolated", "--data.fill", "interpolated")


def patterns(base: grid.Sweep, _: dict) -> Iterator[grid.Sweep]:
    """The same bandwidth spent in four ways."""
    yield base.vary("random", "default", measure=score_latents)
    few = replace(base, bandwidths=base.bandwidths[2:], measure=score_latents)
    for pattern in ("staggered", "blocks", "fixed"):
        yield few.vary(pattern, pattern, "--data.pattern", pattern)


def unseen_conditions(base: grid.Sweep, _: dict) -> Iterator[grid.Sweep]:
    """Validation trials of conditions that are in training, and of conditions that are not."""
    yield base.vary("conditions seen in training", "default")
    yield base.vary("conditions never seen", "unseen", *UNSEEN)


def number_of_conditions(base: grid.Sweep, sizes: dict) -> Iterator[grid.Sweep]:
    """Conditions never seen, against the number of conditions in training; as many trials in
    all."""
    some = [base.bandwidths[0], base.bandwidths[len(base.bandwidths) * 5 // 8]]  # all and few
    for n_training, n_all, n_trials in sizes["conditions"]:
        name = f"{n_training}_conditions"
        path = grid.simulate_once(f"{base.name}_{name}", conditions=n_all, trials=n_trials)
        words = ["--data.path", path, *UNSEEN]
        yield base.vary("{bandwidth} observed", name, *words, bandwidths=some, x=n_training)


def transfer(base: grid.Sweep, sizes: dict) -> Iterator[grid.Sweep]:
    """A model of all neurons on some conditions adapts to few neurons and few trials of other
    conditions."""
    n_conditions, n_trials = sizes["pool"]
    name = f"{base.name}_{n_conditions}_conditions"
    pool = grid.simulate_once(name, conditions=n_conditions, trials=n_trials)
    half = divide(pool, f"{base.name}_first_half", slice(0, None, 2))
    of_all = {"bandwidths": base.bandwidths[:1], "seeds": 1}
    pretrained = base.vary("", "pretrained", "--data.path", half, **of_all)
    grid.train(pretrained)
    checkpoint = pretrained.folder(base.bandwidths[0], 0) / "best.ckpt"
    start = ["--init_from", str(checkpoint), "--model.learning_rate", "1e-2"]
    frozen = [*start, "--freeze", "generator"]
    few = replace(base, bandwidths=base.bandwidths[-2:])
    for n in sizes["trials"]:
        path = divide(pool, f"{base.name}_{n}_trials", slice(1, None, 2), n)
        for way, flags in (("from scratch", []), ("adapted", start), ("generator frozen", frozen)):
            name, words = f"{n}_trials_{way.replace(' ', '_')}", ["--data.path", path, *flags]
            yield few.vary(f"{{bandwidth}} observed, {way}", name, *words, x=n)


PIECES = {
    piece.__name__: piece
    for piece in (selective_loss, patterns, unseen_conditions, number_of_conditions, transfer)
}
X_LABELS = {"number_of_conditions": "conditions in training", "transfer": "trials in training"}


def divide(path: str, name: str, conditions: slice, n_train: int | None = None) -> str:
    """Write the trials of some conditions, at most `n_train` of them for training, to a file of
    their own; return its path."""
    out = LOGS / f"{name}.h5"
    if out.exists():
        return str(out)
    recording, splits = read_file(path), {}
    labels = np.unique(recording.trials["train"].condition)[conditions]
    for split, (spikes, rates, condition) in recording.trials.items():
        chosen = np.flatnonzero(np.isin(condition, labels))
        if split == "train" and n_train is not None:
            chosen = np.random.default_rng(0).permutation(chosen)[:n_train]
        arrays = {"data": spikes, "truth": rates, "condition": condition}
        splits[split] = {key: array[chosen] for key, array in arrays.items()}
    write_splits(out, splits, recording.bin_width)
    return str(out)


def main() -> None:
    asked = {"pieces": list(PIECES), "seeds": 3, "data": "lorenz_data.h5", "quick": False}
    options = parse_options(__doc__, **asked, cluster="local", out="docs/evidence")
    for piece in options.pieces:
        expect(piece in PIECES, "--pieces", piece, f"some of {', '.join(PIECES)}")
    options.bandwidths, sizes = DEMO_BANDWIDTHS, FULL
    base = grid.start(options, "evidence", read_scores)
    if options.quick:
        base = replace(base, name="quick", bandwidths=[29, 10, 3], seeds=1, flags=QUICK)
        sizes = SMALL
        options.data = grid.simulate_once("quick_demonstration", conditions=10, trials=5)
    grid.true_rates(SpikeDataModule(options.data))  # or an error now
    base = replace(base, flags=(*base.flags, "--data.path", options.data))
    for piece in options.pieces:
        x_label, scores = X_LABELS.get(piece, "neurons observed"), ["r2"]
        title = "R² of inferred to true rates"
        if piece == "patterns":
            scores, title = ["r2_latents", "r2"], "R² of the latent state"
        table = grid.gather(PIECES[piece](base, sizes))
        grid.write(options.out, piece, table)
        grid.draw(options.out, piece, grid.plot_lines, table, x_label, scores[0], title)
        print(f"\n{PIECES[piece].__doc__}")
        means = table.groupby(["label", "x"], sort=False)[scores].agg(grid.mean_and_sd)
        grid.print_table(means.reset_index(names=["", x_label]), n_left=1)


if __name__ == "__main__":
    run(main)
