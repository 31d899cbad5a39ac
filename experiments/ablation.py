"""Measure what each part of the recipe is worth: from the public demo's recipe to ours in three
steps.

python -m experiments.ablation       eight minutes on two cores; writes docs/ablation.csv and draws
it

If it was stopped, the same command resumes it.
"""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command_line import command_parser, markdown_table, run, writable_folder, write_table
from evaluation.checkpoints import LOGS, bandwidth_folder
from experiments.learning_curves import draw
from experiments.trainings import add_cluster, mean_and_sd, train

RECIPES = {
    "public demo's recipe": [
        "--config",
        "configs/published.yaml",
        "--trainer.max_epochs",
        "200",
    ],  # not all its 1000
    "+ Muon, its schedule, start and decay": [
        "--model.coordinated_dropout",
        "0",
        "--model.refinement",
        "0",
    ],
    "+ coordinated dropout": ["--model.refinement", "0"],
    "+ refinement (this repo)": [],
}
OFTEN = ["--trainer.check_val_every_n_epoch", "10"]  # for smooth curves
COMPARED = ["r2", "r2_amortised", "nll", "heldout_nll", "heldout_nll_amortised"]


def read_history(run_name: str, bandwidth: int) -> list[dict[str, float]]:
    """Return the scores of one bandwidth at each of its validations."""
    events = EventAccumulator(str(LOGS / run_name / bandwidth_folder(bandwidth))).Reload()
    epochs = [{"bandwidth": bandwidth, "epoch": event.step} for event in events.Scalars("valid/r2")]
    for score in COMPARED:
        for row, event in zip(epochs, events.Scalars(f"valid/{score}"), strict=True):
            row[score] = event.value
    return epochs


def results_table(results: dict[str, list[dict[int, dict[str, float]]]]) -> str:
    """Return a table of the best checkpoints' scores: for each recipe the mean over seeds, for R²
    also the SD."""
    columns = {"recipe": list(results)}
    for bandwidth in next(iter(results.values()))[0]:
        recipes = [
            {score: np.array([seed[bandwidth][score] for seed in seeds]) for score in COMPARED}
            for seeds in results.values()
        ]
        columns |= {
            f"R² at {bandwidth}": [mean_and_sd(scores["r2"]) for scores in recipes],
            f"encoder alone at {bandwidth}": [
                f"{scores['r2_amortised'].mean():.3f}" for scores in recipes
            ],
            f"held-out NLL at {bandwidth}": [
                f"{scores['heldout_nll'].mean():.4f}" for scores in recipes
            ],
        }
    return markdown_table(columns, n_left=1)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--bandwidths", type=int, nargs="+", default=[29, 2], help="Numbers of observed neurons"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Seeds")
    parser.add_argument(
        "--epochs",
        type=int | None,
        help="Epochs of each training (default: 200 for the demo's recipe, else 65)",
    )
    add_cluster(parser)
    parser.add_argument(
        "--name", type=str, default="ablation", help="Start of the names of the runs"
    )
    parser.add_argument(
        "--out", type=str, default="docs", help="Folder for ablation.csv and its figures"
    )
    options = parser.parse_args()
    out = writable_folder(options.out, "--out")

    bandwidths = [str(bandwidth) for bandwidth in options.bandwidths]
    epochs = [] if options.epochs is None else ["--trainer.max_epochs", str(options.epochs)]
    rows, results = [], {}
    for number, (recipe, flags) in enumerate(RECIPES.items()):
        for seed in options.seeds:
            words = ["--bandwidths", *bandwidths, *epochs, *OFTEN, "--seed_everything", str(seed)]
            name = f"{options.name}_{number}_{seed}"
            trained = {
                bandwidth: row
                for (bandwidth, _), row in train(name, [*flags, *words], options.cluster).items()
            }
            results.setdefault(recipe, []).append(trained)
            for bandwidth in options.bandwidths:
                rows += [
                    {"recipe": recipe, "seed": seed, **epoch}
                    for epoch in read_history(name, bandwidth)
                ]
    write_table(out / "ablation.csv", rows)
    draw(out / "ablation.csv", out)
    print(f"\n{results_table(results)}\nThe histories and figures are in {out}")


if __name__ == "__main__":
    run(main)
