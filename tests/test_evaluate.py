"""From checkpoints to tables: seeds are averaged, damaged checkpoints refused, sweeps found."""

import math
import shutil

import numpy as np
import pytest
import torch

from command_line import InputError
from evaluation.checkpoints import load_checkpoint, load_model_and_data
from evaluation.run_folders import find_checkpoints
from evaluation.scoring import Score, mean_and_sd
from plot_results import results_table


def score(bandwidth: int, value: float, seed: int = 0, **changed: float) -> Score:
    scores = dict.fromkeys(("r2", "r2_observed", "r2_unobserved"), value)
    scores |= {"r2_amortised": value - 0.1, "r2_ideal": 0.99, "r2_smoothed": 0.1}
    scores |= {"bps": value / 2, "bps_smoothed": 0.1, "bps_mean_over_trials": 0.2}
    scores |= {"fraction_dropped": 1 - bandwidth / 10, **changed}
    return Score(bandwidth=bandwidth, seed=seed, checkpoint="best.ckpt", **scores)


def test_seeds_of_a_bandwidth_are_averaged_and_their_spread_is_told():
    averaged = mean_and_sd([score(2, 0.5), score(10, 0.9), score(2, 0.7, seed=1)])
    (most, no_sd), (fewer, sd) = averaged
    assert (most.bandwidth, most.r2, fewer.bandwidth) == (10, 0.9, 2)
    assert math.isnan(no_sd.r2)
    assert (fewer.r2, sd.r2) == pytest.approx((0.6, np.std([0.5, 0.7], ddof=1)))
    table = results_table(averaged, with_published=True)
    assert "| 2 | 80% | 0.600 ± 0.141 | 0.600 | 0.500 | 0.300 ± 0.071 | 0.339 | 0.990 |" in table
    assert "| 10 | 0% | 0.900 | 0.900 | 0.800 | 0.450 | 0.852 | 0.990 |" in table


def test_without_truth_the_table_has_bits_per_spike_and_their_baselines_alone():
    names = ("r2", "r2_observed", "r2_unobserved", "r2_amortised", "r2_ideal")
    averaged = mean_and_sd([score(2, 0.5, **dict.fromkeys(names, math.nan))])
    head, _, row = results_table(averaged, with_published=False).splitlines()
    assert head == "| observed | dropped | bits/spike | smoothed spikes | mean over trials |"
    assert row == "| 2 | 80% | 0.250 | 0.100 | 0.200 |"


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path, sweep, data_file):
    good, bad = sweep[0] / "bandwidth_02" / "best.ckpt", tmp_path / "bad.ckpt"
    other_shape = torch.load(good, weights_only=True)
    other_shape["state_dict"]["readout.bias"] = torch.zeros(3)
    foreign = {"weights": torch.zeros(3)}
    for content, message in ((other_shape, "size mismatch for readout.bias"), (foreign, "lacks")):
        torch.save(content, bad)
        with pytest.raises(InputError, match=f"bad.ckpt: {message}"):
            load_checkpoint(bad)
    for content in (b"not a checkpoint", b"", good.read_bytes()[:9999]):
        bad.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.ckpt: is no checkpoint, or a damaged one"):
            load_checkpoint(bad)
    with pytest.raises(InputError, match="is for 12 neurons, .* has 6"):
        load_model_and_data(good, data_file)


def test_the_newest_complete_sweep_is_found_else_pretrained(monkeypatch, tmp_path, sweep):
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "lightning_logs"
    shutil.copytree(sweep[0], logs / "pretrained")
    assert {path.parent.parent.name for path in find_checkpoints([])} == {"pretrained"}
    shutil.copytree(sweep[0], logs / "mine")
    shutil.copytree(sweep[0], logs / "unfinished", ignore=lambda *_: ["results.csv"])
    assert {path.parent.parent.name for path in find_checkpoints([])} == {"mine"}
    with pytest.raises(InputError, match=r"holds no best\.ckpt"):
        find_checkpoints([str(tmp_path)])


def test_a_sweep_that_was_not_trained_to_its_end_is_said_to_be_so(capsys, tmp_path, sweep):
    shutil.copytree(sweep[0], tmp_path / "unfinished", ignore=lambda *_: ["results.csv"])
    assert len(find_checkpoints([str(tmp_path / "unfinished")])) == 2
    assert "unfinished: was not trained to its end" in capsys.readouterr().out
    find_checkpoints([str(sweep[0]), str(tmp_path / "unfinished" / "bandwidth_02")])
    assert capsys.readouterr().out == ""


def test_more_validation_trials_than_figures_show(call, monkeypatch, tmp_path, sweep):
    monkeypatch.setattr("plot_results.MAX_SHOWN_TRIALS", 10)  # of 24
    done = call(tmp_path, "plot_results.py", str(sweep[0]), "--out", "figures")
    assert done.status == 0, done.errors
    assert (tmp_path / "figures" / "lorenz.png").exists()
