"""From a recording to masked batches: what an interface of limited bandwidth would have observed.

A missing count is NaN. Letters in shapes: B trials, T time bins, N neurons.
"""

from typing import Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from command_line import InputError, expect
from modules.coordinated_dropout import mask_missing
from modules.posterior import n_affordable
from recordings.checks import check_counts, check_rates
from recordings.hdf5 import SPLITS, StoredArray, Trials, hold_out_conditions, read_file
from recordings.patterns import Fill, Pattern, fill_missing, sample

VALID_BATCH_SIZE = 512  # trials, if they are not very large; does not change the scores
MAX_DEVELOPMENT_TRIALS = 300  # training trials with held-out entries


class Batch(NamedTuple):
    """A batch of B trials: spikes for the model, the rest for validation."""

    spikes: Tensor  # (B, T, N) counts per bin, NaN = not observed
    heldout: (
        Tensor  # (B, T, N) bool, observed entries that are hidden from the model, to score it on
    )
    rates: Tensor | None  # (B, T, N) true rates in spikes/s, where known; for metrics only

    @property
    def shown(self) -> Tensor:
        """The spikes (B, T, N) without those that are held out."""
        return mask_missing(self.spikes, ~self.heldout)


class Masks(NamedTuple):
    """The random choices for the trials of a split: which counts are observed, and which of these
    are held out.

    Each trial has random numbers of its own, so it has the same masks in whatever order trials are
    read.
    """

    seeds: list[int]
    bandwidth: int | None  # None: all recorded neurons are observed
    heldout_fraction: float  # of the observed entries of a trial
    stride: (
        int | None
    )  # held-out entries are in each trial (1), in each stride-th trial, or in none (None)
    first_heldout: int | None = (
        None  # neurons from this one on are held out instead of random entries
    )
    pattern: Pattern = "random"
    fill: Fill = "none"

    def apply(self, spikes: np.ndarray, trial: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the spikes (T, N) of a trial with NaN where they are not observed, and which
        entries are held out."""
        rng = np.random.default_rng([*self.seeds, trial])
        observed = ~np.isnan(spikes)
        if self.bandwidth is not None:
            observed = sample(self.pattern, observed, self.bandwidth, self.seeds[0], rng)
        if self.stride is None or trial % self.stride:
            heldout = np.zeros_like(observed)
        else:
            neurons, chance = np.arange(spikes.shape[1]), rng.random(spikes.shape, dtype=np.float32)
            is_random = self.first_heldout is None
            heldout = observed & (
                chance < self.heldout_fraction if is_random else neurons >= self.first_heldout
            )
        # what stands in place of a missing count must not tell the held-out ones
        shown = fill_missing(np.where(observed & ~heldout, spikes, np.float32(np.nan)), self.fill)
        return np.where(heldout, spikes, shown), heldout


class TrialDataset(Dataset):
    """Trials in the memory of a device, indexed a batch at a time."""

    def __init__(self, trials: Trials, masks: Masks, device: torch.device | str = "cpu") -> None:
        masked = [masks.apply(spikes, trial) for trial, spikes in enumerate(trials.spikes)]
        fields = [*(np.stack(field) for field in zip(*masked, strict=True)), trials.rates]
        self.trials = Batch(
            *(None if field is None else torch.from_numpy(field).to(device) for field in fields)
        )

    def __len__(self) -> int:
        return len(self.trials.spikes)

    def __getitem__(self, index: int | list[int] | Tensor) -> Batch:
        return Batch(*(None if field is None else field[index] for field in self.trials))

    __getitems__ = __getitem__  # DataLoader calls it with the indices of a whole batch


class StreamedTrialDataset(Dataset):
    """Trials on disk, read and masked a batch at a time, with the same masks as in memory."""

    def __init__(self, stored: Trials, masks: Masks) -> None:
        self.stored, self.masks = stored, masks

    def __len__(self) -> int:
        return len(self.stored.spikes)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Batch:
        rows = np.atleast_1d(np.arange(len(self))[index])
        spikes, rates = self.stored.spikes, self.stored.rates
        counts = check_counts(spikes[rows], spikes.path, spikes.key)
        masked = [
            self.masks.apply(trial, row) for trial, row in zip(counts, rows.tolist(), strict=True)
        ]
        fields = [np.stack(field) for field in zip(*masked, strict=True)]
        fields += [None if rates is None else check_rates(rates[rows], rates.path, rates.key)]
        fields = [None if field is None else torch.from_numpy(field) for field in fields]
        return Batch(
            *(
                field[0] if isinstance(index, int) and field is not None else field
                for field in fields
            )
        )

    __getitems__ = __getitem__


def mix_seeds(*numbers: int) -> int:
    """Return one seed for torch from several numbers. Other numbers give an unrelated seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class EpochSampler(DistributedSampler):
    """Shuffle by seed and epoch alone, so that a resumed training sees the trials in the same
    order.

    Each of n processes gets every n-th trial. The first trials are repeated if n does not divide
    the number of trials.
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
        development_fraction: Fraction of the training trials (at most 300) that have them, too; by
            these the refinement chooses.
        bin_width: Width of a time bin (s). None: the file's attribute. If the file's rates are per
            ms: the width in ms.
        seed: Seed of the masks and of the order of the trials.
        num_workers: Processes that load batches. 0: none but the training's; small data are then
            kept on its GPU, if any.

    Raises:
        InputError: a bad file, or a value out of range.
    """

    def __init__(
        self,
        path: str = "lorenz_data.h5",
        bandwidth: int | None = None,
        pattern: Pattern = "random",
        fill: Fill = "none",
        split: Literal["trials", "conditions"] = "trials",
        batch_size: int | None = None,
        heldout_fraction: float = 0.2,
        development_fraction: float = 0.25,
        bin_width: float | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.trials, self.bin_width, self.n_heldin, self.conversion, self.condition_names = (
            read_file(path, bin_width)
        )
        bin_width = self.bin_width  # for the hyperparameters
        if split == "conditions":
            self.trials = hold_out_conditions(self.trials, path)
        self.n_neurons = self.trials["train"].spikes.shape[-1]
        n_neurons = f"1 to {self.n_neurons}, the number of neurons in {path}"
        expect(
            bandwidth is None or 1 <= bandwidth <= self.n_neurons, "bandwidth", bandwidth, n_neurons
        )
        expect(batch_size is None or batch_size >= 1, "--data.batch_size", batch_size, "at least 1")
        expect(num_workers >= 0, "--data.num_workers", num_workers, "at least 0")
        expect(
            0 < heldout_fraction < 1,
            "--data.heldout_fraction",
            heldout_fraction,
            "a fraction between 0 and 1",
        )
        expect(
            0 <= development_fraction <= 0.5,
            "--data.development_fraction",
            development_fraction,
            "0 to 0.5",
        )
        self.save_hyperparameters()

    def state_dict(self) -> dict[str, str | None]:
        """Return what a checkpoint remembers beside the options: how the recording was made from a
        session."""
        return {"conversion": self.conversion}

    @property
    def batch_size(self) -> int:
        """Trials in a training batch. Small recordings need small batches, to learn from each trial
        often enough."""
        return self.hparams.batch_size or min(max(len(self.trials["train"].spikes) // 12, 16), 128)

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
        options, trials = self.hparams, self.trials[split]
        stride = 1 if split == "valid" else self._development_stride()
        first = self.n_heldin if split == "valid" and self.n_heldin < self.n_neurons else None
        seeds, heldout_fraction = [options.seed, SPLITS.index(split)], options.heldout_fraction
        masks = Masks(
            seeds, options.bandwidth, heldout_fraction, stride, first, options.pattern, options.fill
        )
        if isinstance(trials.spikes, StoredArray):
            return StreamedTrialDataset(trials, masks)
        stays = options.num_workers == 0 and len(trials.spikes) <= n_affordable(
            *trials.spikes.shape[1:]
        )
        return TrialDataset(
            trials, masks, self.trainer.strategy.root_device if self.trainer and stays else "cpu"
        )

    def _development_stride(self) -> int | None:
        """Return n if each n-th training trial has held-out entries; None if none has."""
        fraction = self.hparams.development_fraction
        if fraction == 0:
            return None
        return max(
            round(1 / fraction), -(-len(self.trials["train"].spikes) // MAX_DEVELOPMENT_TRIALS)
        )

    def _loader(self, split: str) -> DataLoader:
        dataset, seed = self.datasets[split], self.hparams.seed
        rank, n_processes = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        if len(dataset) < n_processes:
            raise InputError(
                f"{self.hparams.path}: {split}_data has {len(dataset)} trials; expected one for each of {n_processes} processes"
            )
        if split == "train":
            batch_size, sampler = self.batch_size, EpochSampler(dataset, seed, rank, n_processes)
        else:
            batch_size = min(VALID_BATCH_SIZE, n_affordable(*self.trials[split].spikes.shape[1:]))
            sampler = UnrepeatedDistributedSampler(dataset, n_processes, rank, shuffle=False)
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=unchanged,
            num_workers=self.hparams.num_workers,
            persistent_workers=self.hparams.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        return self._loader("valid")
