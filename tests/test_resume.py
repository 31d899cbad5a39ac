"""Nothing is lost: a training that was killed goes on as if it had not been, and one that explodes leaves the others be."""

import csv
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from callbacks import WholeFileIO
from command_line import InputError
from evaluate import find_checkpoints
from sweep import sole_user

EPOCHS = 50
WORDS = [str(ROOT / "train.py"), "--bandwidths", "4", "2", "--jobs", "2", *SMALL, f"--trainer.max_epochs={EPOCHS}"]


def finish(folder: Path, *words: str) -> tuple[int, str]:
    process = command(folder, *words)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, small_lorenz) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    assert finish(folder, *WORDS, "--data.path", small_lorenz, "--name", "whole") == (0, "")
    return folder / "lightning_logs" / "whole"


def test_a_sweep_killed_at_random_moments_ends_with_the_same_bits(whole_run, small_lorenz):
    run = whole_run.parent / "killed"
    process = command(run.parents[1], *WORDS, "--data.path", small_lorenz, "--name", "killed")
    for _ in range(2):
        n_checkpoints, deadline = len(list(run.glob("*/last.ckpt"))), time.monotonic() + 60
        while len(list(run.glob("*/last.ckpt"))) == n_checkpoints < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 1.5))
        process.kill()
        process.communicate()
        assert not (run / "results.csv").exists()
        process = command(run.parents[1], str(ROOT / "train.py"), "--resume", str(run))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors

    for level in ("bandwidth_04", "bandwidth_02"):
        for name in ("last.ckpt", "best.ckpt"):
            whole, killed = (torch.load(path / level / name, weights_only=True) for path in (whole_run, run))
            assert whole["epoch"] == killed["epoch"]
            for key, tensor in whole["state_dict"].items():
                assert torch.equal(tensor, killed["state_dict"][key]), (name, key)
        histories = [EventAccumulator(str(path / level)).Reload().Scalars("valid/r2") for path in (whole_run, run)]
        whole, killed = ({event.step: event.value for event in history} for history in histories)
        assert len(histories[1]) == len(killed), "an epoch was drawn twice"
        assert {step: value for step, value in whole.items() if step in killed} == killed
    results = [(path / "results.csv").read_text().splitlines() for path in (whole_run, run)]
    without_time = [[row.rsplit(",", 1)[0] for row in rows] for rows in results]
    assert without_time[0] == without_time[1]
    assert [path.parent.parent for path in find_checkpoints([str(run)])] == [run, run]
    assert not list(run.rglob(".*.ckpt"))


def test_a_run_that_is_complete_is_left_alone(whole_run):
    before = {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")}
    process = command(whole_run.parents[1], str(ROOT / "train.py"), "--resume", str(whole_run))
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    assert "nothing left to do" in output
    assert {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")} == before


def resume(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    train.main()


def test_what_cannot_be_resumed_is_said_in_one_line(monkeypatch, whole_run):
    for words, message in (
        (["--resume", "none"], "--resume none: holds no config.yaml"),
        (["--resume", str(whole_run), "--bandwidths", "2"], "the options are those in .*config.yaml"),
        (["--resume", str(whole_run), "--seed_everything", "5"], "the options are those in .*config.yaml"),
    ):
        with pytest.raises(InputError, match=message):
            resume(monkeypatch, *words)


def test_two_processes_do_not_train_in_one_folder(monkeypatch, tmp_path, whole_run):
    shutil.copytree(whole_run, tmp_path / "busy", ignore=lambda *_: ["results.csv"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")}
    with sole_user(tmp_path / "busy"), pytest.raises(InputError, match="busy: another process is training there"):
        resume(monkeypatch, "--resume", str(tmp_path / "busy"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")} == before


def test_a_level_that_explodes_lets_the_others_go_on(tmp_path, data_arrays, write_file):
    data_arrays["train_data"][3, 5, 2] = 3e38  # the seed is one that does not show it at a bandwidth of 1
    words = [
        str(ROOT / "train.py"),
        "--data.path",
        write_file(data_arrays),
        "--bandwidths",
        "6",
        "1",
        "--name",
        "burst",
    ]
    status, errors = finish(tmp_path, *words, *SMALL, "--trainer.max_epochs=12")
    assert status == 1
    assert errors.startswith("train.py: bandwidth 6 stopped: the loss of epoch ")
    assert "the highest count 3e+38" in errors
    assert errors.count("\n") == 1
    with open(tmp_path / "lightning_logs" / "burst" / "results.csv") as file:
        assert [row["bandwidth"] for row in csv.DictReader(file)] == ["1"]


def test_a_level_that_explodes_leaves_the_last_good_checkpoint(tmp_path, data_file):
    steep = ["--model.learning_rate=1e18", "--model.schedule=constant", "--trainer.gradient_clip_val=null"]
    words = [str(ROOT / "train.py"), "--data.path", data_file, "--bandwidths", "6", *SMALL, *steep, "--name", "steep"]
    status, errors = finish(tmp_path, *words, "--trainer.check_val_every_n_epoch=1", "--trainer.max_epochs=50")
    assert status == 1
    assert "bandwidth 6 stopped: the loss of epoch" in errors
    assert "--model.learning_rate" in errors
    for checkpoint in tmp_path.rglob("*.ckpt"):
        for name, weights in torch.load(checkpoint, weights_only=True)["state_dict"].items():
            assert weights.isfinite().all(), name


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "last.ckpt"
    writer = WholeFileIO()
    writer.save_checkpoint({"epoch": 1}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # a disk that fills up
    try:
        with pytest.raises(OSError, match="too large"):
            writer.save_checkpoint({"epoch": 2, "weights": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_said_in_one_line(tmp_path, data_file):
    resource = pytest.importorskip("resource")
    words = [str(ROOT / "train.py"), "--data.path", data_file, "--bandwidths", "4", "2", *SMALL, "--name", "full"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("train.py: ")
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.ckpt")), "half of a checkpoint was left behind"
