"""Evaluate trained runs and plot them: the curve of R² against the fraction of dropped entries, and example trials.

python plot_results.py                     the newest complete run, else lightning_logs/pretrained
python plot_results.py RUN_DIR ...         runs, levels or single checkpoints; several seeds are averaged
"""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jsonargparse
import matplotlib
import numpy as np

from command_line import InputError, run, whole_file, writable_folder
from evaluate import (
    find_checkpoints,
    ideal_observer,
    infer_rates,
    load_checkpoint,
    load_data,
    r2,
    read_ablation,
    read_published,
)
from plots import STYLE, Example, plot_curve, plot_examples, plot_method, plot_why, save


@dataclass
class Score:
    """How one checkpoint does on the validation trials."""

    bandwidth: int
    fraction_dropped: float
    r2: float
    r2_observed: float
    r2_unobserved: float
    r2_amortised: float
    r2_ideal: float
    seed: int
    checkpoint: str


def evaluate(checkpoint: Path, data_path: str | None) -> tuple[Score, Example]:
    """Score a checkpoint on the validation data, with the masks it was trained with, and take a trial to show."""
    model, options = load_checkpoint(checkpoint)
    data = load_data(checkpoint, model, options | ({"path": data_path} if data_path else {}))
    trials = data.datasets["valid"].trials
    if trials.rates is None:
        raise InputError(f"{data.hparams.path}: has no key valid_truth; expected true rates to compare with")
    inferred, observed = infer_rates(model, trials.spikes), ~trials.spikes.isnan()
    ideal = ideal_observer(trials.spikes, data.trials["valid"], data.bin_width)
    bandwidth = data.hparams.bandwidth or data.n_neurons
    score = Score(
        bandwidth=bandwidth,
        fraction_dropped=1 - bandwidth / data.n_neurons,
        r2=r2(inferred, trials.rates),
        r2_observed=r2(inferred, trials.rates, observed),
        r2_unobserved=r2(inferred, trials.rates, ~observed),
        r2_amortised=r2(infer_rates(model, trials.spikes, amortised=True), trials.rates),
        r2_ideal=np.nan if ideal is None else r2(ideal, trials.rates),
        seed=data.hparams.seed,
        checkpoint=str(checkpoint),
    )
    shown = len(inferred) // 2
    arrays = (tensor[shown].numpy() for tensor in (trials.spikes, trials.rates, inferred))
    return score, Example(bandwidth, *arrays, data.bin_width)


def mean_and_sd(scores: list[Score]) -> list[tuple[Score, float]]:
    """Average the scores of each bandwidth over seeds; return the means, widest first, each with the SD of its R²."""
    levels = []
    for bandwidth in sorted({score.bandwidth for score in scores}, reverse=True):
        same = [score for score in scores if score.bandwidth == bandwidth]
        means = {
            field.name: float(np.mean([getattr(score, field.name) for score in same]))
            for field in fields(Score)
            if field.type is float
        }
        sd = float(np.std([score.r2 for score in same], ddof=1)) if len(same) > 1 else np.nan
        levels.append((Score(bandwidth=bandwidth, seed=same[0].seed, checkpoint=same[0].checkpoint, **means), sd))
    return levels


def markdown_table(levels: list[tuple[Score, float]], published: list[dict[str, float]]) -> str:
    """Write the curve as a markdown table."""
    published_r2 = {int(level["bandwidth"]): f"{level['valid_r2']:.3f}" for level in published}
    lines = [
        "| observed | dropped | R² | R² at unobserved entries | R² encoder alone | public demo | ideal observer |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for score, sd in levels:
        numbers = [f"{score.r2:.3f}" + (f" ± {sd:.3f}" if np.isfinite(sd) else "")]
        numbers += [
            f"{value:.3f}" if np.isfinite(value) else "–" for value in (score.r2_unobserved, score.r2_amortised)
        ]
        numbers += [
            published_r2.get(score.bandwidth, "–"),
            f"{score.r2_ideal:.3f}" if np.isfinite(score.r2_ideal) else "–",
        ]
        lines.append(f"| {score.bandwidth} | {score.fraction_dropped:.0%} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = jsonargparse.ArgumentParser(description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="*", type=str, help="Runs, levels or checkpoints (default: the newest complete run)"
    )
    parser.add_argument("--out", type=str, default="figures", help="Folder to write figures and tables to")
    parser.add_argument("--data", type=str | None, help="Data file, if not where the checkpoints say")
    options = parser.parse_args()

    checkpoints = find_checkpoints(options.runs)
    out = writable_folder(options.out, "--out")
    evaluated = [evaluate(checkpoint, options.data) for checkpoint in checkpoints]
    levels, published = mean_and_sd([score for score, _ in evaluated]), read_published()
    dropped, r2s, amortised, ideal = (
        np.array([getattr(score, name) for score, _ in levels])
        for name in ("fraction_dropped", "r2", "r2_amortised", "r2_ideal")
    )
    sds = np.array([sd for _, sd in levels])
    published_curve = (
        100 * np.array([level["fraction_dropped"] for level in published]),
        np.array([level["valid_r2"] for level in published]),
    )
    by_bandwidth = {example.bandwidth: example for _, example in reversed(evaluated)}
    examples = [by_bandwidth[bandwidth] for bandwidth in sorted(by_bandwidth, reverse=True)]
    few_observed = min(examples, key=lambda example: abs(example.bandwidth - example.spikes.shape[1] / 6))
    with matplotlib.rc_context(STYLE):
        save(plot_curve(100 * dropped, r2s, sds, amortised, ideal, published_curve), out, "r2_curve")
        save(plot_examples(examples), out, "example_trials")
        save(plot_method(few_observed), out, "method")
        save(plot_why(read_ablation()), out, "why")
    with whole_file(out / "results.csv") as path, open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Score)])
        writer.writeheader()
        writer.writerows(asdict(score) for score, _ in evaluated)
    with whole_file(out / "results.md") as path:
        path.write_text(markdown_table(levels, published))
    print(f"{markdown_table(levels, published)}\nFigures and tables are in {out}")


if __name__ == "__main__":
    run(main)
