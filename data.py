"""From a recording to masked batches: what an interface of limited bandwidth would have observed.

A missing count is NaN. Letters in shapes: B trials, T time bins, N neurons.
"""

from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from command_line import InputError
from recordings.checks import check_counts, check_rates
from recordings.hdf5 import SPLITS, StoredArray, Trials, read_file

VALID_BATCH_SIZE = 512  # trials; does not change the scores


class Batch(NamedTuple):
    """A batch of B trials: spikes for the model, the rest for validation."""

    spikes: Tensor  # (B, T, N) counts per bin, NaN = not observed
    heldout: Tensor  # (B, T, N) bool, observed entries that validation hides from the model; all False in training
    rates: Tensor | None  # (B, T, N) true rates in spikes/s, where known; for metrics only


def sample_mask(recorded: np.ndarray, bandwidth: int, rng: np.random.Generator) -> np.ndarray:
    """Choose which neurons an interface of limited bandwidth observes, at random at each time step of each trial.

    Args:
        recorded: (..., neurons) bool, the entries to choose from.
        bandwidth: Number of neurons observed at each time step.
        rng: Random number generator.

    Returns:
        (..., neurons) bool: True for `bandwidth` neurons at each time step, or for all recorded ones if fewer.
    """
    draw = rng.random(recorded.shape, dtype=np.float32)
    draw[~recorded] = 2.0  # chosen last
    chosen = np.zeros_like(recorded)
    np.put_along_axis(chosen, draw.argpartition(bandwidth - 1, axis=-1)[..., :bandwidth], True, axis=-1)
    return chosen & recorded


class TrialDataset(Dataset):
    """Trials in memory, indexed a batch at a time."""

    def __init__(self, trials: Batch) -> None:
        self.trials = trials

    def __len__(self) -> int:
        return len(self.trials.spikes)

    def __getitem__(self, index: int | list[int] | Tensor) -> Batch:
        return Batch(*(None if field is None else field[index] for field in self.trials))

    __getitems__ = __getitem__  # DataLoader calls it with the indices of a whole batch


class StreamedTrialDataset(Dataset):
    """Trials on disk, read and masked a batch at a time, with the same masks as in memory."""

    def __init__(self, stored: Trials, seeds: list[int], bandwidth: int | None, heldout_fraction: float) -> None:
        self.stored, self.seeds = stored, seeds
        self.bandwidth, self.heldout_fraction = bandwidth, heldout_fraction

    def __len__(self) -> int:
        return len(self.stored.spikes)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Batch:
        rows = np.atleast_1d(np.arange(len(self))[index])
        spikes, rates = self.stored.spikes, self.stored.rates
        counts = check_counts(spikes[rows], spikes.path, spikes.key)
        batch = [self._masked(trial, row) for trial, row in zip(counts, rows, strict=True)]
        fields = [np.stack(field) for field in zip(*batch, strict=True)]
        fields += [None if rates is None else check_rates(rates[rows], rates.path, rates.key)]
        fields = [None if field is None else torch.from_numpy(field) for field in fields]
        return Batch(*(field[0] if isinstance(index, int) and field is not None else field for field in fields))

    __getitems__ = __getitem__

    def _masked(self, spikes: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the observed spikes (T, N) of a trial, and which of them are held out.

        The random numbers are those that SpikeDataModule draws for trials in memory.
        """
        # random numbers that the masks of the earlier trials, and of all trials, take
        n_draws = spikes.size * np.array([row, len(self)])
        if self.bandwidth is not None:
            rng = self._rng_after(n_draws[0] // 2)  # two numbers in single precision from each draw
            rng.random(n_draws[0] % 2, dtype=np.float32)
            observed = sample_mask(~np.isnan(spikes), self.bandwidth, rng)
            spikes = np.where(observed, spikes, np.float32(np.nan))
        heldout = np.zeros(spikes.shape, dtype=bool)
        if self.heldout_fraction > 0:
            n_for_masks = -(-n_draws[1] // 2) if self.bandwidth is not None else 0
            rng = self._rng_after(n_for_masks + n_draws[0])
            heldout = ~np.isnan(spikes) & (rng.random(spikes.shape) < self.heldout_fraction)
        return spikes, heldout

    def _rng_after(self, n_draws: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(self.seeds).advance(int(n_draws)))


def mix_seeds(*numbers: int) -> int:
    """Return one seed for torch from several numbers. Other numbers give an unrelated seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class EpochSampler(DistributedSampler):
    """Shuffle by seed and epoch alone, so that a resumed training sees the trials in the same order.

    Each of n processes gets every n-th trial. The first trials are repeated if n does not divide the number of trials.
    """

    def __init__(self, dataset: Dataset, seed: int, rank: int, n_processes: int) -> None:
        super().__init__(dataset, n_processes, rank)
        self.run_seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch. Lightning calls this before each."""
        super().set_epoch(mix_seeds(self.run_seed, epoch))


def unchanged(batch: Batch) -> Batch:
    """Return the batch unchanged: the collate function for data sets that return whole batches."""
    return batch


class SpikeDataModule(pl.LightningDataModule):
    """Masked spike counts for training and validation.

    Args:
        path: HDF5 file with spike counts; README.md lists its keys.
        bandwidth: Number of neurons observed at each time step. None: all recorded neurons.
        batch_size: Trials in a training batch.
        heldout_fraction: Fraction of the observed validation entries hidden from the model, to select checkpoints on.
        bin_width: Width of a time bin (s). None: the file's attribute. If the file's rates are per ms: the width in ms.
        seed: Seed of the masks and of the order of the trials.
        num_workers: Processes that load batches. 0: the training process does, which is faster for data in memory.

    Raises:
        InputError: a bad file, or a value out of range.
    """

    def __init__(
        self,
        path: str = "lorenz_data.h5",
        bandwidth: int | None = None,
        batch_size: int = 208,
        heldout_fraction: float = 0.2,
        bin_width: float | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.trials, bin_width = read_file(path, bin_width)
        self.bin_width = bin_width
        self.n_neurons = self.trials["train"].spikes.shape[-1]
        if bandwidth is not None and not 1 <= bandwidth <= self.n_neurons:
            raise InputError(f"bandwidth {bandwidth}: expected 1 to {self.n_neurons}, the number of neurons in {path}")
        if batch_size < 1:
            raise InputError(f"--data.batch_size {batch_size}: expected at least 1")
        if num_workers < 0:
            raise InputError(f"--data.num_workers {num_workers}: expected at least 0")
        if not 0 < heldout_fraction < 1:
            raise InputError(f"--data.heldout_fraction {heldout_fraction}: expected a fraction between 0 and 1")
        self.save_hyperparameters()

    @property
    def n_observed(self) -> int:
        """Number of neurons observed at each time step."""
        return self.hparams.bandwidth or self.n_neurons

    @property
    def fraction_dropped(self) -> float:
        """Fraction of the neurons that are not observed at a time step."""
        return 1 - self.n_observed / self.n_neurons

    def setup(self, stage: str | None = None) -> None:
        """Draw the masks. The same seed gives the same masks in any stage, order and process."""
        self.datasets = {split: self._dataset(split) for split in SPLITS}

    def _dataset(self, split: str) -> Dataset:
        seeds, bandwidth = [self.hparams.seed, SPLITS.index(split)], self.hparams.bandwidth
        heldout_fraction = self.hparams.heldout_fraction if split == "valid" else 0.0
        if isinstance(self.trials[split].spikes, StoredArray):
            return StreamedTrialDataset(self.trials[split], seeds, bandwidth, heldout_fraction)
        rng = np.random.default_rng(seeds)
        spikes, rates, _ = self.trials[split]
        if bandwidth is not None:
            spikes = np.where(sample_mask(~np.isnan(spikes), bandwidth, rng), spikes, np.float32(np.nan))
        heldout = np.zeros(spikes.shape, dtype=bool)
        if heldout_fraction > 0:
            heldout = ~np.isnan(spikes) & (rng.random(spikes.shape) < heldout_fraction)
        return TrialDataset(
            Batch(*(None if field is None else torch.from_numpy(field) for field in (spikes, heldout, rates)))
        )

    def _loader(self, split: str) -> DataLoader:
        dataset, seed = self.datasets[split], self.hparams.seed
        rank, n_processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if len(dataset) < n_processes:
            raise InputError(
                f"{self.hparams.path}: {split}_data has {len(dataset)} trials; expected one for each of {n_processes} processes"
            )
        if split == "train":
            sampler = EpochSampler(dataset, seed, rank, n_processes)
        else:
            sampler = UnrepeatedDistributedSampler(dataset, n_processes, rank, shuffle=False)
        return DataLoader(
            dataset,
            batch_size=self.hparams.batch_size if split == "train" else VALID_BATCH_SIZE,
            sampler=sampler,
            collate_fn=unchanged,
            num_workers=self.hparams.num_workers,
            persistent_workers=self.hparams.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        return self._loader("valid")
