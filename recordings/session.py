"""Cut a session of spike times into trials of counts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from command_line import InputError
from recordings.binning import from_spike_times, overlap_groups
from recordings.nwb import (
    column_of,
    open_nwb,
    read_units,
    recorded_range,
    tables_of,
    unit_columns,
    unit_ids,
)

MAX_WINDOWS = 10**6


@dataclass
class Conversion:
    """How a session is cut into trials. A checkpoint remembers it, to infer from further sessions.

    Args:
        bin_width: Width of a time bin (s). None: 0.02 for a session; other files need it.
        trials: Tables of intervals whose rows are trials. None: `trials`, or the only table.
        align_to: Column of times (s) that `start` and `stop` are relative to. None: start_time.
        start: Start of a trial (s) after that time; needs `stop`. None: 0.
        stop: Stop of a trial (s) after that time. None: trials last from the table's start_time to
            its stop_time.
        window: Cut the whole session into trials of this duration (s) instead.
        lengths: Trials of different durations are cut to the shortest, or padded with NaN to the
            longest.
        condition: Column with the condition of a trial, numbers or text.
        units: Which units to take: a boolean column of the units table, or a query such as 'quality
            == "good"'.
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
        given = [
            name
            for name in ("trials", "align_to", "start", "stop", "condition")
            if getattr(self, name) is not None
        ]
        if self.window is not None and given:
            raise InputError(
                f"--window {self.window}: expected no --{given[0]} beside it, because windows are of no table"
            )
        if self.stop is None and (self.start is not None or self.align_to is not None):
            name = "start" if self.start is not None else "align_to"
            raise InputError(f"--{name} {getattr(self, name)}: expected --stop beside it")


class Session(NamedTuple):
    """A session, cut into trials."""

    spikes: np.ndarray  # (trials, time, units) counts per bin, NaN = missing
    windows: np.ndarray  # (trials, 2) start and stop (s)
    rows: (
        np.ndarray
    )  # (trials,) of the table or tables, one after the other; of the windows, without tables
    condition: np.ndarray | None  # (trials,) labels
    groups: np.ndarray  # (trials,) the same label for trials that share time
    conversion: Conversion  # with the ids of the units
    notes: list[str]  # what was left out, and why


def choose_units(nwb, conversion: Conversion, path: str | Path) -> np.ndarray:
    """Return the rows of the units to take; raise InputError for a query or ids that do not fit the
    table."""
    ids = unit_ids(nwb)
    if conversion.unit_ids is not None:
        missing = sorted(set(conversion.unit_ids) - set(ids.tolist()))
        if missing:
            raise InputError(f"{path}: has no units {missing}; expected those of the training")
        return np.array([int(np.flatnonzero(ids == unit)[0]) for unit in conversion.unit_ids])
    if conversion.units is None:
        return np.arange(len(ids))
    import pandas as pd

    columns = unit_columns(nwb)
    flag, found = (
        f"{path}: --units {conversion.units}",
        f"columns are {', '.join(columns) or 'none'}",
    )
    try:
        chosen = np.asarray(
            pd.DataFrame({"id": ids, **columns}).eval(conversion.units, engine="python")
        )
    except Exception as error:  # a query can be wrong in any way
        raise InputError(f"{flag} cannot be evaluated ({error}); {found}") from None
    if chosen.dtype != bool or chosen.shape != ids.shape:
        raise InputError(
            f'{flag} is not true or false for each unit; expected a query such as quality == "good"; {found}'
        )
    return np.flatnonzero(chosen)


def choose_windows(
    nwb, conversion: Conversion, span: tuple[float, float], path: str | Path
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return start and stop times (trials, 2; NaN where an event did not happen) and conditions
    (trials,), if asked for."""
    if conversion.window is not None:
        if not 0 < conversion.window <= span[1] - span[0]:
            raise InputError(
                f"--window {conversion.window}: expected seconds above 0, at most {span[1] - span[0]:g}"
            )
        n_windows = int((span[1] - span[0]) // conversion.window)
        if n_windows > MAX_WINDOWS:
            raise InputError(
                f"{path}: is recorded from {span[0]:g} to {span[1]:g} s, which is {n_windows} windows; expected at most "
                f"{MAX_WINDOWS} (is there a stray spike time?)"
            )
        starts = span[0] + conversion.window * np.arange(n_windows)
        return np.stack((starts, starts + conversion.window), axis=1), None
    tables = tables_of(nwb)
    names = conversion.trials or (["trials"] if "trials" in tables else list(tables))
    if not conversion.trials and len(names) != 1:
        found = f"the tables {', '.join(tables)}" if tables else "no table of intervals"
        raise InputError(
            f"{path}: has {found}; expected --trials NAME, or --window SECONDS to cut the whole session"
        )
    for name in names:
        if name not in tables:
            raise InputError(
                f"{path}: --trials {name}: expected one of {', '.join(tables) or 'none (use --window)'}"
            )
    parts, conditions = [], []
    for table in (tables[name] for name in names):
        if conversion.stop is None:
            part = [
                column_of(table, column, path, "trials") for column in ("start_time", "stop_time")
            ]
        else:
            times = column_of(table, conversion.align_to or "start_time", path, "align_to").astype(
                float
            )
            part = [times + (conversion.start or 0.0), times + conversion.stop]
        parts.append(np.stack(part, axis=1))
        if conversion.condition:
            conditions.append(column_of(table, conversion.condition, path, "condition"))
    return np.concatenate(parts), np.concatenate(conditions) if conditions else None


def read_session(path: str | Path, conversion: Conversion) -> Session:
    """Cut the session in an NWB file into trials.

    Bins are missing (NaN) where a unit was not observed (`obs_intervals`), in `invalid_times`, and
    before the first and after the last spike of all units, if also only in part.

    Raises:
        InputError: a file that cannot be read, an option that does not fit it, or nothing left to
            train on.
    """
    conversion.check()
    conversion = replace(
        conversion, bin_width=0.02 if conversion.bin_width is None else conversion.bin_width
    )
    with open_nwb(path) as nwb:
        times, intervals, notes = read_units(nwb, path)
        span = recorded_range(times, intervals)
        windows, condition = choose_windows(nwb, conversion, span, path)
        units, ids = choose_units(nwb, conversion, path), unit_ids(nwb)
        invalid = [[-np.inf, span[0]], [span[1], np.inf]]
        if nwb.invalid_times is not None:
            invalid += np.stack(
                [nwb.invalid_times[name].data[:] for name in ("start_time", "stop_time")], 1
            ).tolist()
    notes += (
        note(len(ids) - len(units), f"of {len(ids)} units were not chosen")
        if conversion.unit_ids is None
        else []
    )

    kept = np.isfinite(windows).all(1) & (windows[:, 1] > span[0]) & (windows[:, 0] < span[1])
    notes += note((~kept).sum(), "trials have no time, or lie outside the recording")
    if condition is not None:
        unknown = kept & is_unknown(condition)
        notes += note(unknown.sum(), "trials have no condition")
        kept &= ~unknown
    rows = np.flatnonzero(kept)
    expect_some(rows, path, "trials", f"some within the recording, {span[0]:g} to {span[1]:g} s")
    expect_some(units, path, "units", f"some of {len(ids)}")
    spikes = from_spike_times(
        [times[unit] for unit in units], windows[rows], conversion.bin_width,
        observed_intervals=[intervals[unit] for unit in units], invalid_times=np.array(invalid),
        lengths=conversion.lengths,
    )  # fmt: skip

    is_observed = ~np.isnan(spikes)
    kept = is_observed.any((1, 2))
    notes += note((~kept).sum(), "trials have no observed bin")
    spikes, rows = spikes[kept], rows[kept]
    expect_some(rows, path, "trials with observed bins", "some")
    if conversion.unit_ids is None:
        rates = (
            np.nansum(spikes, (0, 1))
            / np.maximum(is_observed.sum((0, 1)), 1)
            / conversion.bin_width
        )
        active = rates > conversion.min_rate
        notes += note(
            (~active).sum(), f"units have at most {conversion.min_rate:g} spikes/s in the trials"
        )
        spikes, units = spikes[:, :, active], units[active]
        expect_some(
            units,
            path,
            "units",
            f"some with more than {conversion.min_rate:g} spikes/s in the trials",
        )
    windows = windows[rows]
    windows[:, 1] = np.minimum(
        windows[:, 1], windows[:, 0] + conversion.bin_width * spikes.shape[1]
    )  # if cut
    condition, conversion = (
        None if condition is None else condition[rows],
        replace(conversion, unit_ids=ids[units].tolist()),
    )
    return Session(spikes, windows, rows, condition, overlap_groups(windows), conversion, notes)


def is_unknown(condition: np.ndarray) -> np.ndarray:
    """Return which labels (trials,) are NaN or empty."""
    return (
        np.isnan(condition)
        if condition.dtype.kind == "f"
        else condition == ""
        if condition.dtype.kind == "U"
        else np.zeros(len(condition), bool)
    )


def note(n_left_out: int, what: str) -> list[str]:
    """Return a list with a line on what was left out, if anything was."""
    return [f"{n_left_out} {what}; they were left out"] if n_left_out else []


def expect_some(rows: np.ndarray, path: str | Path, what: str, expected: str) -> None:
    """Raise InputError if nothing is left."""
    if len(rows) == 0:
        raise InputError(f"{path}: no {what} left; expected {expected}")
