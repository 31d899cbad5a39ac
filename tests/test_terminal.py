"""What the terminal says of a training's progress."""

import re

import pytest
from rich.progress import Progress

from training import terminal
from training.terminal import Bars, Lines, Report

FIVE = "bandwidth  5"


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    times = {"now": 0.0}
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: times["now"])
    return times


def seconds_left(printed: str) -> int:
    minutes, seconds = re.findall(r"(\d+):(\d+) min left", printed)[-1]
    return 60 * int(minutes) + int(seconds)


@pytest.mark.parametrize("start", [0, 50])
def test_the_time_left_follows_from_the_epochs_trained_now(capsys, clock, start):
    """Ten epochs in ten seconds, from the first epoch or after a resume."""
    lines = Lines(n_trainings=1)
    for epoch in range(start, start + 11):
        clock["now"] = float(epoch - start)
        lines.show(Report(FIVE, epoch, 100, "", False))
    assert seconds_left(capsys.readouterr().out) == 100 - start - 10


def test_bandwidths_that_have_not_started_count_whole(capsys, clock):
    lines = Lines(n_trainings=2)
    lines.show(Report(FIVE, 0, 10, "", False))
    clock["now"] = 10.0
    lines.show(Report(FIVE, 1, 10, "", False))
    assert seconds_left(capsys.readouterr().out) == 190


def test_a_resumed_bar_does_not_count_the_epochs_before():
    with Progress(disable=True) as progress:
        bars = Bars(progress, [FIVE, "bandwidth  3"])
        bars.show(Report(FIVE, 90, 100, "", False))
        bars.show(Report(FIVE, 91, 100, "", False))
        task = progress.tasks[bars.tasks[FIVE]]
        assert (task.completed, task.total) == (91, 100)
        assert task.speed is None or task.speed * (task.elapsed or 1) <= 2
        assert progress.tasks[bars.sweep].total == 200


def test_without_an_end_each_validation_has_a_line(capsys):
    lines = Lines(n_trainings=1)
    lines.show(Report(FIVE, 1, None, "", False))
    lines.show(Report(FIVE, 2, None, "R²  0.500", True))
    assert capsys.readouterr().out.split() == ["bandwidth", "5", "epoch", "2", "R²", "0.500"]
