"""The data module: which counts a model sees, in which batches, and which files are refused."""

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT

from command_line import InputError
from data import SpikeDataModule
from recordings.hdf5 import read_file


def load(path: str, **options) -> SpikeDataModule:
    data = SpikeDataModule(path, **options)
    data.setup()
    return data


@pytest.mark.parametrize("bandwidth", [1, 4, 6, None])
def test_spikes_are_the_file_s_where_observed_and_nan_elsewhere(data_file, data_arrays, bandwidth):
    for split, trials in load(data_file, bandwidth=bandwidth).datasets.items():
        spikes = trials[:].spikes.numpy()
        observed = ~np.isnan(spikes)
        assert (observed.sum(-1) == (bandwidth or 6)).all()
        np.testing.assert_array_equal(spikes[observed], data_arrays[f"{split}_data"][observed])


def test_masks_are_the_same_in_every_stage_and_differ_between_splits_and_seeds(data_file):
    def masks(seed: int, *stages: str) -> list[torch.Tensor]:
        data = SpikeDataModule(data_file, bandwidth=2, seed=seed)
        for stage in stages:
            data.setup(stage)
        train, valid = (trials[:] for trials in data.datasets.values())
        return [train.spikes.isnan(), valid.spikes.isnan(), valid.heldout]

    first, later = masks(0, "fit", "validate"), masks(0, "validate")
    assert all(map(torch.equal, first, later))
    assert not torch.equal(first[0][:12], first[1])
    assert not torch.equal(first[1], masks(1, "fit")[1])


def test_masks_have_a_seed_of_their_own_if_it_is_given(data_file):
    shown = []
    for seed, mask_seed in ((0, None), (5, 0), (5, None)):
        data = SpikeDataModule(data_file, 2, seed=seed, mask_seed=mask_seed)
        data.setup()
        shown.append(data.datasets["train"][:].shown.isnan())
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])


def test_held_out_entries_are_observed_ones_of_validation(data_file):
    trials = load(data_file, bandwidth=4, heldout_fraction=0.25).datasets["valid"][:]
    assert not (trials.heldout & trials.spikes.isnan()).any()
    assert trials.heldout.sum() / (~trials.spikes.isnan()).sum() == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize(
    ("fraction", "limit", "stride"), [(0.25, 300, 4), (0.5, 300, 2), (0.25, 5, 5), (0, 300, None)]
)
def test_counts_are_held_out_in_some_training_trials(
    monkeypatch, data_file, fraction, limit, stride
):
    monkeypatch.setattr("recordings.masks.MAX_DEVELOPMENT_TRIALS", limit)
    options = {"bandwidth": 3, "heldout_fraction": 0.25, "development_fraction": fraction}
    trials = load(data_file, **options).datasets["train"][:]
    has_heldout = trials.heldout.flatten(1).any(1).tolist()
    assert has_heldout == [stride is not None and trial % stride == 0 for trial in range(24)]
    assert not (trials.heldout & trials.spikes.isnan()).any()


def test_the_masks_of_a_trial_do_not_depend_on_the_others(data_arrays, write_file):
    """Each trial has random numbers of its own, so a file with fewer trials has the same masks."""
    whole = write_file(data_arrays)
    shorter = {key: array[:10] for key, array in data_arrays.items() if "train" in key}
    fewer = write_file(data_arrays | shorter, "fewer.h5")
    masks = [
        load(path, bandwidth=3).datasets["train"][:10].spikes.isnan() for path in (whole, fewer)
    ]
    assert torch.equal(*masks)
    assert not torch.equal(masks[0][0], masks[0][1])


def test_small_recordings_have_small_batches(data_file):
    assert SpikeDataModule(data_file).batch_size == 16
    assert SpikeDataModule().batch_size == 104
    assert SpikeDataModule(data_file, batch_size=5).batch_size == 5


def test_a_file_s_own_gaps_stay_missing_and_truth_is_not_needed(data_arrays, write_file):
    gaps = np.random.default_rng(0).random((24, 8, 6)) < 0.3
    data_arrays["train_data"][gaps] = np.nan
    data = load(write_file({key: data_arrays[key] for key in ("train_data", "valid_data")}))
    trials = data.datasets["train"][:]
    np.testing.assert_array_equal(trials.spikes.isnan(), gaps)
    assert trials.rates is None


def test_training_batches_are_shuffled_and_whole(data_file):
    data = load(data_file, batch_size=5)
    batches = [batch.spikes for batch in data.train_dataloader()]
    assert list(map(len, batches)) == [5, 5, 5, 5, 4]
    spikes, trials = torch.cat(batches), data.datasets["train"][:].spikes
    assert not torch.equal(spikes, trials)
    assert sorted(spikes.flatten(1).tolist()) == sorted(trials.flatten(1).tolist())


def test_a_file_in_other_units_needs_to_be_told_its_bin_width(data_arrays, write_file):
    path = write_file(data_arrays, made_by="somebody else")
    with pytest.raises(InputError, match="--data.bin_width"):
        read_file(path)
    assert read_file(path, 20.0).bin_width == 20.0


@pytest.mark.parametrize(
    ("keys", "spoil", "message"),
    [
        ("valid_data", None, "no key valid_data"),
        ("train_data", lambda a: a[0], r"train_data has shape \(8, 6\)"),
        ("train_data", lambda a: a[:0], r"train_data has shape \(0, 8, 6\)"),
        ("valid_data valid_truth", lambda a: a[..., :4], r"valid_data \(8, 4\)"),
        ("valid_data valid_truth", lambda a: a[:, :5], r"valid_data \(5, 6\)"),
        ("train_data", lambda a: a - 1, r"train_data holds \d+ negative"),
        ("train_data", lambda a: a + 0.5, "train_data holds 1152 fractional"),
        ("valid_data", lambda a: a + np.inf, "valid_data holds 576 infinite"),
        ("valid_data", lambda a: a * np.nan, "valid_data holds NaN alone"),
        ("valid_truth", lambda a: a[:, :3], r"valid_truth has shape \(12, 3, 6\)"),
        ("train_truth", np.negative, "train_truth holds negative"),
        ("train_condition", lambda a: a[:5], r"train_condition has shape \(5,\)"),
    ],
)
def test_a_bad_file_is_refused_by_name(data_arrays, write_file, keys, spoil, message):
    for key in keys.split():
        array = data_arrays.pop(key)
        data_arrays |= {} if spoil is None else {key: spoil(array)}
    path = write_file(data_arrays)
    with pytest.raises(InputError, match=f"^{path}: .*{message}.*$"):  # in one line
        SpikeDataModule(path)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    whole = (ROOT / "lorenz_data.h5").read_bytes()
    (tmp_path / "text.h5").write_text("not HDF5")
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    found = {"none.h5": "no such file", "text.h5": "cannot be read", "half.h5": "cannot be read"}
    for name, message in found.items():
        with pytest.raises(InputError, match=f"{name}: {message}"):
            read_file(tmp_path / name)


@pytest.mark.parametrize(
    ("num_workers", "max_entries", "device"),
    [(0, 10**8, "meta"), (1, 10**8, "cpu"), (0, 500, "cpu")],
)
def test_data_in_memory_are_kept_on_the_device_of_the_training(
    monkeypatch, data_file, num_workers, max_entries, device
):
    """So no batch is copied to a GPU. A device without memory stands for it here."""
    monkeypatch.setattr("modules.posterior.MAX_ENTRIES", max_entries)
    data = SpikeDataModule(data_file, num_workers=num_workers)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert {field.device.type for field in next(iter(loader))} == {device}


@pytest.mark.parametrize("bin_width", [-0.02, 0.0, np.inf, np.nan, "wide", [0.02, 0.02]])
def test_a_bin_width_that_is_none_is_refused(data_arrays, write_file, bin_width):
    with pytest.raises(InputError, match="bin_width is"):
        read_file(write_file(data_arrays, bin_width=bin_width))


@pytest.mark.parametrize("n_heldin", [0, 7, 2.5])
def test_a_number_of_held_in_neurons_that_is_none_is_refused(data_arrays, write_file, n_heldin):
    with pytest.raises(InputError, match=f"n_heldin is {n_heldin}; expected 1 to 6"):
        read_file(write_file(data_arrays, bin_width=0.02, n_heldin=n_heldin))


@pytest.mark.parametrize("bandwidth", [0, -3, 7])
def test_a_bandwidth_out_of_range_is_refused(data_file, bandwidth):
    with pytest.raises(InputError, match=f"bandwidth {bandwidth}: expected 1 to 6"):
        SpikeDataModule(data_file, bandwidth=bandwidth)


def test_the_file_is_left_alone(data_file):
    before = Path(data_file).read_bytes()
    load(data_file, bandwidth=2)
    assert Path(data_file).read_bytes() == before
    with h5py.File(data_file, "a"):  # and closed
        pass


@pytest.mark.parametrize("bandwidth", [None, 2])
def test_a_file_that_stays_on_disk_gives_the_same_batches(
    monkeypatch, data_arrays, write_file, bandwidth
):
    data_arrays["train_data"][2, 3] = np.nan
    path, epochs = write_file(data_arrays), []
    for limit in (2**30, 0):
        monkeypatch.setattr("recordings.hdf5.MAX_IN_MEMORY", limit)
        data = load(path, bandwidth=bandwidth, batch_size=7)
        loaders = (data.train_dataloader(), data.val_dataloader())
        epochs.append([field for loader in loaders for batch in loader for field in batch])
        rates = data.datasets["train"][torch.tensor([5, 1])].rates
        np.testing.assert_array_equal(rates[1], data_arrays["train_truth"][1])
    torch.testing.assert_close(*epochs, rtol=0, atol=0, equal_nan=True)


def test_wrong_counts_are_found_when_a_file_stays_on_disk(monkeypatch, data_arrays, write_file):
    data_arrays["train_data"][20, 2, 1] = -1
    monkeypatch.setattr("recordings.hdf5.MAX_IN_MEMORY", 0)
    data = load(write_file(data_arrays))
    with pytest.raises(InputError, match="train_data holds 1 negative"):
        list(data.train_dataloader())


def test_mean_counts_are_those_of_training_without_masks(data_arrays, write_file):
    spikes = data_arrays["train_data"]
    spikes[:5, :, 1], spikes[..., 2], spikes[..., 3] = np.nan, 0, np.nan
    expected = np.nanmean(spikes.reshape(-1, 6)[:, [0, 1, 4, 5]], axis=0)
    data = SpikeDataModule(write_file(data_arrays), bandwidth=2)
    means = data.mean_counts.numpy()
    np.testing.assert_allclose(means[[0, 1, 4, 5]], expected)
    assert means[2] == 0.5 / (24 * 8), "half a spike"
    assert means[3] == pytest.approx(np.nanmean(spikes), rel=0.01), "that of all"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_run_sees_the_order_of_its_epoch(data_file, num_workers):
    batches = []
    for epoch in (0, 3):
        data = SpikeDataModule(data_file, batch_size=24, num_workers=num_workers)
        data.load_state_dict({"next_epoch": epoch})
        data.setup()
        loader = data.train_dataloader()
        batches.append(next(iter(loader)).spikes)  # before Lightning sets the epoch
        loader.sampler.set_epoch(3)
        batches.append(next(iter(data._loader(loader.dataset, 24, loader.sampler))).spikes)
    assert torch.equal(batches[2].nan_to_num(), batches[3].nan_to_num())
    assert torch.equal(batches[1].nan_to_num(), batches[3].nan_to_num())
    assert not torch.equal(batches[0].nan_to_num(), batches[3].nan_to_num())
