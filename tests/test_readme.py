"""What the README says is so: its commands run, its table is what the committed checkpoints
give."""

import re
import shlex
import urllib.request
from pathlib import Path

import h5py
import pytest
from conftest import ROOT, check_command, commands_in, tensorboard, wait_until
from PIL import Image

from command_line import read_table
from evaluation.reference import read_published

README = (ROOT / "README.md").read_text(encoding="utf-8")
IN_TEXT = re.findall(r"(?<!`)`(python [^`]+)`(?!`)", README.replace("\n", " "))
COMMANDS = commands_in(README) + IN_TEXT
OWN_RECORDINGS = README.split("## Your own recordings")[1].split("\n## ")[0]
FIGURES = ROOT / "figures"
OF_EXPERIMENTS = {"why", "overfitting"}  # figures
# what is tested elsewhere: .ci/run makes the environment, runs the main job and calls ruff and
# pytest; the experiments take twenty and thirty-five minutes
MAIN_JOB = ("python train.py", "python plot_results.py")
ELSEWHERE = (
    *("python3 -m venv", ". .venv/bin/activate", "pip install -r requirements"),
    *("ruff check .", "python -m pytest", "tensorboard --logdir"),
    *("python -m experiments.benchmark", "python -m experiments.ablation"),
)
SCRIPTS = [
    command
    for command in dict.fromkeys(COMMANDS)
    if command not in (*MAIN_JOB, *OWN_RECORDINGS.splitlines())
    and not command.startswith(ELSEWHERE)
]


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_command_of_the_readme_runs(call, copy_of_repo, command):
    assert command.startswith("python ")
    check_command(call, copy_of_repo, shlex.split(command)[1:])


def test_own_recordings_go_in_and_rates_come_out(monkeypatch, call, copy_of_repo):
    monkeypatch.chdir(copy_of_repo)
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", OWN_RECORDINGS, re.DOTALL):
        if language == "python":
            exec(block, {})
            continue
        for line in block.splitlines():
            check_command(call, copy_of_repo, shlex.split(line)[1:])
    with h5py.File("rates.h5") as file:
        assert file["valid_rates"].shape == (20, 50, 12)


def test_tensorboard_shows_the_pretrained_runs():
    command = next(command for command in COMMANDS if command.startswith("tensorboard"))
    with tensorboard(ROOT, *shlex.split(command)[1:]) as address:

        def shown() -> str:
            return urllib.request.urlopen(address + "/data/runs", timeout=10).read().decode()

        for bandwidth in read_published():
            wait_until(lambda name=f"pretrained/bandwidth_{bandwidth:02}": name in shown())


def test_the_pretrained_models_give_the_committed_numbers(copy_of_repo):
    """To the third digit: another CPU may round otherwise."""
    committed = read_table(FIGURES / "results.csv")
    made = copy_of_repo / "figures"  # by a command above
    for row, again in zip(committed, read_table(made / "results.csv"), strict=True):
        assert row["checkpoint"] == again["checkpoint"]
        for column in ("r2", "r2_unobserved", "r2_amortised", "r2_ideal"):
            today = pytest.approx(float(again[column]), abs=1e-3, nan_ok=True)
            assert float(row[column]) == today
    of_experiments = {f"{name}.{end}" for name in OF_EXPERIMENTS for end in ("png", "pdf")}
    names = {path.name for path in made.iterdir()}
    assert names | of_experiments == {path.name for path in FIGURES.iterdir()}


def test_the_figures_of_the_experiments_are_those_of_the_committed_histories(call, tmp_path):
    done = call(tmp_path, "-m", "experiments.ablation", "--redraw", "--out", "figures")
    assert (done.status, done.errors) == (0, "")
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == OF_EXPERIMENTS


def test_the_readme_shows_the_committed_table():
    assert (FIGURES / "results.md").read_text(encoding="utf-8") in README


def test_the_pretrained_models_are_at_least_as_good_as_published():
    published = {bandwidth: row["valid_r2"] for bandwidth, row in read_published().items()}
    rows = read_table(FIGURES / "results.csv")
    ours = {int(row["bandwidth"]): float(row["r2"]) for row in rows}
    assert ours.keys() == published.keys()
    assert all(ours[bandwidth] >= published[bandwidth] for bandwidth in published)


def test_the_repository_stays_small():
    pretrained = (ROOT / "lightning_logs" / "pretrained").rglob("*")
    sizes = [path.stat().st_size for path in pretrained if path.name != "last.ckpt"]
    assert sum(sizes) < 10e6
    assert (ROOT / "lorenz_data.h5").stat().st_size < 3e6


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_linked_files_exist(document):
    text = document.read_text(encoding="utf-8").replace("](http", "](:")
    for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", text):
        assert (document.parent / target).exists(), target


def test_every_figure_is_told_to_those_who_cannot_see_it():
    figures = re.findall(r"!\[([^]]*)\]\(([^)]+)\)", README)
    shown = {Path(path).name for _, path in figures}
    assert shown >= {path.name for path in FIGURES.glob("*.png")}
    assert all(len(alt) > 60 for alt, _ in figures)


def test_the_animation_is_small_and_has_a_picture_for_each_bandwidth():
    path = FIGURES / "fewer_neurons.gif"
    assert path.stat().st_size < 3e6
    assert Image.open(path).n_frames == 8
