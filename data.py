"""Spike counts on disk -> masked batches: reads and checks an HDF5 file, samples what a narrow interface would have seen.

A missing count is NaN, here and everywhere after. Shapes: B trials, T time bins, N neurons.
"""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from command_line import InputError

SPLITS = ("train", "valid")
VALID_BATCH_SIZE = 512  # trials; has no influence on the scores


class Trials(NamedTuple):
    """The trials of one split as they are in the file."""

    spikes: np.ndarray  # (B, T, N) float32, counts per bin, NaN = not recorded
    rates: np.ndarray | None  # (B, T, N) float32, true rates in spikes/s, where known
    condition: np.ndarray | None  # (B,) integer label of what the trial repeats, where known


class Batch(NamedTuple):
    """What the model gets of B trials."""

    spikes: Tensor  # (B, T, N) counts per bin, NaN = not observed
    heldout: Tensor  # (B, T, N) bool, observed entries that validation hides from the encoder; all False in training
    rates: Tensor | None  # (B, T, N) true rates in spikes/s; for metrics alone, never for training or selection


def read_file(path: str | Path, bin_width: float | None = None) -> tuple[dict[str, Trials], float]:
    """Read and check a data file.

    Args:
        path: HDF5 file with `train_data` and `valid_data` (trials, time, neurons), counts with NaN = missing, and where
            known `train_truth` and `valid_truth` (rates), `train_condition` and `valid_condition` (trials,).
        bin_width: Width of a time bin in the unit that makes `rates * bin_width` a count; None takes the file's.

    Returns:
        The trials of each split, and the bin width.

    Raises:
        InputError: the file cannot be read, a key is missing, or a value cannot be what it should be.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected an HDF5 file with train_data and valid_data")
    try:
        with h5py.File(path) as file:
            trials = {split: _read_split(file, path, split) for split in SPLITS}
            bin_width = file.attrs.get("bin_width") if bin_width is None else bin_width
    except OSError as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({error}); expected a complete HDF5 file") from None
    train, valid = (trials[split].spikes.shape[1:] for split in SPLITS)
    if train != valid:
        raise InputError(f"{path}: train_data has (time, neurons) {train}, valid_data {valid}; expected the same")
    if bin_width is None:
        raise InputError(f"{path}: has no attribute bin_width; expected one, or the flag --data.bin_width")
    if not (isinstance(bin_width, (int, float, np.number)) and 0 < bin_width < np.inf):
        raise InputError(f"{path}: bin_width is {bin_width!r}; expected a number above 0")
    return trials, float(bin_width)


def _read_split(file: h5py.File, path: str | Path, split: str) -> Trials:
    """Read one split of an open file and check everything that can be checked without the other."""

    def read(name: str, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
        key = f"{split}_{name}"
        if key not in file:
            return None
        if not (isinstance(file[key], h5py.Dataset) and file[key].dtype.kind in "buif"):
            raise InputError(f"{path}: {key} is not an array of numbers; expected counts, rates or labels")
        if shape is not None and file[key].shape != shape:
            raise InputError(f"{path}: {key} has shape {file[key].shape}; expected {shape}, to go with {split}_data")
        return file[key][()]

    spikes = read("data")
    if spikes is None:
        raise InputError(f"{path}: has no key {split}_data; expected train_data and valid_data, found {sorted(file)}")
    if spikes.ndim != 3 or 0 in spikes.shape:
        raise InputError(
            f"{path}: {split}_data has shape {spikes.shape}; expected (trials, time, neurons), none of them 0"
        )
    spikes = spikes.astype(np.float32)
    counts = spikes[~np.isnan(spikes)]
    for wrong, what in (
        (np.isinf(counts), "infinite"),
        (counts < 0, "negative"),
        (counts != np.floor(counts), "fractional"),
    ):
        if wrong.any():
            raise InputError(
                f"{path}: {split}_data holds {wrong.sum()} {what} values; expected counts, NaN where missing"
            )
    if counts.size == 0:
        raise InputError(f"{path}: {split}_data holds NaN alone; expected some observed counts")
    rates = read("truth", spikes.shape)
    if rates is not None and not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise InputError(f"{path}: {split}_truth holds negative or non-finite values; expected rates")
    return Trials(spikes, None if rates is None else rates.astype(np.float32), read("condition", spikes.shape[:1]))


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
        self.datasets = {split: TrialDataset(self._masked(split)) for split in SPLITS}

    def _masked(self, split: str) -> Batch:
        rng = np.random.default_rng([self.hparams.seed, SPLITS.index(split)])
        spikes, rates, _ = self.trials[split]
        if self.hparams.bandwidth is not None:
            observed = sample_mask(~np.isnan(spikes), self.hparams.bandwidth, rng)
            spikes = np.where(observed, spikes, np.float32(np.nan))
        heldout = np.zeros(spikes.shape, dtype=bool)
        if split == "valid":
            heldout = ~np.isnan(spikes) & (rng.random(spikes.shape) < self.hparams.heldout_fraction)
        return Batch(*(None if field is None else torch.from_numpy(field) for field in (spikes, heldout, rates)))

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
