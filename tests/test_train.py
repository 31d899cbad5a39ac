"""The commands, run as a user runs them, on data small enough to be quick."""

import contextlib
import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, SMALL, command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cli
import plot_results
import train
from command_line import InputError
from evaluate import find_checkpoints, load_checkpoint, load_data, validate


def test_a_sweep_leaves_all_that_describes_it(sweep):
    run, output = sweep
    for level, bandwidth in (("bandwidth_04", 4), ("bandwidth_02", 2)):
        assert yaml.safe_load((run / level / "hparams.yaml").read_text())["bandwidth"] == bandwidth
        config = yaml.safe_load((run / level / "config.yaml").read_text())
        assert config["data"]["bandwidth"] == bandwidth
        assert config["seed_everything"] == 7
        for checkpoint in ("best.ckpt", "last.ckpt"):
            assert "state_dict" in torch.load(run / level / checkpoint, weights_only=True)
        events = EventAccumulator(str(run / level)).Reload()
        wanted = {"train/nll", "valid/nll", "valid/heldout_nll", "valid/bps", "valid/r2", "valid/r2_observed"}
        assert wanted | {"valid/r2_unobserved"} <= set(events.Tags()["scalars"])
        assert [event.step for event in events.Scalars("train/nll")] == [1, 2, 3, 4]
        assert [event.step for event in events.Scalars("valid/r2")] == [2, 4]
    assert "left" in output
    assert "tensorboard --logdir lightning_logs" in output
    assert "python plot_results.py lightning_logs/two" in output
    with open(run / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["bandwidth"] for row in rows] == ["4", "2"]
    for row in rows:
        assert f"{float(row['r2']):.3f}" in output
        assert f"{float(row['fraction_dropped']):.0%}" in output


def test_a_checkpoint_evaluates_to_what_training_reported(sweep):
    run, _ = sweep
    with open(run / "results.csv") as file:
        reported = {int(row["bandwidth"]): row for row in csv.DictReader(file)}
    for checkpoint in find_checkpoints([str(run)]):
        model, options = load_checkpoint(checkpoint)
        scores = validate(model, load_data(checkpoint, model, options))
        row = reported[options["bandwidth"]]
        for name in ("r2", "r2_unobserved", "bps", "heldout_nll"):
            assert scores[name] == pytest.approx(float(row[name]), abs=1e-5)
        events = EventAccumulator(str(checkpoint.parent)).Reload()
        best = min(events.Scalars("valid/heldout_nll"), key=lambda event: event.value)
        history = {event.step: event.value for event in events.Scalars("valid/r2")}
        assert float(row["r2"]) == pytest.approx(history[best.step], abs=1e-5)


def test_the_saved_configuration_repeats_the_run_bit_for_bit(sweep):
    run, _ = sweep
    folder = run.parent.parent
    config = run / "bandwidth_02" / "config.yaml"
    process = command(folder, str(ROOT / "train.py"), "--config", str(config), "--name", "again")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "epoch    4/4" in output
    weights = [
        torch.load(path / "bandwidth_02" / "last.ckpt", weights_only=True) for path in (run, run.parent / "again")
    ]
    for name, tensor in weights[0]["state_dict"].items():
        assert torch.equal(tensor, weights[1]["state_dict"][name]), name


def test_plot_results_writes_figures_and_tables_of_the_newest_run(sweep):
    run, _ = sweep
    folder = run.parent.parent
    process = command(folder, str(ROOT / "plot_results.py"), "--out", "shown", str(run))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    out = folder / "shown"
    figures = ("r2_curve", "example_trials", "method", "why", "overfitting", "neurons_and_bins", "lorenz")
    names = {figure + suffix for figure in figures for suffix in (".png", ".pdf")}
    names |= {"results.csv", "results.md", "fewer_neurons.gif"}
    assert {path.name for path in out.iterdir()} == names
    assert (out / "r2_curve.png").read_bytes().startswith(b"\x89PNG")
    with open(out / "results.csv") as file:
        rows = {row["bandwidth"]: row for row in csv.DictReader(file)}
    with open(run / "results.csv") as file:
        for row in csv.DictReader(file):
            assert float(rows[row["bandwidth"]]["r2"]) == pytest.approx(float(row["r2"]), abs=1e-5)
    assert (out / "results.md").read_text() in output


def test_quiet_leaves_the_table_alone(tmp_path, small_lorenz):
    words = [str(ROOT / "train.py"), "--data.path", small_lorenz, "--bandwidths", "3", "--quiet"]
    output, errors = command(tmp_path, *words, *SMALL).communicate(timeout=60)
    assert errors == ""
    titles, row = output.strip().splitlines()
    assert titles.split()[0] == "bandwidth"
    assert row.split()[:2] == ["3", "75%"]


def test_a_terminal_shows_a_line_for_each_level_and_one_for_the_sweep(tmp_path, small_lorenz):
    words = [sys.executable, str(ROOT / "train.py"), "--data.path", small_lorenz, "--bandwidths", "3", "2", *SMALL]
    control, terminal = os.openpty()
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=terminal, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    )
    os.close(terminal)
    output = b""
    with contextlib.suppress(OSError):  # which is how the end of a terminal is told
        while part := os.read(control, 10000):
            output += part
    os.close(control)
    assert process.wait(timeout=60) == 0
    lines = [line for line in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"\n", output).decode().splitlines() if line.strip()]
    shown = " ".join(lines)
    assert re.search(r"bandwidth  3\s+━+\s+4/4\s+R² +-?0\.\d{3}", shown)
    assert re.search(r"bandwidth  2\s+━+\s+4/4\s+R² +-?0\.\d{3}", shown)
    assert re.search(r"sweep\s+━+\s+8/8\s+epochs", shown)


@pytest.mark.parametrize("levels", [["3"], ["3", "2"]])
def test_ctrl_c_leaves_a_usable_checkpoint(tmp_path, small_lorenz, levels):
    words = [str(ROOT / "train.py"), "--data.path", small_lorenz, "--bandwidths", *levels, "--name", "stopped"]
    process = command(tmp_path, *words, *SMALL, "--trainer.max_epochs=100000", "--jobs=2")
    checkpoint = tmp_path / "lightning_logs" / "stopped" / "bandwidth_03" / "last.ckpt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    run = Path("lightning_logs", "stopped")
    assert errors.strip() == f"train.py: interrupted; go on with: python train.py --resume {run}"
    assert "Traceback" not in errors
    model, _ = load_checkpoint(checkpoint)
    assert model.hparams.n_neurons == 12


def parse(monkeypatch, *words: str):
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    train.main()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bandwidths", "5", "0"], "--bandwidths 0: expected 1 to 6"),
        (["--bandwidths", "7"], "--bandwidths 7: expected 1 to 6"),
        (["--bandwidths", "2", "2"], "expected each number once"),
        (["--data.bandwidth", "9"], "bandwidth 9: expected 1 to 6"),
        (["--data.batch_size", "0"], "--data.batch_size 0"),
        (["--data.heldout_fraction", "1.5"], "--data.heldout_fraction 1.5"),
        (["--trainer.max_epochs", "0"], "--trainer.max_epochs 0"),
        (["--trainer.max_epochs", "-7"], "max_epochs"),
        (["--trainer.accelerator", "abacus"], "accelerator"),
        (["--model.dropout", "1.5"], "--model.dropout 1.5"),
        (["--model.hidden_size", "0"], "--model.hidden_size 0"),
        (["--model.learning_rate", "-1"], "--model.learning_rate -1"),
        (["--jobs", "0"], "--jobs 0"),
        (["--seed_everything", "-1"], "--seed_everything -1"),
        (["--data.num_workers", "-1"], "--data.num_workers -1"),
        (["--bandwidths", "2", "--name", "taken"], "--name taken"),
        (["--bandwidths", "2", "--name", "../outside"], "--name ../outside"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(monkeypatch, tmp_path, data_file, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lightning_logs" / "taken").mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        parse(
            monkeypatch,
            "--data.path",
            data_file,
            *(words if "--bandwidths" in words else ["--bandwidths", "2", *words]),
        )
    assert [path.name for path in (tmp_path / "lightning_logs").rglob("*")] == ["taken"]


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert len({train.make_run_dir(None) for _ in range(5)}) == 5


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path, data_file, sweep):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lightning_logs").write_text("a file in the way")
    with pytest.raises(InputError, match="lightning_logs: cannot write there"):
        parse(monkeypatch, "--data.path", data_file, "--bandwidths", "2")
    monkeypatch.setattr(sys, "argv", ["plot_results.py", str(sweep[0]), "--out", "lightning_logs"])
    with pytest.raises(InputError, match="--out lightning_logs: cannot write there"):
        plot_results.main()
    assert (tmp_path / "lightning_logs").read_text() == "a file in the way"


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--bandwidths", "2.5"],
        ["train.py", "--model.optimizer", "sgd"],
        ["train.py", "--no_such_flag", "1"],
        ["train.py", "--config", "none.yaml"],
        ["plot_results.py", "--no_such_flag"],
        ["plot_results.py", "no_such_run"],
        ["simulate.py", "--neurons", "many"],
    ],
)
def test_a_usage_error_is_one_line_and_status_2(monkeypatch, capsys, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", words)
    module = __import__(Path(words[0]).stem)
    with pytest.raises(SystemExit) as end:
        train.run(module.main)
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(words[0] + ": ")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_default_config_says_what_the_code_does(monkeypatch):
    """configs/default.yaml lists the whole recipe; the defaults in the code are the same."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    config = cli.TrainCLI().config
    monkeypatch.setattr(cli, "DEFAULT_CONFIG", "no such file")
    from_code = cli.TrainCLI().config
    assert config.model == from_code.model
    assert config.data == from_code.data
    written = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    assert written["model"].keys() == config.model.as_dict().keys()


def test_published_config_is_the_published_recipe(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(ROOT / "configs" / "published.yaml")])
    config = cli.TrainCLI().config
    model, trainer = config.model, config.trainer
    assert (model.optimizer, model.learning_rate, model.weight_decay, model.dropout) == ("adam", 1e-3, 1e-4, 0.1)
    assert (model.schedule, model.coordinated_dropout, model.hidden_size) == ("constant", 0.0, 50)
    assert (trainer.max_epochs, trainer.gradient_clip_val, config.data.batch_size) == (1000, None, 64)
    assert config.monitor == "valid/nll"


def test_a_training_that_ends_before_its_first_validation_says_so(tmp_path, small_lorenz):
    words = [str(ROOT / "train.py"), "--data.path", small_lorenz, "--bandwidths", "3", *SMALL]
    steps = ["--trainer.max_epochs=null", "--trainer.max_steps=2"]
    process = command(tmp_path, *words, *steps)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "before its first validation; expected a lower --trainer.check_val_every_n_epoch" in errors
    assert len(errors.splitlines()) == 1


def test_the_time_of_a_training_can_be_limited(tmp_path, small_lorenz):
    words = [str(ROOT / "train.py"), "--data.path", small_lorenz, "--bandwidths", "3", *SMALL]
    limits = ["--trainer.max_epochs=100000", "--trainer.max_time=00:00:00:03"]
    process = command(tmp_path, *words, *limits)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "best.ckpt" in {path.name for path in (tmp_path / "lightning_logs").glob("*/*/*")}
