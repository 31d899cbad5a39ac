"""Commands that produce the evidence, in small."""

import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.utils.tensorboard import SummaryWriter

from command_line import read_table
from experiments import ablation, benchmark, calibration, evidence, scaling, subframe
from experiments.evidence import PIECES
from recordings.hdf5 import read_file
from simulate import simulate


@pytest.fixture
def run_experiment(tmp_path, call, commands_in_process):
    """A function that runs an experiment in a folder with configs; what it writes is in docs/."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    return lambda name, *words: call(tmp_path, "-m", f"experiments.{name}", *words, "--out", "docs")


def test_times_are_read_from_a_history(tmp_path, monkeypatch):
    with SummaryWriter(tmp_path) as writer:
        writer.add_text("settings", "before the bare GRUs", walltime=1e9 - 30)
        writer.add_scalar("bare_gru_s", 1.5, 0, walltime=1e9)
        for epoch in range(1, 11):
            writer.add_scalar("train/learning_rate", 0.1, epoch, walltime=1e9 + 2 * epoch)
            if epoch % 2 == 0:
                writer.add_scalar("valid/r2", epoch / 10, epoch, walltime=1e9 + 2 * epoch + 1)
        writer.add_scalar("peak_mb", 400, 10)
    monkeypatch.setattr(benchmark, "TARGETS", {29: 1.5, 5: 0.55, 2: 0.05})
    never, between, first = (benchmark.read_times(tmp_path, n) for n in (29, 5, 2))
    assert between["epoch_s"] == pytest.approx(2)
    assert between["train_s"] == pytest.approx(20)
    assert (between["bandwidth"], between["published_r2"], between["bare_s"]) == (5, 0.55, 1.5)
    assert (between["best_r2"], between["peak_mb"]) == (pytest.approx(1), 400)
    assert between["to_published_s"] == pytest.approx(12)  # at epoch 5.5
    assert first["to_published_s"] == pytest.approx(5)  # at the first validation
    assert np.isinf(never["to_published_s"])


def test_ratios_are_of_means_over_seeds_and_say_what_was_never_reached():
    their = {"bandwidth": 5, "epoch_s": 1.2, "bare_s": 1.0, "to_published_s": 20.0}
    fast = their | {"epoch_s": 1.1, "to_published_s": 2.0}
    slow_machine = {"epoch_s": 2.2, "bare_s": 2.0, "to_published_s": 12.0}
    never = {"to_published_s": np.inf}

    def compare(their: dict, *ours: dict) -> list[str]:
        return list(benchmark.compare(their, list(ours)).values())

    assert compare(their, fast, slow_machine) == ["5", "1.20", "1.10", "20", "2, 12", "5.0"]
    assert compare(their | never, fast)[3:] == ["inf", "2", "inf"]
    assert compare(their, fast, fast | never)[3:] == ["20", "2, inf", "0.0"]
    assert compare(their | never, fast | never)[3:] == ["inf", "inf", "nan"]


def test_the_ablation_trains_draws_and_continues(tmp_path, run_experiment, commands_in_process):
    simulate(path=str(tmp_path / "lorenz_data.h5"), conditions=4, trials=8, neurons=12, bins=12)
    words = ["ablation", "--bandwidths", "2", "--seeds", "1", "--epochs", "1"]
    for _ in range(2):
        done = run_experiment(*words)
        assert (done.status, done.errors) == (0, "")
        assert done.output.count("| + coordinated dropout |") == 1
    assert len(commands_in_process) == 8
    assert all("nothing left to do" in output for output in commands_in_process[4:])
    done = run_experiment(*words, "--cluster", "nowhere")
    assert (done.status, "--cluster nowhere" in done.errors) == (2, True)
    written = {path.name for path in (tmp_path / "docs").iterdir()}
    assert written >= {"ablation.csv", "why.png", "overfitting.png"}
    history = read_table(tmp_path / "docs" / "ablation.csv")
    assert list(history[0]) == list(read_table(ablation.COMMITTED_CSV)[0])


def test_the_evidence_for_inputs_is_gathered(tmp_path, run_experiment):
    done = run_experiment("inputs", "--quick")
    assert (done.status, done.errors) == (0, "")
    rows = read_table(tmp_path / "docs" / "inputs.csv")
    assert list(rows[0]) == list(read_table(ROOT / "docs" / "inputs.csv")[0])
    assert [row["auc"] != "nan" for row in rows] == [False, True]
    assert "| pulses | 5 |" in done.output


def test_all_evidence_is_gathered_and_drawn(tmp_path, run_experiment):
    done = run_experiment("evidence", "--quick")
    assert (done.status, done.errors) == (0, "")
    assert {path.stem for path in (tmp_path / "docs").glob("*.png")} == set(PIECES)
    rows = {piece: read_table(tmp_path / "docs" / f"{piece}.csv") for piece in PIECES}
    assert {row["label"] for row in rows["patterns"]} == {"random", "staggered", "blocks", "fixed"}
    assert all(np.isfinite(float(row["r2_latents"])) for row in rows["patterns"])
    r2 = {(row["label"], row["bandwidth"]): float(row["r2"]) for row in rows["selective_loss"]}
    assert r2["missing as zeros", "3"] != r2["missing as zeros, rates rescaled", "3"]
    # one sweep serves several pieces
    assert r2["SBTT", "3"] == float(rows["unseen_conditions"][2]["r2"])
    assert [row["x"] for row in rows["number_of_conditions"]] == ["5", "5", "10", "10"]
    assert len(rows["transfer"]) == 6

    # what a begun sweep was asked for counts, not what is asked for now
    (tmp_path / "lightning_logs" / "quick_default" / "config.yaml").write_text("seed_everything: 5")
    done = run_experiment("evidence", "--quick")
    assert (done.status, done.errors.count("\n")) == (2, 1)
    assert "lightning_logs/quick_default: trained with other options" in done.errors


def test_the_evidence_for_transfer_is_of_other_conditions_and_the_same_neurons(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(evidence, "LOGS", tmp_path)
    path = str(tmp_path / "all.h5")
    simulate(path=path, conditions=6, trials=10, neurons=5, bins=10)
    files = [evidence.divide(path, "a", slice(0, None, 2))]
    files.append(evidence.divide(path, "b", slice(1, None, 2), 7))
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
    found = subframe.coherence(true, slow + 0.5 * rng.normal(size=true.shape), bin_width=0.02)
    assert found[2.0] > 0.9
    assert found[10.0] < 0.1
    assert subframe.coherence(true, 3 * true, bin_width=0.02).min() > 0.99
    assert subframe.coherence(true, np.ones_like(true), bin_width=0.02).max() == 0


def test_time_and_memory_of_a_size_are_measured():
    threads, row = torch.get_num_threads(), scaling.measure((24, 8, 5))
    torch.set_num_threads(threads)
    assert list(row) == list(read_table(ROOT / "docs" / "scaling.csv")[0])
    assert (row["trials"], row["trials_in_table"]) == (24, 24)
    assert all(value > 0 for name, value in row.items() if name != "refinement_min")
