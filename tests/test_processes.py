"""The processes that the tests start hear Ctrl-C, and none is left when a test fails."""

import os

import pytest
import torch
from conftest import PATIENCE, ROOT, SMALL, finish, started

SLEEPER = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(signal.getsignal(signal.SIGINT).__name__, flush=True)
time.sleep(1000)
"""


def fail(tmp_path, processes: list) -> None:
    with started(tmp_path, "-c", SLEEPER) as process:
        processes.append(process)
        assert process.stdout.readline() == "default_int_handler\n"
        raise RuntimeError


def test_processes_hear_ctrl_c_and_end_with_a_test_that_fails(tmp_path):
    processes = []
    with pytest.raises(RuntimeError):
        fail(tmp_path, processes)
    assert processes[0].returncode == -9


CHATTER = """
from training.parallel import train_all

def chatter(report):
    while True:
        report("going on")

def interrupt_late(report, reports=[]):
    reports.append(report)
    if len(reports) > 1000:
        raise KeyboardInterrupt

if __name__ == "__main__":
    try:
        train_all(chatter, {key: () for key in range(3)}, 2, interrupt_late)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_ends_workers_that_report_all_the_time(tmp_path):
    (tmp_path / "chatter.py").write_text(CHATTER)
    done = finish(tmp_path, "chatter.py", env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.output, done.errors) == ("interrupted\n", "")


SLEEPERS = """
import time
from training.parallel import train_all

def sleep(report):
    report("begun")
    time.sleep(1000)

if __name__ == "__main__":
    train_all(sleep, {key: () for key in range(2)}, 2, lambda report: print(report, flush=True))
"""


def test_a_process_that_is_killed_leaves_no_worker_behind(tmp_path):
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    with started(tmp_path, "sleepers.py", env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        process.kill()
        process.communicate(timeout=PATIENCE)  # ends when no process writes to its pipes any more


def test_a_training_takes_numbers_that_slow_a_cpu_down_for_zero(
    call, tmp_path, small_lorenz, no_figures
):
    """Nearly all gradients of a long trial's first bins are below 1e-38."""
    torch.set_flush_denormal(False)
    small = torch.tensor(1e-38)
    assert small / 100 > 0
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "4",
        "--jobs",
        "1",
        *SMALL,
        "--trainer.max_epochs=1",
    ]
    assert call(tmp_path, "train.py", *words).status == 0
    assert small / 100 == 0


def test_a_training_that_fills_the_memory_of_a_gpu_ends_in_one_line(
    call, monkeypatch, tmp_path, small_lorenz
):
    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("model.SequentialAutoencoder.training_step", fill)
    done = call(
        tmp_path,
        "train.py",
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "4",
        "2",
        "--jobs",
        "1",
        *SMALL,
    )
    assert done.status == 1
    assert done.errors.count("the memory of the GPU is full") == 2, "both are tried"
    assert done.errors.count("\n") == 1
