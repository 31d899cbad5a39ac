"""Sessions in NWB, made for the tests with each of the peculiarities that real files have."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynwb")
from pynwb import NWBHDF5IO, NWBFile
from pynwb.epoch import TimeIntervals
from pynwb.ophys import OnePhotonSeries, OpticalChannel

Table = dict[str, list]  # column: values
QUALITY = ["good", "good", "mua", "good", "good", "mua"]


def draw_spike_times(duration: float = 100.0, rate: float = 8.0) -> list[np.ndarray]:
    """Draw spike times (s) of six neurons with a common rhythm of 2 Hz."""
    rng = np.random.default_rng(0)
    times = [np.sort(rng.uniform(0, duration, rng.poisson(2 * rate * duration))) for _ in range(6)]
    return [
        t[rng.random(len(t)) < 0.5 + 0.5 * np.sin(4 * np.pi * t + i)] for i, t in enumerate(times)
    ]


def trials_of(n: int, spacing: float = 1.5) -> Table:
    """Return a table of n trials of a second, the first at 1 s, with a cue (missing in the last), a
    choice (text) and a block (number)."""
    starts = 1.0 + spacing * np.arange(n)
    return {
        "start_time": starts.tolist(),
        "stop_time": (starts + 1.0).tolist(),
        "cue_time": [*(starts[:-1] + 0.3).tolist(), float("nan")],
        "choice": [("left", "right")[i % 2] for i in range(n)],
        "block": [i // 10 for i in range(n)],
    }


SPIKE_TIMES = draw_spike_times()


def write_nwb(
    path: Path,
    spike_times: list[np.ndarray] = SPIKE_TIMES,
    trials: Table | None = None,
    further: dict[str, Table] | None = None,
    quality: list[str] | None = None,
    obs_intervals: list[list] | None = None,
    invalid_times: list[tuple[float, float]] = (),
    epochs: list[tuple[float, float]] = (),
    areas: list[str] | None = None,
    ids: list[int] | None = None,
    heldout: list[bool] | None = None,
) -> str:
    """Write a session. `trials` is its table of trials, `further` are other tables of intervals;
    the other lists have an element for each unit, or each interval."""
    nwb = NWBFile("a session of the tests", "made", datetime(2026, 1, 1, tzinfo=UTC))
    if quality is not None:
        nwb.add_unit_column("quality", "what the sorter says")
    if heldout is not None:
        nwb.add_unit_column("heldout", "never seen by the encoder")
    device = nwb.create_device("probe")
    for number, area in enumerate(areas or []):
        group = nwb.create_electrode_group(f"shank {number}", "a shank", area, device)
        nwb.add_electrode(group=group, location=area)
    electrodes = areas and [[unit] for unit in range(len(areas))]
    columns = {"quality": quality, "obs_intervals": obs_intervals, "electrodes": electrodes}
    columns["heldout"] = heldout
    columns["id"] = ids or [10 * unit for unit in range(len(spike_times))]
    for unit, times in enumerate(spike_times):
        options = {name: of[unit] for name, of in columns.items() if of is not None}
        nwb.add_unit(spike_times=times, **options)
    for name, rows in {"trials": trials, **(further or {})}.items():
        if rows is None:
            continue
        table = TimeIntervals(name=name, description="some trials")
        for column in list(rows)[2:]:  # after start and stop
            table.add_column(column, "of a trial")
        for values in zip(*rows.values(), strict=True):
            table.add_interval(**dict(zip(rows, values, strict=True)))
        if name == "trials":
            nwb.trials = table
        else:
            nwb.add_time_intervals(table)
    for start, stop in invalid_times:
        nwb.add_invalid_time_interval(start, stop)
    for start, stop in epochs:
        nwb.add_epoch(start, stop, tags=["part"])
    with NWBHDF5IO(path, "w") as file:
        file.write(nwb)
    return str(path)


def write_calcium(path: Path | str) -> None:
    """Write a session of a microscope, without units."""
    nwb = NWBFile("a session of the tests", "made", datetime(2026, 1, 1, tzinfo=UTC))
    channel = OpticalChannel(name="green", description="a channel", emission_lambda=510.0)
    plane = nwb.create_imaging_plane(
        name="plane",
        optical_channel=channel,
        description="a plane",
        device=nwb.create_device("microscope"),
        excitation_lambda=480.0,
        indicator="GCaMP",
        location="M1",
    )
    frames, options = np.zeros((3, 2, 2)), {"unit": "none", "rate": 10.0}
    nwb.add_acquisition(OnePhotonSeries(name="a", data=frames, imaging_plane=plane, **options))
    with NWBHDF5IO(path, "w") as file:
        file.write(nwb)
