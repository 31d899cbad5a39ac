"""From a recording to masked batches: what an interface of limited bandwidth would have observed.

A missing count is NaN. Letters in shapes: B trials, T time bins, N neurons.
"""

import functools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from jsonargparse.typing import (
    NonNegativeInt,
    OpenUnitInterval,
    PositiveInt,
    restricted_number_type,
)
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from command_line import expect
from modules.coordinated_dropout import mask_missing
from modules.posterior import n_affordable
from recordings.checks import check_counts, check_rates
from recordings.hdf5 import StoredArray, Trials, blocks, read_file
from recordings.masks import Fill, Masks, Pattern, development_stride
from recordings.splitting import hold_out_conditions

N_PARTS = 16  # of a large file, each of 64 MB, from which mean counts are taken
VALID_BATCH_SIZE = 512  # trials, if they are not very large; does not change the scores
AtMostHalf = restricted_number_type("AtMostHalf", float, [(">=", 0), ("<=", 0.5)])


class Batch(NamedTuple):
    """A batch of B trials: spikes for the model, the rest for validation."""

    spikes: Tensor  # (B, T, N) counts per bin, NaN = not observed
    heldout: Tensor  # (B, T, N) bool, observed entries hidden from the model, to score it on
    rates: Tensor | None  # (B, T, N) true rates in spikes/s, where known; for metrics only

    @property
    def shown(self) -> Tensor:
        """The spikes (B, T, N) without those that are held out."""
        return mask_missing(self.spikes, ~self.heldout)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        return Batch(*(None if field is None else field.to(device) for field in self))


class MaskedTrials(Dataset):
    """The masked trials of a split, indexed a batch at a time.

    Trials in memory are masked once, and kept on `device`. Trials on disk are read and masked for
    each batch, with the same masks.
    """

    def __init__(self, trials: Trials, masks: Masks, device: torch.device | str = "cpu") -> None:
        self.trials, self.masks, self.kept = trials, masks, None
        if not isinstance(trials.spikes, StoredArray):
            self.kept = self.read(np.arange(len(self))).to(device)

    def __len__(self) -> int:
        return len(self.trials.spikes)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Batch:
        if self.kept is None:
            return self.read(np.arange(len(self))[rows])
        return Batch(*(None if field is None else field[rows] for field in self.kept))

    __getitems__ = __getitem__  # DataLoader calls it with the indices of a whole batch

    def read(self, rows: np.ndarray) -> Batch:
        """Read and mask trials; raise InputError if a value cannot be right."""
        stored = self.trials
        spikes, rates = stored.spikes[rows], None if stored.rates is None else stored.rates[rows]
        if isinstance(stored.spikes, StoredArray):  # others were checked when they were read
            spikes = check_counts(spikes, stored.spikes.path, stored.spikes.key)
            if rates is not None:
                rates = check_rates(rates, stored.rates.path, stored.rates.key)
        masked = [self.masks.apply(*trial) for trial in zip(spikes, rows.tolist(), strict=True)]
        fields = [*(np.stack(field) for field in zip(*masked, strict=True)), rates]
        return Batch(*(None if field is None else torch.from_numpy(field) for field in fields))


def mix_seeds(*numbers: int) -> int:
    """Return one seed for torch from several numbers. Other numbers give an unrelated seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class EpochSampler(Sampler):
    """Shuffle by seed and epoch alone, so that a resumed run sees the trials in the same order."""

    def __init__(self, n_trials: int, seed: int, epoch: int = 0) -> None:
        self.n_trials, self.seed, self.epoch = n_trials, seed, epoch

    def __len__(self) -> int:
        return self.n_trials

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch. Lightning calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch))
        return iter(torch.randperm(self.n_trials, generator=generator).tolist())


def unchanged(batch: Batch) -> Batch:
    """Return the batch unchanged: the data set returns whole batches."""
    return batch


class SpikeDataModule(pl.LightningDataModule):
    """Masked spike counts for training and validation, and for a test if the file has such trials.

    Args:
        path: HDF5 file with spike counts; README.md lists its keys.
        bandwidth: Number of neurons observed at each time step. None: all recorded neurons.
        pattern: Which neurons: random ones at each time step; the same ones always (fixed); one
            after the other, as a scanning microscope observes them (staggered); or all of them, at
            some time steps (blocks).
        fill: What stands in place of a count that was not observed, also in the loss: nothing, as
            SBTT has it; or, to see what this is worth, zeros or counts interpolated in time.
        split: trials: as in the file. conditions: every fifth condition is for validation, the
            others are for training.
        batch_size: Trials in a training batch. None: a twelfth of the training trials, at least 16,
            at most 128.
        heldout_fraction: Fraction of a trial's observed entries that are held out to score models,
            in each validation trial.
        development_fraction: Fraction of the training trials (at most 300) that have them, too; the
            refinement selects models on these.
        bin_width: Width of a time bin (s). None: the file's attribute. If the file's rates are per
            ms: the width in ms.
        seed: Seed of the order of the trials.
        mask_seed: Seed of the masks. None: that of the run, so that each seed has masks of its own.
        num_workers: Processes that load batches. 0: none but the run's own; small data are then
            kept on its GPU, if any.

    Raises:
        InputError: a bad file, or a bandwidth that it does not have.
    """

    def __init__(
        self,
        path: str = "lorenz_data.h5",
        bandwidth: int | None = None,
        pattern: Pattern = "random",
        fill: Fill = "none",
        split: Literal["trials", "conditions"] = "trials",
        batch_size: PositiveInt | None = None,
        heldout_fraction: OpenUnitInterval = 0.2,
        development_fraction: AtMostHalf = 0.25,
        bin_width: float | None = None,
        seed: int = 0,
        mask_seed: NonNegativeInt | None = None,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        recording = read_file(path, bin_width)
        self.trials, self.conversion = recording.trials, recording.conversion
        self.n_heldin, self.condition_names = recording.n_heldin, recording.condition_names
        self.bin_width = bin_width = recording.bin_width  # also for the hyperparameters
        if split == "conditions":
            self.trials = hold_out_conditions(self.trials, path)
        self.n_neurons, self.first_epoch = self.trials["train"].spikes.shape[-1], 0
        possible = f"1 to {self.n_neurons}, the number of neurons in {path}"
        expect(
            bandwidth is None or 1 <= bandwidth <= self.n_neurons, "bandwidth", bandwidth, possible
        )
        self.save_hyperparameters()

    def state_dict(self) -> dict[str, str | int | None]:
        """Return what a checkpoint remembers beside the options: how a session was cut, the epoch
        to continue with."""
        return {"conversion": self.conversion, "next_epoch": self.trainer.current_epoch + 1}

    def load_state_dict(self, state: dict[str, str | int | None]) -> None:
        """Continue a run from the state of its checkpoint."""
        self.first_epoch = state.get("next_epoch", 0)

    @property
    def batch_size(self) -> int:
        """Trials in a training batch: few in small recordings, to learn from each often enough."""
        return self.hparams.batch_size or min(max(len(self.trials["train"].spikes) // 12, 16), 128)

    @property
    def n_observed(self) -> int:
        """Number of neurons observed at each time step."""
        return self.hparams.bandwidth or self.n_neurons

    @property
    def fraction_dropped(self) -> float:
        """Fraction of the neurons that are not observed at a time step."""
        return 1 - self.n_observed / self.n_neurons

    @functools.cached_property
    def mean_counts(self) -> Tensor:
        """Each neuron's mean count per bin (N,) in the training trials, without any mask.

        A neuron without a spike has half a one. One that was never recorded has the mean of all. Of
        a large file, parts from all over it are read.
        """
        spikes = self.trials["train"].spikes
        parts, (sums, n_recorded) = list(blocks(spikes)), np.zeros((2, self.n_neurons))
        for part in parts[:: -(-len(parts) // N_PARTS)]:
            block = spikes[part]
            sums += np.nansum(block, (0, 1), dtype=float)
            n_recorded += (~np.isnan(block)).sum((0, 1))
        n_spikes = np.maximum(sums, 0.5)
        of_all = n_spikes.sum() / n_recorded.sum()
        means = np.divide(n_spikes, n_recorded, np.full_like(sums, of_all), where=n_recorded > 0)
        return torch.from_numpy(means)

    def setup(self, stage: str | None = None) -> None:
        """Draw the masks. The same seed gives the same masks in any stage, order and process."""
        options, n_neurons = self.hparams, self.n_neurons
        n_train = len(self.trials["train"].spikes)
        stride = development_stride(n_train, options.development_fraction)
        first_heldout = self.n_heldin if self.n_heldin < n_neurons else None
        mask_seed = options.seed if options.mask_seed is None else options.mask_seed
        self.datasets = {}
        for number, (split, trials) in enumerate(self.trials.items()):
            masks = Masks(
                seeds=[mask_seed, number],
                bandwidth=options.bandwidth,
                heldout_fraction=options.heldout_fraction,
                stride=stride if split == "train" else 1,
                first_heldout=None if split == "train" else first_heldout,
                pattern=options.pattern,
                fill=options.fill,
            )
            is_small = len(trials.spikes) <= n_affordable(*trials.spikes.shape[1:])
            stays = self.trainer and is_small and options.num_workers == 0
            device = self.trainer.strategy.root_device if stays else "cpu"
            self.datasets[split] = MaskedTrials(trials, masks, device)

    def train_dataloader(self) -> DataLoader:
        dataset = self.datasets["train"]
        # processes that load batches begin before Lightning sets the epoch
        sampler = EpochSampler(len(dataset), self.hparams.seed, self.first_epoch)
        return self._loader(dataset, self.batch_size, sampler)

    def val_dataloader(self) -> DataLoader:
        return self.score_dataloader("valid")

    def score_dataloader(self, split: str) -> DataLoader:
        """Return the trials of a split in their order, in large batches."""
        n_together = min(VALID_BATCH_SIZE, n_affordable(*self.trials[split].spikes.shape[1:]))
        return self._loader(self.datasets[split], n_together, None)

    def _loader(self, dataset: Dataset, batch_size: int, sampler: Sampler | None) -> DataLoader:
        n_workers = self.hparams.num_workers
        options = {"num_workers": n_workers, "persistent_workers": n_workers > 0}
        return DataLoader(dataset, batch_size, sampler=sampler, collate_fn=unchanged, **options)
