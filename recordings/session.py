"""Cut a session of spike times into trials of counts."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from command_line import InputError, expect, number_of, require
from recordings import nwb
from recordings.binning import ROUNDING, from_spike_times
from recordings.listing import MAX_TRIAL, describe_values
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
        where: Which trials to take: a boolean column of the table, or a query such as
            'contrast > 0.5 and choice == "left"'.
        condition: Column with the condition of a trial, numbers or text.
        units: Which units to take: a boolean column of the units table, or a query such as
            'quality == "good"'.
        min_rate: Leave out units whose mean rate (spikes/s) in the trials is not above this.
        max_silence: Longer times (s) in which no unit has a spike are missing, because nothing was
            recorded there. None: they are observed.
        unit_ids: Take exactly these units; `units` and `min_rate` are not looked at.
    """

    bin_width: float | None = None
    trials: list[str] | None = None
    align_to: str | None = None
    start: float | None = None
    stop: float | None = None
    window: float | None = None
    lengths: Literal["cut", "pad"] | None = None
    where: str | None = None
    condition: str | None = None
    units: str | None = None
    min_rate: float = 0.0
    max_silence: float | None = None
    unit_ids: list[int] | None = None

    def check(self) -> None:
        """Raise InputError for options that have no effect together."""
        names = ("trials", "align_to", "start", "stop", "where", "condition")
        given = [name for name in names if getattr(self, name) is not None]
        if self.window is not None and given:
            expected = f"expected no --{given[0]} beside it, because windows are of no table"
            raise InputError(f"--window {self.window}: {expected}")
        for name in ("start", "align_to"):
            if self.stop is None and name in given:
                raise InputError(f"--{name} {getattr(self, name)}: expected --stop beside it")
        is_right = self.max_silence is None or self.max_silence > 0
        expect(is_right, "--max_silence", self.max_silence, "seconds above 0")


def parse_conversion(text: str | None) -> Conversion | None:
    """Return the conversion that JSON holds; None if it holds something else."""
    try:
        conversion = Conversion(**json.loads(text))
        float(conversion.start or 0.0), list(conversion.unit_ids or [])
    except (ValueError, TypeError, RecursionError):  # written by someone else
        return None
    return conversion


class Session(NamedTuple):
    """A session, cut into trials."""

    spikes: np.ndarray  # (trials, time, units) counts per bin, NaN = missing
    windows: np.ndarray  # (trials, 2) start and stop (s)
    rows: np.ndarray  # (trials,) in the tables, one after the other; or of the windows
    condition: np.ndarray | None  # (trials,) labels
    groups: np.ndarray  # (trials,) the same label for trials that share time
    n_heldin: int | None  # units, the first ones, that the encoder may see; None: all
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
        windows, condition, chosen = read_windows(file, conversion, span, path)
        units, is_heldout = choose_units(file, conversion, path, notes)
        ids, invalid = nwb.read_unit_ids(file), nwb.read_invalid_times(file)
    rows = choose_rows(windows, condition, chosen, span, path, notes)
    silences = nwb.find_silences(times, conversion.max_silence)
    if conversion.max_silence is not None:
        invalid = np.concatenate((invalid, silences))
    elif all(observed is None for observed in intervals):
        is_open = [is_touched(silence, windows[rows], invalid) for silence in silences]
        notes += nwb.describe_silences(silences[np.array(is_open, dtype=bool)])
    invalid = np.concatenate((invalid, [[-np.inf, span[0]], [span[1], np.inf]]))
    times, intervals = [times[unit] for unit in units], [intervals[unit] for unit in units]
    spikes = from_spike_times(
        times, windows[rows], bin_width, None, intervals, invalid, conversion.lengths
    )
    n_observed = (~np.isnan(spikes)).sum(1)  # (trials, units)
    kept = n_observed.any(1)
    missing = f"{path}: no trials with observed bins left; expected some"
    leave_out(kept, "trial", "no observed bin", notes, missing)
    if conversion.unit_ids is None:
        rates = np.nansum(spikes, (0, 1)) / np.maximum(n_observed.sum(0), 1) / bin_width
        limit = f"{conversion.min_rate:g} spikes/s in the trials"
        active = rates > conversion.min_rate
        missing = f"{path}: no units left; expected some with more than {limit}"
        leave_out(active, "unit", f"at most {limit}", notes, missing)
        spikes, units, is_heldout = spikes[:, :, active], units[active], is_heldout[active]
    spikes, rows = spikes[kept], rows[kept]
    windows, condition = windows[rows], None if condition is None else condition[rows]
    duration = bin_width * spikes.shape[1]
    if duration > MAX_TRIAL:
        notes.append(f"a trial takes {duration:g} s; are these seconds?")
    windows[:, 1] = np.minimum(windows[:, 1], windows[:, 0] + duration)
    conversion = replace(conversion, bin_width=bin_width, unit_ids=ids[units].tolist())
    n_heldin = int((~is_heldout).sum()) if 0 < is_heldout.sum() < len(units) else None
    groups = overlap_groups(windows)
    return Session(spikes, windows, rows, condition, groups, n_heldin, conversion, notes)


def is_touched(silence: np.ndarray, windows: np.ndarray, invalid: np.ndarray) -> bool:
    """Return whether trials have time in a silence that is not in one of the invalid intervals."""
    start, stop = silence
    is_known = ((invalid[:, 0] <= start + ROUNDING) & (stop - ROUNDING <= invalid[:, 1])).any()
    return not is_known and bool(((windows[:, 0] < stop) & (windows[:, 1] > start)).any())


def read_windows(
    file, conversion: Conversion, span: tuple[float, float], path: str | Path
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return start and stop times (trials, 2) and, if asked for, conditions (trials,) and which
    trials to take (trials,).

    Times are NaN where an event did not happen.
    """
    if conversion.window is not None:
        return cut_windows(span, conversion.window, path), None, None
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
    name, condition, chosen = conversion.condition, None, None
    if conversion.where is not None:
        columns = [nwb.scalar_columns(table) for table in tables]
        chosen = [evaluate(conversion.where, of_table, "where", path) for of_table in columns]
        values = describe_used(conversion.where, columns[0])
        require(
            any(map(np.any, chosen)), f"{path}: --where {conversion.where}: no trials; {values}"
        )
        chosen = np.concatenate(chosen)
    if name is not None:
        labels = [nwb.read_column(table, name, path, "condition") for table in tables]
        condition = np.concatenate(labels)
    return np.concatenate(windows), condition, chosen


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


def choose_units(
    file, conversion: Conversion, path: str | Path, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the units to take, and which of them (units,; bool) are held out.

    Those come last: in the NLB's sessions the encoder does not see them.

    Raises:
        InputError: the table does not have the units.
    """
    ids, columns = nwb.read_unit_ids(file), nwb.unit_columns(file)
    is_heldout = columns.get("heldout", np.zeros(len(ids)))
    is_heldout = is_heldout if is_heldout.dtype == bool else np.zeros(len(ids), dtype=bool)
    if conversion.unit_ids is not None:
        row_of = {unit: row for row, unit in enumerate(ids.tolist())}
        missing = sorted(set(conversion.unit_ids) - row_of.keys())
        require(not missing, f"{path}: has no units {missing}; expected those of the training")
        rows = np.array([row_of[unit] for unit in conversion.unit_ids])
        return rows, is_heldout[rows]
    rows = np.argsort(is_heldout, kind="stable")
    if conversion.units is not None:
        chosen = evaluate(conversion.units, {"id": ids, **columns}, "units", path)
        values = describe_used(conversion.units, columns)
        missing = f"{path}: no units left; expected some of {len(ids)}; {values}"
        leave_out(chosen, "unit", "not chosen", notes, missing)
        rows = rows[chosen[rows]]
    return rows, is_heldout[rows]


def evaluate(query: str, columns: dict[str, np.ndarray], flag: str, path: str | Path) -> np.ndarray:
    """Return for which rows (bool) of a table a query is true; InputError if it cannot be."""
    import pandas as pd

    found, names = f"{path}: --{flag} {query}", f"columns are {', '.join(columns) or 'none'}"
    values = describe_used(query, columns)
    try:
        table = pd.DataFrame(columns)
        chosen = np.asarray(table.eval(query, engine="python"))
    except Exception as error:  # a query can be wrong in any way
        raise InputError(f"{found} cannot be evaluated ({error}); {names}") from None
    if chosen.dtype.kind in "iuf" and np.isin(chosen, (0, 1)).all():  # a column, as MATLAB has it
        chosen = chosen.astype(bool)
    is_mask = chosen.dtype == bool and chosen.shape == (len(table),)
    expected = f'expected a query such as quality == "good"; {names}; {values}'
    require(is_mask, f"{found} is not true or false for each row; {expected}")
    return chosen


def describe_used(query: str, columns: dict[str, np.ndarray]) -> str:
    """Return what is in the columns that a query names."""
    words = set(re.findall(r"\w+", query))
    used = {name: values for name, values in columns.items() if name in words}
    return "; ".join(f"{name} is {describe_values(of)}" for name, of in used.items())


def choose_rows(
    windows: np.ndarray,
    condition: np.ndarray | None,
    chosen: np.ndarray | None,
    span: tuple[float, float],
    path: str | Path,
    notes: list[str],
) -> np.ndarray:
    """Return the trials that are chosen, lie in the recording, and have a condition, if given."""
    missing = f"{path}: no trials left; expected some within the recording, "
    missing += f"{span[0]:g} to {span[1]:g} s"
    kept = np.isfinite(windows).all(1) & (windows[:, 1] > span[0]) & (windows[:, 0] < span[1])
    leave_out(kept, "trial", "no time, or outside the recording", notes, missing)
    if chosen is not None:
        leave_out(chosen[kept], "trial", "not chosen", notes, missing)
        kept &= chosen
    if condition is not None:
        is_text = condition.dtype.kind == "U"
        is_known = condition != "" if is_text else ~np.isnan(condition.astype(float))
        leave_out(is_known[kept], "trial", "no condition", notes, missing)
        kept &= is_known
    return np.flatnonzero(kept)


def leave_out(kept: np.ndarray, noun: str, why: str, notes: list[str], if_all: str) -> None:
    """Note how many trials or units are left out and why; if all are, raise InputError."""
    n_out = int((~kept).sum())
    if n_out:
        notes.append(f"{number_of(n_out, noun)} left out: {why}")
    require(kept.any(), if_all)
