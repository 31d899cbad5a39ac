"""From files as people have them to a file that train.py reads."""

import json

import h5py
import numpy as np
import pytest

pytest.importorskip("pynwb")
from conftest import SHARED
from nwb_files import some_spike_times, trials_of, write_nwb

from recordings import from_spike_times
from recordings.hdf5 import read_file


@pytest.fixture
def session(tmp_path) -> str:
    quality = ["good", "good", "mua", "good", "good", "mua"]
    return write_nwb(
        tmp_path / "session.nwb", some_spike_times(), {"trials": trials_of(40)}, quality=quality
    )


def converted(path) -> tuple[dict, dict]:
    """The trials of a file, and its attributes with what was remembered of the conversion."""
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    return read_file(path)[0], attributes | {
        "conversion": json.loads(attributes.get("conversion", "{}"))
    }


def all_spikes(trials: dict) -> np.ndarray:
    return np.concatenate([trials[split].spikes for split in ("train", "valid")])


def same_trials(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two arrays have the same trials in any order."""
    return sorted(trial.tobytes() for trial in found) == sorted(
        trial.astype(np.float32).tobytes() for trial in expected
    )


def test_without_out_it_lists_what_is_there_and_its_command_works(call, tmp_path, session):
    done = call(tmp_path, "convert.py", session)
    assert done.status == 0
    for expected in (
        "6 units",
        "quality",
        "table trials: 40 rows, each 1 to 1 s",
        "cue_time, choice, block",
    ):
        assert expected in done.output
    command = done.output.split("for example: ")[1].split()
    done = call(tmp_path, *command[1:])
    assert (done.status, done.errors) == (0, "")
    expected = from_spike_times(some_spike_times(), 1.0 + 1.5 * np.arange(40), 0.02, 1.0)
    assert same_trials(all_spikes(converted(tmp_path / "yours.h5")[0]), expected)


def test_aligned_to_an_event_with_conditions_and_chosen_units(call, tmp_path, session):
    words = ["--align_to", "cue_time", "--start", "-0.2", "--stop", "0.6", "--bin_width", "0.05"]
    words += ["--condition", "choice", "--units", 'quality == "good"']
    done = call(tmp_path, "convert.py", session, "--out", "a.h5", *words)
    assert (done.status, done.errors) == (0, "")
    assert "1 trials have no time" in done.output  # the one without a cue
    assert "2 of 6 units were not chosen" in done.output
    trials, attributes = converted(tmp_path / "a.h5")
    good = [some_spike_times()[unit] for unit in (0, 1, 3, 4)]
    expected = from_spike_times(good, 1.0 + 1.5 * np.arange(39) + 0.1, 0.05, 0.8)
    assert same_trials(all_spikes(trials), expected)
    assert json.loads(attributes["condition_names"]) == ["left", "right"]
    assert attributes["conversion"]["unit_ids"] == [0, 10, 30, 40]
    by_start = {trial.astype(np.float32).tobytes(): i % 2 for i, trial in enumerate(expected)}
    for split in trials.values():
        assert [by_start[spikes.tobytes()] for spikes in split.spikes] == split.condition.tolist()


def test_trials_in_several_tables_of_intervals(call, tmp_path):
    tables = {name: trials_of(12) for name in ("encoding", "retrieval")}
    tables["retrieval"] = {
        key: values for key, values in tables["retrieval"].items() if key != "cue_time"
    }
    tables["retrieval"] |= {
        key: [t + 50 for t in tables["encoding"][key]] for key in ("start_time", "stop_time")
    }
    path = write_nwb(tmp_path / "s.nwb", some_spike_times(), tables)
    done = call(tmp_path, "convert.py", path, "--out", "a.h5")
    assert done.status == 2
    assert "has the tables encoding, retrieval; expected --trials NAME" in done.errors
    done = call(
        tmp_path,
        "convert.py",
        path,
        "--out",
        "a.h5",
        "--trials",
        "encoding",
        "retrieval",
        "--condition",
        "block",
    )
    assert (done.status, done.errors) == (0, "")
    assert len(all_spikes(converted(tmp_path / "a.h5")[0])) == 24


def test_a_session_without_trials_is_cut_into_windows(call, tmp_path):
    path = write_nwb(tmp_path / "s.nwb", some_spike_times(), epochs=[(0.0, 100.0)])
    done = call(tmp_path, "convert.py", path)
    assert "--window 1.0" in done.output
    done = call(tmp_path, "convert.py", path, "--out", "a.h5", "--window", "2.5")
    assert (done.status, done.errors) == (0, "")
    spikes = all_spikes(converted(tmp_path / "a.h5")[0])
    assert spikes.shape == (39, 125, 6)
    assert np.nansum(spikes) == pytest.approx(sum(map(len, some_spike_times())), rel=0.03)


def test_what_was_not_observed_is_missing(call, tmp_path):
    observed = [[[0.0, 100.0]]] * 5 + [[[0.0, 20.25], [40.0, 100.0]]]
    path = write_nwb(
        tmp_path / "s.nwb", some_spike_times(), {"trials": trials_of(40)},
        obs_intervals=observed, invalid_times=[(10.0, 11.0), (50.3, 50.31)],
    )  # fmt: skip
    assert call(tmp_path, "convert.py", path, "--out", "a.h5", "--bin_width", "0.1").status == 0
    starts = 1.0 + 1.5 * np.arange(40)
    expected = from_spike_times(
        some_spike_times(),
        starts,
        0.1,
        1.0,
        [np.array(of_unit) for of_unit in observed],
        [[10.0, 11.0], [50.3, 50.31]],
    )
    expected = expected[~np.isnan(expected).all((1, 2))]  # the trial at 10 s
    assert len(expected) == 39
    assert np.isnan(expected[:, :, 5]).any()
    assert same_trials(all_spikes(converted(tmp_path / "a.h5")[0]), expected)


def test_trials_that_share_time_stay_in_one_split(call, tmp_path):
    trials = trials_of(40)
    for key in ("start_time", "stop_time"):
        trials[key][1::2] = [t + 0.5 for t in trials[key][::2]]
    path = write_nwb(tmp_path / "s.nwb", some_spike_times(), {"trials": trials})
    done = call(tmp_path, "convert.py", path, "--out", "a.h5")
    assert "40 of 40 trials share time with another; they stay in one split" in done.output
    spikes = from_spike_times(some_spike_times(), np.array(trials["start_time"]), 0.02, 1.0)
    valid = {trial.tobytes() for trial in converted(tmp_path / "a.h5")[0]["valid"].spikes}
    is_valid = np.array([trial.tobytes() in valid for trial in spikes])
    assert is_valid.sum() == 8
    np.testing.assert_array_equal(is_valid[::2], is_valid[1::2])
    done = call(tmp_path, "convert.py", path, "--out", "b.h5", "--start", "-1", "--stop", "4")
    assert done.status == 2
    assert "0 of 1 groups of trials that share time for validation" in done.errors
    assert not (tmp_path / "b.h5").exists()


def test_trials_of_different_durations(call, tmp_path):
    trials = trials_of(20)
    trials["stop_time"] = [stop - 0.3 * (i % 2) for i, stop in enumerate(trials["stop_time"])]
    path = write_nwb(tmp_path / "s.nwb", some_spike_times(), {"trials": trials})
    done = call(tmp_path, "convert.py", path, "--out", "a.h5")
    assert done.status == 2
    assert "trials have 35 to 50 bins of 0.02 s" in done.errors
    for lengths, n_bins in (("cut", 35), ("pad", 50)):
        assert (
            call(
                tmp_path, "convert.py", path, "--out", f"{lengths}.h5", "--lengths", lengths
            ).status
            == 0
        )
        spikes = all_spikes(converted(tmp_path / f"{lengths}.h5")[0])
        assert spikes.shape[1] == n_bins
        assert np.isnan(spikes[:, 35:]).all((1, 2)).sum() == (10 if lengths == "pad" else 20)


def test_what_can_be_mended_is_mended_and_said(call, tmp_path):
    times = some_spike_times()
    times[1] = np.append(times[1][::-1], np.nan)
    times[2] = np.empty(0)
    trials = trials_of(40, spacing=3.0)  # the last ones after the session
    path = write_nwb(tmp_path / "s.nwb", times, {"trials": trials})
    done = call(tmp_path, "convert.py", path, "--out", "a.h5")
    assert (done.status, done.errors) == (0, "")
    for line in (
        "unit 10: 1 spike times that are no numbers were left out",
        "unit 10: spike times were out of order and were sorted",
        "1 units have at most 0 spikes/s in the trials; they were left out",
        "7 trials have no time, or lie outside the recording",
    ):
        assert line in done.output
    assert all_spikes(converted(tmp_path / "a.h5")[0]).shape == (33, 50, 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "taps"], "--trials taps: expected one of trials"),
        (
            ["--align_to", "taps", "--stop", "1"],
            "--align_to taps: expected a column of trials: start_time, stop_time",
        ),
        (["--condition", "taps"], "--condition taps: expected a column"),
        (["--units", "quality == "], "--units quality == cannot be evaluated"),
        (["--units", "rate > 3"], "columns are quality"),
        (["--units", 'quality == "best"'], "no units left; expected some of 6"),
        (["--min_rate", "1000"], "no units left; expected some with more than 1000 spikes/s"),
        (["--start", "500", "--stop", "501"], "no trials left; expected some within the recording"),
        (["--bin_width", "0"], "bin_width 0.0: expected a number above 0"),
        (["--bin_width", "3"], "expected at least a bin of 3 s"),
        (["--window", "1000"], "--window 1000.0: expected seconds above 0, at most"),
        (["--stop", "-1"], "expected a start before a stop"),
        (["--valid_fraction", "1.5"], "for validation; expected some in both splits"),
        (["--seed", "-1"], "--seed -1: expected a whole number of at least 0"),
        (["--align_to", "cue_time"], "--align_to cue_time: expected --stop beside it"),
        (["--start", "-0.5"], "--start -0.5: expected --stop beside it"),
        (
            ["--window", "1", "--condition", "choice"],
            "--window 1.0: expected no --condition beside it",
        ),
        (["--units", "quality"], "is not true or false for each unit; expected a query"),
        (["--units", "1"], "is not true or false for each unit"),
    ],
)
def test_options_that_do_not_fit_the_file(call, tmp_path, session, words, message):
    done = call(tmp_path, "convert.py", session, "--out", "a.h5", *words)
    assert done.status == 2
    assert message in done.errors
    assert done.errors.count("\n") == 1
    assert not (tmp_path / "a.h5").exists()


def test_files_that_are_no_sessions(call, tmp_path, data_file, session):
    with h5py.File(tmp_path / "old.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
    (tmp_path / "text.nwb").write_text("no HDF5")
    with h5py.File(tmp_path / "damaged.nwb", "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["spikes"] = np.zeros(3)
    no_units = write_nwb(tmp_path / "no_units.nwb", None, {"trials": trials_of(10)})
    for path, message in (
        ("none.nwb", "no such file"),
        ("old.nwb", "has the NWB schema NWB-1.0.6; expected 2.0 or later"),
        ("text.nwb", "cannot be read as HDF5"),
        ("damaged.nwb", "pynwb cannot read it"),
        ("other.h5", "found spikes; expected an NWB file, train_encod_data"),
        (no_units, "has no units with spike_times"),
    ):
        done = call(tmp_path, "convert.py", str(path), "--out", "a.h5")
        assert done.status == 2
        assert message in done.errors
        assert done.errors.count("\n") == 1
    before = (tmp_path / "data.h5").read_bytes()
    done = call(tmp_path, "convert.py", session, "--out", "data.h5")
    assert "--out data.h5: exists" in done.errors
    assert (tmp_path / "data.h5").read_bytes() == before


def test_trials_and_units_can_be_found_again(call, tmp_path, session):
    words = [
        "--align_to",
        "cue_time",
        "--start",
        "-0.2",
        "--stop",
        "0.6",
        "--units",
        'quality == "good"',
    ]
    assert call(tmp_path, "convert.py", session, "--out", "a.h5", *words).status == 0
    with h5py.File(tmp_path / "a.h5") as file:
        for split in ("train", "valid"):
            start, rows = file[f"{split}_start"][:], file[f"{split}_row"][:]
            np.testing.assert_allclose(start, 1.0 + 1.5 * rows + 0.3 - 0.2)
            again = from_spike_times(
                [some_spike_times()[unit] for unit in (0, 1, 3, 4)], start, 0.02, 0.8
            )
            np.testing.assert_array_equal(file[f"{split}_data"][:], again)


def test_units_can_be_chosen_by_brain_area_and_may_share_an_id(call, tmp_path):
    areas = ["CA1", "V1", "CA1", "V1", "V1", "CA1"]
    path = write_nwb(
        tmp_path / "s.nwb",
        some_spike_times(),
        {"trials": trials_of(40)},
        areas=areas,
        ids=[0, 1, 2, 0, 1, 2],
    )
    done = call(tmp_path, "convert.py", path, "--out", "a.h5", "--units", 'location == "CA1"')
    assert (done.status, done.errors) == (0, "")
    assert "several units have the same id; units are named by their rows" in done.output
    trials, attributes = converted(tmp_path / "a.h5")
    assert attributes["conversion"]["unit_ids"] == [0, 2, 5]
    expected = from_spike_times(
        [some_spike_times()[unit] for unit in (0, 2, 5)], 1.0 + 1.5 * np.arange(40), 0.02, 1.0
    )
    assert same_trials(all_spikes(trials), expected)


def test_stray_times_missing_intervals_and_conditions(call, tmp_path):
    times = some_spike_times()
    times[0] = np.append(times[0], 1e9)
    trials = trials_of(40)
    trials["choice"][::4] = [""] * 10
    path = write_nwb(
        tmp_path / "s.nwb",
        times,
        {"trials": trials},
        obs_intervals=[np.zeros((0, 2))] + [[[0.0, 2e9]]] * 5,
    )
    done = call(tmp_path, "convert.py", path, "--out", "a.h5", "--window", "1")
    assert done.status == 2
    assert "(is there a stray spike time?)" in done.errors
    done = call(tmp_path, "convert.py", path, "--out", "a.h5", "--condition", "choice")
    assert (done.status, done.errors) == (0, "")
    assert (
        "unit 0: has spikes but no obs_intervals, and was taken as observed at all times"
        in done.output
    )
    assert "10 trials have no condition" in done.output
    assert all_spikes(converted(tmp_path / "a.h5")[0]).shape == (30, 50, 6)


@pytest.mark.parametrize("stops", ["events", "one unknown"])
def test_the_listing_suggests_a_command_that_works(call, tmp_path, stops):
    trials = trials_of(40)
    trials["stop_time"] = (
        trials["start_time"] if stops == "events" else [*trials["stop_time"][:-1], float("nan")]
    )
    path = write_nwb(tmp_path / "s.nwb", some_spike_times(), {"trials": trials})
    done = call(tmp_path, "convert.py", path)
    assert call(tmp_path, *done.output.split("for example: ")[1].split()[1:]).status == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recordings are not here")
def test_real_sessions(call, tmp_path):
    human = str(SHARED / "human_mtl_sub-4_ses-4.nwb")
    words = [
        "--trials",
        "encoding_table",
        "recognition_table",
        "timediscrimination_table",
        "--stop",
        "2",
    ]
    done = call(tmp_path, "convert.py", human, "--out", "human.h5", *words)
    assert (done.status, done.errors) == (0, "")
    assert "16 of 450 trials share time with another" in done.output
    assert all_spikes(converted(tmp_path / "human.h5")[0]).shape == (450, 100, 35)
    done = call(
        tmp_path,
        "convert.py",
        str(SHARED / "phy_A8604-211122.nwb"),
        "--out",
        "rat.h5",
        "--window",
        "1",
    )
    assert (done.status, done.errors) == (0, "")
    assert all_spikes(converted(tmp_path / "rat.h5")[0]).shape == (1087, 50, 3)
