"""Ask whether SBTT sees faster than the frames: each neuron is read every few bins, at an offset of
its own.

pip install -r requirements-evidence.txt
python -m experiments.subframe           six minutes on two cores

A scanning microscope reads the neurons one after the other. Usually all values of a scan are taken
as one frame. SBTT keeps the time of each. Both are trained on the same counts; the coherence
between true and inferred rates says, at each frequency, how much of the rates is recovered. Writes
docs/evidence/subframe.csv and subframe.png. If it was stopped, the same command resumes it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import signal

from command_line import run
from data import SpikeDataModule
from evaluation.baselines import smoothed_counts
from evaluation.checkpoints import load_model_and_data
from evaluation.inference import infer_arrays
from experiments import grid
from experiments.commands import parse_options
from plotting.style import BLUE, GREY, ORANGE

FRAMES, SMOOTHED = "frames, interpolated", "smoothed spikes"
LOOKS = {"SBTT": (BLUE, "-"), FRAMES: (ORANGE, "--"), SMOOTHED: (GREY, "-.")}
SMOOTHING = {"kernel_sd": 3, "prior": 10}  # bins
QUICK = ("--trainer.max_epochs", "1", "--refinement.epochs", "1")
PRINTED = (1, 3, 5, 8)  # Hz


def coherence(true: np.ndarray, inferred: np.ndarray, bin_width: float) -> pd.Series:
    """Return the magnitude-squared coherence at each frequency (Hz) of rates (B, T, N), averaged
    over neurons.

    Trials are the segments of Welch's method, each tapered by a Hann window. At 0 Hz the coherence
    is that of the trials' means."""
    taper = np.hanning(true.shape[1] + 2)[1:-1]
    options = {"window": taper, "nperseg": len(taper), "noverlap": 0, "detrend": False, "axis": 0}
    centred = ((rates - rates.mean((0, 1))).astype(float) for rates in (true, inferred))
    series = (rates.reshape(-1, rates.shape[2]) for rates in centred)
    with np.errstate(invalid="ignore"):  # constant rates; their coherence is 0
        frequencies, of_neurons = signal.coherence(*series, 1 / bin_width, **options)
    return pd.Series(np.nan_to_num(of_neurons).mean(1), frequencies)


def measure(folder: Path, results: grid.Results) -> list[dict]:
    """Return the coherence at each frequency; with SBTT, also that of smoothed spikes."""
    model, data = load_model_and_data(folder / "best.ckpt")
    spikes, true = data.datasets["valid"][:].spikes, grid.true_rates(data)
    way = "SBTT" if data.hparams.fill == "none" else FRAMES
    found = {way: infer_arrays(model, spikes)["rates"]}
    if way == "SBTT":
        found[SMOOTHED] = smoothed_counts(spikes, **SMOOTHING).numpy() / data.bin_width
    return [
        {"label": way, "frequency": frequency, "coherence": value}
        for way, rates in found.items()
        for frequency, value in coherence(true, rates, data.bin_width).items()
    ]


def plot_coherence(table: pd.DataFrame, frame_rates: dict[int, float]) -> Figure:
    """Plot coherence against frequency, a panel for each bandwidth: the mean over seeds, and each
    seed as a thin line."""
    figure = Figure(figsize=(3.4 * len(frame_rates) + 0.4, 3.4))
    panels = figure.subplots(1, len(frame_rates), sharey=True, squeeze=False)[0]
    curves = ["bandwidth", "way", "seed"]
    seeds = table.pivot(index="frequency", columns=curves, values="coherence").sort_index(axis=1)
    for axes, (bandwidth, frame_rate) in zip(panels, frame_rates.items(), strict=True):
        for way, (colour, dashes) in LOOKS.items():
            axes.plot(seeds[bandwidth, way], "-", color=colour, lw=0.5, alpha=0.5)
            axes.plot(seeds[bandwidth, way].mean(axis=1), dashes, color=colour, label=way)
        axes.axvline(frame_rate / 2, color=GREY, lw=0.6, ls=":", label="half the frame rate")
        axes.set(xlabel="frequency (Hz)", title=f"{bandwidth} neurons read in each bin")
        axes.set(ylim=(0, 1.02), xlim=(0, 15))
    panels[0].set_ylabel("coherence of true and inferred rates")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def compare_ways(table: pd.DataFrame) -> pd.DataFrame:
    """Return the coherence (text) near a few frequencies."""
    frequencies = table["frequency"].unique()
    nearest = {frequencies[np.abs(frequencies - f).argmin()]: f"{f} Hz" for f in PRINTED}
    rows = table[table["frequency"].isin(nearest)]
    seeds = rows.groupby(["way", "bandwidth", "frequency"], sort=False)["coherence"]
    means = seeds.agg(grid.mean_and_sd).unstack().rename(columns=nearest)
    return means.reset_index(names=["way", "read in each bin"])


def main() -> None:
    sizes = {"bandwidths": [5, 3], "seeds": 3, "data": "lorenz_data.h5", "quick": False}
    options = parse_options(__doc__, **sizes, cluster="local", out="docs/evidence")
    data, bandwidths = SpikeDataModule(options.data), options.bandwidths
    grid.true_rates(data)  # or an error now
    flags = ("--data.path", options.data, "--data.pattern", "staggered")
    base = grid.start(options, "evidence_subframe", measure, *flags)
    if options.quick:
        base = replace(base, name="evidence_quick_subframe", seeds=1, flags=(*flags, *QUICK))
    fills = {"SBTT": "none", FRAMES: "interpolated"}
    table = grid.gather(base.vary(way, fill, "--data.fill", fill) for way, fill in fills.items())
    table = table.rename(columns={"label": "way"}).drop(columns="x")
    grid.write(options.out, "subframe", table)
    frame_rates = {n: n / data.n_neurons / data.bin_width for n in bandwidths}  # Hz
    grid.draw(options.out, "subframe", plot_coherence, table, frame_rates)
    grid.print_table(compare_ways(table), n_left=1)


if __name__ == "__main__":
    run(main)
