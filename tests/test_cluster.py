"""`--cluster`: what happens away from the machine that started a run."""

import sys
from pathlib import Path

import pytest
from conftest import SMALL

from command_line import InputError
from training import cluster
from training.cluster import pack, signature_of, train_remotely, unpack


class Reports:
    def put(self, report: str) -> None:
        self.last = report


def train_level(options: str, folder: Path, report) -> dict[str, float]:
    """Count the lines that were in the folder, and add one."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lines.txt", "a+") as file:
        file.seek(0)
        n_lines = len(file.readlines())
        file.write(f"{options}\n")
    report("written")
    return {"lines": n_lines}


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_folder_is_brought_back_where_the_file_system_is_not_shared(
    tmp_path, monkeypatch, is_shared
):
    home, away = tmp_path / "home", tmp_path / "away"
    run, folder = Path("lightning_logs", "run"), Path("lightning_logs", "run", "bandwidth_05")
    (home / folder).mkdir(parents=True)
    away.mkdir()
    (home / run / "config.yaml").write_text("bandwidths: [5]")
    (home / folder / "lines.txt").write_text("of a training that was stopped\n")
    monkeypatch.chdir(home)
    signature, begun = signature_of(run), pack(folder)
    monkeypatch.chdir(away)
    seen_from_there = home if is_shared else tmp_path / "only on the first machine"
    reports = Reports()
    scores, packed = train_remotely(
        train_level, ("options", folder), seen_from_there, run, signature, folder, begun, reports
    )
    assert (scores, reports.last) == ({"lines": 1}, "written")
    assert bool(packed) != is_shared
    assert (away / folder).exists() != is_shared
    monkeypatch.chdir(home)
    unpack(packed, folder)
    assert (home / folder / "lines.txt").read_text() == "of a training that was stopped\noptions\n"


def test_another_run_of_the_same_name_is_not_taken_for_this_one(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("bandwidths: [5]")
    assert signature_of(tmp_path / "here") != signature_of(tmp_path / "there")


def test_without_a_cluster_nothing_is_made(call, tmp_path, small_lorenz, monkeypatch):
    words = ["train.py", "--data.path", small_lorenz, *SMALL]
    for address in ("no such cluster", "127.0.0.1:1", "ray://127.0.0.1:1"):
        done = call(tmp_path, *words, "--cluster", address)
        assert (done.status, done.errors.count("\n")) == (2, 1)
        assert f"--cluster {address}: expected a Ray cluster there" in done.errors
    done = call(tmp_path, *words, "--cluster", "auto", "--trainer.devices", "2")
    assert (done.status, "expected one process for each training" in done.errors) == (2, True)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install -r requirements-ray.txt"):
        cluster.connect("auto")
    assert not (tmp_path / "lightning_logs").exists()
