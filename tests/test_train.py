"""Sweeps, run as a user runs them, on data small enough to be quick."""

import re
import signal

import numpy as np
import pytest
import torch
import yaml
from conftest import (
    PATIENCE,
    ROOT,
    RUN,
    SMALL,
    check_end,
    have_same_weights,
    read_history,
    started,
    wait_until,
    weights_of,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command_line import read_table
from evaluation.checkpoints import load_checkpoint, load_model_and_data
from evaluation.run_folders import find_checkpoints, read_results
from evaluation.scoring import evaluate
from model import SequentialAutoencoder
from train import build
from training.callbacks import AtomicCheckpointIO
from training.options import make_parser, run_options

SCORES = ("nll", "heldout_nll", "bps", "r2", "r2_observed", "r2_unobserved")


def test_a_sweep_leaves_all_that_describes_it(sweep):
    folder, output = sweep
    for bandwidth in (4, 2):
        run = folder / f"bandwidth_{bandwidth:02}"
        assert yaml.safe_load((run / "hparams.yaml").read_text())["bandwidth"] == bandwidth
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert (config["data"]["bandwidth"], config["seed_everything"]) == (bandwidth, 7)
        assert weights_of(run / "best.ckpt").keys() == weights_of(run / "last.ckpt").keys()
        logged = EventAccumulator(str(run)).Reload().Tags()["scalars"]
        assert {f"valid/{name}" for name in SCORES} <= set(logged)
        assert list(read_history(run, "train/nll")) == [1, 2, 3, 4]
        assert list(read_history(run, "valid/r2")) == [2, 4]
    begin = "Training 2 models in lightning_logs/two: bandwidth  4, bandwidth  2\n"
    assert output.startswith(f"loading ...\n{begin}")
    assert "left" in output
    assert "tensorboard --logdir lightning_logs" in output
    assert "python plot_results.py lightning_logs/two" in output
    rows = read_results(folder)
    assert [(row["bandwidth"], row["seed"]) for row in rows] == [(4, 7), (2, 7)]
    for row in rows:
        assert f"{row['r2']:.3f}" in output
        assert f"{row['fraction_dropped']:.0%}" in output


def test_a_checkpoint_evaluates_to_what_training_reported(sweep):
    reported = {row["bandwidth"]: row for row in read_results(sweep[0])}
    for checkpoint in find_checkpoints([str(sweep[0])]):
        model, data = load_model_and_data(checkpoint)
        scores, row = evaluate(model, data)[0], reported[data.hparams.bandwidth]
        for name in SCORES:
            assert scores[name] == pytest.approx(row[name], abs=1e-5)
        losses = read_history(checkpoint.parent, "valid/heldout_nll")
        best = read_history(checkpoint.parent, "valid/r2")[min(losses, key=losses.get)]
        assert row["r2"] == pytest.approx(best, abs=1e-5)


def test_the_saved_configuration_repeats_the_run_bit_for_bit(call, sweep):
    folder, again = sweep[0] / "bandwidth_02", "again"
    config = str(folder / "config.yaml")
    done = call(sweep[0].parents[1], "train.py", "--config", config, "--name", again)
    assert done.status == 0, done.errors
    assert re.search(r"bandwidth  2 +epoch +4/4 +R² +-?\d\.\d{3}", done.output)
    assert have_same_weights(
        folder / "last.ckpt", sweep[0].parent / again / "bandwidth_02" / "last.ckpt"
    )


def test_plot_results_writes_figures_and_tables_of_a_sweep(call, tmp_path, sweep):
    done = call(sweep[0].parents[1], "plot_results.py", "--out", str(tmp_path), str(sweep[0]))
    assert done.status == 0, done.errors
    figures = ("r2_curve", "example_trials", "neurons_and_bins", "lorenz")
    names = {figure + suffix for figure in figures for suffix in (".png", ".pdf")}
    names |= {"results.csv", "results.md"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "r2_curve.png").read_bytes().startswith(b"\x89PNG")
    plotted = {int(row["bandwidth"]): row for row in read_table(tmp_path / "results.csv")}
    for row in read_results(sweep[0]):
        assert float(plotted[row["bandwidth"]]["r2"]) == pytest.approx(row["r2"], abs=1e-5)
    table = (tmp_path / "results.md").read_text()
    assert table in done.output
    assert "public demo" not in table, "the demonstration's numbers next to other data"


def test_quiet_leaves_the_table_alone(train):
    titles, row = train("--bandwidths 3 --quiet").output.strip().splitlines()
    assert titles.split()[0] == "bandwidth"
    assert row.split()[:2] == ["3", "75%"]


@pytest.mark.parametrize("bandwidths", ["3", "3 2"])
def test_ctrl_c_leaves_a_usable_checkpoint(call, tmp_path, small_lorenz, bandwidths):
    """Between two validations: initial conditions of the last one would be outdated. One run is
    in the process of the command, two are in others."""
    words = f"--data.path {small_lorenz} --name run --jobs 2 --bandwidths {bandwidths}".split()
    endless = ["--trainer.max_epochs=100000", "--trainer.check_val_every_n_epoch=100000"]
    checkpoint = tmp_path / RUN / "bandwidth_03" / "last.ckpt"
    with started(tmp_path, f"{ROOT}/train.py", *words, *SMALL, *endless) as process:
        wait_until(checkpoint.exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors == f"train.py: interrupted; continue with: python train.py --resume {RUN}\n"
    assert load_checkpoint(checkpoint)[0].hparams.n_neurons == 12
    prior = torch.load(checkpoint, weights_only=True)["prior"]
    assert prior == {"name": "encoder", "numbers": {}}, "what was outdated is saved"
    done = call(tmp_path, "infer.py", str(checkpoint), small_lorenz, "--out", "rates.h5")
    assert "the encoder alone infers" in done.output


@pytest.mark.parametrize(
    ("flags", "validated"),
    [
        ("--trainer.max_epochs=5", [2, 4, 5]),
        ("--trainer.max_epochs=1", [1]),
        ("--trainer.max_epochs=null --trainer.max_steps=8", [2, 3]),
        ("--trainer.max_epochs=4 --trainer.check_val_every_n_epoch=null", [1, 2, 3, 4]),
        ("--trainer.num_sanity_val_steps=2 --model.schedule=constant", [2, 4]),
        (
            "--trainer.max_epochs=100000 --trainer.max_time=00:00:00:01 "
            "--trainer.min_epochs=60 --trainer.check_val_every_n_epoch=1000",
            [60],
        ),
    ],
)
def test_the_last_epoch_is_always_validated(train, tmp_path, flags, validated):
    """Three steps an epoch, validated every second epoch."""
    done = train(f"--bandwidths 3 --trainer.logger=true --refinement.epochs=1 {flags}")
    assert "nan" not in done.output
    assert list(read_history(tmp_path / RUN / "bandwidth_03", "valid/r2")) == validated
    (row,) = read_results(tmp_path / RUN)
    assert row["epochs"] == validated[-1]


def test_a_run_that_time_ends_is_validated_then(train, tmp_path):
    limits = "--trainer.max_time=00:00:00:01 --trainer.check_val_every_n_epoch=1000"
    train(f"--bandwidths 3 --trainer.logger=true --trainer.max_epochs=100000 {limits}")
    folder = tmp_path / RUN / "bandwidth_03"
    assert len(read_history(folder, "valid/r2")) == 1
    assert (folder / "best.ckpt").exists()


def test_a_run_without_end_shows_each_validation(train):
    done = train("--bandwidths 3 --trainer.max_epochs=-1 --trainer.max_time=00:00:00:02")
    assert re.search(r"bandwidth  3 +epoch +\d+ +R² +-?\d\.\d{3} *\n", done.output)


def test_double_precision_learns_the_same(train, tmp_path, sweep):
    train("--bandwidths 4 --seed_everything 7 --trainer.precision 64-true")
    double, single = read_results(tmp_path / RUN)[0], read_results(sweep[0])[0]
    for name in ("r2", "heldout_nll", "bps"):  # the refinement may choose otherwise
        assert double[name] == pytest.approx(single[name], abs=0.05)
    model, _ = load_checkpoint(tmp_path / RUN / "bandwidth_04" / "best.ckpt")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float64}


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path, small_lorenz):
    """The trainer of train.py writes through AtomicCheckpointIO, which test_resume.py tests."""
    config = make_parser().parse_args(["--data.path", small_lorenz, *SMALL])
    _, _, trainer = build(run_options(config, 3, 0), tmp_path / "run" / "bandwidth_03")
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


def test_a_recording_with_other_neurons_has_bandwidths_of_its_own(train, data_file):
    done = train(f"--data.path {data_file} --trainer.max_epochs=1 --refinement.epochs=0")
    names = ", ".join(f"bandwidth  {n}" for n in (6, 3, 2, 1))
    assert f"Training 4 models in {RUN}: {names}\n" in done.output


def test_a_run_without_a_logger_is_refined_too(train, tmp_path):
    train("--bandwidths 3 --trainer.max_epochs=24")
    model, _ = load_checkpoint(tmp_path / RUN / "bandwidth_03" / "last.ckpt")
    assert model.prior.name != "encoder"
    assert len(model.prior.reference) == 96


def raise_in_steps(monkeypatch, error: Exception, bandwidths: tuple[int, ...]) -> None:
    """Raise an error in the steps of runs of some bandwidths."""
    step = SequentialAutoencoder.training_step

    def training_step(model: SequentialAutoencoder, batch: tuple, index: int) -> torch.Tensor:
        if model.trainer.datamodule.n_observed in bandwidths:
            raise error
        return step(model, batch, index)

    monkeypatch.setattr(SequentialAutoencoder, "training_step", training_step)


def test_a_bug_fails_its_run_alone(monkeypatch, train, tmp_path):
    raise_in_steps(monkeypatch, ZeroDivisionError("division by zero"), (4,))
    done = train("--bandwidths 4 2 --refinement.epochs=0", status=1)
    file = RUN / "bandwidth_04" / "error.txt"
    found = f"ZeroDivisionError: division by zero (the traceback is in {file})"
    assert done.errors == f"train.py: bandwidth  4 stopped: {found}\n".replace("  ", " ")
    assert "in training_step" in (tmp_path / file).read_text()
    assert [row["bandwidth"] for row in read_results(tmp_path / RUN)] == [2]


def test_a_run_that_fills_the_memory_of_a_gpu_ends_in_one_line(monkeypatch, train):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    raise_in_steps(monkeypatch, error, (4, 2))
    done = train("--bandwidths 4 2 --refinement.epochs=0", status=1)
    assert done.errors.count("the memory of the GPU is full") == 2, "both are tried"


def test_a_checkpoint_cut_short_fails_its_run_alone(train, call, tmp_path):
    train("--bandwidths 4 2 --refinement.epochs=0")
    results, last = tmp_path / RUN / "results.csv", tmp_path / RUN / "bandwidth_04" / "last.ckpt"
    results.unlink()
    last.write_bytes(last.read_bytes()[:1000])
    done = call(tmp_path, "train.py", "--resume", str(RUN), "--jobs", "1")
    assert check_end(done, 1).errors.startswith("train.py: bandwidth 4 stopped: ")
    assert [row["bandwidth"] for row in read_results(tmp_path / RUN)] == [2]


@pytest.mark.parametrize("n_units", [1, 2])
def test_a_model_of_one_or_two_units_is_refined_and_drawn(train, tmp_path, n_units):
    train(f"--bandwidths 4 --trainer.max_epochs=1 --model.hidden_size={n_units}")
    assert len(read_results(tmp_path / RUN)) == 1


def test_without_held_out_counts_the_observed_ones_choose_and_it_is_said(
    train, tmp_path, data_arrays, write_file
):
    """A test set whose held-out neurons are not published, and training trials without any."""
    data_arrays["valid_data"][..., 4:] = np.nan
    data_arrays["train_data"][::4] = np.nan
    path = write_file(data_arrays, bin_width=0.02, n_heldin=4)
    done = train(f"--data.path {path} --bandwidths 6")
    said = [line for line in done.output.splitlines() if line.startswith("bandwidth  6: ")]
    assert ["is held out, so best.ckpt" in said[0], "was not refined" in said[1]] == [True] * 2
    best = torch.load(tmp_path / RUN / "bandwidth_06" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 3, "the last of four, which only get better"


def test_what_predicts_no_better_than_the_mean_rates_says_so(train):
    words = "--bandwidths 2 --trainer.max_epochs=1 --refinement.epochs=0 --model.learning_rate=1e-9"
    said = "bandwidth  2: it predicts held-out counts no better than the mean rates of training"
    assert said in train(words).output
    assert said not in train("--bandwidths 12 --name other --trainer.max_epochs=20").output


def test_numbers_that_slow_a_cpu_down_are_taken_for_zero(train):
    """Nearly all gradients of a long trial's first bins are below 1e-38."""
    torch.set_flush_denormal(False)
    small = torch.tensor(1e-38)
    assert small / 100 > 0
    train("--bandwidths 4 --trainer.max_epochs=1 --refinement.epochs=0")
    assert small / 100 == 0
