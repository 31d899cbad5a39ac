"""Commands that produce the evidence, in small."""

import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.utils.tensorboard import SummaryWriter

from command_line import read_table
from experiments import benchmark, calibration, evidence, scaling, subframe
from experiments.evidence import PIECES
from recordings.hdf5 import read_file
from simulate import simulate


def test_times_are_read_from_a_history(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for epoch in range(1, 11):
            writer.add_scalar("train/learning_rate", 0.1, epoch, walltime=1e9 + 2 * epoch)
            if epoch % 2 == 0:
                writer.add_scalar("valid/r2", epoch / 10, epoch, walltime=1e9 + 2 * epoch + 1)
        writer.add_scalar(
            "bare_gru_s", 1.5, 7, walltime=1e9 + 14.5
        )  # after the validation of the sixth epoch
    history = benchmark.read_training(tmp_path, target_r2=0.55)
    assert history["epoch_s"] == pytest.approx(2 - 1.5 / 9)
    assert history["bare_s"] == history["paused_s"] == pytest.approx(1.5)
    assert history["best_r2"] == pytest.approx(1)
    assert np.isinf(benchmark.read_training(tmp_path, target_r2=1.5)["to_published_s"])
    later = benchmark.read_training(tmp_path, target_r2=0.75)["to_published_s"]
    assert later - history["to_published_s"] == pytest.approx(
        4 - 0.75 * 1.5
    )  # at epoch 7.5, not 5.5


def test_ratios_are_of_means_over_seeds_and_say_what_was_never_reached():
    reached = {
        "recipe": "published",
        "until": "target",
        "epoch_s": 1.2,
        "bare_s": 1.0,
        "train_s": 100.0,
        "to_published_s": 20.0,
    }
    ours = reached | {"recipe": "ours", "epoch_s": 1.1}
    end = ours | {"until": "end", "epoch_s": 9.0, "to_published_s": 1.0}  # with refinement
    fast, never = {"to_published_s": 2.0}, {"to_published_s": np.inf}
    slow_machine = {"epoch_s": 2.2, "bare_s": 2.0, "to_published_s": 12.0}
    rows_of = {
        5: [reached, end, ours | fast, ours | slow_machine],
        3: [reached | never, end, ours],
        2: [reached, end, ours, ours | never],
        1: [reached, end | {"epoch_s": 1.1}],  # --quick
    }
    table = benchmark.compare(
        [row | {"bandwidth": bandwidth} for bandwidth, rows in rows_of.items() for row in rows]
    )
    assert list(zip(*table.values(), strict=True)) == [
        ("5", "1.20", "1.10", "20", "2, 12", "5.0"),
        ("3", "1.20", "1.10", "> 100", "20", "> 5.0"),
        ("2", "1.20", "1.10", "20", "20, never", "–"),
        ("1", "1.20", "1.10", "20", "1", "20.0"),
    ]


def test_the_ablation_trains_draws_and_goes_on(tmp_path, call, commands_in_process):
    simulate(path=str(tmp_path / "lorenz_data.h5"), conditions=4, trials=8, neurons=12, bins=12)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    words = [
        "-m",
        "experiments.ablation",
        "--bandwidths",
        "2",
        "--seeds",
        "0",
        "--epochs",
        "1",
        "--out",
        "docs",
    ]
    for _ in range(2):
        done = call(tmp_path, *words)
        assert (done.status, done.errors) == (0, "")
        assert done.output.count("| + coordinated dropout |") == 1
    assert len(commands_in_process) == 8
    assert all("nothing left to do" in output for output in commands_in_process[4:])
    done = call(tmp_path, *words, "--cluster", "nowhere")
    assert (done.status, "--cluster nowhere" in done.errors) == (2, True)
    assert {path.name for path in (tmp_path / "docs").iterdir()} >= {
        "ablation.csv",
        "why.png",
        "overfitting.png",
    }


def test_the_evidence_for_inputs_is_gathered(tmp_path, call, commands_in_process):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    done = call(tmp_path, "-m", "experiments.inputs", "--quick", "--out", "docs")
    assert (done.status, done.errors) == (0, "")
    rows = read_table(tmp_path / "docs" / "inputs.csv")
    assert [row["auc"] != "nan" for row in rows] == [False, True]
    assert "| pulses | 5 |" in done.output


def test_all_evidence_is_gathered_and_drawn(tmp_path, call, commands_in_process):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    done = call(tmp_path, "-m", "experiments.evidence", "--quick", "--out", "docs")
    assert (done.status, done.errors) == (0, "")
    assert {path.stem for path in (tmp_path / "docs").glob("*.png")} == set(PIECES)
    rows = {piece: read_table(tmp_path / "docs" / f"{piece}.csv") for piece in PIECES}
    assert {row["label"] for row in rows["patterns"]} == {"random", "staggered", "blocks", "fixed"}
    assert all(np.isfinite(float(row["r2_latents"])) for row in rows["patterns"])
    r2 = {(row["label"], row["bandwidth"]): float(row["r2"]) for row in rows["selective_loss"]}
    assert r2["missing as zeros", "3"] != r2["missing as zeros, rates rescaled", "3"]
    assert r2["SBTT", "3"] == float(rows["unseen_conditions"][2]["r2"]), (
        "one run serves several pieces"
    )
    assert [row["x"] for row in rows["number_of_conditions"]] == ["5", "5", "10", "10"]
    assert len(rows["transfer"]) == 6

    # what a begun run was asked for counts, not what is asked for now
    (tmp_path / "lightning_logs" / "quick_default" / "config.yaml").write_text("seed_everything: 5")
    done = call(tmp_path, "-m", "experiments.evidence", "--quick", "--out", "docs")
    assert (done.status, done.errors.count("\n")) == (2, 1)
    assert "lightning_logs/quick_default: was trained with other options" in done.errors


def test_the_evidence_for_transfer_is_of_other_conditions_and_the_same_neurons(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(evidence, "LOGS", tmp_path)
    simulate(path=str(tmp_path / "all.h5"), conditions=6, trials=10, neurons=5, bins=10)
    scale = evidence.Scale("test", "", [5], 1)
    files = [evidence.divide(scale, str(tmp_path / "all.h5"), "a", slice(0, None, 2), None)]
    files.append(evidence.divide(scale, str(tmp_path / "all.h5"), "b", slice(1, None, 2), 7))
    first, second = (read_file(file).trials for file in files)
    assert set(first["train"].condition) == {0, 2, 4}
    assert set(second["valid"].condition) == {1, 3, 5}
    assert [len(trials.spikes) for trials in second.values()] == [7, 6]


def test_calibration_asks_models_that_did_not_see_all(tmp_path, call, sweep):
    done = call(tmp_path, "-m", "experiments.calibration", str(sweep[0]), "--out", "docs")
    assert (done.status, done.errors) == (0, "")
    rows = read_table(tmp_path / "docs" / "calibration.csv")
    assert [row["bandwidth"] for row in rows] == ["4", "2"]
    assert (tmp_path / "docs" / "calibration.png").exists()
    predicted, counted = calibration.reliability(np.arange(2400.0), np.repeat([0.0, 1.0], 1200))
    assert (np.diff(predicted) > 0).all()
    assert counted.tolist() == [0.0] * 6 + [1.0] * 6


def test_coherence_tells_what_is_recovered_at_each_frequency():
    rng = np.random.default_rng(0)
    time, phases = np.arange(50) * 0.02, rng.uniform(0, 2 * np.pi, (2, 400, 1, 1))
    slow, fast = (
        np.sin(2 * np.pi * f * time[:, None] + phase)
        for f, phase in zip((2, 10), phases, strict=True)
    )
    true = slow + fast + 0.01 * rng.normal(size=(400, 50, 1))
    found = subframe.coherence(true, slow + 0.5 * rng.normal(size=true.shape))
    assert found[2] > 0.9
    assert found[10] < 0.1
    assert subframe.coherence(true, 3 * true).min() > 0.99


def test_time_and_memory_of_a_size_are_measured(tmp_path):
    threads, size = torch.get_num_threads(), scaling.Size(trials=24, bins=8, neurons=5)
    scaling.write_random(tmp_path / "data.h5", size)
    row = scaling.measure(size, str(tmp_path / "data.h5"))
    torch.set_num_threads(threads)
    assert (row["trials"], row["trials_in_table"]) == (24, 24)
    assert all(value > 0 for name, value in row.items() if name != "refinement_min")
