"""Callbacks that make a run repeatable and safe: random state, refinement, checkpoints, NaN."""

import io
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from command_line import FailedWork, atomic_write
from data import mix_seeds
from recordings.splitting import has_new_conditions
from refinement.choices import MAX_BATCH_SIZE
from refinement.heldout import have_heldout
from refinement.refine import refine
from training.progress import WriteProgress


def find_progress(trainer: pl.Trainer) -> WriteProgress:
    """Return what writes the progress of the trainer's run."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, WriteProgress))


class SeedEachStep(Callback):
    """Seed torch before each step by run seed, epoch and batch: a resumed run draws the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, model: pl.LightningModule, batch: tuple, index: int
    ) -> None:
        seed = mix_seeds(self.seed, trainer.current_epoch, index, 0)
        # torch.manual_seed also prepares seeds for GPUs, even if there is none, which is slow
        is_on_cpu = model.device.type == "cpu"
        (torch.default_generator.manual_seed if is_on_cpu else torch.manual_seed)(seed)


class StopIfNotFinite(Callback):
    """Raise FailedWork if the loss is infinite or NaN, before the step changes the weights."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, model: pl.LightningModule, batch: tuple, index: int
    ) -> None:
        self.spikes = batch.spikes

    def on_before_backward(
        self, trainer: pl.Trainer, model: pl.LightningModule, loss: Tensor
    ) -> None:
        if not loss.isfinite():
            found = f"the loss of epoch {trainer.current_epoch + 1} is {loss.item()}"
            raise FailedWork(f"{found}: {self.explain(model)}")

    @torch.no_grad()
    def explain(self, model: pl.LightningModule) -> str:
        """Return which of weights, counts and log-rates look wrong."""
        for name, weights in model.named_parameters():
            if not weights.isfinite().all():
                became = f"{name} became infinite or NaN in the step before"
                return f"{became}; try a lower --model.learning_rate"
        highest_count = float(self.spikes.nan_to_num(nan=0.0).max())
        highest_log_rate = float(model(self.spikes).log_rates.max())
        return (
            f"the highest log-rate is {highest_log_rate:.3g}, the highest count {highest_count:.3g}"
            "; try a lower --model.learning_rate, or look for wrong counts in the data"
        )


class RefineAndValidateAtTheEnd(Callback):
    """After the last step of training, refine the model and validate it.

    The last step is known if the training is limited by epochs, steps, time, or a callback that
    stops it after a step.

    Args:
        n_epochs: Epochs of the refinement. 0: none.
        n_inputs: Inputs that may drive the decoder. 0: none.
        seed: Its seed.
    """

    def __init__(self, n_epochs: int, n_inputs: int, seed: int) -> None:
        self.n_epochs, self.n_inputs, self.seed = n_epochs, n_inputs, seed

    def on_train_batch_end(self, trainer: pl.Trainer, model: pl.LightningModule, *_) -> None:
        # that have ended
        n_epochs, n_steps = trainer.current_epoch + trainer.is_last_batch, trainer.global_step
        may_stop = n_epochs >= (trainer.min_epochs or 0) and n_steps >= (trainer.min_steps or 0)
        is_last = n_epochs == trainer.max_epochs or n_steps == trainer.max_steps
        if not (is_last or (trainer.should_stop and may_stop)):
            return
        if self.n_epochs > 0:
            self.refine(trainer, model, n_epochs)
        # Lightning validates before it stops, if the epoch is one to validate
        trainer.should_stop = True
        if trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1

    def refine(self, trainer: pl.Trainer, model: pl.LightningModule, n_trained: int) -> None:
        """Refine the model, and log what was tried."""
        data, progress = trainer.datamodule, find_progress(trainer)
        new = data.datasets["valid"] if has_new_conditions(data.trials) else None
        model.eval()
        tried = refine(
            model, data.datasets["train"], self.n_epochs, self.seed, self.n_inputs, new,
            lambda done, total: progress.refined(n_trained, done, total),
        )  # fmt: skip
        model.train()
        if not tried:
            why = "no training trial with held-out counts was observed, or the model diverged"
            progress.note(f"it was not refined: {why}")
        elif model.hparams.input_size:
            others = min(loss for name, loss in tried.items() if not name.startswith("driven"))
            gain = f"better by {others - min(tried.values()):.4f} nats each"
            progress.note(f"inputs drive the population: held-out counts are predicted {gain}")
        scores = {f"refinement/heldout_nll_{name}": score for name, score in tried.items()}
        for logger in trainer.loggers:
            logger.log_metrics(scores, trainer.current_epoch + 1)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all.

    Lightning writes through fsspec, which moves a finished file to its place. The move copies where
    the temporary folder is on another file system, and a copy can be cut off.
    """

    def save_checkpoint(
        self, checkpoint: dict, path: str | Path, storage_options: object = None
    ) -> None:
        content = io.BytesIO()  # writing to a file, torch would hide the error of a full disk
        torch.save(checkpoint, content)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content.getbuffer())


class MovableCheckpoint(ModelCheckpoint):
    """Remember the best score also if the folder was moved; Lightning's own would forget it."""

    def setup(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        """Choose by the observed counts of validation if none of them are held out."""
        super().setup(trainer, model, stage)
        trials, is_by_heldout = trainer.datamodule.datasets["valid"], "heldout" in str(self.monitor)
        batches = torch.arange(len(trials)).split(MAX_BATCH_SIZE)
        if is_by_heldout and not any(have_heldout(trials, rows).any() for rows in batches):
            self.monitor = "valid/nll"
            find_progress(trainer).note(
                "no count of the validation trials is held out, so best.ckpt is the one with the "
                "lowest valid/nll, on counts that the model sees"
            )

    def load_state_dict(self, state_dict: dict) -> None:
        def moved(path: str) -> str:
            return str(Path(self.dirpath, Path(path).name)) if path else path

        paths = {name: moved(path) for name, path in state_dict.items() if name.endswith("_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        places = paths | {"dirpath": self.dirpath, "best_k_models": best}
        super().load_state_dict(state_dict | places)


def save_best_and_last(folder: Path, monitor: str) -> list[ModelCheckpoint]:
    """Return the callbacks that save best.ckpt (by the lowest `monitor`, weights alone) and
    last.ckpt (to resume from)."""
    best = {"monitor": monitor, "save_weights_only": True, "save_on_train_epoch_end": False}
    last = {"save_on_train_epoch_end": True}
    return [
        MovableCheckpoint(folder, name, enable_version_counter=False, **options)
        for name, options in (("best", best), ("last", last))
    ]
