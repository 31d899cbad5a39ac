"""Measure how well models are calibrated: predicted against counted spikes, and errors against the
width of the posterior.

pip install -r requirements-evidence.txt
python -m experiments.calibration lightning_logs/evidence_default        a minute
python -m experiments.calibration                                        the pretrained models

lightning_logs/evidence_default is what experiments.evidence trains first, with three seeds. The
figure shows means over seeds. The data must be simulated: only then are unobserved counts and true
rates known. Models that observe all neurons are left out. Writes docs/evidence/calibration.csv and
calibration.png.
"""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from command_line import require, run
from data import SpikeDataModule
from evaluation.checkpoints import load_model_and_data
from evaluation.inference import infer_arrays
from evaluation.run_folders import find_checkpoints
from experiments import grid
from experiments.commands import parse_options
from model import SequentialAutoencoder
from plotting.style import GREY

N_GROUPS = 12  # of entries, by their predicted counts


def reliability(predicted: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return mean predicted and mean counted spikes (2, N_GROUPS) of equally large groups of
    entries, ordered by prediction."""
    groups = np.array_split(np.argsort(predicted), N_GROUPS)
    return np.array([[of[group].mean() for group in groups] for of in (predicted, counted)])


def calibrate(model: SequentialAutoencoder, data: SpikeDataModule) -> tuple[dict, pd.DataFrame]:
    """Return a model's calibration on validation trials, and the reliability of its predictions of
    unobserved counts."""
    spikes, true = data.datasets["valid"][:].spikes, grid.true_rates(data)
    unobserved = spikes.isnan().numpy()
    inferred = infer_arrays(model, spikes, with_sd=True)
    rates, error = inferred["rates"], np.abs(inferred["rates"] - true)
    sd = inferred.get("rates_sd", np.full_like(rates, np.nan))  # the encoder knows none
    expected, counts = rates[unobserved] * data.bin_width, data.trials["valid"].spikes[unobserved]
    predicted, counted = reliability(expected, counts)
    row = {"bandwidth": data.n_observed, "seed": data.hparams.seed, "prior": model.prior.name}
    row["calibration_error"] = float(np.mean(np.abs(predicted - counted)) / counted.mean())
    for name, entries in (("observed", ~unobserved), ("unobserved", unobserved)):
        rms, rms_sd = (np.sqrt(np.mean(values[entries] ** 2)) for values in (error, sd))
        row[f"relative_error_{name}"] = float(rms / true[entries].mean())
        row[f"relative_sd_{name}"] = float(rms_sd / rates[entries].mean())
        for n_sds in (1, 2):
            is_within = np.mean(error[entries] < n_sds * sd[entries])
            row[f"within_{n_sds}_sd_{name}"] = np.nan if np.isnan(rms_sd) else float(is_within)
    curve = {"bandwidth": data.n_observed, "predicted": predicted, "counted": counted}
    return row, pd.DataFrame(curve)


def plot_calibration(table: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Plot means over seeds: counted against predicted spikes of unobserved entries, and error and
    posterior width at each bandwidth."""
    figure = Figure(figsize=(7.2, 3.2))
    reliable, width = figure.subplots(1, 2)
    curves = curves.groupby(["bandwidth", curves.index], sort=False).mean()
    means = table.groupby("bandwidth", sort=False).mean(numeric_only=True)
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(means)))
    for colour, n in zip(colours, means.index, strict=True):
        look = {"color": colour, "lw": 0.8, "ms": 4, "label": f"{n}"}
        reliable.plot("predicted", "counted", ".-", data=curves.loc[n], **look)
    ends = [curves["predicted"].min(), curves["predicted"].max()]
    reliable.plot(ends, ends, "--", color=GREY, lw=0.8, zorder=0)
    reliable.set(xlabel="predicted spikes per bin, not observed", xscale="log")
    reliable.set(ylabel="spikes per bin that were there", yscale="log")
    reliable.legend(title="observed", fontsize=7)
    width.plot(means["relative_error_unobserved"], "o-", label="error (root mean square)")
    width.plot(means["relative_sd_unobserved"], "s:", label="posterior standard deviation")
    width.set(xlabel="neurons observed", xscale="log", ylim=(0, None))
    width.set(ylabel="of unobserved rates,\nas a fraction of the mean rate")
    width.set_xticks(means.index, means.index.map(str))
    width.minorticks_off()
    width.legend()
    return figure


def main() -> None:
    options = parse_options(__doc__, runs=["lightning_logs/pretrained"], out="docs/evidence")
    models = map(load_model_and_data, find_checkpoints(options.runs))
    results = [calibrate(model, data) for model, data in models if data.n_observed < data.n_neurons]
    expected = "expected a model that observed some of the neurons"
    require(len(results) > 0, f"{' '.join(options.runs)}: {expected}")
    rows, curves = zip(*results, strict=True)
    table = pd.DataFrame(rows).sort_values(["bandwidth", "seed"], ascending=[False, True])
    grid.write(options.out, "calibration", table)
    grid.draw(options.out, "calibration", plot_calibration, table, pd.concat(curves))
    scores = table.drop(columns=["seed", "prior"]).groupby("bandwidth", sort=False)
    means = scores.agg(grid.mean_and_sd).reset_index(names="observed")
    grid.print_table(means.rename(columns=lambda name: name.replace("_", " ")))


if __name__ == "__main__":
    run(main)
