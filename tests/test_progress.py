"""The progress of runs: what they write to their folders, and what the terminal shows of it."""

import contextlib
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import PATIENCE, ROOT, RUN, SMALL, started

from training import progress
from training.progress import FILE, Bars, Lines, Status, WriteProgress, read_status


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that a test sets."""
    clock = SimpleNamespace(now=0.0, time=lambda: clock.now, monotonic=lambda: clock.now)
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def folders(tmp_path) -> dict[str, Path]:
    return {name: tmp_path / name for name in ("five", "three")}


def write(folder: Path, done: int, total: int | None = 100, **more) -> None:
    """Write the status of a run, as the run does."""
    fraction = None if total is None else done / total
    folder.mkdir(exist_ok=True)
    status = asdict(Status("epoch", done, total, fraction, **more))
    (folder / FILE).write_text(json.dumps(status))


def seconds_left(printed: str) -> int:
    minutes, seconds = re.findall(r"(\d+):(\d+) min left", printed)[-1]
    return 60 * int(minutes) + int(seconds)


@pytest.mark.parametrize("start", [0, 50])
def test_the_time_left_of_a_run_follows_from_the_epochs_trained_now(tmp_path, clock, start):
    """Ten epochs in ten seconds, from the first epoch or after a resume."""
    writer = WriteProgress(tmp_path, n_refinement=0)
    trainer = SimpleNamespace(current_epoch=start, max_epochs=100)
    writer.on_train_start(trainer, None)
    for epoch in range(10):
        clock.now, trainer.current_epoch = epoch + 1.0, start + epoch
        writer.on_train_epoch_end(trainer, None)
    status = read_status(tmp_path)
    assert (status.stage, status.done, status.total) == ("epoch", start + 10, 100)
    assert status.seconds_left == pytest.approx(100 - start - 10)


def test_the_refinement_has_progress_and_a_time_left(train, monkeypatch, tmp_path):
    write, written = WriteProgress.write, []

    def write_and_keep(writer: WriteProgress, *args, **options) -> None:
        write(writer, *args, **options)
        written.append(read_status(tmp_path / RUN / "bandwidth_03"))

    monkeypatch.setattr(WriteProgress, "write", write_and_keep)
    train("--bandwidths 3")
    stages = [status.stage for status in written]
    n_refined = stages.count("refinement")
    # the refinement is at the end of the last epoch
    assert stages == ["epoch"] * 4 + ["refinement"] * n_refined + ["epoch"]
    *trained, end = written
    refined = trained[4:]
    assert [status.done for status in refined] == list(range(1, n_refined + 1))
    assert refined[-1].total == n_refined
    assert all(status.seconds_left > 0 for status in refined)
    fractions = [status.fraction for status in trained]
    assert fractions == sorted(fractions)
    assert fractions[-1] < end.fraction == 1
    assert re.match(r"R² +-?\d\.\d{3}$", end.score)


def test_a_run_without_a_whole_file_has_no_status(tmp_path):
    for text in (None, "", '{"stage": "epoch"}', "[1]"):
        if text is not None:
            (tmp_path / FILE).write_text(text)
        assert read_status(tmp_path) is None


@pytest.mark.parametrize("start", [0, 50])
def test_the_time_left_of_a_sweep_leaves_out_what_was_done_before(capsys, clock, folders, start):
    """Ten epochs of the first of two runs in ten seconds; the other has not begun."""
    if start:
        write(folders["five"], start, score="R²  0.500")
    lines = Lines(folders)
    lines.update()
    so_far = capsys.readouterr().out.split()
    assert so_far == (["five", "epoch", "50/100", "R²", "0.500"] if start else [])
    lines.update()
    assert capsys.readouterr().out == "", "there is nothing new"
    clock.now = 10.0
    write(folders["five"], start + 10)
    lines.update()
    assert seconds_left(capsys.readouterr().out) == 200 - start - 10


def test_without_an_end_each_validation_has_a_line(capsys, folders):
    lines = Lines(folders)
    for epoch, n_validations in ((1, 0), (2, 1), (3, 1)):
        write(folders["five"], epoch, None, score="R²  0.500", n_validations=n_validations)
        lines.update()
    assert capsys.readouterr().out.split() == ["five", "epoch", "2", "R²", "0.500"]


def test_bars_of_a_resumed_sweep_show_at_once_where_it_stands(clock, folders):
    write(folders["five"], 50, seconds_left=30.0)
    clock.now = 100.0
    bars = Bars(folders)
    bars.update()
    run, other, sweep = bars.bars.tasks
    assert (run.completed, other.completed, sweep.completed) == (0.5, 0, 0.25)
    assert run.fields["left"] == "", "the time of an earlier command says nothing"
    clock.now = 110.0
    write(folders["five"], 60, time=108.0, seconds_left=40.0)
    bars.update()
    assert (run.completed, run.fields["left"]) == (0.6, "0:38 min left")
    assert sweep.fields["left"] == "2:20 min left"  # 5% of it took ten seconds
    write(folders["five"], 100, time=150.0, seconds=50.0)
    bars.update()
    bars.close()
    assert (run.completed, run.fields["left"]) == (1, "took 0:50 min")


def test_a_terminal_shows_a_bar_for_each_run_and_one_for_the_sweep(tmp_path, small_lorenz):
    words = f"--data.path {small_lorenz} --bandwidths 3 2 --jobs 1".split()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    control, terminal = os.openpty()
    with started(
        tmp_path, f"{ROOT}/train.py", *words, *SMALL, stdout=terminal, env=environment
    ) as process:
        os.close(terminal)
        output = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(control, 10000):
                output += part
        os.close(control)
        assert process.wait(timeout=PATIENCE) == 0
    shown = " ".join(re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b" ", output).decode().split())
    assert shown.startswith("loading ... Training 2 models")
    for bandwidth in (3, 2):
        bar = rf"bandwidth {bandwidth} ━+ epoch 4/4 R² -?0\.\d{{3}} took 0:\d\d min"
        assert re.search(bar, shown)
    assert re.search("sweep ━+", shown)
