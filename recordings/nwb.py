"""Files of Neurodata Without Borders (NWB): what is in one, spike times out of it, and rates back
into a copy. Needs pynwb.

Spike times are read unit by unit; nothing else that is large is read.
"""

import contextlib
import shlex
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from command_line import InputError, atomic_write

INSTALL = "pynwb is not installed; expected it for NWB files: pip install -r requirements-nwb.txt"


def is_nwb(path: str | Path) -> bool:
    """Return whether a file calls itself NWB, by its name or in it."""
    if str(path).endswith(".nwb"):
        return True
    try:
        with h5py.File(path) as file:
            return "nwb_version" in file.attrs or "nwb_version" in file
    except OSError:
        return False


@contextlib.contextmanager
def open_nwb(path: str | Path, mode: Literal["r", "r+"] = "r") -> Iterator:
    """Open an NWB file and yield pynwb's object.

    Raises:
        InputError: no such file, no NWB file, one of a schema before 2.0, or pynwb is not
            installed.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected an NWB file")
    try:
        with h5py.File(path) as file:
            version = file.attrs.get(
                "nwb_version", file["nwb_version"][()] if "nwb_version" in file else None
            )
    except OSError:
        raise InputError(f"{path}: cannot be read as HDF5; expected an NWB file") from None
    version = version.decode() if isinstance(version, bytes) else version
    if version is None:
        raise InputError(f"{path}: is an HDF5 file without nwb_version; expected an NWB file")
    if not str(version).removeprefix("NWB-").startswith("2"):
        raise InputError(f"{path}: has the NWB schema {version}; expected 2.0 or later")
    try:
        from pynwb import NWBHDF5IO
    except ImportError:
        raise InputError(f"{path}: {INSTALL}") from None
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # about cached schemas
        try:
            session = stack.enter_context(NWBHDF5IO(path, mode, load_namespaces=True))
            file = session.read()
        except Exception as error:  # pynwb raises what its validators raise
            raise InputError(
                f"{path}: pynwb cannot read it ({error}); expected a valid NWB file"
            ) from None
        yield file
        if mode == "r+":
            session.write(file)


def tables_of(nwb) -> dict[str, object]:
    """Return the tables of intervals by name."""
    tables = dict(nwb.intervals.items()) if nwb.intervals else {}
    tables |= {
        name: table for name in ("trials", "epochs") if (table := getattr(nwb, name)) is not None
    }
    return {name: table for name, table in tables.items() if name != "invalid_times"}


def scalar_columns(table) -> dict[str, np.ndarray]:
    """Return the columns with one number or text in each row: (rows,) arrays, text as str."""
    columns = {}
    for name in table.colnames:
        column = table[name]
        if (
            hasattr(column, "target") or len(getattr(column.data, "shape", (0,))) > 1
        ):  # several values in a row
            continue
        values = np.asarray(column.data[:])
        if values.dtype.kind in "SO" and all(isinstance(value, str | bytes) for value in values):
            values = np.array(
                [value.decode() if isinstance(value, bytes) else value for value in values]
            )
        if values.dtype.kind in "biufU":
            columns[name] = values
    return columns


def column_of(table, name: str, path: str | Path, flag: str) -> np.ndarray:
    """Return a column (rows,) of numbers or text; raise InputError naming `flag` if the table has
    none of this name."""
    columns = scalar_columns(table)
    if name not in columns:
        raise InputError(
            f"{path}: --{flag} {name}: expected a column of {table.name}: {', '.join(columns)}"
        )
    return columns[name]


def unit_ids(nwb) -> np.ndarray:
    """Return the ids of the units; their rows, if two units have the same id, as after probes were
    merged."""
    ids = np.asarray(nwb.units.id[:])
    return ids if len(np.unique(ids)) == len(ids) else np.arange(len(ids))


def unit_columns(nwb) -> dict[str, np.ndarray]:
    """Return the columns (units,) to choose units by: those of the units, and those of each unit's
    first electrode."""
    columns, electrodes = scalar_columns(nwb.units), {}
    if "electrodes" in nwb.units.colnames:
        region = nwb.units["electrodes"]
        rows = np.arange(len(nwb.units))
        if hasattr(region, "target"):  # several electrodes for each unit
            ends = np.asarray(region.data[:]).astype(int)
            rows, region = np.concatenate(([0], ends[:-1]))[: len(ends)], region.target
        places = np.asarray(region.data[:]).astype(int)
        if len(places) and rows.max(initial=0) < len(places):
            electrodes = {
                name: values[places[rows]] for name, values in scalar_columns(region.table).items()
            }
        columns.pop("electrodes", None)
    return electrodes | columns


def read_units(
    nwb, path: str | Path
) -> tuple[list[np.ndarray], list[np.ndarray | None], list[str]]:
    """Return spike times (s) and observed intervals (None: not given) of each unit, and notes on
    what was mended."""
    if nwb.units is None or len(nwb.units) == 0 or "spike_times" not in nwb.units.colnames:
        raise InputError(f"{path}: has no units with spike_times; expected sorted spikes")
    has_intervals, notes, times, intervals = "obs_intervals" in nwb.units.colnames, [], [], []
    for unit, unit_id in enumerate(unit_ids(nwb)):
        of_unit = np.asarray(nwb.units["spike_times"][unit], dtype=float)
        finite = np.isfinite(of_unit)
        if not finite.all():
            notes.append(
                f"unit {unit_id}: {(~finite).sum()} spike times that are no numbers were left out"
            )
        of_unit = of_unit[finite]
        if (np.diff(of_unit) < 0).any():
            notes.append(f"unit {unit_id}: spike times were out of order and were sorted")
            of_unit = np.sort(of_unit)
        observed = (
            np.asarray(nwb.units["obs_intervals"][unit]).reshape(-1, 2) if has_intervals else None
        )
        if observed is not None and len(observed) == 0 and len(of_unit):
            notes.append(
                f"unit {unit_id}: has spikes but no obs_intervals, and was taken as observed at all times"
            )
            observed = None
        times.append(of_unit)
        intervals.append(observed)
    if not any(map(len, times)):
        raise InputError(f"{path}: no unit has a spike; expected some")
    if len(np.unique(nwb.units.id[:])) < len(times):
        notes.append("several units have the same id; units are named by their rows, from 0")
    return times, intervals, notes


def recorded_range(
    times: list[np.ndarray], intervals: list[np.ndarray | None]
) -> tuple[float, float]:
    """Return the time (s) of the first and last spike of all units; or of their observed intervals,
    where these are given."""
    given = [of_unit.ravel() for of_unit in intervals if of_unit is not None and of_unit.size]
    known = np.concatenate(given or [of_unit for of_unit in times if len(of_unit)])
    return float(known.min()), float(known.max())


def describe_nwb(path: str | Path) -> str:
    """Return what is in an NWB file: units, tables of intervals, their columns and durations, and
    how to convert it.

    Raises:
        InputError: the file cannot be read.
    """
    with open_nwb(path) as nwb:
        times, intervals, notes = read_units(nwb, path)
        first, last = recorded_range(times, intervals)
        columns = ", ".join(unit_columns(nwb)) or "none"
        lines = [
            f"{path}: {len(times)} units, recorded from {first:g} to {last:g} s",
            f"  columns to choose units by: {columns}",
        ]
        lines += ["  obs_intervals say when each unit was observed"] * any(
            of_unit is not None for of_unit in intervals
        )
        if nwb.invalid_times is not None:
            lines.append(
                f"  {len(nwb.invalid_times)} intervals in invalid_times, when nothing counts"
            )
        lines += [f"  {line}" for line in notes]
        best, n_most = "--window 1.0", 1
        for name, table in tables_of(nwb).items():
            columns = scalar_columns(table)
            durations = columns["stop_time"] - columns["start_time"]
            durations = durations[np.isfinite(durations)]
            span = f"{durations.min():g} to {durations.max():g} s" if len(durations) else "- s"
            lines.append(
                f"\ntable {name}: {len(table)} rows, each {span}\n  columns: {', '.join(columns)}"
            )
            if len(durations) > n_most:
                stop = np.floor(50 * np.median(durations)) / 50
                window = f"--stop {stop:g}" if stop > 0 else "--start -0.2 --stop 0.8"  # of events
                best, n_most = f"--trials {name} {window}", len(durations)
    command = f"python convert.py {shlex.quote(str(path))} --out yours.h5 --bin_width 0.02 {best}"
    return "\n".join([*lines, f"\nIt can be converted, for example: {command}"])


def write_rates(
    path: str | Path,
    out: str | Path,
    rates: np.ndarray,
    times: np.ndarray,
    unit_ids: list[int],
    description: str,
) -> None:
    """Write a copy of a session with a TimeSeries `rates` in the processing module `sbtt`. The
    session is not touched.

    Args:
        path: NWB file of the session.
        out: NWB file to write.
        rates: (n, units) firing rates (spikes/s) at n times.
        times: (n,) times of the session (s).
        unit_ids: Ids of the units in the units table.
        description: How the rates were inferred.

    Raises:
        InputError: the session cannot be read, or has a module of this name.
    """
    with atomic_write(out) as temporary:
        shutil.copyfile(path, temporary)
        temporary.chmod(0o644)  # the copy of a file that cannot be written
        with open_nwb(temporary, "r+") as nwb:
            from pynwb import TimeSeries

            if "sbtt" in nwb.processing:
                raise InputError(
                    f"{path}: has a processing module sbtt; expected a session without inferred rates"
                )
            module = nwb.create_processing_module(
                "sbtt", "Firing rates inferred by selective backpropagation through time"
            )
            ids = ", ".join(map(str, unit_ids))
            module.add(
                TimeSeries(
                    name="rates",
                    data=rates,
                    unit="spikes/s",
                    timestamps=times,
                    description=description,
                    comments=f"columns are the units with these ids: {ids}",
                )
            )
