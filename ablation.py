"""What each part of the recipe is worth: from the public demo's recipe to ours, one part at a time.

python ablation.py       twenty minutes on two cores; writes docs/ablation.csv, which plot_results.py draws as `why`

What was stopped goes on when the command is given again.
"""

import csv
import subprocess
import sys

import jsonargparse
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command_line import FailedWork, run, writable_folder, write_table
from evaluate import LOGS

RECIPES = {
    "public demo's recipe": ["--config", "configs/published.yaml", "--trainer.max_epochs", "200"],  # not all its 1000
    "+ Muon, its schedule, start and decay": ["--model.coordinated_dropout", "0", "--model.sharing", "0"],
    "+ coordinated dropout": ["--model.sharing", "0"],
    "+ comparison of trials (this repo)": [],
}
SCORES = ["r2", "r2_amortised", "nll", "heldout_nll", "heldout_nll_amortised"]


def read_history(run_name: str, bandwidth: int) -> list[dict[str, float]]:
    """Return the scores of one level at each of its validations."""
    events = EventAccumulator(str(LOGS / run_name / f"bandwidth_{bandwidth:02}")).Reload()
    epochs = [{"bandwidth": bandwidth, "epoch": event.step} for event in events.Scalars("valid/r2")]
    for score in SCORES:
        for row, event in zip(epochs, events.Scalars(f"valid/{score}"), strict=True):
            row[score] = event.value
    return epochs


def read_results(run_name: str) -> dict[int, dict[str, float]]:
    """Return the scores of each level's best checkpoint."""
    with open(LOGS / run_name / "results.csv", newline="") as file:
        return {int(row["bandwidth"]): {score: float(row[score]) for score in SCORES} for row in csv.DictReader(file)}


def markdown_table(results: dict[str, list[dict[int, dict[str, float]]]]) -> str:
    """Write a table of the best checkpoints' scores, the mean over seeds and for R² the SD, for each recipe."""
    levels = list(next(iter(results.values()))[0])
    titles = ["recipe", *(f"{what} at {level}" for level in levels for what in ("R²", "encoder alone", "held-out NLL"))]
    rows = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for recipe, of_seeds in results.items():
        cells = [recipe]
        for level in levels:
            scores = {score: np.array([of_seed[level][score] for of_seed in of_seeds]) for score in SCORES}
            sd = f" ± {scores['r2'].std(ddof=1):.3f}" if len(of_seeds) > 1 else ""
            cells += [f"{scores['r2'].mean():.3f}{sd}", f"{scores['r2_amortised'].mean():.3f}"]
            cells += [f"{scores['heldout_nll'].mean():.4f}"]
        rows.append(cells)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = jsonargparse.ArgumentParser(description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--bandwidths", type=int, nargs="+", default=[29, 2], help="Numbers of observed neurons")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Seeds")
    parser.add_argument(
        "--epochs", type=int | None, help="Epochs of each training (default: 200 of the demo's, else ours)"
    )
    parser.add_argument("--name", type=str, default="ablation", help="Start of the names of the runs")
    parser.add_argument("--out", type=str, default="docs", help="Folder for ablation.csv")
    options = parser.parse_args()
    out = writable_folder(options.out, "--out")

    levels = [str(bandwidth) for bandwidth in options.bandwidths]
    epochs = [] if options.epochs is None else ["--trainer.max_epochs", str(options.epochs)]
    rows, results = [], {}
    for number, (recipe, flags) in enumerate(RECIPES.items()):
        for seed in options.seeds:
            name = f"{options.name}_{number}_{seed}"
            words = ["--bandwidths", *levels, *epochs, "--seed_everything", str(seed)]
            words = ["--resume", str(LOGS / name)] if (LOGS / name).exists() else ["--name", name, *flags, *words]
            print(f"\n{recipe}, seed {seed}: python train.py {' '.join(words)}", flush=True)
            if subprocess.run([sys.executable, "train.py", *words]).returncode:
                raise FailedWork(f"the training of {name} failed, so there is nothing to compare")
            results.setdefault(recipe, []).append(read_results(name))
            for bandwidth in options.bandwidths:
                rows += [{"recipe": recipe, "seed": seed, **epoch} for epoch in read_history(name, bandwidth)]
    write_table(out / "ablation.csv", rows)
    print(
        f"\n{markdown_table(results)}\nThe histories are in {out / 'ablation.csv'}; draw them: python plot_results.py"
    )


if __name__ == "__main__":
    run(main)
