"""Measure what each part of the recipe is worth: three steps from the public demo's recipe to ours.

pip install -r requirements-evidence.txt
python -m experiments.ablation       eight minutes on two cores; writes docs/ablation.csv, draws it

If it was stopped, the same command resumes it.
"""

from pathlib import Path

import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command_line import run
from experiments import grid, learning_curves
from experiments.options import parse_options

RECIPES = {  # the demo's is trained for 200 of its 1000 epochs
    "public demo's recipe": "--config configs/published.yaml --trainer.max_epochs 200",
    "+ Muon, its schedule, start and decay": "--model.coordinated_dropout 0 --refinement.epochs 0",
    "+ coordinated dropout": "--refinement.epochs 0",
    "+ refinement (this repo)": "",
}
OFTEN = ("--trainer.check_val_every_n_epoch", "10")  # for smooth curves
SCORES = ["r2", "r2_amortised", "nll", "heldout_nll", "heldout_nll_amortised"]


def read_history(folder: Path, results: grid.Results) -> list[dict[str, float]]:
    """Return a run's scores at each of its validations, with those of its best checkpoint."""
    events = EventAccumulator(str(folder)).Reload()
    history = {score: events.Scalars(f"valid/{score}") for score in SCORES}
    columns = {"epoch": [event.step for event in history["r2"]]}
    columns |= {score: [event.value for event in values] for score, values in history.items()}
    columns |= {f"best_{score}": results[score] for score in SCORES}
    return pd.DataFrame(columns).to_dict("records")


def compare_recipes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores (text) of the best checkpoints: mean over seeds, for R² also the SD."""
    columns, runs = {}, table.drop_duplicates(["recipe", "seed", "bandwidth"])
    for bandwidth, at_bandwidth in runs.groupby("bandwidth", sort=False):
        seeds = at_bandwidth.groupby("recipe", sort=False)
        amortised, nll = seeds["best_r2_amortised"].mean(), seeds["best_heldout_nll"].mean()
        columns[f"R² at {bandwidth}"] = seeds["best_r2"].agg(grid.mean_and_sd)
        columns[f"encoder alone at {bandwidth}"] = amortised.map("{:.3f}".format)
        columns[f"held-out NLL at {bandwidth}"] = nll.map("{:.4f}".format)
    return pd.DataFrame(columns).reset_index()


def main() -> None:
    sizes = {"bandwidths": [29, 2], "seeds": [0, 1, 2], "epochs": None}
    options = parse_options(__doc__, **sizes, name="ablation", cluster="local", out="docs")
    epochs = ["--trainer.max_epochs", str(options.epochs)] if options.epochs else []
    seeds, cluster = options.seeds, options.cluster
    base = grid.Sweep(options.name, options.bandwidths, seeds, read_history, cluster, OFTEN)
    sweeps = [
        base.vary(recipe, f"{number}_{seed}", *flags.split(), *epochs, seeds=[seed])
        for number, (recipe, flags) in enumerate(RECIPES.items())
        for seed in seeds
    ]
    table = grid.gather(sweeps).rename(columns={"label": "recipe"})
    history = table[["recipe", "seed", "bandwidth", "epoch", *SCORES]]
    grid.write(options.out, "ablation", history)
    learning_curves.draw(history, options.out)
    grid.print_table(compare_recipes(table), n_left=1)
    print(f"The histories and figures are in {options.out}")


if __name__ == "__main__":
    run(main)
