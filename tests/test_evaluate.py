"""From checkpoints to tables: seeds are averaged, damaged checkpoints refused, sweeps found."""

import json
import math
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from conftest import check_end

from command_line import FailedWork, InputError, read_table
from data import SpikeDataModule
from evaluation.checkpoints import load_checkpoint, load_model_and_data
from evaluation.run_folders import find_checkpoints
from evaluation.scoring import Score, mean_and_sd
from evaluation.shown import choose_trials, compute_psths, make_examples, read_labels
from plot_results import Group, results_table
from plotting.labels import Labels
from plotting.scores import Curve, plot_r2
from plotting.trials import Example, plot_trials


@pytest.fixture
def saved_figures(monkeypatch) -> list[str]:
    """The names of the figures that plot_results.py makes; they are not written, which is slow."""
    names = []
    monkeypatch.setattr("plot_results.save", lambda figure, name, out: names.append(name))
    return names


def score(bandwidth: int, value: float, seed: int = 0, **changed: float) -> Score:
    scores = dict.fromkeys(("r2", "r2_observed", "r2_unobserved"), value)
    scores |= {"r2_amortised": value - 0.1, "r2_ideal": 0.99, "r2_smoothed": 0.1}
    scores |= {"bps": value / 2, "bps_smoothed": 0.1, "bps_mean_over_trials": 0.2}
    scores |= {"fraction_dropped": 1 - bandwidth / 10, **changed}
    return Score(bandwidth=bandwidth, seed=seed, checkpoint="best.ckpt", **scores)


def group(*scores: Score, sweep: str = "", missing: float = 0.0, is_demo: bool = True) -> Group:
    run = SimpleNamespace(is_demonstration=is_demo, missing=missing)
    return Group(sweep, [run] * len(scores), *mean_and_sd(list(scores)), {})


def test_seeds_of_a_bandwidth_are_averaged_and_their_spread_is_told():
    most, fewer = group(score(10, 0.9)), group(score(2, 0.5), score(2, 0.7, seed=1))
    assert (most.mean.bandwidth, most.mean.r2) == (10, 0.9)
    assert math.isnan(most.sd.r2)
    assert (fewer.mean.r2, fewer.sd.r2) == pytest.approx((0.6, np.std([0.5, 0.7], ddof=1)))
    table = results_table([most, fewer])
    assert "| 2 | 80% | 0.600 ± 0.141 | 0.600 | 0.500 | 0.300 ± 0.071 | 0.339 | 0.990 |" in table
    assert "| 10 | 0% | 0.900 | 0.900 | 0.800 | 0.450 | 0.852 | 0.990 |" in table


def test_without_truth_the_table_has_bits_per_spike_and_their_baselines_alone():
    names = ("r2", "r2_observed", "r2_unobserved", "r2_amortised", "r2_ideal")
    blind = group(score(2, 0.5, **dict.fromkeys(names, math.nan)), is_demo=False)
    head, _, row = results_table([blind]).splitlines()
    assert head == "| observed | dropped | bits/spike | smoothed spikes | mean over trials |"
    assert row == "| 2 | 80% | 0.250 | 0.100 | 0.200 |"


def test_counts_that_the_file_lacks_are_told_apart_from_those_dropped():
    table = results_table([group(score(10, 0.9), missing=0.2)])
    assert "| 10 | 0% |" in table
    assert "The data file itself lacks 20.0% of the counts" in table


def test_only_runs_that_differ_in_their_seed_alone_are_averaged(
    call, tmp_path, saved_figures, sweep
):
    changes = {
        "one": ("seed_everything: 7", "seed_everything: 1"),
        "three": ("max_epochs: 4", "max_epochs: 5"),
        "two": ("jobs: 2", "jobs: 3"),
    }
    for name, change in changes.items():
        folder = tmp_path / name / "bandwidth_02"
        shutil.copytree(sweep[0] / "bandwidth_02", folder)
        config = (folder / "config.yaml").read_text()
        assert change[0] in config
        (folder / "config.yaml").write_text(config.replace(*change))
    checkpoint = torch.load(tmp_path / "one" / "bandwidth_02" / "best.ckpt", weights_only=True)
    checkpoint["datamodule_hyper_parameters"]["pattern"] = "fixed"
    torch.save(checkpoint, tmp_path / "alone.ckpt")
    done = check_end(call(tmp_path, "plot_results.py", *changes, "alone.ckpt"))
    rows = [line.split(" | ")[0] for line in done.output.splitlines() if "±" in line or "%" in line]
    assert rows == ["| one, two", "| three", "| alone.ckpt"]
    assert [("±" in line) for line in done.output.splitlines() if "%" in line] == [
        True,
        False,
        False,
    ]
    assert "r2_curve" in saved_figures


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
    with pytest.raises(InputError, match="is a folder; .*bandwidth_02/best.ckpt"):
        load_checkpoint(good.parent)
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


def test_more_validation_trials_than_figures_show(
    call, monkeypatch, tmp_path, saved_figures, sweep
):
    monkeypatch.setattr("plot_results.MAX_SHOWN_TRIALS", 10)  # of 24
    done = call(tmp_path, "plot_results.py", str(sweep[0]), "--out", "figures")
    assert done.status == 0, done.errors
    assert "lorenz" in saved_figures


def test_tables_are_written_before_figures_are_drawn(call, monkeypatch, tmp_path, sweep):
    def fail(*_: object) -> None:
        raise FailedWork("no figure")

    monkeypatch.setattr("plot_results.draw_all", fail)
    check_end(call(tmp_path, "plot_results.py", str(sweep[0]), "--out", "figures"), 1)
    assert len(read_table(tmp_path / "figures" / "results.csv")) == 2
    assert (tmp_path / "figures" / "results.md").exists()


@pytest.mark.parametrize(("n_dimensions", "n_bins", "status"), [(5, 20, 0), (3, 20, 0), (3, 19, 2)])
def test_latents_of_the_file_may_have_any_number_of_dimensions(
    call, tmp_path, small_lorenz, sweep, saved_figures, n_dimensions, n_bins, status
):
    path = tmp_path / "latents.h5"
    shutil.copy(small_lorenz, path)
    with h5py.File(path, "r+") as file:
        for split in ("train", "valid"):
            n_trials = len(file[f"{split}_latents"])
            del file[f"{split}_latents"]
            shape = n_trials, n_bins, n_dimensions
            file[f"{split}_latents"] = np.random.default_rng(0).normal(size=shape)
    words = [str(sweep[0] / "bandwidth_02"), "--data", str(path), "--out", "figures"]
    done = check_end(call(tmp_path, "plot_results.py", *words), status)
    assert ("train_latents has shape" in done.errors) == (status == 2)
    assert ("lorenz" in saved_figures) == (n_dimensions == 3 and not status)


def test_a_session_keeps_its_time_units_and_conditions(data_arrays, write_file):
    arrays = {key: array for key, array in data_arrays.items() if "truth" not in key}
    for split in ("train", "valid"):
        arrays[f"{split}_data"][:, :2, 0] = np.nan
    conversion = {"start": -0.1, "stop": 0.06, "unit_ids": [4, 7, 8, 11, 12, 30]}
    conversion = json.dumps({**conversion, "condition": "side"})
    names = json.dumps(["left", "right", "none"])
    path = write_file(arrays, bin_width=0.02, conversion=conversion, condition_names=names)
    data = SpikeDataModule(path)
    data.setup()
    labels = read_labels(data)
    np.testing.assert_allclose(labels.times(8), -0.09 + 0.02 * np.arange(8))
    assert (labels.noun, labels.id(3), labels.id(6)) == ("unit", "11", "")
    rates = np.ones((12, 8, 6), np.float32)
    examples = make_examples(data, {"rates": rates}, choose_trials(12, 5))
    assert [example.name for example in examples] == [
        f"trial {trial}\nside {('left', 'right', 'none')[trial % 3]}" for trial in (1, 3, 6, 8, 10)
    ]
    psths = compute_psths(data, rates)
    assert psths.names == ["side left", "side right", "side none"]
    assert np.isnan(psths.counted[:, :2, 0]).all()
    counted = np.nanmean(arrays["valid_data"][0::3], (0, 1)) / 0.02
    np.testing.assert_allclose(np.nanmean(psths.counted[0], 0), counted, rtol=0.4)

    strange = write_file(arrays, bin_width=0.02, conversion='{"start": "soon", "stop": [1]}')
    assert read_labels(SpikeDataModule(strange)) == Labels(0.02)


def test_one_model_is_shown_with_several_trials_on_the_whole_axis():
    score = {"r2": np.ones(1)} | dict.fromkeys(
        ("r2_amortised", "r2_ideal", "r2_smoothed"), np.ones(1)
    )
    figure = plot_r2({"this repo": Curve(np.zeros(1), score, score)})
    assert figure.axes[0].get_xlim() == (-5, 105)
    example = Example("trial 3", 2, np.ones((8, 6)), None, np.ones((8, 6)), Labels(0.02, -0.1))
    figure = plot_trials([example, example])
    assert figure.get_suptitle() == "2 of 6 neurons observed at each time step"
    assert [axes.get_title() for axes in figure.axes[:2]] == ["trial 3", "trial 3"]
    assert figure.axes[0].get_xlim() == pytest.approx((-0.1, 0.06))


def test_slow_inference_is_announced(call, tmp_path, saved_figures, sweep):
    checkpoint = torch.load(sweep[0] / "bandwidth_02" / "best.ckpt", weights_only=True)
    numbers = {"reference": torch.randn(20, 8), "width": 2.0}
    torch.save(checkpoint | {"prior": {"name": "own", "numbers": numbers}}, tmp_path / "own.ckpt")
    done = check_end(call(tmp_path, "plot_results.py", "own.ckpt"))
    assert "own.ckpt: fits a trajectory to each trial, which can take minutes" in done.output
