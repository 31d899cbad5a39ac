"""Nothing is lost: a sweep that was killed continues as if it had not been, and a run that explodes
leaves the others be."""

import contextlib
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
from conftest import (
    LOGGED,
    PATIENCE,
    ROOT,
    RUN,
    STEEP,
    draw_no_figures,
    have_same_weights,
    read_history,
    run_here,
    started,
    wait_until,
    weights_of,
)

from evaluation.run_folders import find_checkpoints, lock_folder, read_results, run_folder
from training.callbacks import AtomicCheckpointIO, save_best_and_last

WORDS = [f"{ROOT}/train.py", *LOGGED, "--trainer.max_epochs=24", "--bandwidths", "4", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_lorenz) -> Path:
    """A sweep that was not stopped."""
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as patch:
        draw_no_figures(patch)
        words = ["--data.path", small_lorenz, "--jobs", "1", "--name", "whole"]
        assert run_here(folder, *WORDS, *words) == 0
    return folder / "lightning_logs" / "whole"


def check_same(whole: Path, stopped: Path, bandwidths: tuple[int, ...] = (4, 2)) -> None:
    """Expect the same bits, histories and results of a sweep that was killed as of one that was
    not."""
    for run in map(run_folder, bandwidths):
        for name in ("last.ckpt", "best.ckpt"):
            assert have_same_weights(whole / run / name, stopped / run / name), (run, name)
            first, second = (
                torch.load(path / run / name, weights_only=True)["epoch"]
                for path in (whole, stopped)
            )
            assert first == second
        assert read_history(stopped / run, "valid/r2").items() <= (
            read_history(whole / run, "valid/r2").items()
        )
    first, second = map(read_results, (whole, stopped))
    first = [row for row in first if row["bandwidth"] in bandwidths]
    assert [row | {"seconds": 0} for row in first] == [row | {"seconds": 0} for row in second]
    assert len(find_checkpoints([str(stopped)])) == len(bandwidths)
    assert not list(stopped.rglob(".*.ckpt"))


def test_a_sweep_killed_at_a_random_moment_ends_with_the_same_bits(call, whole, small_lorenz):
    folder = whole.parent / "killed"
    words = [*WORDS, "--data.path", small_lorenz, "--jobs", "2", "--name", "killed"]
    with started(whole.parents[1], *words) as process:
        wait_until(lambda: list(folder.glob("*/last.ckpt")))
        time.sleep(random.uniform(0.0, 1.5))
        process.kill()  # the workers must notice by themselves
        process.communicate(timeout=PATIENCE)  # ends when no process writes to its pipes any more
        assert not (folder / "results.csv").exists()
        for run in folder.glob("bandwidth_*"):
            with lock_folder(run, patience=0):
                pass
    done = call(whole.parents[1], "train.py", "--resume", str(folder))
    assert done.status == 0, done.errors
    check_same(whole, folder)


def times_of(folder: Path) -> dict[Path, int]:
    """When the files of a folder were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_sweep_that_is_complete_is_left_alone(call, whole):
    before = times_of(whole)
    done = call(whole.parents[1], "train.py", "--resume", str(whole))
    assert (done.status, done.errors) == (0, "")
    assert "nothing left to do" in done.output
    assert times_of(whole) == before


def test_the_best_score_is_remembered_where_the_folder_was_moved(tmp_path, whole):
    folder = shutil.copytree(whole, tmp_path / "moved") / "bandwidth_04"
    best, _ = save_best_and_last(folder, "valid/heldout_nll")
    saved = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"][best.state_key]
    best.load_state_dict(saved)
    assert best.best_model_path == best.kth_best_model_path == str(folder / "best.ckpt")
    assert best.best_k_models == {str(folder / "best.ckpt"): saved["best_model_score"]}


@pytest.mark.parametrize(
    ("folder", "more", "message"),
    [
        ("none", "", "--resume none: holds no config.yaml"),
        ("WHOLE", "--bandwidths 2", "the options are those in .*config.yaml"),
        ("WHOLE", "--seed_everything 5", "expected only --jobs, --cluster, --quiet beside it"),
    ],
)
def test_what_cannot_be_resumed_is_said_in_one_line(call, whole, folder, more, message):
    folder = folder.replace("WHOLE", str(whole))
    done = call(whole.parents[1], "train.py", "--resume", folder, *more.split())
    assert (done.status, done.errors.count("\n")) == (2, 1)
    assert re.search(message, done.errors)


def test_two_commands_do_not_train_in_one_folder(monkeypatch, call, tmp_path, whole):
    busy = tmp_path / "busy"
    shutil.copytree(whole, busy, ignore=lambda *_: ["results.csv"])
    monkeypatch.setattr(lock_folder.__wrapped__, "__defaults__", (0.1,))
    with lock_folder(busy):
        before = times_of(busy)
        done = call(whole.parents[1], "train.py", "--resume", str(busy))
        assert times_of(busy) == before
    assert done.status == 2
    assert "busy: another process is training there" in done.errors


def test_a_run_that_explodes_lets_the_others_continue_and_is_never_taken_for_trained(
    call, train, tmp_path, data_arrays, write_file
):
    good, folder = data_arrays["train_data"][3, 5, 4], tmp_path / RUN
    # the masks of seed 0 do not show it at a bandwidth of 1
    data_arrays["train_data"][3, 5, 4] = 3e38
    words = f"--data.path {write_file(data_arrays)} --bandwidths 6 1 --trainer.max_epochs=12"
    done = train(words, status=1)
    assert done.errors.startswith("train.py: bandwidth 6 stopped: the loss of epoch ")
    assert "the highest count 3e+38" in done.errors
    assert [row["bandwidth"] for row in read_results(folder)] == [1]

    earlier = folder / "bandwidth_06" / "best.ckpt"  # of an epoch before, if there was one
    if not (existed := earlier.exists()):
        shutil.copy(folder / "bandwidth_01" / "best.ckpt", earlier)
    plotted = call(tmp_path, "plot_results.py", str(folder), "--out", "figures")
    assert plotted.status == 0, plotted.errors
    assert "bandwidth_06: left out, because it failed" in plotted.output
    if not existed:
        earlier.unlink()

    assert call(tmp_path, "train.py", "--resume", str(folder)).status == 1
    data_arrays["train_data"][3, 5, 4] = good
    write_file(data_arrays)
    resumed = call(tmp_path, "train.py", "--resume", str(folder))
    assert resumed.status == 0, resumed.errors
    assert f"Training 1 model in {folder}: bandwidth  6\n" in resumed.output
    assert [row["bandwidth"] for row in read_results(folder)] == [6, 1]


def test_a_run_that_explodes_leaves_the_last_good_checkpoint(train, tmp_path, data_file):
    words = f"--data.path {data_file} --bandwidths 6 --trainer.check_val_every_n_epoch=1 {STEEP}"
    done = train(f"{words} --trainer.max_epochs=50", status=1)
    assert "bandwidth 6 stopped: the loss of epoch" in done.errors
    assert "--model.learning_rate" in done.errors
    for checkpoint in tmp_path.rglob("*.ckpt"):
        assert all(weights.isfinite().all() for weights in weights_of(checkpoint).values())


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
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, path)
    with small_disk(10_000), pytest.raises(OSError, match="too large"):
        writer.save_checkpoint({"epoch": 2, "weights": torch.zeros(100_000)}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_said_in_one_line(train, tmp_path, data_file):
    with small_disk(12_000):
        done = train(f"--data.path {data_file} --bandwidths 4 2 --trainer.logger=true", status=1)
    assert done.errors.startswith("train.py: ")
    assert "File too large" in done.errors
    assert not list(tmp_path.rglob("*.ckpt")), "half of a checkpoint was left behind"


CLUSTER = """
import ray, time
ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
time.sleep(1000)
"""


def workers_in(folder: Path) -> list[int]:
    """Return the processes of a Ray cluster that train in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"ray::work_there" in (process / "cmdline").read_bytes():
                files = [os.readlink(file) for file in (process / "fd").iterdir()]
                found += [int(process.name)] * any(str(folder) in file for file in files)
    return found


def test_a_cluster_trains_the_same_bits_also_if_a_worker_is_killed(whole, small_lorenz):
    folder = whole.parent / "cluster"
    environment = os.environ | {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    with started(whole, "-c", CLUSTER, env=environment) as cluster:
        address = cluster.stdout.readline().strip()
        words = [*WORDS[:-1], "--data.path", small_lorenz, "--name", "cluster"]  # one bandwidth
        words += ["--cluster", address]
        with started(whole.parents[1], *words) as process:
            wait_until(lambda: list(folder.glob("*/last.ckpt")) or process.poll() is not None)
            os.kill(workers_in(folder)[0], signal.SIGKILL)
            output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert len(re.findall(r"bandwidth  4 +epoch +24/24", output)) == 1
    check_same(whole, folder, (4,))
