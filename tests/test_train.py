"""Trainings, run as a user runs them, on data small enough to be quick."""

import contextlib
import csv
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import LOGGED, PATIENCE, ROOT, SMALL, started
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evaluation.checkpoints import find_checkpoints, load_checkpoint
from evaluation.scoring import load_model_and_data, validate
from train import build
from training.callbacks import AtomicCheckpointIO
from training.options import config_of, make_parser


def test_a_sweep_leaves_all_that_describes_it(sweep):
    run, output = sweep
    for folder, bandwidth in (("bandwidth_04", 4), ("bandwidth_02", 2)):
        assert yaml.safe_load((run / folder / "hparams.yaml").read_text())["bandwidth"] == bandwidth
        config = yaml.safe_load((run / folder / "config.yaml").read_text())
        assert config["data"]["bandwidth"] == bandwidth
        assert config["seed_everything"] == 7
        for checkpoint in ("best.ckpt", "last.ckpt"):
            assert "state_dict" in torch.load(run / folder / checkpoint, weights_only=True)
        events = EventAccumulator(str(run / folder)).Reload()
        wanted = {
            "train/nll",
            "valid/nll",
            "valid/heldout_nll",
            "valid/bps",
            "valid/r2",
            "valid/r2_observed",
        }
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
        model, data = load_model_and_data(checkpoint)
        scores = validate(model, data)
        row = reported[data.hparams.bandwidth]
        for name in ("r2", "r2_unobserved", "bps", "heldout_nll"):
            assert scores[name] == pytest.approx(float(row[name]), abs=1e-5)
        events = EventAccumulator(str(checkpoint.parent)).Reload()
        best = min(events.Scalars("valid/heldout_nll"), key=lambda event: event.value)
        history = {event.step: event.value for event in events.Scalars("valid/r2")}
        assert float(row["r2"]) == pytest.approx(history[best.step], abs=1e-5)


def weights(run: Path, bandwidth: int, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(run / f"bandwidth_{bandwidth:02}" / name, weights_only=True)["state_dict"]


def test_the_saved_configuration_repeats_the_run_bit_for_bit(call, sweep):
    run, _ = sweep
    done = call(
        run.parents[1],
        "train.py",
        "--config",
        str(run / "bandwidth_02" / "config.yaml"),
        "--name",
        "again",
    )
    assert done.status == 0, done.errors
    assert "epoch    4/4" in done.output
    first, again = weights(run, 2), weights(run.parent / "again", 2)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name


def test_plot_results_writes_figures_and_tables_of_a_run(call, sweep):
    run, _ = sweep
    done = call(run.parents[1], "plot_results.py", "--out", "shown", str(run))
    assert done.status == 0, done.errors
    out = run.parents[1] / "shown"
    figures = ("r2_curve", "example_trials", "method", "neurons_and_bins", "lorenz")
    names = {figure + suffix for figure in figures for suffix in (".png", ".pdf")}
    names |= {"results.csv", "results.md", "fewer_neurons.gif"}
    assert {path.name for path in out.iterdir()} == names
    assert (out / "r2_curve.png").read_bytes().startswith(b"\x89PNG")
    with open(out / "results.csv") as file:
        rows = {row["bandwidth"]: row for row in csv.DictReader(file)}
    with open(run / "results.csv") as file:
        for row in csv.DictReader(file):
            assert float(rows[row["bandwidth"]]["r2"]) == pytest.approx(float(row["r2"]), abs=1e-5)
    table = (out / "results.md").read_text()
    assert table in done.output
    assert "public demo" not in table, "the demonstration's numbers beside other data"


def test_quiet_leaves_the_table_alone(call, tmp_path, small_lorenz):
    done = call(
        tmp_path, "train.py", "--data.path", small_lorenz, "--bandwidths", "3", "--quiet", *SMALL
    )
    assert done.errors == ""
    titles, row = done.output.strip().splitlines()
    assert titles.split()[0] == "bandwidth"
    assert row.split()[:2] == ["3", "75%"]


def test_a_terminal_shows_a_bar_for_each_bandwidth_and_one_for_the_sweep(tmp_path, small_lorenz):
    words = [
        str(ROOT / "train.py"),
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "3",
        "2",
        "--jobs",
        "1",
        *SMALL,
    ]
    control, terminal = os.openpty()
    with started(
        tmp_path, *words, stdout=terminal, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    ) as process:
        os.close(terminal)
        output = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(control, 10000):
                output += part
        os.close(control)
        assert process.wait(timeout=PATIENCE) == 0
    lines = [
        line
        for line in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"\n", output).decode().splitlines()
        if line.strip()
    ]
    shown = " ".join(lines)
    assert re.search(r"bandwidth  3\s+━+\s+4/4\s+R² +-?0\.\d{3}", shown)
    assert re.search(r"bandwidth  2\s+━+\s+4/4\s+R² +-?0\.\d{3}", shown)
    assert re.search(r"sweep\s+━+\s+8/8\s+epochs", shown)


@pytest.mark.parametrize("bandwidths", [["3"], ["3", "2"]])
def test_ctrl_c_leaves_a_usable_checkpoint(call, tmp_path, small_lorenz, bandwidths):
    """Between two validations: initial conditions of the last one would be outdated."""
    words = [
        str(ROOT / "train.py"),
        "--data.path",
        small_lorenz,
        "--bandwidths",
        *bandwidths,
        "--name",
        "stopped",
    ]
    endless = ["--trainer.max_epochs=100000", "--trainer.check_val_every_n_epoch=100000"]
    with started(tmp_path, *words, *SMALL, *endless, "--jobs=2") as process:
        checkpoint = tmp_path / "lightning_logs" / "stopped" / "bandwidth_03" / "last.ckpt"
        deadline = time.monotonic() + PATIENCE
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    run = Path("lightning_logs", "stopped")
    assert errors.strip() == f"train.py: interrupted; go on with: python train.py --resume {run}"
    model, _ = load_checkpoint(checkpoint)
    assert model.hparams.n_neurons == 12
    assert len(model.reference) == 0
    assert torch.load(checkpoint, weights_only=True)["reference"].untyped_storage().nbytes() == 0, (
        "what was outdated is saved"
    )
    done = call(tmp_path, "infer.py", str(checkpoint), small_lorenz, "--out", "rates.h5")
    assert "the encoder alone infers" in done.output


def history(folder: Path, name: str) -> list[int]:
    """The epochs at which a score was logged."""
    return [event.step for event in EventAccumulator(str(folder)).Reload().Scalars(name)]


@pytest.mark.parametrize(
    ("flags", "validated"),
    [
        (["--trainer.max_epochs=5"], [2, 4, 5]),
        (["--trainer.max_epochs=1"], [1]),
        (["--trainer.max_epochs=null", "--trainer.max_steps=8"], [2, 3]),
        (["--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=null"], [1, 2, 3, 4]),
        (
            [
                "--trainer.max_epochs=4",
                "--trainer.num_sanity_val_steps=2",
                "--model.schedule=constant",
            ],
            [2, 4],
        ),
    ],
)
def test_the_last_epoch_is_always_validated(
    call, no_figures, tmp_path, small_lorenz, flags, validated
):
    """Three steps an epoch, validated every second epoch."""
    words = ["--data.path", small_lorenz, "--bandwidths", "3", "--name", "run", *LOGGED, *flags]
    done = call(tmp_path, "train.py", *words)
    assert done.status == 0, done.errors
    assert "nan" not in done.output
    folder = tmp_path / "lightning_logs" / "run"
    assert history(folder / "bandwidth_03", "valid/r2") == validated
    with open(folder / "results.csv") as file:
        (row,) = csv.DictReader(file)
    assert int(row["epochs"]) == validated[-1]


def test_the_time_of_a_training_can_be_limited(call, no_figures, tmp_path, small_lorenz):
    words = ["--data.path", small_lorenz, "--bandwidths", "3", "--name", "run", *LOGGED]
    limits = [
        "--trainer.max_epochs=100000",
        "--trainer.max_time=00:00:00:02",
        "--trainer.check_val_every_n_epoch=1000",
    ]
    done = call(tmp_path, "train.py", *words, *limits)
    assert done.status == 0, done.errors
    folder = tmp_path / "lightning_logs" / "run" / "bandwidth_03"
    assert len(history(folder, "valid/r2")) == 1, "a training that time ends is validated then"
    assert (folder / "best.ckpt").exists()


def test_a_training_that_time_ends_has_its_least_number_of_epochs(
    call, no_figures, tmp_path, small_lorenz
):
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "3",
        "--name",
        "run",
        *LOGGED,
        "--trainer.max_epochs=100000",
    ]
    words += [
        "--trainer.max_time=00:00:00:01",
        "--trainer.min_epochs=60",
        "--trainer.check_val_every_n_epoch=1000",
    ]
    done = call(tmp_path, "train.py", *words)
    assert done.status == 0, done.errors
    assert history(tmp_path / "lightning_logs" / "run" / "bandwidth_03", "valid/r2") == [60]


def test_a_training_without_end_shows_each_validation(call, tmp_path, small_lorenz):
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "3",
        *SMALL,
        "--trainer.max_time=00:00:00:02",
    ]
    done = call(tmp_path, "train.py", *words, "--trainer.max_epochs=-1")
    assert done.status == 0, done.errors
    assert re.search(r"bandwidth  3  epoch    2  R² +-?\d\.\d{3}\n", done.output)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_learn_the_same(call, tmp_path, sweep, small_lorenz, precision):
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "4",
        "--seed_everything",
        "7",
        "--name",
        "run",
        *SMALL,
    ]
    done = call(tmp_path, "train.py", *words, "--trainer.precision", precision)
    assert done.status == 0, done.errors
    run = tmp_path / "lightning_logs" / "run"
    for path, bandwidths in ((sweep[0], ["4", "2"]), (run, ["4"])):
        with open(path / "results.csv") as file:
            rows = list(csv.DictReader(file))
        assert [row["bandwidth"] for row in rows] == bandwidths
    with open(sweep[0] / "results.csv") as file:
        single = next(csv.DictReader(file))
    for name in ("r2", "heldout_nll", "bps"):
        # the refinement may choose otherwise
        assert float(rows[0][name]) == pytest.approx(float(single[name]), abs=0.05)
    model, _ = load_checkpoint(run / "bandwidth_04" / "best.ckpt")
    assert model.reference.dtype == torch.float32


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path, small_lorenz):
    """The trainer of train.py writes through AtomicCheckpointIO, which test_resume.py tests."""
    config = make_parser().parse_args(["--data.path", small_lorenz, *SMALL])
    _, _, trainer = build(config_of(config, 3, 0), tmp_path / "run" / "bandwidth_03")
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


def test_a_recording_with_other_neurons_has_bandwidths_of_its_own(call, tmp_path, data_file):
    done = call(
        tmp_path,
        "train.py",
        "--data.path",
        data_file,
        "--jobs",
        "1",
        *SMALL,
        "--trainer.max_epochs=1",
    )
    assert done.status == 0, done.errors
    assert "Training 4 bandwidths (6, 3, 2, 1) in lightning_logs" in done.output


def test_a_training_without_a_logger_is_refined_too(call, tmp_path, small_lorenz):
    words = ["--data.path", small_lorenz, "--bandwidths", "3", "--name", "run", *SMALL]
    done = call(tmp_path, "train.py", *words)
    assert done.status == 0, done.errors
    model, _ = load_checkpoint(tmp_path / "lightning_logs" / "run" / "bandwidth_03" / "last.ckpt")
    assert model.prior != "encoder"
    assert len(model.reference) == 96
