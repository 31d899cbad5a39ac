"""Several tasks at a time, in processes of this machine or on a cluster.

That none of these is left when a command is stopped, test_train.py (Ctrl-C) and test_resume.py
(killed) show.
"""

import os
import sys

import pytest
from conftest import started

from command_line import FailedWork, InputError
from training import pool

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


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_each_task_has_its_result(n_jobs):
    assert pool.work_here(pow, {n: (n, 2) for n in range(4)}, n_jobs) == {n: n**2 for n in range(4)}


def test_a_worker_that_is_killed_is_said():
    results = pool.work_here(os._exit, {1: (9,), 2: (9,)}, 2)
    for result in results.values():
        assert isinstance(result, FailedWork)
        assert "its process was killed, perhaps for lack of memory" in str(result)


@pytest.mark.parametrize(("n_gpus", "expected"), [(0, 64), (1, 8), (4, 32), (16, 64)])
def test_a_gpu_is_shared_by_a_few_runs(monkeypatch, n_gpus, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)
    monkeypatch.setattr(pool, "n_cores", lambda: 64)
    assert pool.default_jobs() == expected


def test_a_machine_that_does_not_see_the_folder_of_the_sweep_says_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    home, folder = tmp_path / "home", "lightning_logs/run"
    result = pool.work_there(os.getcwd, home, folder)
    assert isinstance(result, FailedWork)
    assert f"does not see {home / folder}; expected a folder that all" in str(result)
    (home / folder).mkdir(parents=True)
    (home / folder / "config.yaml").touch()
    assert pool.work_there(os.getcwd, home, folder) == str(home)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_without_a_cluster_nothing_is_made(train, tmp_path, address):
    done = train(f"--cluster {address}", status=2)
    assert f"--cluster {address}: expected a Ray cluster there" in done.errors
    assert not (tmp_path / "lightning_logs").exists()


def test_without_ray_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install -r requirements-ray.txt"):
        pool.connect("auto")
