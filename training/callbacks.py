"""Callbacks that make a training repeatable and safe: random state, checkpoints, the last
validation, exploding losses."""

import io
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from command_line import FailedWork, atomic_write
from data import mix_seeds
from recordings.hdf5 import has_new_conditions
from training.refinement import refine


class SeedEachStep(Callback):
    """Seed torch before each step by run seed, epoch, batch and process, so that a resumed training
    draws the same numbers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, model: pl.LightningModule, batch: tuple, index: int
    ) -> None:
        seed = mix_seeds(self.seed, trainer.current_epoch, index, trainer.global_rank)
        # torch.manual_seed also prepares seeds for GPUs, even if there is none, which is slow
        seed_device = (
            torch.default_generator.manual_seed if model.device.type == "cpu" else torch.manual_seed
        )
        seed_device(seed)


class StopIfNotFinite(Callback):
    """Raise FailedWork if the loss is infinite or NaN, before the step changes the weights."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, model: pl.LightningModule, batch: tuple, index: int
    ) -> None:
        self.spikes = batch.spikes

    def on_before_backward(
        self, trainer: pl.Trainer, model: pl.LightningModule, loss: Tensor
    ) -> None:
        if not trainer.strategy.reduce_boolean_decision(bool(loss.isfinite()), all=True):
            raise FailedWork(
                f"the loss of epoch {trainer.current_epoch + 1} is {loss.item()}: {self.explain(model)}"
            )

    @torch.no_grad()
    def explain(self, model: pl.LightningModule) -> str:
        """Return which of weights, counts and log-rates look wrong."""
        for name, weights in model.named_parameters():
            if not weights.isfinite().all():
                return f"{name} became infinite or NaN in the step before; try a lower --model.learning_rate"
        highest_count = float(self.spikes.nan_to_num(nan=0.0).max())
        highest_log_rate = float(model(self.spikes).log_rates.max())
        return (
            f"the highest log-rate is {highest_log_rate:.3g}, the highest count {highest_count:.3g}; "
            "try a lower --model.learning_rate, or look for wrong counts in the data"
        )


class RefineAndValidateAtTheEnd(Callback):
    """After the last step of a training, refine the model and validate it.

    The last step is known if the training is limited by epochs, steps, time, or a callback that
    stops it after a step.

    Args:
        n_epochs: Epochs of the refinement. 0: none.
        seed: Its seed.
    """

    def __init__(self, n_epochs: int, seed: int) -> None:
        self.n_epochs, self.seed = n_epochs, seed

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, *_: object
    ) -> None:
        n_epochs, n_steps = (
            trainer.current_epoch + trainer.is_last_batch,
            trainer.global_step,
        )  # that have ended
        may_stop = n_epochs >= (trainer.min_epochs or 0) and n_steps >= (trainer.min_steps or 0)
        is_last = n_epochs == trainer.max_epochs or n_steps == trainer.max_steps
        if not (is_last or (trainer.should_stop and may_stop)):
            return
        if self.n_epochs > 0:
            self.refine(trainer, model)
        trainer.should_stop = (
            True  # Lightning validates before it stops, if the epoch is one to validate
        )
        if trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1

    def refine(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Refine the model in the main process, and give the result to the others. Log what it
        tried."""
        if trainer.is_global_zero:
            model.eval()
            data = trainer.datamodule
            new = data.datasets["valid"] if has_new_conditions(data.trials) else None
            tried = refine(model, trainer.train_dataloader.dataset, self.n_epochs, self.seed, new)
            model.train()
            scores = {f"refinement/heldout_nll_{name}": score for name, score in tried.items()}
            for logger in trainer.loggers:
                logger.log_metrics(scores, trainer.current_epoch + 1)
        if trainer.world_size > 1:
            result = model.state_dict(), model.reference, model.prior_width
            weights, reference, model.prior_width = trainer.strategy.broadcast(result)
            model.load_state_dict(weights)
            model.reference = reference.to(model.device)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all."""

    def save_checkpoint(
        self, checkpoint: dict, path: str | Path, storage_options: object = None
    ) -> None:
        content = (
            io.BytesIO()
        )  # writing to a file, torch would replace the error of a full disk by another
        torch.save(checkpoint, content)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content.getbuffer())


class MovableCheckpoint(ModelCheckpoint):
    """Remember the best score also if the folder was moved since; Lightning's own would forget
    it."""

    def load_state_dict(self, state_dict: dict) -> None:
        def moved(path: str) -> str:
            return str(Path(self.dirpath, Path(path).name)) if path else path

        paths = {name: moved(path) for name, path in state_dict.items() if name.endswith("_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            state_dict | paths | {"dirpath": self.dirpath, "best_k_models": best}
        )


def save_best_and_last(folder: Path, monitor: str) -> list[ModelCheckpoint]:
    """Return the callbacks that save best.ckpt (weights alone, by the lowest `monitor`) and
    last.ckpt (to resume from)."""
    return [
        MovableCheckpoint(
            folder, "best", monitor=monitor, save_weights_only=True, enable_version_counter=False,
            save_on_train_epoch_end=False,
        ),
        MovableCheckpoint(folder, "last", enable_version_counter=False, save_on_train_epoch_end=True),
    ]  # fmt: skip
