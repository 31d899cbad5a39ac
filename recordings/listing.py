"""List what is in a session, with a command that converts it."""

import shlex
import textwrap
from pathlib import Path

import numpy as np

from command_line import number_of
from recordings import nwb
from recordings.checks import doubt_units

MIN_TRIAL, MAX_TRIAL = 0.2, 100  # s; shorter or longer intervals are no trials
MAX_VALUES, MAX_WIDTH = 6, 80  # of a column; values and letters that are shown
KINDS = {"b": "true or false", "U": "text", "f": "numbers"}

Columns = dict[str, np.ndarray]  # of a table (rows,), by name


def describe_nwb(path: str | Path) -> str:
    """Return what is in an NWB file, units and tables of intervals, and how to convert it.

    Raises:
        InputError: the file cannot be read.
    """
    with nwb.open_nwb(path) as file:
        times, intervals, notes = nwb.read_units(file, path)
        first, last = nwb.recorded_range(times, intervals)
        of_units, n_invalid = nwb.unit_columns(file), len(nwb.read_invalid_times(file))
        tables = {name: nwb.scalar_columns(table) for name, table in nwb.list_tables(file).items()}
    names = ", ".join(of_units) or "none"
    lines = [
        f"{path}: {number_of(len(times), 'unit')}, recorded from {first:g} to {last:g} s",
        f"  columns to choose units by: {names}",
        *describe_columns(of_units),
    ]
    if any(observed is not None for observed in intervals):
        lines.append("  obs_intervals say when each unit was observed")
    else:
        notes += nwb.describe_silences(nwb.find_silences(times))
    if n_invalid:
        lines.append(f"  {number_of(n_invalid, 'interval')} in invalid_times, when nothing counts")
    rates = np.array([len(of_unit) for of_unit in times]) / (last - first)
    lines += [f"  {line}" for line in notes + doubt_units(rates)]
    for name, columns in tables.items():
        lines += describe_table(name, columns)
    words = f"{shlex.quote(str(path))} --out yours.h5 --bin_width 0.02 {suggest_trials(tables)}"
    return "\n".join([*lines, f"\nIt can be converted, for example: python convert.py {words}"])


def describe_table(name: str, columns: Columns) -> list[str]:
    """Return what is in a table of intervals, in lines."""
    durations, n_rows = known_durations(columns), len(columns["start_time"])
    span = f"{durations.min():g} to {durations.max():g} s" if len(durations) else "- s"
    doubt = " (seconds?)" if len(durations) > 1 and np.median(durations) > MAX_TRIAL else ""
    lines = [f"\ntable {name}: {number_of(n_rows, 'row')}, each {span}{doubt}"]
    lines += describe_columns(columns)
    events = find_events(columns)
    if events:
        lines.append(f"  to align to: {', '.join(events)} (--align_to NAME --start --stop)")
    return lines


def describe_columns(columns: Columns) -> list[str]:
    """Return a line for each column."""
    return [f"    {name}: {describe_values(values)}" for name, values in columns.items()]


def describe_values(values: np.ndarray) -> str:
    """Return the type of a column and its values, a few of them or their range."""
    kind = KINDS.get(values.dtype.kind, "whole numbers")
    known = values[np.isfinite(values)] if kind == "numbers" else values
    different, n_missing = np.unique(known), len(values) - len(known)
    missing = f", {n_missing} missing" if n_missing else ""
    if len(different) <= MAX_VALUES:
        shown = ", ".join(f"{value:g}" if kind == "numbers" else str(value) for value in different)
    else:
        first, last = different[[0, -1]]
        span = f"such as {first}" if kind == "text" else f"{first:g} to {last:g}"
        shown = f"{len(different)} different, {span}"
    return f"{kind}: {textwrap.shorten(shown, MAX_WIDTH) or 'none'}{missing}"


def known_durations(columns: Columns) -> np.ndarray:
    """Return the durations (s) of the intervals whose start and stop are known."""
    durations = columns["stop_time"] - columns["start_time"]
    return durations[np.isfinite(durations)]


def find_events(columns: Columns) -> list[str]:
    """Return the names of the columns whose times lie in their trials, but for start and stop."""
    start, stop, events = columns["start_time"], columns["stop_time"], []
    for name, times in columns.items():
        if times.dtype.kind != "f" or name in ("start_time", "stop_time"):
            continue
        known = np.isfinite(times)
        is_inside = (start <= times) & (times <= stop)
        if known.any() and is_inside[known].all():
            events.append(name)
    return events


def suggest_trials(tables: dict[str, Columns]) -> str:
    """Return the options that cut a session into trials, for its tables of intervals.

    The table is `trials`, or that with the most trials that are neither short nor long. Rows
    without a duration are events.
    """
    best, n_most = "--window 1.0", 1
    for name, columns in tables.items():
        durations = known_durations(columns)
        n_trials = np.inf if name == "trials" and len(durations) > 1 else len(durations)
        if n_trials <= n_most:
            continue
        median, are_events = np.median(durations), not durations.any()
        if are_events or MIN_TRIAL <= median <= MAX_TRIAL:
            stop = f"--stop {np.floor(50 * median) / 50:g}"
            best = f"--trials {name} {'--start -0.2 --stop 0.8' if are_events else stop}"
            n_most = n_trials
    return best
