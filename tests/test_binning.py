"""Spike times become counts: each spike in its bin, NaN where a unit was not observed for a whole
bin."""

import numpy as np
import pytest

from command_line import InputError
from recordings import from_spike_times, overlap_groups

STARTS = np.array([1.0, 4.0, 9.5])


@pytest.fixture
def spike_times() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.sort(rng.uniform(0, 12, n)) for n in (300, 120, 0)]


def test_counts_are_those_of_a_histogram(spike_times):
    spikes = from_spike_times(spike_times, STARTS, bin_width=0.05, duration=1.0)
    assert spikes.shape == (3, 20, 3)
    for trial, start in enumerate(STARTS):
        for unit, times in enumerate(spike_times):
            expected = np.histogram(times, start + 0.05 * np.arange(21))[0]
            np.testing.assert_array_equal(spikes[trial, :, unit], expected)
    shuffled = map(np.random.default_rng(1).permutation, spike_times)
    np.testing.assert_array_equal(from_spike_times(list(shuffled), STARTS, 0.05, 1.0), spikes)


def test_bins_that_were_only_partly_observed_are_missing(spike_times):
    observed = [np.array([[0.0, 1.52], [1.52, 1.78]]), None, np.zeros((0, 2))]
    invalid = np.array([[4.35, 4.41]])
    spikes = from_spike_times(spike_times, STARTS, 0.1, 1.0, observed, invalid)
    missing = np.isnan(spikes)
    assert missing[0, :, 0].tolist() == 7 * [False] + 3 * [True]
    assert missing[1:, :, 0].all()
    assert missing[:, :, 2].all()
    assert np.flatnonzero(missing[1, :, 1]).tolist() == [3, 4]
    assert not missing[[0, 2], :, 1].any()


def test_trials_of_different_durations_are_cut_or_padded(spike_times):
    windows = np.stack((STARTS, STARTS + np.array([1.0, 0.62, 1.0])), axis=1)
    with pytest.raises(InputError, match="6 to 10 bins"):
        from_spike_times(spike_times, windows, 0.1)
    cut = from_spike_times(spike_times, windows, 0.1, lengths="cut")
    padded = from_spike_times(spike_times, windows, 0.1, lengths="pad")
    assert (cut.shape, padded.shape) == ((3, 6, 3), (3, 10, 3))
    np.testing.assert_array_equal(padded[:, :6], cut)
    assert np.isnan(padded[1, 6:]).all()
    assert not np.isnan(padded[[0, 2]]).any()


def test_pynapple_objects_are_taken_as_they_are(spike_times):
    nap = pytest.importorskip("pynapple")
    many, few = spike_times[:2]
    group = nap.TsGroup({7: nap.Ts(many), 3: nap.Ts(few)})
    trials = nap.IntervalSet(STARTS, STARTS + 1.0)
    expected = from_spike_times([few, many], STARTS, 0.1, 1.0)  # pynapple sorts by key
    np.testing.assert_array_equal(from_spike_times(group, trials, 0.1), expected)
    one = from_spike_times(nap.Ts(few), trials, 0.1)
    np.testing.assert_array_equal(one, expected[..., :1])
    support = nap.IntervalSet([0.0, 1.5], [1.3, 12.0])
    gap = np.isnan(from_spike_times(group.restrict(support), trials, 0.1))
    assert np.flatnonzero(gap[0, :, 0]).tolist() == [3, 4]
    assert not gap[1:].any()


def test_times_on_the_edges_of_bins_are_counted_as_in_whole_numbers():
    times, starts = np.arange(0, 4000, 7), np.array([100, 1300, 2900])  # ms
    spikes = from_spike_times([times / 1000], starts / 1000, 0.02, 1.0)
    expected = [np.histogram(times, start + 20 * np.arange(51))[0] for start in starts]
    np.testing.assert_array_equal(spikes[:, :, 0], expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spike_times": [np.array([1.0, np.nan])]}, "unit 0: 1 are not finite"),
        ({"spike_times": []}, "has no unit"),
        ({"trials": STARTS, "duration": None}, "expected .trials, 2"),
        ({"trials": np.zeros((0, 2))}, "expected .trials, 2"),
        ({"trials": [[1.0, 0.5]], "duration": None}, "trial 0 is from 1.0 to 0.5 s"),
        ({"duration": 0.05}, "at least a bin of 0.1 s"),
        ({"bin_width": 0.0}, "bin_width 0.0"),
        ({"bin_width": 1e-9}, "at most"),
        ({"spike_times": np.array([1.0, 2.0])}, "expected a list with an array"),
        ({"observed_intervals": [None]}, "are of 1 units; expected 3"),
        ({"lengths": "padd"}, "lengths padd: expected cut or pad"),
        ({"invalid_times": [[2.0, 1.0]]}, "invalid_times: an interval stops before"),
    ],
)
def test_what_cannot_be_right_is_said(spike_times, changed, message):
    given = {"spike_times": spike_times, "trials": STARTS, "bin_width": 0.1, "duration": 1.0}
    with pytest.raises(InputError, match=message):
        from_spike_times(**given | changed)


def test_trials_that_share_time_are_one_group():
    windows = np.array([[5.0, 6.0], [0.0, 1.0], [0.9, 2.0], [2.0, 3.0], [1.5, 1.9]])
    assert overlap_groups(windows).tolist() == [2, 0, 0, 1, 0]
