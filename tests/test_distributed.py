"""Two processes that train one model together."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, finish

from recordings import write_recording

TRAIN = str(ROOT / "train.py")
TWO = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
SAME = [
    "--model.dropout",
    "0",
    "--model.coordinated_dropout",
    "0",
    "--model.refinement",
    "2",
]  # nothing random in a step


@pytest.fixture
def gaps(tmp_path) -> Path:
    """64 + 15 trials: two processes observe different numbers of entries, and validate different numbers of trials."""
    rng = np.random.default_rng(0)
    spikes = rng.poisson(rng.uniform(0.1, 2.0, (79, 1, 12)), (79, 20, 12)).astype(float)
    spikes[rng.random(spikes.shape) < rng.random((79, 1, 1))] = np.nan
    write_recording(tmp_path / "gaps.h5", spikes, 0.02, rates=rng.uniform(1, 50, spikes.shape), valid_fraction=0.19)
    return tmp_path / "gaps.h5"


def read(run: Path) -> list[dict[str, float]]:
    with open(run / "results.csv", newline="") as file:
        rows = [{name: value for name, value in row.items() if name != "prior"} for row in csv.DictReader(file)]
    return [{name: float(value) for name, value in row.items()} for row in rows]


def test_two_processes_train_what_one_does_with_twice_the_batch(call, tmp_path, gaps):
    words = ["--data.path", str(gaps), "--bandwidths", "9", "4", *SMALL, *SAME]
    two = finish(tmp_path, TRAIN, *words, *TWO, "--data.batch_size", "16", "--name", "two")
    assert (two.status, two.errors) == (0, "")
    one = call(tmp_path, "train.py", *words, "--data.batch_size", "32", "--jobs", "1", "--name", "one")
    assert one.status == 0, one.errors
    assert two.output.count("Training 2 bandwidths") == two.output.count("bandwidth  9  epoch    4/4") == 1
    runs = [tmp_path / "lightning_logs" / name for name in ("one", "two")]
    for folder in ("bandwidth_09", "bandwidth_04"):
        assert len({path.name.split(".")[0] for path in (runs[1] / folder).iterdir()}) == 6
        one, two = (torch.load(run / folder / "last.ckpt", weights_only=True) for run in runs)
        for name, weights in one["state_dict"].items():
            torch.testing.assert_close(two["state_dict"][name], weights, atol=1e-5, rtol=1e-4, msg=name)
    for one, two in zip(*map(read, runs), strict=True):
        for name in set(one) - {"seconds"}:
            assert two[name] == pytest.approx(one[name], abs=1e-4, nan_ok=True), name


def test_a_loss_that_explodes_is_said_once(tmp_path, gaps):
    steep = ["--model.learning_rate=1e18", "--model.schedule=constant", "--trainer.gradient_clip_val=null"]
    done = finish(tmp_path, TRAIN, "--data.path", str(gaps), "--bandwidths", "9", *SMALL, *steep, *TWO)
    assert done.status == 1
    assert done.errors.startswith("train.py: bandwidth 9 stopped: the loss of epoch")
    assert done.errors.count("\n") == 1
