import math
import shutil

import numpy as np
import pytest
import torch

from command_line import InputError
from evaluation.checkpoints import find_checkpoints, load_checkpoint
from evaluation.scoring import Score, load_model_and_data, mean_and_sd
from plot_results import results_table


def score(bandwidth: int, value: float, seed: int, **changed) -> Score:
    r2s = {name: value for name in ("r2", "r2_observed", "r2_unobserved")}
    others = {
        "r2_amortised": value - 0.1,
        "r2_ideal": 0.99,
        "r2_smoothed": 0.1,
        "bps": value / 2,
        "bps_smoothed": 0.1,
        "bps_mean_over_trials": 0.2,
        "fraction_dropped": 1 - bandwidth / 10,
    }
    return Score(
        **{
            "bandwidth": bandwidth,
            "seed": seed,
            "checkpoint": "best.ckpt",
            **r2s,
            **others,
            **changed,
        }
    )


def test_seeds_of_a_bandwidth_are_averaged_and_their_spread_is_told():
    averaged = mean_and_sd([score(2, 0.5, 0), score(10, 0.9, 0), score(2, 0.7, 1)])
    assert [(mean.bandwidth, mean.r2) for mean, _ in averaged] == [
        (10, 0.9),
        (2, pytest.approx(0.6)),
    ]
    assert math.isnan(averaged[0][1].r2)
    assert averaged[1][1].r2 == pytest.approx(np.std([0.5, 0.7], ddof=1))
    table = results_table(averaged, with_published=True)
    assert "| 2 | 80% | 0.600 ± 0.141 | 0.600 | 0.500 | 0.300 ± 0.071 | 0.339 | 0.990 |" in table
    assert "| 10 | 0% | 0.900 | 0.900 | 0.800 | 0.450 | 0.852 | 0.990 |" in table


def test_without_truth_the_table_has_bits_per_spike_and_their_baselines_alone():
    unknown = {
        name: math.nan
        for name in ("r2", "r2_observed", "r2_unobserved", "r2_amortised", "r2_ideal")
    }
    table = results_table(mean_and_sd([score(2, 0.5, 0, **unknown)]), with_published=False)
    assert (
        table.splitlines()[0]
        == "| observed | dropped | bits/spike | smoothed spikes | mean over trials |"
    )
    assert table.splitlines()[2] == "| 2 | 80% | 0.250 | 0.100 | 0.200 |"


BAD_CHECKPOINTS = {
    "text": b"not a checkpoint",
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name):
    (tmp_path / "bad.ckpt").write_bytes(BAD_CHECKPOINTS[name])
    with pytest.raises(InputError, match="bad.ckpt: is no checkpoint"):
        load_checkpoint(tmp_path / "bad.ckpt")


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path, sweep, data_file):
    good = sweep[0] / "bandwidth_02" / "best.ckpt"
    whole = good.read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="half.ckpt"):
        load_checkpoint(tmp_path / "half.ckpt")
    checkpoint = torch.load(good, weights_only=True)
    checkpoint["state_dict"]["readout.bias"] = torch.zeros(3)
    torch.save(checkpoint, tmp_path / "other_shape.ckpt")
    with pytest.raises(InputError, match=r"other_shape.ckpt: size mismatch for readout.bias"):
        load_checkpoint(tmp_path / "other_shape.ckpt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.ckpt")
    with pytest.raises(InputError, match="foreign.ckpt: lacks"):
        load_checkpoint(tmp_path / "foreign.ckpt")
    with pytest.raises(InputError, match="is for 12 neurons, .* has 6"):
        load_model_and_data(good, data_file)


def test_the_newest_complete_run_is_found_else_pretrained(monkeypatch, tmp_path, sweep):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sweep[0], tmp_path / "lightning_logs" / "pretrained")
    assert {path.parent.parent.name for path in find_checkpoints([])} == {"pretrained"}
    shutil.copytree(sweep[0], tmp_path / "lightning_logs" / "mine")
    shutil.copytree(
        sweep[0], tmp_path / "lightning_logs" / "unfinished", ignore=lambda *_: ["results.csv"]
    )
    assert {path.parent.parent.name for path in find_checkpoints([])} == {"mine"}
    with pytest.raises(InputError, match="holds no best.ckpt"):
        find_checkpoints([str(tmp_path)])


def test_a_run_that_was_not_trained_to_its_end_is_said_to_be_so(capsys, tmp_path, sweep):
    shutil.copytree(sweep[0], tmp_path / "unfinished", ignore=lambda *_: ["results.csv"])
    assert len(find_checkpoints([str(tmp_path / "unfinished")])) == 2
    assert "unfinished: was not trained to its end" in capsys.readouterr().out
    find_checkpoints([str(sweep[0]), str(tmp_path / "unfinished" / "bandwidth_02")])
    assert capsys.readouterr().out == ""


def test_more_validation_trials_than_figures_show(call, monkeypatch, tmp_path, sweep, small_lorenz):
    monkeypatch.setattr("plot_results.MAX_SHOWN_TRIALS", 10)  # of 24
    done = call(tmp_path, "plot_results.py", str(sweep[0]), "--out", "figures")
    assert done.status == 0, done.errors
    assert (tmp_path / "figures" / "lorenz.png").exists()
