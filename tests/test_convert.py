"""From files as people have them to a file that train.py reads."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import SHARED
from nwb_files import QUALITY, SPIKE_TIMES, trials_of, write_calcium, write_nwb

from recordings import from_spike_times
from recordings.hdf5 import read_file

STARTS = 1.0 + 1.5 * np.arange(40)  # of trials_of(40)


@pytest.fixture
def session(tmp_path) -> str:
    return write_nwb(tmp_path / "session.nwb", trials=trials_of(40), quality=QUALITY)


@pytest.fixture
def convert(call, tmp_path) -> Callable:
    """A function that converts a file to a.h5: it returns what is printed, and the spikes.

    If an `error` is expected: in one line, and without a file.
    """

    def convert(path: str, options: str = "", error: str = "") -> tuple[str, np.ndarray | None]:
        out = tmp_path / "a.h5"
        out.unlink(missing_ok=True)
        done = call(tmp_path, "convert.py", path, "--out", "a.h5", *shlex.split(options))
        assert error in done.errors
        assert (done.status, done.errors.count("\n")) == ((2, 1) if error else (0, 0)), done.errors
        assert out.exists() == (not error)
        return done.output, None if error else all_spikes(out)

    return convert


def all_spikes(path: Path) -> np.ndarray:
    return np.concatenate([trials.spikes for trials in read_file(path).trials.values()])


def count(starts: np.ndarray, units: tuple = range(6), bin_width=0.02, duration=1.0) -> np.ndarray:
    return from_spike_times([SPIKE_TIMES[unit] for unit in units], starts, bin_width, duration)


def same_trials(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether two arrays have the same trials in any order."""
    found, expected = ([trial.tobytes() for trial in trials] for trials in (found, expected))
    return sorted(found) == sorted(expected)


@pytest.mark.parametrize("stops", ["known", "events", "one unknown"])
def test_without_out_it_lists_what_is_there_and_its_command_works(call, tmp_path, stops):
    trials = trials_of(40)
    if stops == "events":
        trials["stop_time"] = trials["start_time"]
    if stops == "one unknown":
        trials["stop_time"][-1] = float("nan")
    path = write_nwb(tmp_path / "s.nwb", trials=trials, quality=QUALITY)
    listed = call(tmp_path, "convert.py", path).output
    for expected in ("6 units", "quality", "table trials: 40 rows", "choice: text: left, right"):
        assert expected in listed
    assert ("to align to: cue_time (" in listed) == (stops != "events")
    done = call(tmp_path, *shlex.split(listed.split("for example: ")[1])[1:])
    assert (done.status, done.errors) == (0, "")
    if stops == "known":
        assert same_trials(all_spikes(tmp_path / "yours.h5"), count(STARTS))


def test_aligned_to_an_event_with_conditions_and_chosen_units(convert, tmp_path, session):
    words = "--align_to cue_time --start -0.2 --stop 0.6 --bin_width 0.05 --condition choice"
    output, _ = convert(session, f"{words} --units 'quality == \"good\"'")
    assert "1 trial left out: no time" in output  # the one without a cue
    assert "2 units left out: not chosen" in output
    recording = read_file(tmp_path / "a.h5")
    assert json.loads(recording.conversion)["unit_ids"] == [0, 10, 30, 40]
    assert recording.condition_names == ["left", "right"]
    all_rows = []
    for split, trials in recording.trials.items():
        with h5py.File(tmp_path / "a.h5") as file:
            start, rows = file[f"{split}_start"][:], file[f"{split}_row"][:]
        np.testing.assert_allclose(start, STARTS[rows] + 0.3 - 0.2)
        np.testing.assert_array_equal(trials.spikes, count(start, (0, 1, 3, 4), 0.05, 0.8))
        np.testing.assert_array_equal(trials.condition, rows % 2)
        all_rows += rows.tolist()
    assert sorted(all_rows) == list(range(39))


def test_trials_in_several_tables_of_intervals(convert, tmp_path):
    encoding, later = trials_of(12), trials_of(12)
    del later["cue_time"]
    for key in ("start_time", "stop_time"):
        later[key] = [time + 50 for time in encoding[key]]
    tables = {"encoding": encoding, "retrieval": later}
    path = write_nwb(tmp_path / "s.nwb", further=tables)
    convert(path, error="has the tables encoding, retrieval; expected --trials NAME")
    assert len(convert(path, "--trials encoding retrieval --condition block")[1]) == 24


def test_a_session_without_trials_is_cut_into_windows(call, convert, tmp_path):
    path = write_nwb(tmp_path / "s.nwb", epochs=[(0.0, 100.0)])
    assert "--window 1.0" in call(tmp_path, "convert.py", path).output
    _, spikes = convert(path, "--window 2.5")
    assert spikes.shape == (39, 125, 6)
    assert np.nansum(spikes) == pytest.approx(sum(map(len, SPIKE_TIMES)), rel=0.03)


def test_what_was_not_observed_is_missing(convert, tmp_path):
    observed = [[[0.0, 100.0]]] * 5 + [[[0.0, 20.25], [40.0, 100.0]]]
    invalid = [(10.0, 11.0), (50.3, 50.31)]
    options = {"obs_intervals": observed, "invalid_times": invalid}
    _, spikes = convert(
        write_nwb(tmp_path / "s.nwb", trials=trials_of(40), **options), "--bin_width 0.1"
    )
    observed = [np.array(of_unit) for of_unit in observed]
    expected = from_spike_times(SPIKE_TIMES, STARTS, 0.1, 1.0, observed, invalid)
    expected = expected[~np.isnan(expected).all((1, 2))]  # the trial at 10 s
    assert len(expected) == 39
    assert np.isnan(expected[:, :, 5]).any()
    assert same_trials(spikes, expected)


def test_trials_that_share_time_stay_in_one_split(convert, tmp_path):
    trials = trials_of(40)
    for key in ("start_time", "stop_time"):
        trials[key][1::2] = [time + 0.5 for time in trials[key][::2]]
    path = write_nwb(tmp_path / "s.nwb", trials=trials)
    error = "0 of 1 groups of trials that share time for validation"
    convert(path, "--start -1 --stop 4", error)
    output, _ = convert(path)
    assert "40 of 40 trials share time with another; they stay in one split" in output
    valid = {trial.tobytes() for trial in read_file(tmp_path / "a.h5").trials["valid"].spikes}
    spikes = count(np.array(trials["start_time"]))
    is_valid = np.array([trial.tobytes() in valid for trial in spikes])
    assert is_valid.sum() == 8
    np.testing.assert_array_equal(is_valid[::2], is_valid[1::2])


def test_trials_of_different_durations(convert, tmp_path):
    trials = trials_of(20)
    trials["stop_time"] = [stop - 0.3 * (i % 2) for i, stop in enumerate(trials["stop_time"])]
    path = write_nwb(tmp_path / "s.nwb", trials=trials)
    convert(path, error="trials have 35 to 50 bins of 0.02 s")
    for lengths, n_bins, n_short in (("cut", 35, 20), ("pad", 50, 10)):
        _, spikes = convert(path, f"--lengths {lengths}")
        assert spikes.shape == (20, n_bins, 6)
        assert np.isnan(spikes[:, 35:]).all((1, 2)).sum() == n_short


def test_what_can_be_mended_is_mended_and_said(convert, tmp_path):
    backwards = np.append(SPIKE_TIMES[1][::-1], np.nan)
    times = [SPIKE_TIMES[0], backwards, np.empty(0), *SPIKE_TIMES[3:]]
    trials = trials_of(40, spacing=3.0)  # the last ones after the session
    output, spikes = convert(write_nwb(tmp_path / "s.nwb", times, trials))
    for line in (
        "unit 10: 1 spike time left out, because not a number",
        "unit 10: spike times were out of order and were sorted",
        "1 unit left out: at most 0 spikes/s in the trials",
        "7 trials left out: no time, or outside the recording",
    ):
        assert line in output
    assert spikes.shape == (33, 50, 5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("--trials taps", "--trials taps: expected one of trials"),
        ("--align_to taps --stop 1", "--align_to taps: expected a column of trials: start_time"),
        ("--condition taps", "--condition taps: expected a column"),
        ("--units 'quality == '", "--units quality == cannot be evaluated"),
        ("--units 'rate > 3'", "columns are id, quality"),
        ("--units 'quality == \"best\"'", "no units left; expected some of 6"),
        ("--min_rate 1000", "no units left; expected some with more than 1000 spikes/s"),
        ("--start 500 --stop 501", "no trials left; expected some within the recording"),
        ("--bin_width 0", "bin_width 0.0: expected a number above 0"),
        ("--bin_width 3", "expected at least a bin of 3 s"),
        ("--window 1000", "--window 1000.0: expected seconds above 0, at most"),
        ("--stop -1", "expected a start before a stop"),
        ("--valid_fraction 1.5", "for validation; expected some in both splits"),
        ("--seed -1", "--seed -1: expected a whole number of at least 0"),
        ("--align_to cue_time", "--align_to cue_time: expected --stop beside it"),
        ("--start -0.5", "--start -0.5: expected --stop beside it"),
        ("--window 1 --condition choice", "--window 1.0: expected no --condition beside it"),
        ("--units 'quality == \"best\"'", "6; quality is text: good, mua"),
        ("--where 'block > 7'", "no trials; block is whole numbers: 0, 1, 2, 3"),
        ("--where choice", "is not true or false for each row"),
        ("--window 1 --where block", "--window 1.0: expected no --where beside it"),
        ("--max_silence 0", "--max_silence 0.0: expected seconds above 0"),
        ("--units quality", "is not true or false for each row; expected a query"),
        ("--units 1", "is not true or false for each row"),
    ],
)
def test_options_that_do_not_fit_the_file(convert, session, options, error):
    convert(session, options, error)


def test_files_that_are_no_sessions(call, convert, monkeypatch, tmp_path, session):
    monkeypatch.chdir(tmp_path)
    with h5py.File("old.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
    Path("text.nwb").write_text("no HDF5")
    with h5py.File("damaged.nwb", "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
    with h5py.File("other.h5", "w") as file:
        file["spikes"] = np.zeros(3)
    with h5py.File("ours.h5", "w") as file:
        file["train_data"] = np.zeros((3, 4, 5))
    write_nwb("no_units.nwb", [], trials_of(10))
    write_calcium("calcium.nwb")
    for path, error in (
        ("none.nwb", "no such file"),
        ("old.nwb", "has the NWB schema NWB-1.0.6; expected 2.0 or later"),
        ("text.nwb", "cannot be read as HDF5"),
        ("damaged.nwb", "pynwb cannot read it"),
        ("other.h5", "found spikes; expected an NWB file, train_encod_data"),
        ("ours.h5", "has train_data; train.py reads such a file (with --data.bin_width"),
        ("calcium.nwb", "has no units with spike_times, but calcium imaging (OnePhotonSeries)"),
        ("no_units.nwb", "has no units with spike_times"),
    ):
        convert(path, error=error)
    done = call(tmp_path, "convert.py", session, "--out", "text.nwb")
    assert "--out text.nwb: exists" in done.errors
    assert Path("text.nwb").read_text() == "no HDF5"


def test_units_can_be_chosen_by_brain_area_and_may_share_an_id(convert, tmp_path):
    options = {"areas": ["CA1", "V1", "CA1", "V1", "V1", "CA1"], "ids": [0, 1, 2, 0, 1, 2]}
    path = write_nwb(tmp_path / "s.nwb", trials=trials_of(40), **options)
    output, spikes = convert(path, "--units 'location == \"CA1\"'")
    assert "several units have the same id; units are named by their rows" in output
    assert json.loads(read_file(tmp_path / "a.h5").conversion)["unit_ids"] == [0, 2, 5]
    assert same_trials(spikes, count(STARTS, (0, 2, 5)))


def test_stray_times_missing_intervals_and_conditions(convert, tmp_path):
    times = [np.append(SPIKE_TIMES[0], 1e9), *SPIKE_TIMES[1:]]
    trials, intervals = trials_of(40), [np.zeros((0, 2))] + [[[0.0, 2e9]]] * 5
    trials["choice"][::4] = [""] * 10
    path = write_nwb(tmp_path / "s.nwb", times, trials, obs_intervals=intervals)
    convert(path, "--window 1", "(is there a stray spike time?)")
    output, spikes = convert(path, "--condition choice")
    assert "unit 0: has spikes but no obs_intervals, and was taken as observed at all" in output
    assert "10 trials left out: no condition" in output
    assert spikes.shape == (30, 50, 6)


def test_trials_are_chosen_by_a_query(convert, tmp_path, session):
    output, _ = convert(session, "--where 'block > 0 and choice == \"left\"'")
    assert "25 trials left out: not chosen" in output
    with h5py.File(tmp_path / "a.h5") as file:
        rows = np.concatenate((file["train_row"], file["valid_row"]))
    assert sorted(rows) == list(range(10, 40, 2))


def test_clocks_that_start_again_are_named(call, convert, tmp_path):
    of_trials = [np.tile(times[times < 1], 40) for times in SPIKE_TIMES]
    path = write_nwb(tmp_path / "s.nwb", of_trials, trials_of(40))
    error = "spike times of 5 of 5 units start again, up to 39 times, as if each trial had a clock"
    convert(path, error=error)
    assert error in call(tmp_path, "convert.py", path).errors
    joined = [np.tile(SPIKE_TIMES[0], 2), *SPIKE_TIMES[1:]]
    output, _ = convert(write_nwb(tmp_path / "joined.nwb", joined, trials_of(40)))
    assert "unit 0: spike times start again 1 time and were sorted" in output


def test_times_without_a_spike_of_any_unit_are_missing_if_asked(call, convert, tmp_path):
    times = [unit[(unit < 20) | (unit > 41)] for unit in SPIKE_TIMES]
    gap = f"from {max(unit[unit < 20][-1] for unit in times):.1f} to "
    path = write_nwb(tmp_path / "s.nwb", times, trials_of(40))
    assert gap in call(tmp_path, "convert.py", path).output
    output, spikes = convert(path)
    assert f"no unit has a spike {gap}" in output
    assert not np.isnan(spikes).any()
    output, spikes = convert(path, "--max_silence 10")
    assert "no unit has a spike" not in output
    assert len(spikes) == 26
    assert np.isnan(spikes).any()
    known = write_nwb(tmp_path / "k.nwb", times, trials_of(40), invalid_times=[(19.0, 42.0)])
    assert "no unit has a spike" not in convert(known)[0]


def test_times_in_milliseconds_are_doubted(call, tmp_path):
    path = write_nwb(tmp_path / "s.nwb", [1000 * times for times in SPIKE_TIMES], trials_of(40))
    assert "spikes/s; are spike times (or the bin" in call(tmp_path, "convert.py", path).output


def test_held_out_units_come_last(convert, tmp_path):
    heldout = [True, False, False, True, False, False]
    path = write_nwb(tmp_path / "s.nwb", trials=trials_of(40), heldout=heldout)
    output, spikes = convert(path)
    assert "the last 2 of them never seen by the encoder" in output
    assert read_file(tmp_path / "a.h5").n_heldin == 4
    assert same_trials(spikes, count(STARTS, (1, 2, 4, 5, 0, 3)))


def test_the_command_that_is_suggested_takes_trials_not_ripples(call, tmp_path):
    starts = np.arange(2.0, 90.0, 0.5)
    ripples = {"start_time": starts.tolist(), "stop_time": (starts + 0.06).tolist()}
    for trials, command in ((trials_of(40), "--trials trials --stop 1"), (None, "--window 1.0")):
        path = write_nwb(tmp_path / "s.nwb", trials=trials, further={"ripples": ripples})
        listed = call(tmp_path, "convert.py", path).output
        assert listed.endswith(f"{command}\n")
    days = {"start_time": [0.0, 300.0], "stop_time": [300.0, 600.0]}
    path = write_nwb(tmp_path / "s.nwb", trials=days)
    assert "each 300 to 300 s (seconds?)" in call(tmp_path, "convert.py", path).output


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recordings are not here")
def test_real_sessions(convert):
    tables = "encoding_table recognition_table timediscrimination_table"
    human = str(SHARED / "human_mtl_sub-4_ses-4.nwb")
    output, spikes = convert(human, f"--trials {tables} --stop 2")
    assert "16 of 450 trials share time with another" in output
    assert spikes.shape == (450, 100, 35)
    rat = str(SHARED / "phy_A8604-211122.nwb")
    assert convert(rat, "--window 1")[1].shape == (1087, 50, 3)
