"""Cut a session of spike times into trials of counts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from command_line import InputError
from recordings.binning import from_spike_times, overlap_groups
from recordings.nwb import column_of, open_nwb, read_units, recorded_range, scalar_columns, tables_of


@dataclass
class Conversion:
    """How a session is cut into trials. A checkpoint remembers it, to infer from further sessions.

    Args:
        bin_width: Width of a time bin (s).
        trials: Tables of intervals whose rows are trials. None: `trials`, or the only table.
        align_to: Column of times (s) that `start` and `stop` are relative to.
        start: Start of a trial (s) after that time; needs `stop`.
        stop: Stop of a trial (s) after that time. None: trials last from the table's start_time to its stop_time.
        window: Cut the whole session into trials of this duration (s) instead.
        lengths: Trials of different durations are cut to the shortest, or padded with NaN to the longest.
        condition: Column with the condition of a trial, numbers or text.
        units: Which units to take: a boolean column of the units table, or a query such as 'quality == "good"'.
        min_rate: Leave out units whose mean rate (spikes/s) in the trials is not above this.
        unit_ids: Take exactly these units; `units` and `min_rate` are not looked at.
    """

    bin_width: float = 0.02
    trials: list[str] | None = None
    align_to: str = "start_time"
    start: float = 0.0
    stop: float | None = None
    window: float | None = None
    lengths: Literal["cut", "pad"] | None = None
    condition: str | None = None
    units: str | None = None
    min_rate: float = 0.0
    unit_ids: list[int] | None = None


class Session(NamedTuple):
    """A session, cut into trials."""

    spikes: np.ndarray  # (trials, time, units) counts per bin, NaN = missing
    windows: np.ndarray  # (trials, 2) start and stop (s)
    condition: np.ndarray | None  # (trials,) labels
    groups: np.ndarray  # (trials,) the same label for trials that share time
    conversion: Conversion  # with the ids of the units
    notes: list[str]  # what was left out, and why


def choose_units(nwb, conversion: Conversion, path: str | Path) -> np.ndarray:
    """Return the rows of the units to take; raise InputError for a query or ids that do not fit the table."""
    ids = np.asarray(nwb.units.id[:])
    if conversion.unit_ids is not None:
        missing = sorted(set(conversion.unit_ids) - set(ids.tolist()))
        if missing:
            raise InputError(f"{path}: has no units {missing}; expected those of the training")
        return np.array([int(np.flatnonzero(ids == unit)[0]) for unit in conversion.unit_ids])
    if conversion.units is None:
        return np.arange(len(ids))
    import pandas as pd

    columns = scalar_columns(nwb.units)
    try:
        chosen = pd.DataFrame({"id": ids, **columns}).eval(conversion.units, engine="python")
        return np.flatnonzero(np.broadcast_to(np.asarray(chosen, dtype=bool), ids.shape))
    except Exception as error:  # a query can be wrong in any way
        raise InputError(
            f"{path}: --units {conversion.units} cannot be evaluated ({error}); columns are {', '.join(columns) or 'none'}"
        ) from None


def choose_windows(
    nwb, conversion: Conversion, span: tuple[float, float], path: str | Path
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return start and stop times (trials, 2; NaN where an event did not happen) and conditions (trials,), if asked for."""
    if conversion.window is not None:
        if not 0 < conversion.window <= span[1] - span[0]:
            raise InputError(f"--window {conversion.window}: expected seconds above 0, at most {span[1] - span[0]:g}")
        n_windows = int((span[1] - span[0]) // conversion.window)
        starts = span[0] + conversion.window * np.arange(n_windows)
        return np.stack((starts, starts + conversion.window), axis=1), None
    tables = tables_of(nwb)
    names = conversion.trials or (["trials"] if "trials" in tables else list(tables))
    if not conversion.trials and len(names) != 1:
        found = f"the tables {', '.join(tables)}" if tables else "no table of intervals"
        raise InputError(f"{path}: has {found}; expected --trials NAME, or --window SECONDS to cut the whole session")
    for name in names:
        if name not in tables:
            raise InputError(f"{path}: --trials {name}: expected one of {', '.join(tables) or 'none (use --window)'}")
    parts, conditions = [], []
    for table in (tables[name] for name in names):
        if conversion.stop is None:
            part = [column_of(table, column, path, "trials") for column in ("start_time", "stop_time")]
        else:
            times = column_of(table, conversion.align_to, path, "align_to").astype(float)
            part = [times + conversion.start, times + conversion.stop]
        parts.append(np.stack(part, axis=1))
        if conversion.condition:
            conditions.append(column_of(table, conversion.condition, path, "condition"))
    return np.concatenate(parts), np.concatenate(conditions) if conditions else None


def read_session(path: str | Path, conversion: Conversion) -> Session:
    """Cut the session in an NWB file into trials.

    Bins are missing (NaN) where a unit was not observed (`obs_intervals`), in `invalid_times`, and before the first and
    after the last spike of all units, if also only in part.

    Raises:
        InputError: a file that cannot be read, an option that does not fit it, or nothing left to train on.
    """
    with open_nwb(path) as nwb:
        times, intervals, notes = read_units(nwb, path)
        span = recorded_range(times, intervals)
        windows, condition = choose_windows(nwb, conversion, span, path)
        rows, ids = choose_units(nwb, conversion, path), np.asarray(nwb.units.id[:])
        invalid = [[-np.inf, span[0]], [span[1], np.inf]]
        if nwb.invalid_times is not None:
            invalid += np.stack([nwb.invalid_times[name].data[:] for name in ("start_time", "stop_time")], 1).tolist()
    if len(rows) < len(ids):
        notes.append(f"{len(ids) - len(rows)} of {len(ids)} units were not chosen")
    kept = np.isfinite(windows).all(1) & (windows[:, 1] > span[0]) & (windows[:, 0] < span[1])
    notes += note(len(windows) - kept.sum(), "trials have no time, or lie outside the recording")
    windows, condition = windows[kept], None if condition is None else condition[kept]
    expect_some(windows, path, "trials", f"some within the recording, {span[0]:g} to {span[1]:g} s")
    expect_some(rows, path, "units", f"some of {len(ids)}")
    observed_intervals = [intervals[row] for row in rows]
    spikes = from_spike_times(
        [times[row] for row in rows], windows, conversion.bin_width,
        observed_intervals=observed_intervals, invalid_times=np.array(invalid), lengths=conversion.lengths,
    )  # fmt: skip

    is_observed = ~np.isnan(spikes)
    kept = is_observed.any((1, 2))
    notes += note((~kept).sum(), "trials have no observed bin")
    spikes, windows, condition = spikes[kept], windows[kept], None if condition is None else condition[kept]
    expect_some(windows, path, "trials with observed bins", "some")
    if conversion.unit_ids is None:
        rates = np.nansum(spikes, (0, 1)) / np.maximum(is_observed.sum((0, 1)), 1) / conversion.bin_width
        active = rates > conversion.min_rate
        notes += note((~active).sum(), f"units have at most {conversion.min_rate:g} spikes/s in the trials")
        spikes, rows = spikes[:, :, active], rows[active]
        expect_some(rows, path, "units", f"some with more than {conversion.min_rate:g} spikes/s in the trials")
    groups = overlap_groups(windows)
    sizes = np.bincount(groups)
    n_sharing = int(sizes[sizes > 1].sum())
    if n_sharing:
        notes.append(f"{n_sharing} of {len(groups)} trials share time with another; they stay in one split")
    return Session(spikes, windows, condition, groups, replace(conversion, unit_ids=ids[rows].tolist()), notes)


def note(n_left_out: int, what: str) -> list[str]:
    """Return a list with a line on what was left out, if anything was."""
    return [f"{n_left_out} {what}; they were left out"] if n_left_out else []


def expect_some(rows: np.ndarray, path: str | Path, what: str, expected: str) -> None:
    """Raise InputError if nothing is left."""
    if len(rows) == 0:
        raise InputError(f"{path}: no {what} left; expected {expected}")
