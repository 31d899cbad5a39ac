"""What TensorBoard shows of a training beside its scores: a text, charts of all bandwidths,
figures, and a row in HPARAMS."""

import math
from pathlib import Path

import matplotlib.style
import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from command_line import markdown_table
from evaluation.inference import infer_arrays
from plotting.latents import plot_against_truth, plot_latents
from plotting.style import STYLE
from plotting.trials import Example, plot_examples
from training.runs import is_main_process
from training.terminal import total_epochs

CONFIGS = Path(__file__).parent.parent / "configs"
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


def recipe_name(config: Namespace) -> str:
    """Return the name of the file in configs/ with the same model and batch size, or `other`."""
    for file in sorted(CONFIGS.glob("*.yaml")):
        recipe = yaml.safe_load(file.read_text())
        if "model" not in recipe:
            continue
        same_model = all(config.model[name] == value for name, value in recipe["model"].items())
        if same_model and config.data.batch_size == recipe["data"]["batch_size"]:
            return file.stem
    return "other"


def hyperparameters(config: Namespace) -> dict[str, str | int | float | bool]:
    """Return the options in which trainings differ.

    TensorBoard shows the first five in alphabetical order, so the others are named `setting/...`.
    """
    own = {
        "bandwidth": config.data.bandwidth,
        "recipe": recipe_name(config),
        "seed": config.seed_everything,
    }
    settings = config.model.as_dict() | {
        "max_epochs": config.trainer.max_epochs,
        "batch_size": config.data.batch_size,
    }
    return own | {f"setting/{name}": value for name, value in settings.items()}


def describe_training(config: Namespace, folder: Path) -> str:
    """Return a text in markdown: what was trained, and the command that repeats it."""
    settings = {
        name.removeprefix("setting/"): str(value) for name, value in hyperparameters(config).items()
    }
    table = markdown_table({"option": list(settings), "value": list(settings.values())}, n_left=2)
    return (
        f"**Selective backpropagation through time, {config.data.bandwidth} neurons observed at each time step**, "
        f"on `{config.data.path}`\n\nThe same again, bit for bit:\n\n"
        f"    python train.py --config {folder / 'config.yaml'}\n\n{table}"
    )


def make_logger(folder: Path, resumed: Path | None = None) -> TensorBoardLogger:
    """Return a logger that writes to `folder`. If a training is resumed from a checkpoint, later
    events are removed."""
    n_epochs = 0
    if resumed is not None:
        n_epochs = (
            torch.load(resumed, map_location="cpu", weights_only=True, mmap=True)["epoch"] + 1
        )
    return TensorBoardLogger(
        folder.parent.parent, folder.parent.name, folder.name, default_hp_metric=False, flush_secs=1,
        purge_step=n_epochs + 1,
    )  # fmt: skip


def log_result(logger: object, folder: Path, config: Namespace, scores: dict[str, float]) -> None:
    """Write the hyperparameters of a training and the scores of its best checkpoint to
    TensorBoard's HPARAMS.

    Nothing is written in the other processes of a distributed training, or if the training had
    another kind of logger.
    """
    if not is_main_process() or not isinstance(logger, TensorBoardLogger):
        return
    chosen = ("r2", "r2_unobserved", "r2_amortised", "bps", "heldout_nll")
    result = {f"best/{name}": scores[name] for name in chosen if not math.isnan(scores[name])}
    # a second logger: that of the training would remove its events when it opens its files again
    logger = TensorBoardLogger(
        folder.parent.parent, folder.parent.name, folder.name, default_hp_metric=False
    )
    logger.log_hyperparams(hyperparameters(config), result, step=config.trainer.max_epochs)
    logger.finalize("success")


class TensorBoardPages(Callback):
    """Write a text at the start, and figures at the first validations after half and after all of
    the training.

    Args:
        folder: Folder of the training.
        config: All options of the training.
    """

    def __init__(self, folder: Path, config: Namespace) -> None:
        self.folder, self.config, self.halves_drawn = folder, config, 0

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.halves_drawn = halves(trainer.current_epoch, trainer)
        if has_pages(trainer) and trainer.current_epoch == 0:
            pages = trainer.logger.experiment
            pages.add_text("run", describe_training(self.config, self.folder))
            pages.add_custom_scalars(CHARTS)

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if (
            trainer.sanity_checking
            or not has_pages(trainer)
            or halves(epoch, trainer) == self.halves_drawn
        ):
            return
        self.halves_drawn = halves(epoch, trainer)
        with matplotlib.style.context(STYLE):
            for name, figure in draw_inference(model, trainer.datamodule).items():
                trainer.logger.experiment.add_figure(name, figure, epoch)


def has_pages(trainer: pl.Trainer) -> bool:
    """Return whether this process writes TensorBoard's files."""
    return trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger)


def halves(epoch: int, trainer: pl.Trainer) -> int:
    """Return how many halves of the training have passed after `epoch` epochs; 0 for a training
    without end."""
    n_epochs = total_epochs(trainer)
    return 0 if n_epochs is None else 2 * epoch // n_epochs


def draw_inference(model: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, Figure]:
    """Draw what a model infers from the first validation trials."""
    trials = data.datasets["valid"][:N_TRIALS]
    inferred = infer_arrays(model, trials.spikes)
    rates, latents = inferred["rates"], inferred["latents"]
    spikes, true = (
        None if field is None else field.cpu().numpy() for field in (trials.spikes, trials.rates)
    )
    chosen = np.linspace(0, len(spikes) - 1, min(N_EXAMPLES, len(spikes))).astype(int)
    examples = [
        Example(
            data.n_observed,
            spikes[trial],
            None if true is None else true[trial],
            rates[trial],
            data.bin_width,
            inferred["inputs"][trial] if "inputs" in inferred else None,
        )
        for trial in chosen
    ]
    condition = data.trials["valid"].condition
    figures = {
        "inference": plot_examples(examples, [f"trial {trial}" for trial in chosen]),
        "latents": plot_latents(latents, None if condition is None else condition[: len(latents)]),
    }
    if true is not None:
        figures["inferred_against_true"] = plot_against_truth(rates, true)
    for figure in figures.values():
        figure.set_dpi(80)
    return figures
