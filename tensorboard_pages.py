"""What TensorBoard shows of a level beside its scores: a text, charts of all levels, figures, and a row in HPARAMS."""

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

from latent_plots import plot_against_truth, plot_latents
from plots import STYLE
from trial_plots import Example, plot_examples

CONFIGS = Path(__file__).parent / "configs"
N_EXAMPLES, N_TRIALS = 3, 100  # validation trials shown one by one, and drawn in the figures of many
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
    """Return the file in configs/ whose model and batch size a level has, or `other`."""
    for file in sorted(CONFIGS.glob("*.yaml")):
        recipe = yaml.safe_load(file.read_text())
        same_model = all(config.model[name] == value for name, value in recipe["model"].items())
        if same_model and config.data.batch_size == recipe["data"]["batch_size"]:
            return file.stem
    return "other"


def hyperparameters(config: Namespace) -> dict[str, str | int | float | bool]:
    """Return what tells one level from another.

    TensorBoard shows the first five by the alphabet: bandwidth, recipe and seed come before anything named `setting/`.
    """
    own = {"bandwidth": config.data.bandwidth, "recipe": recipe_name(config), "seed": config.seed_everything}
    from_data = {"n_neurons", "bin_width"}
    settings = {name: value for name, value in config.model.as_dict().items() if name not in from_data}
    settings |= {"max_epochs": config.trainer.max_epochs, "batch_size": config.data.batch_size}
    return own | {f"setting/{name}": value for name, value in settings.items()}


def describe(config: Namespace, level_dir: Path) -> str:
    """Say in markdown what a level is, and the command that repeats it."""
    settings = {name.removeprefix("setting/"): value for name, value in hyperparameters(config).items()}
    rows = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
    return (
        f"**Selective backpropagation through time, {config.data.bandwidth} neurons observed at each time step**, "
        f"on `{config.data.path}`\n\nThe same again, bit for bit:\n\n"
        f"    python train.py --config {level_dir / 'config.yaml'}\n\n| option | value |\n| --- | --- |\n{rows}"
    )


def log_result(level_dir: Path, config: Namespace, scores: dict[str, float]) -> None:
    """Write the hyperparameters of a level and the scores of its best checkpoint to TensorBoard's HPARAMS."""
    chosen = ("r2", "r2_unobserved", "r2_amortised", "bps", "heldout_nll")
    result = {f"best/{name}": scores[name] for name in chosen if name in scores}
    # a logger of its own: that of the training would have its events purged when it opens its files again
    logger = TensorBoardLogger(level_dir.parent.parent, level_dir.parent.name, level_dir.name, default_hp_metric=False)
    logger.log_hyperparams(hyperparameters(config), result, step=config.trainer.max_epochs)
    logger.finalize("success")


class RunPages(Callback):
    """Write a text at the start, and figures half of the way through the training and at its end, after a validation.

    Args:
        level_dir: Folder of the level.
        config: All options of the level.
    """

    def __init__(self, level_dir: Path, config: Namespace) -> None:
        self.level_dir, self.config = level_dir, config

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if isinstance(trainer.logger, TensorBoardLogger) and trainer.current_epoch == 0:
            pages = trainer.logger.experiment
            pages.add_text("run", describe(self.config, self.level_dir))
            pages.add_custom_scalars(CHARTS)

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        epoch, last_epoch = trainer.current_epoch + 1, trainer.max_epochs or -1
        halves_before, halves = (2 * n // last_epoch for n in (epoch - (trainer.check_val_every_n_epoch or 1), epoch))
        if not isinstance(trainer.logger, TensorBoardLogger) or last_epoch < 0 or halves == halves_before:
            return
        with matplotlib.style.context(STYLE):
            for name, figure in draw_inference(model, trainer.datamodule).items():
                trainer.logger.experiment.add_figure(name, figure, epoch)


@torch.no_grad()
def draw_inference(model: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, Figure]:
    """Draw what a model infers from the first validation trials, all entries observed that its bandwidth lets it see."""
    trials = data.datasets["valid"][:N_TRIALS]
    inference = model.infer(trials.spikes.to(model.device))
    inferred, latents = model.rates(inference.log_rates).cpu().numpy(), inference.latents.cpu().numpy()
    spikes, true = trials.spikes.numpy(), None if trials.rates is None else trials.rates.numpy()
    bandwidth = data.hparams.bandwidth or data.n_neurons
    chosen = np.linspace(0, len(spikes) - 1, min(N_EXAMPLES, len(spikes))).astype(int)
    examples = [
        Example(bandwidth, spikes[trial], None if true is None else true[trial], inferred[trial], data.bin_width)
        for trial in chosen
    ]
    condition = data.trials["valid"].condition
    figures = {
        "inference": plot_examples(examples, [f"trial {trial}" for trial in chosen]),
        "latents": plot_latents(latents, None if condition is None else condition[: len(latents)]),
    }
    if true is not None:
        figures["inferred_against_true"] = plot_against_truth(inferred, true)
    for figure in figures.values():
        figure.set_dpi(80)
    return figures
