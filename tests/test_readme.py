"""What the README says is so: its commands run, its table is what the committed checkpoints
give."""

import csv
import os
import re
import shlex
import time
import urllib.request
from pathlib import Path

import h5py
import pytest
from conftest import PATIENCE, ROOT, check_command, commands_in, tensorboard
from PIL import Image

README = (ROOT / "README.md").read_text(encoding="utf-8")
IN_TEXT = re.findall(r"(?<!`)`(python [^`]+)`(?!`)", README.replace("\n", " "))
COMMANDS = commands_in(README) + IN_TEXT
OWN_RECORDINGS = README.split("## Your own recordings")[1].split("\n## ")[
    0
]  # has a test of its own
# .ci/run makes the environment, calls pytest and runs the main job; tensorboard has a test of its
# own
MAIN_JOB = ["python train.py", "python plot_results.py"]
# twenty and thirty-five minutes; .ci/run runs the benchmark with --quick, test_experiments.py the
# ablation in small
OF_EXPERIMENTS = ("why", "overfitting")  # figures
LONG = ("python -m experiments.benchmark", "python -m experiments.ablation")
SCRIPTS = [
    command
    for command in dict.fromkeys(COMMANDS)
    if re.match(r"python (\w+\.py|-m experiments)", command)
    and command not in (*MAIN_JOB, *OWN_RECORDINGS.splitlines())
    and not command.startswith(LONG)
]


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_command_of_the_readme_runs(call, copy_of_repo, command):
    check_command(call, copy_of_repo, shlex.split(command)[1:])


def test_own_recordings_go_in_and_rates_come_out(monkeypatch, call, copy_of_repo):
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", OWN_RECORDINGS, re.DOTALL):
        if language == "python":
            with monkeypatch.context() as patch:
                patch.chdir(copy_of_repo)
                exec(block, {})
        else:
            for line in block.splitlines():
                check_command(call, copy_of_repo, shlex.split(line)[1:])
    with h5py.File(copy_of_repo / "rates.h5") as file:
        assert file["valid_rates"].shape == (20, 50, 12)


def test_there_is_nothing_else_to_run():
    others = [
        command for command in COMMANDS if command not in (*SCRIPTS, *OWN_RECORDINGS.splitlines())
    ]
    known = (
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        "pip install -r requirements",
        "tensorboard --logdir",
        "ruff check .",
        "python -m pytest",
    )
    unknown = [
        command
        for command in others
        if command not in MAIN_JOB and not command.startswith((*known, *LONG))
    ]
    assert unknown == []


def test_tensorboard_shows_the_pretrained_runs():
    command = next(command for command in COMMANDS if command.startswith("tensorboard"))
    with tensorboard(ROOT, *shlex.split(command)[1:]) as address:
        deadline, runs = time.monotonic() + PATIENCE, ""
        while "bandwidth_02" not in runs and time.monotonic() < deadline:
            runs = urllib.request.urlopen(address + "/data/runs", timeout=10).read().decode()
            time.sleep(0.2)
    for bandwidth in (29, 25, 20, 15, 10, 5, 3, 2):
        assert f"pretrained/bandwidth_{bandwidth:02}" in runs


def test_the_pretrained_models_give_the_committed_numbers(copy_of_repo):
    """To the third digit: another CPU may round otherwise."""
    figures = copy_of_repo / "figures"  # made by a command above

    def read(path: Path) -> dict[str, dict[str, str]]:
        with open(path, newline="") as file:
            return {row["checkpoint"]: row for row in csv.DictReader(file)}

    committed, today = read(ROOT / "figures" / "results.csv"), read(figures / "results.csv")
    assert committed.keys() == today.keys()
    for checkpoint, row in committed.items():
        for column in ("r2", "r2_unobserved", "r2_amortised", "r2_ideal"):
            assert float(row[column]) == pytest.approx(
                float(today[checkpoint][column]), abs=1e-3, nan_ok=True
            )
    made = {path.name for path in figures.iterdir()} | {
        f"{name}.{end}" for name in OF_EXPERIMENTS for end in ("png", "pdf")
    }
    assert made == {path.name for path in (ROOT / "figures").iterdir()}


def test_the_figures_of_the_experiments_are_those_of_the_committed_histories(call, tmp_path):
    done = call(tmp_path, "-m", "experiments.learning_curves", "--out", "figures")
    assert (done.status, done.errors) == (0, "")
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == {
        f"{name}.png" for name in OF_EXPERIMENTS
    }


def test_the_readme_shows_the_committed_table():
    assert (ROOT / "figures" / "results.md").read_text(encoding="utf-8") in README


def test_the_pretrained_models_are_at_least_as_good_as_published():
    with open(ROOT / "evaluation" / "published_r2.csv", newline="") as file:
        published = {row["bandwidth"]: float(row["valid_r2"]) for row in csv.DictReader(file)}
    with open(ROOT / "figures" / "results.csv", newline="") as file:
        ours = {row["bandwidth"]: float(row["r2"]) for row in csv.DictReader(file)}
    assert ours.keys() == published.keys()
    assert all(ours[bandwidth] >= published[bandwidth] for bandwidth in published)


def test_the_repository_stays_small():
    pretrained = [
        path for path in (ROOT / "lightning_logs" / "pretrained").rglob("*") if path.is_file()
    ]
    assert sum(path.stat().st_size for path in pretrained if path.name != "last.ckpt") < 10e6
    assert os.path.getsize(ROOT / "lorenz_data.h5") < 3e6


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        *(
            f"docs/{name}.md"
            for name in ("tour", "recipe", "notebook", "recordings", "evidence", "scaling")
        ),
    ],
)
def test_linked_files_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", text.replace("](http", "](:")):
        assert ((ROOT / document).parent / target).exists(), target


def test_every_figure_is_told_to_those_who_cannot_see_it():
    figures = re.findall(r"!\[([^]]*)\]\(([^)]+)\)", README)
    assert {Path(path).name for _, path in figures} >= {
        path.name for path in (ROOT / "figures").glob("*.png")
    }
    assert all(len(alt) > 60 for alt, _ in figures)


def test_the_animation_is_small_and_has_a_picture_for_each_bandwidth():
    path = ROOT / "figures" / "fewer_neurons.gif"
    assert path.stat().st_size < 3e6
    assert Image.open(path).n_frames == 8
