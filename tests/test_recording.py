"""Files made from arrays, and what describe.py says of a file."""

import shlex
from collections.abc import Callable

import h5py
import numpy as np
import pytest
from conftest import small_disk

from command_line import InputError
from recordings import write_recording
from recordings.hdf5 import StoredArray, read_file
from training.options import choose_runs, make_parser


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(0.5, (50, 6, 4))


@pytest.fixture
def describe(call, tmp_path) -> Callable:
    """A function that runs describe.py and returns what it prints. If an `error` is expected: in
    one line."""

    def describe(path: str, options: str = "", error: str = "") -> str:
        done = call(tmp_path, "describe.py", path, *options.split())
        assert error in done.errors
        assert (done.status, done.errors.count("\n")) == ((2, 1) if error else (0, 0)), done.errors
        return done.output

    return describe


def test_arrays_come_back_as_they_were_written(tmp_path, counts):
    rng, condition = np.random.default_rng(1), np.arange(50) % 7
    observed, rates = rng.random(counts.shape) < 0.7, 50 * rng.random(counts.shape)
    counts[0, 0, 0], observed[0, 0, 0] = 2048, True
    write_recording(tmp_path / "mine.h5", counts, 0.01, observed, condition, rates)
    recording = read_file(tmp_path / "mine.h5")
    assert recording.bin_width == 0.01
    assert [len(trials.spikes) for trials in recording.trials.values()] == [40, 10]
    expected = np.where(observed, counts, np.nan)
    for trials in recording.trials.values():
        for spikes, of_rates, label in zip(*trials, strict=True):
            (trial,) = [i for i in range(50) if np.array_equal(expected[i], spikes, equal_nan=True)]
            assert label == condition[trial]
            np.testing.assert_allclose(of_rates, rates[trial], rtol=1e-6)


def test_the_file_says_which_trial_of_the_arrays_a_trial_is(tmp_path, counts):
    choice, depth = np.array(["right", "left"])[np.arange(50) % 2], np.linspace(0, 1, 50)
    names = [f"trial {trial}" for trial in range(50)]
    path = tmp_path / "new" / "a.h5"  # the folder is made
    written = write_recording(
        path, counts.tolist(), 0.02, condition=choice, per_trial={"depth": depth, "name": names}
    )
    assert written == f"{path}: 50 trials, 10 of them for validation, 6 bins of 0.02 s, 4 neurons"
    recording = read_file(path)
    assert recording.condition_names == ["left", "right"]
    with h5py.File(path) as file:
        for split, trials in recording.trials.items():
            index = file[f"{split}_index"][:]
            np.testing.assert_array_equal(trials.spikes, counts[index])
            np.testing.assert_array_equal(file[f"{split}_depth"], depth[index])
            assert file[f"{split}_name"].asstr()[0] == f"trial {index[0]}"
            assert trials.condition.tolist() == (choice[index] == "right").tolist()


@pytest.mark.parametrize(
    ("bin_width", "factor", "doubt"),
    [
        (20, 1, "a bin is 20 s wide; is this in ms?"),
        (20, 1, "spikes/s; are spike times (or the bin width) in ms?"),
        (0.02, 1000, "spikes/s; are these spike counts"),
        (0.9, 0.01, "spikes/s; are spike times (or the bin width) in ms?"),
    ],
)
def test_units_that_are_probably_wrong_are_named(
    tmp_path, describe, counts, bin_width, factor, doubt
):
    counts = np.floor(counts * factor)
    counts[:, 0, 0] = 1
    assert doubt in write_recording(tmp_path / "a.h5", counts, bin_width)
    assert doubt in describe(str(tmp_path / "a.h5"))


def test_conditions_are_split_equally_and_the_split_follows_from_the_seed(tmp_path, counts):
    condition, splits = np.repeat(np.arange(5), 10), []
    for seed in (0, 0, 1):
        write_recording(tmp_path / "a.h5", counts, 0.01, condition=condition, seed=seed)
        valid = read_file(tmp_path / "a.h5").trials["valid"]
        np.testing.assert_array_equal(np.bincount(valid.condition), [2] * 5)
        splits.append(valid.spikes)
    assert np.array_equal(splits[0], splits[1])
    assert not np.array_equal(splits[0], splits[2])


@pytest.mark.parametrize(
    ("dtype", "first", "stored"),
    [
        (int, 0, "uint8"),
        (float, 0, "uint8"),
        (float, np.nan, "float16"),
        (np.uint16, 0, "uint8"),
        (int, 256, "uint16"),
        (int, 2**16, "float32"),
    ],
)
def test_counts_are_stored_in_little_space(tmp_path, counts, dtype, first, stored):
    counts = counts.astype(dtype)
    counts[:, 2] = first
    write_recording(tmp_path / "a.h5", counts, 0.01)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["train_data"].dtype == stored
    assert read_file(tmp_path / "a.h5").trials["train"].spikes.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spikes": np.zeros((3, 4))}, r"spikes has shape \(3, 4\)"),
        ({"spikes": np.full((9, 2, 2), -1)}, "36 negative values"),
        ({"observed": np.ones((9, 2, 3))}, r"observed has shape \(9, 2, 3\); expected \(9, 2, 2\)"),
        ({"condition": np.zeros(4)}, r"condition has shape \(4,\); expected \(9,\)"),
        ({"rates": np.full((9, 2, 2), np.nan)}, "rates holds negative or non-finite values"),
        ({"bin_width": 0.0}, "bin_width is 0.0"),
        ({"bin_width": np.complex128(1j)}, "bin_width is 1j"),
        ({"spikes": [[[1, 2]], [[1]]]}, "lists of different lengths"),
        ({"spikes": np.full((9, 2, 2), np.nan)}, "train spikes holds NaN alone"),
        ({"spikes": np.full((9, 2, 2), "1")}, "spikes has the type <U1; expected numbers"),
        ({"per_trial": {"start": np.zeros(8)}}, r"start has shape \(8,\); expected \(9,\)"),
        ({"valid_fraction": 0.01}, "0 of 9 trials for validation"),
    ],
)
def test_arrays_that_cannot_be_are_refused_and_nothing_is_written(tmp_path, options, message):
    options = {"spikes": np.ones((9, 2, 2)), "bin_width": 0.02} | options
    (tmp_path / "mine.h5").write_text("what was there")
    with pytest.raises(InputError, match=message):
        write_recording(tmp_path / "mine.h5", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.h5"]
    assert (tmp_path / "mine.h5").read_text() == "what was there"


def test_nothing_is_written_to_a_full_disk(tmp_path, counts):
    path = tmp_path / "a.h5"
    with small_disk(4000), pytest.raises(OSError, match=f"File too large: '{path}'"):
        write_recording(path, counts, 0.02)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_stored_array_come_in_the_order_they_are_asked_for(data_file, data_arrays):
    stored = StoredArray(data_file, "train_data", (24, 8, 6))
    for rows in (np.array([7, 2, 2, 23]), slice(4, 6)):
        np.testing.assert_array_equal(stored[rows], data_arrays["train_data"][rows])


@pytest.mark.parametrize("in_memory", [2**30, 0])
def test_describe_names_what_looks_wrong(monkeypatch, describe, data_arrays, write_file, in_memory):
    monkeypatch.setattr("recordings.hdf5.MAX_IN_MEMORY", in_memory)
    spikes = data_arrays["train_data"]
    spikes[:, :, 1], spikes[:, 0, 5] = 0, 90
    spikes[:, :, 2], spikes[:, 4], spikes[3] = np.nan, np.nan, np.nan
    output = describe(write_file(data_arrays))
    for line in (
        "6 neurons, 8 bins of 0.02 s",
        "train: 24 trials of 3 conditions",
        f"observed            {100 * (~np.isnan(spikes)).mean():.1f}% of the entries",
        "train: never observed: neurons 3",
        "train: observed but silent: neurons 2",
        "train: above 300 spikes/s: neurons 6",
        "train: never observed: time bins 5",
        "train: without any observed count: 1 trial\n",
        "train: the highest count in a bin of 0.02 s is 90",
    ):
        assert line in output
    assert "valid: never" not in output


def test_describe_finds_nothing_wrong_with_a_good_file_and_refuses_a_bad_one(
    monkeypatch, describe, data_arrays, write_file
):
    assert "Nothing looks wrong." in describe(write_file(data_arrays))
    data_arrays["valid_data"][:] = np.nan
    monkeypatch.setattr("recordings.hdf5.MAX_IN_MEMORY", 0)
    describe(write_file(data_arrays), error="valid_data holds NaN alone")


def test_describe_suggests_a_command_that_runs(describe, data_arrays, write_file):
    path = write_file(data_arrays, "with space.h5", made_by="somebody else")
    command = describe(path, "--bin_width 0.02").split("\nIt can be trained on: python train.py ")[
        1
    ]
    assert choose_runs(make_parser().parse_args(shlex.split(command))) == [(6, 0)]
