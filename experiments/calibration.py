"""Measure the calibration of models: predicted against counted spikes, and errors against the width
of the posterior.

python -m experiments.calibration lightning_logs/evidence_default        a minute
python -m experiments.calibration                                        the pretrained models

lightning_logs/evidence_default is what experiments.evidence trains first, with three seeds. The
figure shows means over seeds.

Writes docs/evidence/calibration.csv and calibration.png. The data must be simulated: only then are
unobserved counts and true rates known.
"""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from command_line import InputError, markdown_table, run, writable_folder
from evaluation.checkpoints import find_checkpoints
from evaluation.inference import infer_arrays
from evaluation.scoring import load_model_and_data
from experiments.trainings import evidence_parser, mean_and_sd, write_evidence
from plotting.style import GREY

N_GROUPS = 12  # of entries, by their predicted counts
NOT_MEASURED = ("bandwidth", "seed", "prior")
Result = tuple[
    dict, tuple[np.ndarray, np.ndarray]
]  # a model's calibration, and the reliability of its predictions


def reliability(predicted: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean predicted and mean counted spikes (groups,) of equally large groups of entries,
    ordered by prediction."""
    order = np.argsort(predicted)
    groups = np.array_split(order, N_GROUPS)
    return tuple(
        np.array([values[group].mean() for group in groups]) for values in (predicted, counted)
    )


def calibrate(checkpoint: str) -> Result:
    """Return a model's calibration on validation trials, and the reliability of its predictions of
    unobserved counts.

    Raises:
        InputError: the true rates are not known, or no entry was unobserved.
    """
    model, data = load_model_and_data(checkpoint)
    valid, recorded = data.datasets["valid"][:], data.trials["valid"]
    unobserved = valid.spikes.isnan().numpy()
    if recorded.rates is None or not unobserved.any():
        raise InputError(
            f"{checkpoint}: expected simulated data and a bandwidth below {data.n_neurons}"
        )
    inferred = infer_arrays(model, valid.spikes, with_sd=True)
    rates, sd = inferred["rates"], inferred.get("rates_sd")
    predicted, counted = reliability(
        rates[unobserved] * data.bin_width, recorded.spikes[unobserved]
    )
    row = {"bandwidth": data.n_observed, "seed": data.hparams.seed, "prior": model.prior}
    row["calibration_error"] = float(np.mean(np.abs(predicted - counted)) / counted.mean())
    error = np.abs(rates - recorded.rates)
    for name, entries in (("observed", ~unobserved), ("unobserved", unobserved)):
        known = sd is not None
        row[f"relative_error_{name}"] = float(
            np.sqrt(np.mean(error[entries] ** 2)) / recorded.rates[entries].mean()
        )
        row[f"relative_sd_{name}"] = (
            float(np.sqrt(np.mean(sd[entries] ** 2)) / rates[entries].mean()) if known else np.nan
        )
        for n_sds in (1, 2):
            row[f"within_{n_sds}_sd_{name}"] = (
                float(np.mean(error[entries] < n_sds * sd[entries])) if known else np.nan
            )
    return row, (predicted, counted)


def mean_over_seeds(results: list[Result]) -> list[Result]:
    """Return the means over seeds at each bandwidth, the highest first."""
    groups = {}
    for row, curve in results:
        groups.setdefault(row["bandwidth"], []).append((row, curve))
    means = []
    for bandwidth, group in sorted(groups.items(), reverse=True):
        rows, curves = zip(*group, strict=True)
        numbers = {
            name: np.mean([row[name] for row in rows])
            for name in rows[0]
            if name not in NOT_MEASURED
        }
        means.append(({"bandwidth": bandwidth} | numbers, tuple(np.mean(curves, axis=0))))
    return means


def plot_calibration(results: list[Result]) -> Figure:
    """Plot counted against predicted spikes of unobserved entries, and error and posterior width at
    each bandwidth."""
    rows, curves = zip(*results, strict=True)
    figure = Figure(figsize=(7.2, 3.2))
    reliable, width = figure.subplots(1, 2)
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(rows)))
    for colour, row, curve in zip(colours, rows, curves, strict=True):
        reliable.plot(*curve, ".-", color=colour, lw=0.8, ms=4, label=f"{row['bandwidth']}")
    ends = [min(curve[0].min() for curve in curves), max(curve[0].max() for curve in curves)]
    reliable.plot(ends, ends, "--", color=GREY, lw=0.8, zorder=0)
    reliable.set(
        xlabel="predicted spikes per bin, not observed", ylabel="spikes per bin that were there"
    )
    reliable.set(xscale="log", yscale="log")
    reliable.legend(title="observed", fontsize=7)
    bandwidths = [row["bandwidth"] for row in rows]
    width.plot(
        bandwidths,
        [row["relative_error_unobserved"] for row in rows],
        "o-",
        label="error (root mean square)",
    )
    width.plot(
        bandwidths,
        [row["relative_sd_unobserved"] for row in rows],
        "s:",
        label="posterior standard deviation",
    )
    width.set(
        xlabel="neurons observed",
        ylabel="of unobserved rates,\nas a fraction of the mean rate",
        ylim=(0, None),
    )
    width.set_xscale("log")
    width.set_xticks(bandwidths, [str(bandwidth) for bandwidth in bandwidths])
    width.minorticks_off()
    width.legend()
    return figure


def main() -> None:
    parser = evidence_parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="*",
        type=str,
        default=["lightning_logs/pretrained"],
        help="Runs or checkpoints",
    )
    options = parser.parse_args()
    out = writable_folder(options.out, "--out")
    results = []
    for checkpoint in find_checkpoints(options.runs):
        try:
            results.append(calibrate(checkpoint))
        except InputError as error:
            print(f"left out: {error}")
    if not results:
        raise InputError(
            f"{' '.join(options.runs)}: expected a model of simulated data with unobserved neurons"
        )
    results.sort(key=lambda result: (-result[0]["bandwidth"], result[0]["seed"]))
    rows = [row for row, _ in results]
    write_evidence("calibration", rows, lambda: plot_calibration(mean_over_seeds(results)), out)
    columns = {"observed": list(dict.fromkeys(str(row["bandwidth"]) for row in rows))}
    for name in rows[0]:
        if name not in NOT_MEASURED:
            seeds = [
                [row[name] for row in rows if row["bandwidth"] == int(n)]
                for n in columns["observed"]
            ]
            columns[name.replace("_", " ")] = [mean_and_sd(values) for values in seeds]
    print(markdown_table(columns))


if __name__ == "__main__":
    run(main)
