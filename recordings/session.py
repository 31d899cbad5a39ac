"""Cut a session of spike times into trials of counts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from command_line import InputError, require
from recordings import nwb
from recordings.binning import from_spike_times
from recordings.splitting import overlap_groups

MAX_WINDOWS = 10**6


@dataclass
class Conversion:
    """How a session is cut into trials. A checkpoint remembers it, to infer from further sessions.

    Args:
        bin_width: Width of a time bin (s). None: 0.02 for a session; other files need it.
        trials: Tables of intervals whose rows are trials. None: `trials`, or the only table.
        align_to: Column of times (s) that `start` and `stop` are relative to. None: start_time.
        start: Start of a trial (s) after that time; needs `stop`. None: 0.
        stop: Stop of a trial (s) after that time. None: trials last from start_time to stop_time.
        window: Cut the whole session into trials of this duration (s) instead.
        lengths: Trials of different durations are cut to the shortest, or padded with NaN to the
            longest.
        condition: Column with the condition of a trial, numbers or text.
        units: Which units to take: a boolean column of the units table, or a query such as
            'quality == "good"'.
        min_rate: Leave out units whose mean rate (spikes/s) in the trials is not above this.
        unit_ids: Take exactly these units; `units` and `min_rate` are not looked at.
    """

    bin_width: float | None = None
    trials: list[str] | None = None
    align_to: str | None = None
    start: float | None = None
    stop: float | None = None
    window: float | None = None
    lengths: Literal["cut", "pad"] | None = None
    condition: str | None = None
    units: str | None = None
    min_rate: float = 0.0
    unit_ids: list[int] | None = None

    def check(self) -> None:
        """Raise InputError for options that have no effect together."""
        names = ("trials", "align_to", "start", "stop", "condition")
        given = [name for name in names if getattr(self, name) is not None]
        if self.window is not None and given:
            expected = f"expected no --{given[0]} beside it, because windows are of no table"
            raise InputError(f"--window {self.window}: {expected}")
        for name in ("start", "align_to"):
            if self.stop is None and name in given:
                raise InputError(f"--{name} {getattr(self, name)}: expected --stop beside it")


class Session(NamedTuple):
    """A session, cut into trials."""

    spikes: np.ndarray  # (trials, time, units) counts per bin, NaN = missing
    windows: np.ndarray  # (trials, 2) start and stop (s)
    rows: np.ndarray  # (trials,) in the tables, one after the other; or of the windows
    condition: np.ndarray | None  # (trials,) labels
    groups: np.ndarray  # (trials,) the same label for trials that share time
    conversion: Conversion  # with the ids of the units
    notes: list[str]  # what was left out, and why


def read_session(path: str | Path, conversion: Conversion) -> Session:
    """Cut the session in an NWB file into trials.

    Bins are missing (NaN) if part of one is in `invalid_times`, before the first or after the last
    spike of all units, or in a time when a unit was not observed (`obs_intervals`).

    Raises:
        InputError: a file that cannot be read, an option that does not fit it, or nothing left to
            train on.
    """
    conversion.check()
    bin_width = 0.02 if conversion.bin_width is None else conversion.bin_width
    with nwb.open_nwb(path) as file:
        times, intervals, notes = nwb.read_units(file, path)
        span = nwb.recorded_range(times, intervals)
        windows, condition = read_windows(file, conversion, span, path)
        units, ids = choose_units(file, conversion, path, notes), nwb.read_unit_ids(file)
        invalid = [[-np.inf, span[0]], [span[1], np.inf]]
        if file.invalid_times is not None:
            ends = [file.invalid_times[name].data[:] for name in ("start_time", "stop_time")]
            invalid += np.stack(ends, axis=1).tolist()
    rows = choose_rows(windows, condition, span, path, notes)
    times, intervals = [times[unit] for unit in units], [intervals[unit] for unit in units]
    spikes = from_spike_times(
        times, windows[rows], bin_width, None, intervals, np.array(invalid), conversion.lengths
    )
    n_observed = (~np.isnan(spikes)).sum(1)  # (trials, units)
    kept = n_observed.any(1)
    missing = f"{path}: no trials with observed bins left; expected some"
    leave_out(kept, "trials have no observed bin", notes, missing)
    if conversion.unit_ids is None:
        rates = np.nansum(spikes, (0, 1)) / np.maximum(n_observed.sum(0), 1) / bin_width
        limit = f"{conversion.min_rate:g} spikes/s in the trials"
        active = rates > conversion.min_rate
        missing = f"{path}: no units left; expected some with more than {limit}"
        leave_out(active, f"units have at most {limit}", notes, missing)
        spikes, units = spikes[:, :, active], units[active]
    spikes, rows = spikes[kept], rows[kept]
    windows, condition = windows[rows], None if condition is None else condition[rows]
    stop_if_cut = windows[:, 0] + bin_width * spikes.shape[1]
    windows[:, 1] = np.minimum(windows[:, 1], stop_if_cut)
    conversion = replace(conversion, bin_width=bin_width, unit_ids=ids[units].tolist())
    return Session(spikes, windows, rows, condition, overlap_groups(windows), conversion, notes)


def read_windows(
    file, conversion: Conversion, span: tuple[float, float], path: str | Path
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return start and stop times (trials, 2) and, if asked for, conditions (trials,).

    Times are NaN where an event did not happen.
    """
    if conversion.window is not None:
        return cut_windows(span, conversion.window, path), None
    tables = choose_tables(file, conversion, path)
    windows = []
    for table in tables:
        if conversion.stop is None:
            names = ("start_time", "stop_time")
            ends = [nwb.read_column(table, name, path, "trials") for name in names]
        else:
            name = conversion.align_to or "start_time"
            event = nwb.read_column(table, name, path, "align_to").astype(float)
            ends = [event + (conversion.start or 0.0), event + conversion.stop]
        windows.append(np.stack(ends, axis=1))
    name, condition = conversion.condition, None
    if name is not None:
        labels = [nwb.read_column(table, name, path, "condition") for table in tables]
        condition = np.concatenate(labels)
    return np.concatenate(windows), condition


def cut_windows(span: tuple[float, float], duration: float, path: str | Path) -> np.ndarray:
    """Return start and stop times (trials, 2) that cut the recorded time."""
    first, last = span
    expected = f"expected seconds above 0, at most {last - first:g}"
    require(0 < duration <= last - first, f"--window {duration}: {expected}")
    n_windows = int((last - first) // duration)
    found = f"is recorded from {first:g} to {last:g} s, which is {n_windows} windows"
    expected = f"expected at most {MAX_WINDOWS} (is there a stray spike time?)"
    require(n_windows <= MAX_WINDOWS, f"{path}: {found}; {expected}")
    starts = first + duration * np.arange(n_windows)
    return np.stack((starts, starts + duration), axis=1)


def choose_tables(file, conversion: Conversion, path: str | Path) -> list:
    """Return the tables of intervals whose rows are trials."""
    tables = nwb.list_tables(file)
    names = conversion.trials or (["trials"] if "trials" in tables else list(tables))
    found = f"the tables {', '.join(tables)}" if tables else "no table of intervals"
    expected = "expected --trials NAME, or --window SECONDS to cut the whole session"
    require(conversion.trials or len(names) == 1, f"{path}: has {found}; {expected}")
    expected = f"expected one of {', '.join(tables) or 'none (use --window)'}"
    for name in names:
        require(name in tables, f"{path}: --trials {name}: {expected}")
    return [tables[name] for name in names]


def choose_units(file, conversion: Conversion, path: str | Path, notes: list[str]) -> np.ndarray:
    """Return the rows of the units to take; raise InputError if the table does not have them."""
    ids = nwb.read_unit_ids(file)
    if conversion.unit_ids is not None:
        row_of = {unit: row for row, unit in enumerate(ids.tolist())}
        missing = sorted(set(conversion.unit_ids) - row_of.keys())
        require(not missing, f"{path}: has no units {missing}; expected those of the training")
        return np.array([row_of[unit] for unit in conversion.unit_ids])
    if conversion.units is None:
        return np.arange(len(ids))
    import pandas as pd

    columns = nwb.unit_columns(file)
    flag, found = f"{path}: --units {conversion.units}", ", ".join(columns) or "none"
    try:
        table = pd.DataFrame({"id": ids, **columns})
        chosen = np.asarray(table.eval(conversion.units, engine="python"))
    except Exception as error:  # a query can be wrong in any way
        message = f"{flag} cannot be evaluated ({error}); columns are {found}"
        raise InputError(message) from None
    expected = f'expected a query such as quality == "good"; columns are {found}'
    is_mask = chosen.dtype == bool and chosen.shape == ids.shape
    require(is_mask, f"{flag} is not true or false for each unit; {expected}")
    missing = f"{path}: no units left; expected some of {len(ids)}"
    leave_out(chosen, f"of {len(ids)} units were not chosen", notes, missing)
    return np.flatnonzero(chosen)


def choose_rows(
    windows: np.ndarray,
    condition: np.ndarray | None,
    span: tuple[float, float],
    path: str | Path,
    notes: list[str],
) -> np.ndarray:
    """Return the trials that lie in the recording and have a condition, if conditions are given."""
    missing = f"{path}: no trials left; expected some within the recording, "
    missing += f"{span[0]:g} to {span[1]:g} s"
    kept = np.isfinite(windows).all(1) & (windows[:, 1] > span[0]) & (windows[:, 0] < span[1])
    leave_out(kept, "trials have no time, or lie outside the recording", notes, missing)
    if condition is not None:
        is_text = condition.dtype.kind == "U"
        is_known = condition != "" if is_text else ~np.isnan(condition.astype(float))
        leave_out(is_known[kept], "trials have no condition", notes, missing)
        kept &= is_known
    return np.flatnonzero(kept)


def leave_out(kept: np.ndarray, why: str, notes: list[str], if_all: str) -> None:
    """Note how many trials or units are left out and why; if all are, raise InputError."""
    if not kept.all():
        notes.append(f"{(~kept).sum()} {why}; they were left out")
    require(kept.any(), if_all)
