"""Sessions in NWB, made for the tests with each of the peculiarities that real files have."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pynwb import NWBHDF5IO, NWBFile
from pynwb.epoch import TimeIntervals


def some_spike_times(
    n_units: int = 6, duration: float = 100.0, rate: float = 8.0
) -> list[np.ndarray]:
    """Spike times (s) of neurons with a common rhythm of 2 Hz."""
    rng = np.random.default_rng(0)
    times = [
        np.sort(rng.uniform(0, duration, rng.poisson(2 * rate * duration))) for _ in range(n_units)
    ]
    return [
        t[rng.random(len(t)) < 0.5 + 0.5 * np.sin(4 * np.pi * t + i)] for i, t in enumerate(times)
    ]


def write_nwb(
    path: Path,
    spike_times: list[np.ndarray] | None,
    tables: dict[str, dict[str, list]] | None = None,
    quality: list[str] | None = None,
    obs_intervals: list[list] | None = None,
    invalid_times: list[tuple[float, float]] = (),
    epochs: list[tuple[float, float]] = (),
    areas: list[str] | None = None,
    ids: list[int] | None = None,
) -> str:
    """Write a session. `tables` are those of intervals: name -> column -> values; one called
    `trials` is nwb.trials."""
    nwb = NWBFile("a session of the tests", "made", datetime(2026, 1, 1, tzinfo=UTC))
    if quality is not None:
        nwb.add_unit_column("quality", "what the sorter says")
    if areas is not None:
        device = nwb.create_device("probe")
        for area in areas:
            group = nwb.create_electrode_group(
                f"shank {len(nwb.electrode_groups)}", "a shank", area, device
            )
            nwb.add_electrode(group=group, location=area)
    for unit, times in enumerate(spike_times or []):
        options = {} if quality is None else {"quality": quality[unit]}
        options |= {} if areas is None else {"electrodes": [unit]}
        options |= {} if obs_intervals is None else {"obs_intervals": obs_intervals[unit]}
        nwb.add_unit(spike_times=times, id=10 * unit if ids is None else ids[unit], **options)
    for name, columns in (tables or {}).items():
        further = [column for column in columns if column not in ("start_time", "stop_time")]
        table = None if name == "trials" else TimeIntervals(name=name, description="some trials")
        for column in further:
            (nwb.add_trial_column if table is None else table.add_column)(column, "of a trial")
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            nwb.add_trial(**row) if table is None else table.add_interval(**row)
        if table is not None:
            nwb.add_time_intervals(table)
    for start, stop in invalid_times:
        nwb.add_invalid_time_interval(start, stop)
    for start, stop in epochs:
        nwb.add_epoch(start, stop, tags=["part"])
    with NWBHDF5IO(path, "w") as file:
        file.write(nwb)
    return str(path)


def trials_of(n: int, spacing: float = 1.5, duration: float = 1.0) -> dict[str, list]:
    """A table of n trials with a cue (missing in the last), a choice (text) and a block
    (number)."""
    starts = 1.0 + spacing * np.arange(n)
    return {
        "start_time": starts.tolist(),
        "stop_time": (starts + duration).tolist(),
        "cue_time": [*(starts[:-1] + 0.3).tolist(), float("nan")],
        "choice": [("left", "right")[i % 2] for i in range(n)],
        "block": [i // 10 for i in range(n)],
    }
