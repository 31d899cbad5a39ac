"""What TensorBoard shows of a run beside its scores: a text, charts, figures, a row in HPARAMS."""

import math
from pathlib import Path

import matplotlib.style
import numpy as np
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from command_line import markdown_table
from evaluation.inference import infer_arrays
from evaluation.shown import choose_trials, make_examples, name_conditions
from plotting.latents import plot_against_truth, plot_latents
from plotting.style import STYLE
from plotting.trials import plot_trials
from training.progress import total_epochs

N_EXAMPLES, N_TRIALS = 3, 100  # validation trials shown one by one, and in the other figures
CHARTS = {
    "R² of inferred to true rates": {
        "all entries": ["Multiline", ["^valid/r2$"]],
        "unobserved entries": ["Multiline", ["^valid/r2_unobserved$"]],
        "encoder alone": ["Multiline", ["^valid/r2_amortised$"]],
    },
    "held-out counts": {
        "bits per spike": ["Multiline", ["^valid/bps$"]],
        "negative log-likelihood": ["Multiline", ["^valid/heldout_nll$"]],
    },
}


def hyperparameters(config: Namespace) -> dict[str, str | int | float | bool]:
    """Return the options in which runs differ.

    TensorBoard shows the first five in alphabetical order, so the others are named `setting/...`.
    """
    settings = {**config.model.as_dict(), "refinement": config.refinement.epochs}
    settings |= {"max_epochs": config.trainer.max_epochs, "batch_size": config.data.batch_size}
    own = {"bandwidth": config.data.bandwidth, "seed": config.seed_everything}
    return own | {f"setting/{name}": value for name, value in settings.items()}


def describe_run(config: Namespace, folder: Path) -> str:
    """Return a text in Markdown: what was trained, and the command that repeats it."""
    options = hyperparameters(config)
    names, values = [name.removeprefix("setting/") for name in options], map(str, options.values())
    table = markdown_table({"option": names, "value": list(values)}, n_left=2)
    observed = f"{config.data.bandwidth} neurons observed at each time step"
    return (
        f"**Selective backpropagation through time, {observed}**, on `{config.data.path}`\n\n"
        "The same again, bit for bit:\n\n"
        f"    python train.py --config {folder / 'config.yaml'}\n\n{table}"
    )


def make_logger(folder: Path, resumed: Path | None = None) -> TensorBoardLogger:
    """Return a logger that writes to `folder`. Events after a checkpoint to resume are removed."""
    purge_step = None
    if resumed is not None:
        checkpoint = torch.load(resumed, map_location="cpu", weights_only=True, mmap=True)
        purge_step = checkpoint["epoch"] + 2
    place = folder.parent.parent, folder.parent.name, folder.name
    return TensorBoardLogger(*place, default_hp_metric=False, flush_secs=1, purge_step=purge_step)


def log_result(
    logger: object, folder: Path, config: Namespace, scores: dict[str, float], n_epochs: int
) -> None:
    """Write the hyperparameters of a run and the scores of its best checkpoint to HPARAMS.

    Nothing is written if the run had another kind of logger. Among the curves the scores come last,
    by their name, as dots after `n_epochs`, the epochs of the run.
    """
    if not isinstance(logger, TensorBoardLogger):
        return
    chosen = ("r2", "r2_unobserved", "r2_amortised", "bps", "heldout_nll")
    tags = {name: f"valid_best/{name}" for name in chosen}
    tags |= {name: name.replace("_", "_best/", 1) for name in scores if name.startswith("test_")}
    result = {tag: scores[name] for name, tag in tags.items() if not math.isnan(scores[name])}
    logger = make_logger(folder)  # that of the run removed its events when it opened its files
    logger.log_hyperparams(hyperparameters(config), result, step=n_epochs)
    logger.finalize("success")


class TensorBoardPages(Callback):
    """Write a text at the start, and figures at the first validations after half and after all.

    Args:
        folder: Folder of the run.
        config: All options of the run.
    """

    def __init__(self, folder: Path, config: Namespace) -> None:
        self.folder, self.config, self.halves_drawn = folder, config, 0

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.halves_drawn = halves(trainer.current_epoch, trainer)
        if isinstance(trainer.logger, TensorBoardLogger) and trainer.current_epoch == 0:
            pages = trainer.logger.experiment
            pages.add_text("run", describe_run(self.config, self.folder))
            pages.add_custom_scalars(CHARTS)

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        is_shown = isinstance(trainer.logger, TensorBoardLogger) and not trainer.sanity_checking
        if not is_shown or halves(epoch, trainer) == self.halves_drawn:
            return
        self.halves_drawn = halves(epoch, trainer)
        with matplotlib.style.context(STYLE):
            for name, figure in draw_inference(model, trainer.datamodule).items():
                trainer.logger.experiment.add_figure(name, figure, epoch)


def halves(epoch: int, trainer: pl.Trainer) -> int:
    """Return how many halves of training are over after `epoch` epochs; 0 if it has no end."""
    n_epochs = total_epochs(trainer)
    return 0 if n_epochs is None else 2 * epoch // n_epochs


def draw_inference(model: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, Figure]:
    """Draw what a model infers from the first validation trials; nothing if it has diverged."""
    trials = data.datasets["valid"][:N_TRIALS]
    inferred, condition = infer_arrays(model, trials.spikes), data.trials["valid"].condition
    if not all(np.isfinite(array).all() for array in inferred.values()):
        return {}
    chosen = choose_trials(len(trials.spikes), N_EXAMPLES)
    examples = make_examples(data, inferred, chosen)
    condition = None if condition is None else condition[: len(trials.spikes)]
    figures = {
        "inference": plot_trials(examples),
        "latents": plot_latents(inferred["latents"], condition, name_conditions(data)),
    }
    if trials.rates is not None:
        true = trials.rates.cpu().numpy()
        figures["inferred_against_true"] = plot_against_truth(inferred["rates"], true)
    for figure in figures.values():
        figure.set_dpi(80)
    return figures
