"""From spike times to counts per bin, NaN where a unit was not observed for a whole bin."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from command_line import require

MAX_COUNTS = 2**29  # of an array: 2 GB, and six times as much memory while it is written
ROUNDING = 1e-6  # s; times in files are rounded


def from_spike_times(
    spike_times: Sequence[np.ndarray] | Mapping,
    trials: np.ndarray,
    bin_width: float,
    duration: float | None = None,
    observed_intervals: Sequence[np.ndarray | None] | None = None,
    invalid_times: np.ndarray | None = None,
    lengths: Literal["cut", "pad"] | None = None,
) -> np.ndarray:
    """Count spikes in the time bins of trials.

    Args:
        spike_times: Spike times (s) of each unit, in any order; or a pynapple `TsGroup`, outside
            whose `time_support` counts are missing.
        trials: (trials,) start times (s), with a `duration`; or (trials, 2) start and stop times
            (s), as pynapple's `IntervalSet` has them.
        bin_width: Width of a time bin (s).
        duration: Duration of all trials (s), in place of stop times.
        observed_intervals: For each unit (intervals, 2) times (s) in which it was observed. None:
            at all times.
        invalid_times: (intervals, 2) times (s) in which nothing counts.
        lengths: If trials differ in duration: cut them to the shortest, or pad them with NaN to
            the longest.

    Returns:
        (trials, time, neurons) counts, float32, NaN = missing, of bins that are wholly in a trial.

    Raises:
        InputError: times that cannot be right, or trials of different durations without `lengths`.
    """
    units = list_units(spike_times)
    n_units = len(units)
    intervals = [None] * n_units if observed_intervals is None else observed_intervals
    found = f"observed_intervals: are of {len(intervals)} units"
    require(len(intervals) == n_units, f"{found}; expected {n_units}")
    windows = trial_windows(trials, duration)
    n_bins = count_bins(windows, bin_width, lengths)
    shape = len(windows), n_bins.max(), n_units
    n_counts = np.prod(shape, dtype=float)
    expected = f"expected at most {MAX_COUNTS} (fewer trials or units, or wider bins)"
    require(n_counts <= MAX_COUNTS, f"{n_counts:.3g} counts: {expected}")
    edges = windows[:, :1] + bin_width * np.arange(n_bins.max() + 1)
    missing = np.arange(n_bins.max()) >= n_bins[:, None]  # bins after the end of a trial
    if invalid_times is not None:
        missing |= touched(edges, merge(invalid_times, "invalid_times"))
    if hasattr(spike_times, "time_support"):
        missing |= ~inside(edges, merge(spike_times.time_support.values, "time_support"))
    spikes = np.empty(shape, dtype=np.float32)
    for unit, (times, observed) in enumerate(zip(units, intervals, strict=True)):
        ordered = sort_times(times, unit)
        spikes[:, :, unit] = np.diff(np.searchsorted(ordered, edges - ROUNDING), axis=1)
        if observed is not None:
            covered = merge(observed, f"observed_intervals of unit {unit}")
            spikes[~inside(edges, covered), unit] = np.nan
    spikes[missing] = np.nan
    return spikes


def list_units(spike_times: Sequence[np.ndarray] | Mapping) -> list[np.ndarray]:
    """Return the spike times of each unit, from a list of arrays or pynapple's objects."""
    if hasattr(spike_times, "t"):  # pynapple's Ts
        spike_times = [spike_times]
    if callable(getattr(spike_times, "values", None)):
        spike_times = spike_times.values()
    units = [getattr(times, "t", times) for times in spike_times]
    require(len(units) > 0, "spike_times: has no unit; expected the spike times of at least one")
    are_arrays = all(np.ndim(times) == 1 for times in units)
    require(are_arrays, "spike_times: expected a list with an array of times (s) for each unit")
    return units


def trial_windows(trials: np.ndarray, duration: float | None) -> np.ndarray:
    """Return start and stop times (trials, 2)."""
    trials = np.asarray(getattr(trials, "values", trials), dtype=float)
    if trials.ndim == 1 and duration is not None:
        trials = np.stack((trials, trials + duration), axis=1)
    require(
        trials.ndim == 2 and trials.shape[1] == 2 and len(trials) > 0,
        f"trials have shape {trials.shape}; expected (trials, 2) starts and stops, or (trials,) "
        "starts and a duration",
    )
    is_right = np.isfinite(trials).all(1) & (trials[:, 0] < trials[:, 1])
    first_wrong = is_right.argmin()
    start, stop = trials[first_wrong]
    found = f"trial {first_wrong} is from {start} to {stop} s"
    require(is_right.all(), f"{found}; expected a start before a stop")
    return trials


def count_bins(windows: np.ndarray, bin_width: float, lengths: str | None) -> np.ndarray:
    """Return the number of bins (trials,) of each trial, which differ only if they are padded."""
    require(0 < bin_width < np.inf, f"bin_width {bin_width}: expected a number above 0 (s)")
    require(lengths in (None, "cut", "pad"), f"lengths {lengths}: expected cut or pad")
    n_bins = np.floor((windows[:, 1] - windows[:, 0] + ROUNDING) / bin_width).astype(int)
    shortest, longest = n_bins.min(), n_bins.max()
    duration = np.diff(windows).min()
    expected = f"expected at least a bin of {bin_width:g} s"
    require(shortest > 0, f"the shortest trial takes {duration:g} s; {expected}")
    found = f"trials have {shortest} to {longest} bins of {bin_width:g} s"
    expected = "expected one duration, or lengths cut or pad"
    require(shortest == longest or lengths is not None, f"{found}; {expected}")
    return np.full_like(n_bins, shortest) if lengths == "cut" else n_bins


def sort_times(times: np.ndarray, unit: int) -> np.ndarray:
    """Return the spike times (s) of a unit in order."""
    times = np.sort(np.asarray(times, dtype=float))
    n_wrong = (~np.isfinite(times)).sum()
    require(n_wrong == 0, f"spike times of unit {unit}: {n_wrong} are not finite; expected seconds")
    return times


def merge(intervals: np.ndarray, what: str) -> np.ndarray:
    """Return the union of intervals (n, 2) as ordered ones that do not touch.

    The first is empty and at minus infinity, so that an interval starts before any time.
    """
    intervals = np.asarray(intervals, dtype=float).reshape(-1, 2)
    are_right = (intervals[:, 1] >= intervals[:, 0]).all()  # not if one is NaN
    found = f"{what}: an interval stops before it starts, or is NaN"
    require(are_right, f"{found}; expected (intervals, 2) in s")
    merged = [[-np.inf, -np.inf]]
    for start, stop in intervals[np.argsort(intervals[:, 0])]:
        if start <= merged[-1][1] + ROUNDING:
            merged[-1][1] = max(stop, merged[-1][1])
        else:
            merged.append([start, stop])
    return np.array(merged)


def inside(edges: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Return which bins (trials, T) with `edges` (trials, T + 1) lie in one merged interval."""
    last = np.searchsorted(intervals[:, 0], edges[:, :-1] + ROUNDING, side="right") - 1
    return edges[:, 1:] <= intervals[last, 1] + ROUNDING


def touched(edges: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Return which bins (trials, T) with `edges` (trials, T + 1) share time with an interval."""
    last = np.searchsorted(intervals[:, 0], edges[:, 1:] - ROUNDING, side="left") - 1
    return intervals[last, 1] > edges[:, :-1] + ROUNDING
