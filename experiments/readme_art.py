"""Draw the README's pictures of the method: figures/method, and figures/fewer_neurons.gif.

python -m experiments.readme_art
"""

from pathlib import Path

import matplotlib.style
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.artist import setp
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from command_line import atomic_write, command_parser, run, writable_folder
from evaluation.checkpoints import load_model_and_data
from evaluation.inference import infer_arrays
from evaluation.run_folders import LOGS, read_results, run_folder
from evaluation.shown import make_examples
from plotting.style import BLUE, GREY, ORANGE, STYLE, save
from plotting.trials import COUNTS_BAR, MISSING, Example, rate_colours, show_entries, show_spikes

IN_METHOD = 5  # neurons observed in the picture of the method


def plot_method(example: Example) -> Figure:
    """Draw what SBTT does with a trial: spikes -> model -> rates -> errors where observed."""
    figure = Figure(figsize=(7.4, 2.6))
    seen, model, inferred, learned = figure.subplots(1, 4, width_ratios=[1, 0.75, 1, 1])
    labels, below = example.labels, {"location": "bottom"}
    counts = show_spikes(seen, example.spikes, labels)
    figure.colorbar(counts, ax=seen, label="spikes per bin", **COUNTS_BAR, **below)
    colours = rate_colours([example.inferred])
    rates = show_entries(inferred, example.inferred, labels, **colours)
    figure.colorbar(rates, ax=inferred, label="rate (spikes/s)", **below)
    # the gradient of the loss with respect to the log-rates; in training zero at a missing count
    error = example.inferred * labels.bin_width - example.spikes
    nodes = [(0, BLUE), (127 / 255, "white"), (128 / 255, "white"), (1, ORANGE)]
    colours = LinearSegmentedColormap.from_list("too low, right, too high", nodes)
    look = {"cmap": colours.with_extremes(bad=MISSING), "vmin": -1.5, "vmax": 1.5}
    errors = show_entries(learned, error, labels, **look)
    figure.colorbar(errors, ax=learned, label="expected − counted spikes", extend="both", **below)
    seen.set(title="1. few neurons are seen,\nthe rest is missing (violet)", ylabel="neuron")
    draw_model(model)
    inferred.set_title("3. rates of all neurons,\nat all times")
    learned.set_title("4. errors at observed\nentries alone")
    setp([seen, inferred, learned], xlabel="time (s)", yticks=[])
    return figure


def draw_model(axes: Axes) -> None:
    """Draw the parts of the model below each other, with arrows between them."""
    axes.set_axis_off()
    axes.set_title("2. missing is\nread as zero")
    steps = ("encoder\n(reads both ways)", "initial\ncondition", "decoder\n(runs without input)")
    look = {"ha": "center", "va": "center", "fontsize": 8, "transform": axes.transAxes}
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": GREY}
    for height, step in zip((0.85, 0.5, 0.15), steps, strict=True):
        axes.text(0.5, height, step, bbox=box, **look)
    arrow = {"arrowstyle": "->", "color": GREY}
    for top, bottom in ((0.72, 0.63), (0.37, 0.28)):
        axes.annotate("", (0.5, bottom), (0.5, top), xycoords="axes fraction", arrowprops=arrow)


def animate_bandwidth(examples: list[Example], r2: list[float]) -> FuncAnimation:
    """Animate the inference of one trial as fewer and fewer neurons are observed.

    Args:
        examples: The same trial at each bandwidth, in the order to show, with true rates.
        r2: The R² of each bandwidth over all trials, for the bar below.
    """
    figure = Figure(figsize=(6.4, 3.0), dpi=110)
    grid = figure.subplot_mosaic("abc;ddd", height_ratios=[1, 0.07])
    seen, inferred, true, bar = grid.values()
    first, n_neurons = examples[0], examples[0].spikes.shape[1]
    colours = rate_colours([first.rates, *(example.inferred for example in examples)])
    counts = show_spikes(seen, first.spikes, first.labels)
    rates = show_entries(inferred, first.inferred, first.labels, **colours)
    show_entries(true, first.rates, first.labels, **colours)
    for axes, title in ((inferred, "what it infers"), (true, "what was true")):
        axes.set(title=title, xlabel="time (s)", yticks=[])
    seen.set(xlabel="time (s)", ylabel="neuron")
    title = seen.set_title("")
    (length,) = bar.barh([0], [0], color=BLUE)
    bar.set(xlim=(0, 1), yticks=[])

    def draw(frame: int) -> None:
        example = examples[frame]
        counts.set_data(example.spikes.T)
        rates.set_data(example.inferred.T)
        title.set_text(f"the model sees {example.bandwidth} of {n_neurons}")
        length.set_width(r2[frame])
        bar.set_xlabel(f"R² of inferred to true rates, over all validation trials: {r2[frame]:.2f}")

    draw(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # nothing moves between the pictures
    return FuncAnimation(figure, draw, frames=len(examples), init_func=lambda: None)


def read_example(checkpoint: Path) -> Example:
    """Return the validation trial in the middle, with what a model infers from it."""
    model, data = load_model_and_data(checkpoint)
    middle = len(data.datasets["valid"]) // 2
    inferred = infer_arrays(model, data.datasets["valid"][: middle + 1].spikes)
    return make_examples(data, inferred, [middle])[0]


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("sweep", nargs="?", type=str, default=str(LOGS / "pretrained"))
    parser.add_argument("--out", type=str, default="figures", help="Folder for the pictures")
    options = parser.parse_args()
    out, sweep = writable_folder(options.out, "--out"), Path(options.sweep)
    r2 = {row["bandwidth"]: row["r2"] for row in read_results(sweep)}
    examples = {n: read_example(sweep / run_folder(n) / "best.ckpt") for n in r2}
    few = min(examples, key=lambda bandwidth: abs(bandwidth - IN_METHOD))
    with matplotlib.style.context(STYLE):
        save(plot_method(examples[few]), "method", out)
        animation = animate_bandwidth(list(examples.values()), list(r2.values()))
        with atomic_write(out / "fewer_neurons.gif") as path:  # 1.5 s for each picture
            animation.save(path, writer=PillowWriter(fps=1 / 1.5))
    print(f"Pictures are in {out}")


if __name__ == "__main__":
    run(main)
