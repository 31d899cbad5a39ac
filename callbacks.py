"""What watches over the training of a level, so that nothing is lost: random state, checkpoints, and losses that explode."""

import io
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from command_line import FailedWork, whole_file
from data import mix_seeds


class NotFinite(FailedWork):
    """The loss of a training became infinite or NaN; the message says where it came from."""


class SeedEachStep(Callback):
    """Let what a step draws at random (dropout) follow from seed, epoch and batch alone, not from the steps before.

    So a training that was resumed draws what it would have drawn.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: tuple, index: int) -> None:
        seed = mix_seeds(self.seed, trainer.current_epoch, index, trainer.global_rank)
        # for the processor by itself: torch.manual_seed would take longer over devices that are not there than to seed it
        seed_device = torch.default_generator.manual_seed if model.device.type == "cpu" else torch.manual_seed
        seed_device(seed)


class StopIfNotFinite(Callback):
    """End a training whose loss is infinite or NaN before the weights, and the checkpoints, become so too."""

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: tuple, index: int) -> None:
        self.spikes = batch.spikes

    def on_before_backward(self, trainer: pl.Trainer, model: pl.LightningModule, loss: Tensor) -> None:
        if not loss.isfinite():
            raise NotFinite(f"the loss of epoch {trainer.current_epoch + 1} is {loss.item()}: {self.explain(model)}")

    @torch.no_grad()
    def explain(self, model: pl.LightningModule) -> str:
        """Say whether weights, counts or log-rates are to blame."""
        for name, weights in model.named_parameters():
            if not weights.isfinite().all():
                return f"{name} is not finite since the step before; try a lower --model.learning_rate"
        highest_count = float(self.spikes.nan_to_num(nan=0.0).max())
        highest_log_rate = float(model(self.spikes).log_rates.max())
        return (
            f"the highest log-rate is {highest_log_rate:.3g}, the highest count {highest_count:.3g}; "
            "try a lower --model.learning_rate, or look for wrong counts in the data"
        )


class WholeFileIO(TorchCheckpointIO):
    """Write checkpoints under a temporary name and move them, so that a checkpoint is always a whole one."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        whole = io.BytesIO()  # torch would hide the error of a full disk behind one of its own
        torch.save(checkpoint, whole)
        with whole_file(path) as temporary:
            temporary.write_bytes(whole.getbuffer())


def checkpoints(level_dir: Path, monitor: str) -> list[ModelCheckpoint]:
    """Return what saves best.ckpt (weights alone) and last.ckpt (all that resuming needs) at each validation."""
    return [
        ModelCheckpoint(
            level_dir, "best", monitor=monitor, save_weights_only=True, enable_version_counter=False,
            save_on_train_epoch_end=False,
        ),
        ModelCheckpoint(level_dir, "last", enable_version_counter=False, save_on_train_epoch_end=True),
    ]  # fmt: skip
