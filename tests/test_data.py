from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT

from command_line import InputError
from data import SpikeDataModule
from recordings.hdf5 import read_file
from recordings.patterns import sample_random


def test_mask_observes_exactly_bandwidth_neurons():
    mask = sample_random(np.ones((50, 20, 29), dtype=bool), 5, np.random.default_rng(0))
    assert (mask.sum(-1) == 5).all()
    # every neuron is as likely as any other, and the next bin is another draw
    assert np.abs(mask.mean((0, 1)) - 5 / 29).max() < 0.05
    assert (mask[:, 1:] & mask[:, :-1]).mean() == pytest.approx((5 / 29) ** 2, rel=0.1)


def test_mask_chooses_among_recorded_entries():
    recorded = np.random.default_rng(0).random((40, 20, 10)) < 0.4
    mask = sample_random(recorded, 3, np.random.default_rng(1))
    assert not (mask & ~recorded).any()
    np.testing.assert_array_equal(mask.sum(-1), np.minimum(recorded.sum(-1), 3))


@pytest.mark.parametrize("bandwidth", [1, 4, 6])
def test_spikes_are_the_file_s_where_observed_and_nan_elsewhere(data_file, data_arrays, bandwidth):
    data = SpikeDataModule(data_file, bandwidth=bandwidth)
    data.setup()
    for split in ("train", "valid"):
        spikes = data.datasets[split].trials.spikes.numpy()
        observed = ~np.isnan(spikes)
        assert (observed.sum(-1) == bandwidth).all()
        np.testing.assert_array_equal(spikes[observed], data_arrays[f"{split}_data"][observed])


def test_no_bandwidth_observes_everything(data_file):
    data = SpikeDataModule(data_file)
    data.setup()
    assert not data.datasets["train"].trials.spikes.isnan().any()


def test_masks_are_the_same_in_every_stage_and_differ_between_splits_and_seeds(data_file):
    def masks(seed: int, *stages: str) -> list[torch.Tensor]:
        data = SpikeDataModule(data_file, bandwidth=2, seed=seed)
        for stage in stages:
            data.setup(stage)
        trials = [data.datasets[split].trials for split in ("train", "valid")]
        return [trials[0].spikes.isnan(), trials[1].spikes.isnan(), trials[1].heldout]

    first, later = masks(0, "fit", "validate"), masks(0, "validate")
    assert all(torch.equal(a, b) for a, b in zip(first, later, strict=True))
    assert not torch.equal(first[0][:12], first[1])
    assert not torch.equal(first[1], masks(1, "fit")[1])


def test_held_out_entries_are_observed_ones_of_validation(data_file):
    data = SpikeDataModule(data_file, bandwidth=4, heldout_fraction=0.25)
    data.setup()
    trials = data.datasets["valid"].trials
    assert not (trials.heldout & trials.spikes.isnan()).any()
    assert trials.heldout.sum() / (~trials.spikes.isnan()).sum() == pytest.approx(0.25, abs=0.08)


def test_counts_are_held_out_in_every_fourth_training_trial(monkeypatch, data_file):
    for fraction, limit, stride in ((0.25, 300, 4), (0.5, 300, 2), (0.25, 5, 5), (0, 300, None)):
        monkeypatch.setattr("data.MAX_DEVELOPMENT_TRIALS", limit)
        data = SpikeDataModule(
            data_file, bandwidth=3, heldout_fraction=0.25, development_fraction=fraction
        )
        data.setup()
        trials = data.datasets["train"].trials
        has_heldout = trials.heldout.flatten(1).any(1).tolist()
        assert has_heldout == [stride is not None and trial % stride == 0 for trial in range(24)]
        assert not (trials.heldout & trials.spikes.isnan()).any()


def test_the_masks_of_a_trial_do_not_depend_on_the_others(data_arrays, write_file):
    """Each trial has random numbers of its own, so a file with fewer trials has the same masks."""
    fewer = {
        key: array[:10] if key.startswith("train") else array for key, array in data_arrays.items()
    }
    masks = []
    for path in (write_file(data_arrays), write_file(fewer, "fewer.h5")):
        data = SpikeDataModule(path, bandwidth=3)
        data.setup()
        masks.append(data.datasets["train"][:10].spikes.isnan())
    assert torch.equal(*masks)
    assert not torch.equal(masks[0][0], masks[0][1])


def test_small_recordings_have_small_batches(data_file):
    assert SpikeDataModule(data_file).batch_size == 16
    assert SpikeDataModule().batch_size == 104
    assert SpikeDataModule(data_file, batch_size=5).batch_size == 5


def test_a_file_s_own_gaps_stay_missing_and_truth_is_not_needed(data_arrays, write_file):
    gaps = np.random.default_rng(0).random((24, 8, 6)) < 0.3
    data_arrays["train_data"][gaps] = np.nan
    arrays = {key: data_arrays[key] for key in ("train_data", "valid_data")}
    data = SpikeDataModule(write_file(arrays), batch_size=5)
    data.setup()
    assert data.datasets["train"].trials.spikes.isnan().numpy()[gaps].all()
    batches = list(data.train_dataloader())
    assert [len(batch.spikes) for batch in batches] == [5, 5, 5, 5, 4]
    assert all(batch.rates is None for batch in batches)


def test_training_batches_are_shuffled_and_whole(data_file):
    data = SpikeDataModule(data_file, batch_size=7)
    data.setup()
    spikes = torch.cat([batch.spikes for batch in data.train_dataloader()])
    trials = data.datasets["train"].trials.spikes
    assert not torch.equal(spikes, trials)
    assert sorted(spikes.flatten(1).tolist()) == sorted(trials.flatten(1).tolist())


def test_a_file_in_other_units_needs_to_be_told_its_bin_width(data_arrays, write_file):
    path = write_file(data_arrays, made_by="somebody else")
    with pytest.raises(InputError, match="--data.bin_width"):
        read_file(path)
    assert read_file(path, 20.0)[1] == 20.0


def test_integer_counts_are_read(data_arrays, write_file):
    data_arrays["train_data"] = data_arrays["train_data"].astype(np.uint8)
    assert read_file(write_file(data_arrays))[0]["train"].spikes.dtype == np.float32


def change(**changed):
    """A function that changes arrays of a valid file, or drops those given as None."""

    def apply(arrays):
        for key, make in changed.items():
            arrays[key] = None if make is None else make(arrays[key])
        return {key: array for key, array in arrays.items() if array is not None}

    return apply


def put(value):
    def apply(array):
        array[3, 2, 1] = value
        return array

    return apply


BAD_FILES = {
    "missing key": (change(valid_data=None), "no key valid_data"),
    "wrong rank": (change(train_data=lambda a: a[0]), r"train_data has shape \(8, 6\)"),
    "no trials": (
        change(train_data=lambda a: a[:0], train_truth=None),
        r"train_data has shape \(0, 8, 6\)",
    ),
    "other neurons": (
        change(valid_data=lambda a: a[..., :4], valid_truth=None),
        r"valid_data \(8, 4\)",
    ),
    "other bins": (change(valid_data=lambda a: a[:, :5], valid_truth=None), r"valid_data \(5, 6\)"),
    "negative": (change(train_data=put(-1)), "train_data holds 1 negative"),
    "fractional": (change(train_data=put(0.5)), "train_data holds 1 fractional"),
    "infinite": (change(valid_data=put(np.inf)), "valid_data holds 1 infinite"),
    "all missing": (change(valid_data=lambda a: a * np.nan), "valid_data holds NaN alone"),
    "truth of another shape": (
        change(valid_truth=lambda a: a[:, :3]),
        r"valid_truth has shape \(12, 3, 6\)",
    ),
    "negative truth": (change(train_truth=put(-2)), "train_truth holds negative"),
    "conditions of another length": (
        change(train_condition=lambda a: a[:5]),
        r"train_condition has shape \(5,\)",
    ),
    "text": (
        change(train_data=lambda a: np.array([b"spikes"])),
        "train_data is not an array of numbers",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_by_name(name, data_arrays, write_file):
    spoil, message = BAD_FILES[name]
    path = write_file(spoil(data_arrays))
    with pytest.raises(InputError, match=message) as error:
        SpikeDataModule(path)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, data_file):
    with pytest.raises(InputError, match="none.h5: no such file"):
        read_file(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(InputError, match="text.h5: cannot be read as HDF5"):
        read_file(tmp_path / "text.h5")
    whole = (ROOT / "lorenz_data.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="half.h5: cannot be read as HDF5"):
        read_file(tmp_path / "half.h5")


def test_data_in_memory_are_kept_on_the_device_of_the_training(monkeypatch, data_file):
    """So no batch is copied to a GPU. A device without memory stands for it here."""
    gpu = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("meta")), global_rank=0, world_size=1
    )
    for num_workers, max_entries, device in (
        (0, 10**8, "meta"),
        (1, 10**8, "cpu"),
        (0, 500, "cpu"),
    ):
        monkeypatch.setattr("modules.posterior.MAX_ENTRIES", max_entries)
        data = SpikeDataModule(data_file, num_workers=num_workers)
        data.trainer = gpu
        data.setup()
        for loader in (data.train_dataloader(), data.val_dataloader()):
            assert {field.device.type for field in next(iter(loader))} == {device}


@pytest.mark.parametrize("bin_width", [-0.02, 0.0, np.inf, np.nan, "wide", [0.02, 0.02]])
def test_a_bin_width_that_is_none_is_refused(data_arrays, write_file, bin_width):
    with pytest.raises(InputError, match="bin_width is"):
        read_file(write_file(data_arrays, bin_width=bin_width))


@pytest.mark.parametrize("bandwidth", [0, -3, 7])
def test_a_bandwidth_out_of_range_is_refused(data_file, bandwidth):
    with pytest.raises(InputError, match=f"bandwidth {bandwidth}: expected 1 to 6"):
        SpikeDataModule(data_file, bandwidth=bandwidth)


def test_the_file_is_left_alone(data_file):
    with open(data_file, "rb") as file:
        before = file.read()
    SpikeDataModule(data_file, bandwidth=2).setup()
    with open(data_file, "rb") as file:
        assert file.read() == before
    with h5py.File(data_file, "a"):  # and closed
        pass


@pytest.mark.parametrize("n_bins", [8, 7])
@pytest.mark.parametrize("bandwidth", [None, 2])
def test_a_file_that_stays_on_disk_gives_the_same_batches(
    monkeypatch, data_arrays, write_file, bandwidth, n_bins
):
    arrays = {
        key: array[:, :n_bins, :5] if array.ndim == 3 else array
        for key, array in data_arrays.items()
    }
    arrays["train_data"][2, 3] = np.nan
    path = write_file(arrays)
    epochs = []
    for limit in (2**30, 0):
        monkeypatch.setattr("recordings.hdf5.MAX_IN_MEMORY", limit)
        data = SpikeDataModule(path, bandwidth=bandwidth, batch_size=7)
        data.setup()
        loaders = (data.train_dataloader(), data.val_dataloader())
        epochs.append([field for loader in loaders for batch in loader for field in batch])
        assert torch.equal(
            data.datasets["train"][torch.tensor([5, 1])].rates[1],
            torch.tensor(arrays["train_truth"][1]),
        )
    assert len(epochs[0]) == len(epochs[1])
    for in_memory, on_disk in zip(*epochs, strict=True):
        torch.testing.assert_close(in_memory, on_disk, rtol=0, atol=0, equal_nan=True)


def test_wrong_counts_are_found_when_a_file_stays_on_disk(monkeypatch, data_arrays, write_file):
    data_arrays["train_data"][20, 2, 1] = -1
    monkeypatch.setattr("recordings.hdf5.MAX_IN_MEMORY", 0)
    data = SpikeDataModule(write_file(data_arrays), num_workers=0)
    data.setup()
    with pytest.raises(InputError, match="train_data holds 1 negative"):
        list(data.train_dataloader())
