"""Sessions in Neurodata Without Borders (NWB): spike times out, rates into a copy. Needs pynwb.

Spike times are read unit by unit; nothing else that is large is read.
"""

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from command_line import InputError, atomic_write, number_of, require
from recordings.binning import ROUNDING
from recordings.hdf5 import open_to_write

INSTALL = "pynwb is not installed; expected it for NWB files: pip install -r requirements-nwb.txt"
CALCIUM = {"TwoPhotonSeries", "OnePhotonSeries", "RoiResponseSeries"}
MIN_SILENCE, MAX_INTERVALS = 10, 100  # s, mean intervals between spikes; no unit is silent longer


def read_version(path: str | Path) -> str | None:
    """Return the NWB schema that an HDF5 file names, None without; OSError if it is no HDF5."""
    with h5py.File(path) as file:
        version = file.attrs.get("nwb_version")
        is_here = isinstance(file.get("nwb_version", getlink=True), h5py.HardLink)
        if version is None and is_here and getattr(file["nwb_version"], "shape", None) == ():
            version = file["nwb_version"][()]
    return version.decode(errors="replace") if isinstance(version, bytes) else version


def is_nwb(path: str | Path) -> bool:
    """Return whether a file calls itself NWB, by its name or in it."""
    if str(path).endswith(".nwb"):
        return True
    try:
        return read_version(path) is not None
    except OSError:
        return False


@contextlib.contextmanager
def open_nwb(path: str | Path, mode: Literal["r", "r+"] = "r") -> Iterator:
    """Open an NWB file and yield pynwb's object. What is added to it is written in mode r+.

    Raises:
        InputError: not a valid NWB file of schema 2.0 or later, or pynwb is not installed.
    """
    require(Path(path).is_file(), f"{path}: no such file; expected an NWB file")
    try:
        version = read_version(path)
    except OSError:
        raise InputError(f"{path}: cannot be read as HDF5; expected an NWB file") from None
    require(version is not None, f"{path}: has no nwb_version; expected an NWB file")
    is_recent = str(version).removeprefix("NWB-").startswith("2")
    require(is_recent, f"{path}: has the NWB schema {version}; expected 2.0 or later")
    try:
        from pynwb import NWBHDF5IO
    except ImportError:
        raise InputError(f"{path}: {INSTALL}") from None
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # about cached schemas
        try:
            file = h5py.File(path) if mode == "r" else open_to_write(path, mode)
            file = stack.enter_context(file)
            session = stack.enter_context(NWBHDF5IO(mode=mode, file=file, load_namespaces=True))
            nwb = session.read()
        except Exception as error:  # pynwb raises what its validators raise
            message = f"pynwb cannot read it ({error}); expected a valid NWB file"
            raise InputError(f"{path}: {message}") from None
        yield nwb
        if mode == "r+":
            session.write(nwb)


def list_tables(nwb) -> dict[str, object]:
    """Return the tables of intervals by name, without those of invalid times."""
    tables = dict(nwb.intervals.items()) if nwb.intervals else {}
    tables |= {"trials": nwb.trials, "epochs": nwb.epochs}
    return {
        name: table
        for name, table in tables.items()
        if table is not None and name != "invalid_times"
    }


def scalar_columns(table) -> dict[str, np.ndarray]:
    """Return the columns with one number or text per row: (rows,) arrays, text as str."""
    columns = {}
    for name in table.colnames:
        column = table[name]
        if hasattr(column, "target") or len(getattr(column.data, "shape", (0,))) > 1:
            continue  # several values per row
        values = np.asarray(column.data[:])
        if values.dtype.kind in "SO" and all(isinstance(value, str | bytes) for value in values):
            values = np.array([v.decode() if isinstance(v, bytes) else v for v in values])
        if values.dtype.kind in "biufU":
            columns[name] = values
    return columns


def read_column(table, name: str, path: str | Path, flag: str) -> np.ndarray:
    """Return a column (rows,) of numbers or text; raise InputError naming `flag` without one."""
    columns = scalar_columns(table)
    expected = f"expected a column of {table.name}: {', '.join(columns)}"
    require(name in columns, f"{path}: --{flag} {name}: {expected}")
    return columns[name]


def read_unit_ids(nwb) -> np.ndarray:
    """Return the ids of the units; their rows if an id repeats, as after probes were merged."""
    ids = np.asarray(nwb.units.id[:])
    return ids if len(np.unique(ids)) == len(ids) else np.arange(len(ids))


def unit_columns(nwb) -> dict[str, np.ndarray]:
    """Return the columns (units,) to choose units by, with those of each unit's first electrode."""
    columns = scalar_columns(nwb.units)
    if "electrodes" not in nwb.units.colnames:
        return columns
    columns.pop("electrodes", None)
    region, rows = nwb.units["electrodes"], np.arange(len(nwb.units))
    if hasattr(region, "target"):  # several electrodes per unit
        ends = np.asarray(region.data[:]).astype(int)
        rows, region = np.append(0, ends)[: len(ends)], region.target
    places = np.asarray(region.data[:]).astype(int)
    if len(places) == 0 or rows.max(initial=0) >= len(places):
        return columns
    electrodes = scalar_columns(region.table)
    return {name: values[places[rows]] for name, values in electrodes.items()} | columns


def read_units(
    nwb, path: str | Path
) -> tuple[list[np.ndarray], list[np.ndarray | None], list[str]]:
    """Return each unit's spike times (s) and observed intervals, if given, and what was mended.

    Raises:
        InputError: no spikes, or times that start again in most units.
    """
    has_units = nwb.units is not None and len(nwb.units) and "spike_times" in nwb.units.colnames
    if not has_units:
        series = sorted({type(item).__name__ for item in nwb.objects.values()} & CALCIUM)
        calcium = f", but calcium imaging ({', '.join(series)})" if series else ""
        raise InputError(f"{path}: has no units with spike_times{calcium}; expected sorted spikes")
    has_intervals, notes, times, intervals = "obs_intervals" in nwb.units.colnames, [], [], []
    n_restarts = []
    for row, unit in enumerate(read_unit_ids(nwb)):
        given = np.asarray(nwb.units["spike_times"][row], dtype=float)
        finite = given[np.isfinite(given)]
        if len(finite) < len(given):
            n_wrong = number_of(len(given) - len(finite), "spike time")
            notes.append(f"unit {unit}: {n_wrong} left out, because not a number")
        n_restarts.append(count_restarts(finite))
        if n_restarts[-1]:
            again = f"spike times start again {number_of(n_restarts[-1], 'time')} and were sorted"
            notes.append(f"unit {unit}: {again}; are they of several units or recordings?")
        elif (np.diff(finite) < 0).any():
            notes.append(f"unit {unit}: spike times were out of order and were sorted")
        observed = np.reshape(nwb.units["obs_intervals"][row], (-1, 2)) if has_intervals else None
        if observed is not None and len(observed) == 0 and len(finite):
            observed, taken = None, "was taken as observed at all times"
            notes.append(f"unit {unit}: has spikes but no obs_intervals, and {taken}")
        times.append(np.sort(finite))
        intervals.append(observed)
    n_active, n_restarting = sum(map(bool, map(len, times))), np.count_nonzero(n_restarts)
    require(n_active > 0, f"{path}: no unit has a spike; expected some")
    found = f"{path}: spike times of {n_restarting} of {n_active} units start again, "
    found += f"up to {number_of(max(n_restarts), 'time')}, as if each trial had a clock of its own"
    require(n_restarting <= max(1, n_active / 2), f"{found}; expected times since one start (s)")
    if len(np.unique(nwb.units.id[:])) < len(times):
        notes.append("several units have the same id; units are named by their rows, from 0")
    return times, intervals, notes


def count_restarts(times: np.ndarray) -> int:
    """Return how often spike times go back by a tenth of their span; 0 if they are in disorder."""
    n_restarts = int((np.diff(times) < -0.1 * np.ptp(times)).sum()) if len(times) else 0
    return n_restarts if n_restarts <= len(times) / 3 else 0


def find_silences(times: list[np.ndarray], longest: float | None = None) -> np.ndarray:
    """Return the times (n, 2; s) of more than `longest` seconds in which no unit has a spike.

    None: those that are too long for the mean rate of all units.
    """
    merged = np.sort(np.concatenate(times))
    if longest is None:
        longest = max(MIN_SILENCE, MAX_INTERVALS * np.ptp(merged) / len(merged))
    before = np.flatnonzero(np.diff(merged) > longest)
    return np.stack((merged[before], merged[before + 1]), axis=1)


def describe_silences(silences: np.ndarray) -> list[str]:
    """Return a line that names silences (n, 2; s), if there are any."""
    if len(silences) == 0:
        return []
    durations = np.diff(silences)[:, 0]
    start, stop = silences[durations.argmax()]
    others = f" (and in {len(silences) - 1} more such times)" if len(silences) > 1 else ""
    mend = f"--max_silence {durations.min() / 2:.0f} makes its bins missing"
    silent = f"no unit has a spike from {start:.1f} to {stop:.1f} s{others}"
    return [f"{silent}; if nothing was recorded then, {mend}"]


def read_invalid_times(nwb) -> np.ndarray:
    """Return the intervals (n, 2; s) in which nothing counts."""
    if nwb.invalid_times is None:
        return np.empty((0, 2))
    ends = [nwb.invalid_times[name].data[:] for name in ("start_time", "stop_time")]
    return np.stack(ends, axis=1)


def recorded_range(
    times: list[np.ndarray], intervals: list[np.ndarray | None]
) -> tuple[float, float]:
    """Return the first and last time (s) of the observed intervals, or of spikes without any."""
    given = [observed.ravel() for observed in intervals if observed is not None and observed.size]
    known = np.concatenate(given or times)
    return float(known.min()), float(known.max())


def write_inferred(
    path: str | Path,
    out: str | Path,
    series: dict[str, tuple[np.ndarray, str]],
    times: np.ndarray,
    unit_ids: list[int],
    description: str,
) -> None:
    """Write a copy of a session with what was inferred, in the processing module `ecephys`.

    Args:
        path: NWB file of the session, which is not touched.
        out: NWB file to write.
        series: For each name, an array (n, ...) at the `times`, and its unit.
        times: (n,) times of the session (s).
        unit_ids: Ids of the units in the units table, for the table `inferred_units`.
        description: How it was inferred.

    Raises:
        InputError: the session cannot be read, or has such series.
    """
    steps, clock = np.diff(times), {"timestamps": times}
    if len(times) > 1 and np.ptp(steps) < ROUNDING:
        clock = {"starting_time": times[0], "rate": 1 / steps.mean()}
    with atomic_write(out) as temporary:
        shutil.copyfile(path, temporary)
        temporary.chmod(0o644)  # the copy of a file that cannot be written
        with open_nwb(temporary, "r+") as nwb:
            from hdmf.common import DynamicTable
            from pynwb import TimeSeries

            if "ecephys" not in nwb.processing:
                nwb.create_processing_module("ecephys", "processed extracellular recordings")
            module = nwb.processing["ecephys"]
            for name, (data, unit) in series.items():
                found = f"{path}: has {name} in the processing module ecephys"
                require(name not in module.data_interfaces, f"{found}; expected none")
                about = {"unit": unit, "description": description}
                module.add(TimeSeries(name=name, data=data, **clock, **about))
            table = DynamicTable("inferred_units", "the units of inferred_rates, column by column")
            table.add_column("unit", "a unit", table=nwb.units, index=False)
            ids = read_unit_ids(nwb).tolist()
            for unit in unit_ids:
                table.add_row(unit=ids.index(unit))
            module.add(table)
