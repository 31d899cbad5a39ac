"""The processes that the tests start hear Ctrl-C, and none is left when a test fails."""

import pytest
from conftest import started

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
