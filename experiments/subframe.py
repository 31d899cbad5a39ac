"""Ask whether SBTT sees faster than the frames: each neuron is read every few bins, at an offset of
its own.

python -m experiments.subframe           six minutes on two cores

A scanning microscope reads the neurons one after the other. One usually takes all values of a scan
as one frame. SBTT keeps the time of each. Both are trained on the same counts; the coherence
between true and inferred rates says, at each frequency, how much of the rates is recovered. Writes
docs/evidence/subframe.csv and subframe.png. If it was stopped, the same command resumes it.
"""

import numpy as np
from matplotlib.figure import Figure

from command_line import markdown_table, run, writable_folder
from evaluation.baselines import smoothed_counts
from evaluation.checkpoints import LOGS, training_folder
from evaluation.inference import infer_arrays
from evaluation.scoring import load_model_and_data
from experiments.trainings import (
    add_cluster,
    check_truth,
    evidence_parser,
    mean_and_sd,
    train,
    write_evidence,
)
from plotting.style import BLUE, GREY, ORANGE

WAYS = {"SBTT": "none", "frames, interpolated": "interpolated"}
SMOOTHING = {"kernel_sd": 3, "prior": 10}  # bins


def coherence(true: np.ndarray, inferred: np.ndarray) -> np.ndarray:
    """Return the magnitude-squared coherence (frequencies,) of rates (trials, time, neurons),
    averaged over neurons.

    Trials are the samples; each is tapered by a Hann window. At 0 Hz the coherence is that of the
    trials' means.
    """
    taper = np.hanning(true.shape[1] + 2)[1:-1, None]
    spectra = [
        np.fft.rfft((rates - rates.mean((0, 1))) * taper, axis=1) for rates in (true, inferred)
    ]
    cross = (spectra[0] * spectra[1].conj()).mean(0)
    power = [np.mean(np.abs(spectrum) ** 2, axis=0) for spectrum in spectra]
    return (np.abs(cross) ** 2 / np.maximum(power[0] * power[1], 1e-30)).mean(1)


def plot_coherence(rows: list[dict], frame_rates: dict[int, float]) -> Figure:
    """Plot coherence against frequency, a panel for each bandwidth: the mean over seeds, and each
    seed as a thin line."""
    figure = Figure(figsize=(3.4 * len(frame_rates) + 0.4, 3.4))
    looks = dict(
        zip([*WAYS, "smoothed spikes"], [(BLUE, "-"), (ORANGE, "--"), (GREY, "-.")], strict=True)
    )
    panels = figure.subplots(1, len(frame_rates), sharey=True, squeeze=False)[0]
    for axes, (bandwidth, frame_rate) in zip(panels, frame_rates.items(), strict=True):
        for way, (colour, dashes) in looks.items():
            of_way = [row for row in rows if row["way"] == way and row["bandwidth"] == bandwidth]
            frequencies = sorted({row["frequency"] for row in of_way})
            seeds = [
                [row["coherence"] for row in of_way if row["frequency"] == f] for f in frequencies
            ]
            axes.plot(frequencies, seeds, "-", color=colour, lw=0.5, alpha=0.5)
            axes.plot(frequencies, np.mean(seeds, axis=1), dashes, color=colour, label=way)
        axes.axvline(frame_rate / 2, color=GREY, lw=0.6, ls=":", label="half the frame rate")
        axes.set(
            xlabel="frequency (Hz)",
            title=f"{bandwidth} neurons read in each bin",
            ylim=(0, 1.02),
            xlim=(0, 15),
        )
    panels[0].set_ylabel("coherence of true and inferred rates")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def main() -> None:
    parser = evidence_parser(__doc__)
    parser.add_argument(
        "--bandwidths", type=int, nargs="+", default=[5, 3], help="Neurons read in each bin"
    )
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds")
    parser.add_argument(
        "--data", type=str, default="lorenz_data.h5", help="Data file with true rates"
    )
    add_cluster(parser)
    parser.add_argument(
        "--quick", action="store_true", help="One seed, one epoch, to see that it works"
    )
    options = parser.parse_args()
    out = writable_folder(options.out, "--out")
    check_truth(options.data)
    quick = ["--trainer.max_epochs", "1", "--model.refinement", "1"] if options.quick else []
    rows, frame_rates = [], {}
    n_seeds = 1 if options.quick else options.seeds
    for way, fill in WAYS.items():
        name = f"evidence{'_quick' * options.quick}_subframe_{fill}"
        words = [
            "--data.path",
            options.data,
            "--data.pattern",
            "staggered",
            "--data.fill",
            fill,
            *quick,
        ]
        train(
            name,
            [*words, "--bandwidths", *map(str, options.bandwidths), "--seeds", str(n_seeds)],
            options.cluster,
        )
        for bandwidth in options.bandwidths:
            for seed in range(n_seeds):
                folder = training_folder(bandwidth, seed if n_seeds > 1 else None)
                model, data = load_model_and_data(LOGS / name / folder / "best.ckpt")
                spikes, true = data.datasets["valid"][:].spikes, data.trials["valid"].rates
                inferred = {way: infer_arrays(model, spikes)["rates"]}
                if fill == "none":
                    inferred["smoothed spikes"] = (
                        smoothed_counts(spikes, **SMOOTHING).numpy() / data.bin_width
                    )
                frequencies = np.fft.rfftfreq(true.shape[1], data.bin_width)
                frame_rates[bandwidth] = bandwidth / data.n_neurons / data.bin_width
                for label, rates in inferred.items():
                    rows += [
                        {
                            "way": label,
                            "bandwidth": bandwidth,
                            "seed": seed,
                            "frequency": float(f),
                            "coherence": float(c),
                        }
                        for f, c in zip(frequencies, coherence(true, rates), strict=True)
                    ]
    write_evidence("subframe", rows, lambda: plot_coherence(rows, frame_rates), out)
    columns = {"way": [], "read in each bin": []} | {f"{f} Hz": [] for f in (1, 3, 5, 8)}
    for bandwidth in options.bandwidths:
        for way in (*WAYS, "smoothed spikes"):
            columns["way"].append(way)
            columns["read in each bin"].append(str(bandwidth))
            for f in (1, 3, 5, 8):
                of_way = [
                    row for row in rows if row["way"] == way and row["bandwidth"] == bandwidth
                ]
                nearest = min(
                    (row["frequency"] for row in of_way),
                    key=lambda frequency, f=f: abs(frequency - f),
                )
                columns[f"{f} Hz"].append(
                    mean_and_sd([row["coherence"] for row in of_way if row["frequency"] == nearest])
                )
    print(f"\n{markdown_table(columns, n_left=1)}")


if __name__ == "__main__":
    run(main)
