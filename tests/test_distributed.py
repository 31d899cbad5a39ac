"""Two processes that train one model together."""

import contextlib
import csv
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PATIENCE, ROOT, SMALL, finish, run_here, started

from recordings import write_recording

TRAIN = str(ROOT / "train.py")
CPU = ["--trainer.accelerator", "cpu"]
TWO = [*CPU, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
SAME = ["--model.dropout", "0", "--model.coordinated_dropout", "0"]  # nothing random in a step
SHORT = ["--bandwidths", "9", *SMALL, *SAME, "--model.refinement", "2", "--trainer.max_epochs", "2"]


@pytest.fixture(scope="module")
def gaps(tmp_path_factory) -> Path:
    """64 + 15 trials: two processes observe different numbers of entries, and validate different
    numbers of trials."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("distributed") / "gaps.h5"
    spikes = rng.poisson(rng.uniform(0.1, 2.0, (79, 1, 12)), (79, 20, 12)).astype(float)
    spikes[rng.random(spikes.shape) < rng.random((79, 1, 1))] = np.nan
    write_recording(path, spikes, 0.02, rates=rng.uniform(1, 50, spikes.shape), valid_fraction=0.19)
    return path


@pytest.fixture(scope="module")
def one(gaps) -> Path:
    """The run of one process."""
    words = [
        "--data.path",
        str(gaps),
        *SHORT,
        *CPU,
        "--data.batch_size",
        "32",
        "--jobs",
        "1",
        "--name",
        "one",
    ]
    assert run_here(gaps.parent, "train.py", *words) == 0
    return gaps.parent / "lightning_logs" / "one"


def check_same_weights(one: Path, two: Path) -> None:
    one, two = (
        torch.load(run / "bandwidth_09" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (one, two)
    )
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, atol=1e-5, rtol=1e-4, msg=name)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def read(run: Path) -> list[dict[str, float]]:
    with open(run / "results.csv", newline="") as file:
        rows = [
            {name: value for name, value in row.items() if name != "prior"}
            for row in csv.DictReader(file)
        ]
    return [{name: float(value) for name, value in row.items()} for row in rows]


def test_two_processes_train_what_one_does_with_twice_the_batch(tmp_path, gaps, one):
    words = [
        "--data.path",
        str(gaps),
        *SHORT,
        *TWO,
        "--data.batch_size",
        "16",
        "--trainer.logger=true",
        "--name",
        "two",
    ]
    done = finish(tmp_path, TRAIN, *words)
    assert (done.status, done.errors) == (0, "")
    assert (
        done.output.count("Training 1 bandwidth")
        == done.output.count("bandwidth  9  epoch    2/2")
        == 1
    )
    two = tmp_path / "lightning_logs" / "two"
    assert len({path.name.split(".")[0] for path in (two / "bandwidth_09").iterdir()}) == 6
    check_same_weights(one, two)
    for row_of_one, row_of_two in zip(*map(read, (one, two)), strict=True):
        for name in set(row_of_one) - {"seconds"}:
            assert row_of_two[name] == pytest.approx(row_of_one[name], abs=1e-4, nan_ok=True), name


def under_slurm(rank: int, port: int) -> dict[str, str]:
    """Return the environment that `srun --ntasks 2` gives to one of its two processes."""
    numbers = {
        "NTASKS": 2,
        "NTASKS_PER_NODE": 2,
        "PROCID": rank,
        "LOCALID": rank,
        "NODEID": 0,
        "JOB_ID": 10000 + port,
    }
    names = {"JOB_NAME": "train", "NODELIST": "localhost", "JOB_NODELIST": "localhost"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return (
        os.environ
        | {f"SLURM_{name}": str(value) for name, value in (numbers | names).items()}
        | address
    )


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_a_launcher_may_start_the_two_processes(tmp_path, gaps, one, launcher):
    words = ["--data.path", str(gaps), *SHORT, *TWO, "--data.batch_size", "16"]
    command = [TRAIN, *words, "--name", "two"]
    port = free_port()
    if launcher == "torchrun":
        torchrun = [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            str(port),
        ]
        done = finish(tmp_path, *torchrun, *command)
        assert done.status == 0, done.errors
        output = done.output
    else:
        with contextlib.ExitStack() as stack:
            ranks = [
                stack.enter_context(started(tmp_path, *command, env=under_slurm(rank, port)))
                for rank in (0, 1)
            ]
            (output, errors), (silence, other_errors) = [
                process.communicate(timeout=PATIENCE) for process in ranks
            ]
        assert [process.returncode for process in ranks] == [0, 0], errors + other_errors
        assert (silence, errors, other_errors) == ("", "", "")
    assert output.count("Training 1 bandwidth") == output.count("bandwidth  9  epoch    2/2") == 1
    check_same_weights(one, tmp_path / "lightning_logs" / "two")


def test_a_loss_that_explodes_is_said_once(tmp_path, gaps):
    steep = [
        "--model.learning_rate=1e18",
        "--model.schedule=constant",
        "--trainer.gradient_clip_val=null",
    ]
    done = finish(
        tmp_path, TRAIN, "--data.path", str(gaps), "--bandwidths", "9", *SMALL, *steep, *TWO
    )
    assert done.status == 1
    assert done.errors.startswith("train.py: bandwidth 9 stopped: the loss of epoch")
    assert done.errors.count("\n") == 1
