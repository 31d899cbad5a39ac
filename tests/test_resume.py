"""Nothing is lost: a training that was killed goes on as if it had not been, and one that explodes
leaves the others be."""

import contextlib
import csv
import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import LOGGED, PATIENCE, ROOT, SMALL, draw_no_figures, run_here, started
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evaluation.checkpoints import find_checkpoints
from training.callbacks import AtomicCheckpointIO, save_best_and_last
from training.runs import lock_folder

EPOCHS = 8
WORDS = [
    str(ROOT / "train.py"),
    "--bandwidths",
    "4",
    "2",
    "--jobs",
    "2",
    *LOGGED,
    f"--trainer.max_epochs={EPOCHS}",
]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, small_lorenz) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as patch:
        draw_no_figures(patch)
        assert (
            run_here(folder, *WORDS, "--data.path", small_lorenz, "--name", "whole", "--jobs", "1")
            == 0
        )
    return folder / "lightning_logs" / "whole"


def check_same(whole_run: Path, run: Path) -> None:
    """Expect the same bits, histories and results of a run that was killed as of one that was
    not."""
    for folder in ("bandwidth_04", "bandwidth_02"):
        for name in ("last.ckpt", "best.ckpt"):
            whole, killed = (
                torch.load(path / folder / name, weights_only=True) for path in (whole_run, run)
            )
            assert whole["epoch"] == killed["epoch"]
            for key, tensor in whole["state_dict"].items():
                assert torch.equal(tensor, killed["state_dict"][key]), (name, key)
        histories = [
            EventAccumulator(str(path / folder)).Reload().Scalars("valid/r2")
            for path in (whole_run, run)
        ]
        whole, killed = ({event.step: event.value for event in history} for history in histories)
        assert len(histories[1]) == len(killed), "an epoch was drawn twice"
        assert {step: value for step, value in whole.items() if step in killed} == killed
    results = [(path / "results.csv").read_text().splitlines() for path in (whole_run, run)]
    without_time = [[row.rsplit(",", 1)[0] for row in rows] for rows in results]
    assert without_time[0] == without_time[1]
    assert [path.parent.parent for path in find_checkpoints([str(run)])] == [run, run]
    assert not list(run.rglob(".*.ckpt"))


def test_a_sweep_killed_at_a_random_moment_ends_with_the_same_bits(call, whole_run, small_lorenz):
    run = whole_run.parent / "killed"
    with started(
        run.parents[1], *WORDS, "--data.path", small_lorenz, "--name", "killed"
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not list(run.glob("*/last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 1.5))
        process.kill()  # the workers must notice by themselves
        process.communicate(timeout=PATIENCE)  # ends when no process writes to its pipes any more
        assert not (run / "results.csv").exists()
        with (
            lock_folder(run / "bandwidth_04", patience=0),
            lock_folder(run / "bandwidth_02", patience=0),
        ):
            pass
    done = call(run.parents[1], "train.py", "--resume", str(run))
    assert done.status == 0, done.errors
    check_same(whole_run, run)


def test_a_run_that_is_complete_is_left_alone(call, whole_run):
    before = {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")}
    done = call(whole_run.parents[1], "train.py", "--resume", str(whole_run))
    assert (done.status, done.errors) == (0, "")
    assert "nothing left to do" in done.output
    assert {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")} == before


def test_the_best_score_is_remembered_where_the_folder_was_moved(tmp_path, whole_run):
    shutil.copytree(whole_run, tmp_path / "moved")
    folder = tmp_path / "moved" / "bandwidth_04"
    best, _ = save_best_and_last(folder, "valid/heldout_nll")
    saved = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"][best.state_key]
    best.load_state_dict(saved)
    assert best.best_model_path == best.kth_best_model_path == str(folder / "best.ckpt")
    assert best.best_k_models == {str(folder / "best.ckpt"): saved["best_model_score"]}


def test_what_cannot_be_resumed_is_said_in_one_line(call, whole_run):
    for words, message in (
        (["--resume", "none"], "--resume none: holds no config.yaml"),
        (
            ["--resume", str(whole_run), "--bandwidths", "2"],
            "the options are those in .*config.yaml",
        ),
        (
            ["--resume", str(whole_run), "--seed_everything", "5"],
            "the options are those in .*config.yaml",
        ),
    ):
        done = call(whole_run.parents[1], "train.py", *words)
        assert done.status == 2
        assert re.search(message, done.errors)


def test_two_runs_do_not_train_in_one_folder(monkeypatch, call, tmp_path, whole_run):
    shutil.copytree(whole_run, tmp_path / "busy", ignore=lambda *_: ["results.csv"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")}
    monkeypatch.setattr(lock_folder.__wrapped__, "__defaults__", (0.1,))
    with lock_folder(tmp_path / "busy"):
        done = call(whole_run.parents[1], "train.py", "--resume", str(tmp_path / "busy"))
    assert done.status == 2
    assert "busy: another process is training there" in done.errors
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")} == before


def read_bandwidths(run: Path) -> list[str]:
    with open(run / "results.csv") as file:
        return [row["bandwidth"] for row in csv.DictReader(file)]


def test_a_bandwidth_that_explodes_lets_the_others_go_on_and_is_never_taken_for_trained(
    call, tmp_path, data_arrays, write_file
):
    good = data_arrays["train_data"][3, 5, 4]
    data_arrays["train_data"][3, 5, 4] = (
        3e38  # the masks of seed 0 do not show it at a bandwidth of 1
    )
    words = [
        "--data.path",
        write_file(data_arrays),
        "--bandwidths",
        "6",
        "1",
        "--name",
        "burst",
        "--jobs",
        "1",
    ]
    done = call(tmp_path, "train.py", *words, *SMALL, "--trainer.max_epochs=12")
    assert done.status == 1
    assert done.errors.startswith("train.py: bandwidth 6 stopped: the loss of epoch ")
    assert "the highest count 3e+38" in done.errors
    assert done.errors.count("\n") == 1
    run = tmp_path / "lightning_logs" / "burst"
    assert read_bandwidths(run) == ["1"]

    earlier = run / "bandwidth_06" / "best.ckpt"
    existed = earlier.exists()
    if not existed:
        shutil.copy(run / "bandwidth_01" / "best.ckpt", earlier)
    plotted = call(tmp_path, "plot_results.py", str(run), "--out", "burst_figures")
    assert plotted.status == 0, plotted.errors
    assert "bandwidth_06: left out, because its training failed" in plotted.output
    if not existed:
        earlier.unlink()

    assert call(tmp_path, "train.py", "--resume", str(run)).status == 1
    data_arrays["train_data"][3, 5, 4] = good
    write_file(data_arrays)
    resumed = call(tmp_path, "train.py", "--resume", str(run))
    assert resumed.status == 0, resumed.errors
    assert "Training 1 bandwidth (6)" in resumed.output
    assert read_bandwidths(run) == ["6", "1"]


def test_a_bandwidth_that_explodes_leaves_the_last_good_checkpoint(call, tmp_path, data_file):
    steep = [
        "--model.learning_rate=1e18",
        "--model.schedule=constant",
        "--trainer.gradient_clip_val=null",
    ]
    words = ["--data.path", data_file, "--bandwidths", "6", *SMALL, *steep, "--name", "steep"]
    done = call(
        tmp_path,
        "train.py",
        *words,
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.max_epochs=50",
    )
    assert done.status == 1
    assert "bandwidth 6 stopped: the loss of epoch" in done.errors
    assert "--model.learning_rate" in done.errors
    for checkpoint in tmp_path.rglob("*.ckpt"):
        for name, weights in torch.load(checkpoint, weights_only=True)["state_dict"].items():
            assert weights.isfinite().all(), name


@contextlib.contextmanager
def small_disk(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as on a disk that fills up."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, path)
    with small_disk(10_000), pytest.raises(OSError, match="too large"):
        writer.save_checkpoint({"epoch": 2, "weights": torch.zeros(100_000)}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_said_in_one_line(call, no_figures, tmp_path, data_file):
    words = [
        "--data.path",
        data_file,
        "--bandwidths",
        "4",
        "2",
        "--jobs",
        "1",
        *LOGGED,
        "--name",
        "full",
    ]
    with small_disk(12_000):
        done = call(tmp_path, "train.py", *words)
    assert done.status == 1
    assert done.errors.startswith("train.py: ")
    assert "File too large" in done.errors
    assert done.errors.count("\n") == 1
    assert not list(tmp_path.rglob("*.ckpt")), "half of a checkpoint was left behind"


CLUSTER = """
import ray, time
ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
time.sleep(1000)
"""


def workers_of(run: Path) -> list[int]:
    """Return the processes of a Ray cluster that train in the folder of a run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"ray::train_remotely" in (process / "cmdline").read_bytes():
                files = [os.readlink(file) for file in (process / "fd").iterdir()]
                found += [int(process.name)] * any(str(run) in file for file in files)
    return found


def test_a_cluster_trains_the_same_bits_also_if_a_worker_is_killed(whole_run, small_lorenz):
    run = whole_run.parent / "cluster"
    environment = os.environ | {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    with started(whole_run, "-c", CLUSTER, env=environment) as cluster:
        address = cluster.stdout.readline().strip()
        words = [*WORDS, "--data.path", small_lorenz, "--name", run.name, "--cluster", address]
        with started(run.parents[1], *words) as process:
            deadline = time.monotonic() + PATIENCE
            while (
                not list(run.glob("*/last.ckpt"))
                and process.poll() is None
                and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            killed = workers_of(run)[0]
            os.kill(killed, signal.SIGKILL)
            output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert len(re.findall(r"bandwidth  [24]  epoch    8/8", output)) == 2
    check_same(whole_run, run)
