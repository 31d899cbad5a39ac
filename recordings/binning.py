"""From spike times to counts per bin. A count is missing (NaN) where a unit was not observed for a
whole bin."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from command_line import InputError

MAX_COUNTS = (
    2**29
)  # entries of an array of counts: 2 GB, and six times as much memory while they are written
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
        observed_intervals: For each unit (intervals, 2) the times (s) in which it was observed.
            None: at all times.
        invalid_times: (intervals, 2) times (s) in which nothing counts.
        lengths: If trials have different durations: cut them to the shortest, or pad them with NaN
            to the longest.

    Returns:
        (trials, time, neurons) counts, float32, NaN = missing. Bins that are only partly in a trial
        are left out.

    Raises:
        InputError: times that cannot be right, or trials of different durations without `lengths`.
    """
    windows = trial_windows(trials, duration)
    n_bins = count_bins(windows, bin_width, lengths)
    units = list_units(spike_times)
    if observed_intervals is not None and len(observed_intervals) != len(units):
        raise InputError(
            f"observed_intervals: are of {len(observed_intervals)} units; expected {len(units)}"
        )
    expect_counts(len(windows) * n_bins.max() * len(units))
    edges = windows[:, :1] + bin_width * np.arange(n_bins.max() + 1)
    beyond = np.arange(n_bins.max()) >= n_bins[:, None]  # bins after the end of a trial
    if invalid_times is not None:
        beyond |= touched(edges, merge(invalid_times, "invalid_times"))
    if hasattr(spike_times, "time_support"):
        beyond |= ~inside(edges, merge(spike_times.time_support.values, "time_support"))
    spikes = np.empty((len(windows), n_bins.max(), len(units)), dtype=np.float32)
    for unit, times in enumerate(units):
        spikes[:, :, unit] = np.diff(
            np.searchsorted(sort_times(times, unit), edges - ROUNDING), axis=1
        )
        if observed_intervals is not None and observed_intervals[unit] is not None:
            covered = merge(observed_intervals[unit], f"observed_intervals of unit {unit}")
            spikes[~inside(edges, covered), unit] = np.nan
    spikes[beyond] = np.nan
    return spikes


def list_units(spike_times: Sequence[np.ndarray] | Mapping) -> list[np.ndarray]:
    """Return the spike times of each unit; raise InputError if this is not a list of arrays, or
    pynapple's objects."""
    if hasattr(spike_times, "t"):  # pynapple's Ts
        spike_times = [spike_times]
    if callable(getattr(spike_times, "values", None)):
        spike_times = list(spike_times.values())
    units = [getattr(times, "t", times) for times in spike_times]
    if not units:
        raise InputError("spike_times: has no unit; expected the spike times of at least one")
    if any(np.ndim(times) != 1 for times in units):
        raise InputError(
            "spike_times: expected a list with an array of spike times (s) for each unit"
        )
    return units


def expect_counts(n_counts: float) -> None:
    """Raise InputError if an array of counts would be too large."""
    if n_counts > MAX_COUNTS:
        raise InputError(
            f"{n_counts:.3g} counts: expected at most {MAX_COUNTS} (fewer trials or units, or wider bins)"
        )


def trial_windows(trials: np.ndarray, duration: float | None) -> np.ndarray:
    """Return start and stop times (trials, 2); raise InputError if they cannot be right."""
    trials = np.asarray(getattr(trials, "values", trials), dtype=float)
    if trials.ndim == 1 and duration is not None:
        trials = np.stack((trials, trials + duration), axis=1)
    if trials.ndim != 2 or trials.shape[1] != 2 or len(trials) == 0:
        raise InputError(
            f"trials have shape {trials.shape}; expected (trials, 2) starts and stops, or (trials,) starts and a duration"
        )
    wrong = ~(np.isfinite(trials).all(1) & (trials[:, 1] > trials[:, 0]))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"trial {first} is from {trials[first, 0]} to {trials[first, 1]} s; expected a start before a stop"
        )
    return trials


def count_bins(windows: np.ndarray, bin_width: float, lengths: str | None) -> np.ndarray:
    """Return the number of bins of each trial, all the same unless trials of different durations
    are padded."""
    if not 0 < bin_width < np.inf:
        raise InputError(f"bin_width {bin_width}: expected a number above 0 (s)")
    if lengths not in (None, "cut", "pad"):
        raise InputError(f"lengths {lengths}: expected cut or pad")
    n_bins = np.floor((windows[:, 1] - windows[:, 0] + ROUNDING) / bin_width).astype(int)
    shortest, longest = int(n_bins.min()), int(n_bins.max())
    if shortest == 0:
        raise InputError(
            f"the shortest trial takes {np.diff(windows).min():g} s; expected at least a bin of {bin_width:g} s"
        )
    if shortest < longest and lengths is None:
        raise InputError(
            f"trials have {shortest} to {longest} bins of {bin_width:g} s; expected one duration, or lengths cut or pad"
        )
    return np.full_like(n_bins, shortest) if lengths == "cut" else n_bins


def sort_times(times: np.ndarray, unit: int) -> np.ndarray:
    """Return spike times (s) in order; raise InputError if they are not all finite numbers."""
    times = np.asarray(times, dtype=float)
    if not np.isfinite(times).all():
        raise InputError(
            f"spike times of unit {unit}: {(~np.isfinite(times)).sum()} are not finite; expected seconds"
        )
    return times if (times[1:] >= times[:-1]).all() else np.sort(times)


def merge(intervals: np.ndarray, what: str) -> np.ndarray:
    """Return the union of intervals (n, 2) as ordered intervals that do not touch."""
    intervals = np.asarray(intervals, dtype=float).reshape(-1, 2)
    if not (intervals[:, 1] >= intervals[:, 0]).all():  # nor if one is NaN
        raise InputError(
            f"{what}: an interval stops before it starts, or is NaN; expected (intervals, 2) in s"
        )
    merged = []
    for start, stop in intervals[np.argsort(intervals[:, 0])]:
        if merged and start <= merged[-1][1] + ROUNDING:
            merged[-1][1] = max(stop, merged[-1][1])
        else:
            merged.append([start, stop])
    return np.array(merged).reshape(-1, 2)


def inside(edges: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Return which bins (trials, time), given their edges (trials, time + 1), are wholly in one of
    merged intervals."""
    if len(intervals) == 0:
        return np.zeros((edges.shape[0], edges.shape[1] - 1), dtype=bool)
    last = (
        np.searchsorted(intervals[:, 0], edges[:, :-1] + ROUNDING, side="right") - 1
    )  # that starts before the bin
    return (last >= 0) & (edges[:, 1:] <= intervals[last, 1] + ROUNDING)


def touched(edges: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Return which bins (trials, time), given their edges (trials, time + 1), have some time in
    merged intervals."""
    if len(intervals) == 0:
        return np.zeros((edges.shape[0], edges.shape[1] - 1), dtype=bool)
    last = (
        np.searchsorted(intervals[:, 0], edges[:, 1:] - ROUNDING, side="left") - 1
    )  # that starts before the bin ends
    return (last >= 0) & (intervals[last, 1] > edges[:, :-1] + ROUNDING)


def overlap_groups(windows: np.ndarray) -> np.ndarray:
    """Return labels (trials,) of groups of trials that share time, directly or through others.

    Args:
        windows: (trials, 2) start and stop times (s).
    """
    order = np.argsort(windows[:, 0], kind="stable")
    latest_stop = np.maximum.accumulate(windows[order, 1])
    starts_a_group = np.append(True, windows[order[1:], 0] >= latest_stop[:-1] - ROUNDING)
    groups = np.empty(len(windows), dtype=int)
    groups[order] = np.cumsum(starts_a_group) - 1
    return groups
