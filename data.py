"""A recording -> masked batches: samples what a narrow interface would have seen, in memory or as trials are read.

A missing count is NaN, here and everywhere after. Shapes: B trials, T time bins, N neurons.
"""

from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from command_line import InputError
from recording import SPLITS, StoredArray, Trials, checked_counts, checked_rates, read_file

VALID_BATCH_SIZE = 512  # trials; has no influence on the scores


class Batch(NamedTuple):
    """What the model gets of B trials."""

    spikes: Tensor  # (B, T, N) counts per bin, NaN = not observed
    heldout: Tensor  # (B, T, N) bool, observed entries that validation hides from the encoder; all False in training
    rates: Tensor | None  # (B, T, N) true rates in spikes/s; for metrics alone, never for training or selection


def sample_mask(recorded: np.ndarray, bandwidth: int, rng: np.random.Generator) -> np.ndarray:
    """Choose what an interface of limited bandwidth observes: at each time step of each trial, a random set of neurons.

    Args:
        recorded: (trials, time, neurons) bool, the entries there are to choose from.
        bandwidth: Number of neurons observed at each time step.
        rng: Source of the choice.

    Returns:
        (trials, time, neurons) bool with exactly `bandwidth` True at each time step; where fewer neurons are recorded,
        those.
    """
    draw = rng.random(recorded.shape, dtype=np.float32)
    draw[~recorded] = 2.0  # comes last
    chosen = np.zeros_like(recorded)
    np.put_along_axis(chosen, draw.argpartition(bandwidth - 1, axis=-1)[..., :bandwidth], True, axis=-1)
    return chosen & recorded


class TrialDataset(Dataset):
    """Trials in memory that are indexed a batch at a time."""

    def __init__(self, trials: Batch) -> None:
        self.trials = trials

    def __len__(self) -> int:
        return len(self.trials.spikes)

    def __getitem__(self, index: int | list[int] | Tensor) -> Batch:
        return Batch(*(None if field is None else field[index] for field in self.trials))

    __getitems__ = __getitem__  # what DataLoader calls with the indices of a whole batch


class StreamedTrials(Dataset):
    """Trials on disk, read and masked a batch at a time, with the masks that they would have in memory."""

    def __init__(self, stored: Trials, seeds: list[int], bandwidth: int | None, heldout_fraction: float) -> None:
        self.stored, self.seeds = stored, seeds
        self.bandwidth, self.heldout_fraction = bandwidth, heldout_fraction

    def __len__(self) -> int:
        return len(self.stored.spikes)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Batch:
        rows = np.atleast_1d(np.arange(len(self))[index])
        spikes, rates = self.stored.spikes, self.stored.rates
        counts = checked_counts(spikes[rows], spikes.path, spikes.key)
        batch = [self._masked(trial, row) for trial, row in zip(counts, rows, strict=True)]
        fields = [np.stack(field) for field in zip(*batch, strict=True)]
        fields += [None if rates is None else checked_rates(rates[rows], rates.path, rates.key)]
        fields = [None if field is None else torch.from_numpy(field) for field in fields]
        return Batch(*(field[0] if isinstance(index, int) and field is not None else field for field in fields))

    __getitems__ = __getitem__

    def _masked(self, spikes: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a trial's spikes (T, N) as they are observed, and which of them are held out."""
        n_draws = spikes.size * np.array([row, len(self)])  # that the trials before, and all trials, take for masks
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
    """Return a seed for torch that follows from all the numbers, and shares nothing with those of other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class EpochSampler(RandomSampler):
    """Shuffles by seed and epoch alone, so that a training which is resumed sees the trials in the order it would have."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        super().__init__(dataset, generator=torch.Generator())
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; Lightning calls it before each."""
        self.generator.manual_seed(mix_seeds(self.seed, epoch))


def as_it_is(batch: Batch) -> Batch:
    """Collate function for batches that are batches already."""
    return batch


class SpikeDataModule(pl.LightningDataModule):
    """Masked spike counts for training and validation.

    Args:
        path: HDF5 file with spike counts; README.md lists its keys.
        bandwidth: Neurons observed at each time step; None observes all that the file has.
        batch_size: Trials in a training batch.
        heldout_fraction: Fraction of the observed validation entries hidden from the encoder to select models on.
        bin_width: Width of a time bin (s), for a file that does not say; 20 for rates per ms in bins of 20 ms.
        seed: Seed of the masks.
        num_workers: Processes that load batches; 0 indexes them in the training process, faster for data in memory.

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

    def setup(self, stage: str | None = None) -> None:
        """Draw the masks; the same seed gives the same masks in any stage, any order and any process."""
        self.datasets = {split: self._dataset(split) for split in SPLITS}

    def _dataset(self, split: str) -> Dataset:
        seeds, bandwidth = [self.hparams.seed, SPLITS.index(split)], self.hparams.bandwidth
        heldout_fraction = self.hparams.heldout_fraction if split == "valid" else 0.0
        if isinstance(self.trials[split].spikes, StoredArray):
            return StreamedTrials(self.trials[split], seeds, bandwidth, heldout_fraction)
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
        return DataLoader(
            self.datasets[split],
            batch_size=self.hparams.batch_size if split == "train" else VALID_BATCH_SIZE,
            sampler=EpochSampler(self.datasets[split], self.hparams.seed) if split == "train" else None,
            collate_fn=as_it_is,
            num_workers=self.hparams.num_workers,
            persistent_workers=self.hparams.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        return self._loader("valid")
