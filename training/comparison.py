"""Compare a run with earlier ones that differ in whether the decoder has inputs: held-out counts
say which suits the data."""

from pathlib import Path

import yaml
from jsonargparse import Namespace

from evaluation.checkpoints import LOGS
from training.runs import read_results


def compare_inputs(run_dir: Path, config: Namespace) -> list[str]:
    """Return a line for each bandwidth at which a run with inputs and one without were trained on
    the same masked data.

    Args:
        run_dir: Folder of a run that was trained to its end.
        config: Its options.
    """
    lines, ours = [], results_of(run_dir)
    for other in sorted(
        path
        for path in LOGS.glob("*")
        if path.name != run_dir.name and (path / "results.csv").exists()
    ):
        with_inputs = inputs_of(other, config)
        if with_inputs is None or with_inputs == (config.model.input_size > 0):
            continue
        theirs = results_of(other)
        for bandwidth in ours.keys() & theirs.keys():
            here, there = ours[bandwidth], theirs[bandwidth]
            names = {True: "with inputs", False: "without inputs"}
            better = "better" if here < there else "worse" if here > there else "equal"
            lines.append(
                f"bandwidth {bandwidth}: held-out NLL {here:.4f} {names[not with_inputs]}, {better} than {there:.4f} "
                f"{names[with_inputs]} in {other}"
            )
    return lines


def results_of(run_dir: Path) -> dict[int, float]:
    """Return the held-out NLL of each bandwidth, the mean over seeds."""
    scores = {}
    for row in read_results(run_dir):
        scores.setdefault(row["bandwidth"], []).append(row["heldout_nll"])
    return {bandwidth: sum(of_seeds) / len(of_seeds) for bandwidth, of_seeds in scores.items()}


def inputs_of(run_dir: Path, config: Namespace) -> bool | None:
    """Return whether the models of a run have inputs; None if the run had other data, masks or seed
    than `config`."""
    try:
        other = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
        same = {
            name: other["data"].get(name, value) == value
            for name, value in config.data.as_dict().items()
        }
        same["seed"] = all(
            other.get(name, 1) == config[name] for name in ("seed_everything", "seeds")
        )
        ignored = ("bandwidth", "batch_size", "num_workers")
        return (
            other["model"].get("input_size", 0) > 0
            if all(same[name] for name in same if name not in ignored)
            else None
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None  # no run of this repo
