"""`--seeds`: each bandwidth with several seeds in one run."""

import csv

import pytest
import torch
from conftest import SMALL

from evaluation.checkpoints import find_checkpoints


def rows_of(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_each_seed_is_a_training_of_its_own(call, capfd, tmp_path, small_lorenz):
    words = ["--data.path", small_lorenz, *SMALL, "--jobs", "1"]
    done = call(
        tmp_path,
        "train.py",
        *words,
        "--bandwidths",
        "4",
        "2",
        "--seeds",
        "2",
        "--name",
        "both",
        "--seed_everything",
        "3",
    )
    assert (done.status, done.errors) == (0, "")
    assert "Training 2 bandwidths (4, 2) with 2 seeds" in done.output
    assert "bandwidth  2 seed 4  epoch    4/4" in done.output
    run = tmp_path / "lightning_logs" / "both"
    rows = rows_of(run / "results.csv")
    assert [(row["bandwidth"], row["seed"]) for row in rows] == [
        ("4", "3"),
        ("4", "4"),
        ("2", "3"),
        ("2", "4"),
    ]
    assert len({row["r2"] for row in rows}) == 4
    assert len(find_checkpoints([str(run)])) == 4
    assert len(find_checkpoints([str(run / "bandwidth_02")])) == 2

    call(
        tmp_path,
        "train.py",
        *words,
        "--bandwidths",
        "2",
        "--seed_everything",
        "4",
        "--name",
        "alone",
    )
    alone, together = (
        torch.load(tmp_path / "lightning_logs" / folder / "best.ckpt", weights_only=True)[
            "state_dict"
        ]
        for folder in ("alone/bandwidth_02", "both/bandwidth_02/seed_4")
    )
    assert all(torch.equal(alone[name], together[name]) for name in alone)

    done = call(tmp_path, "plot_results.py", str(run), "--out", "figures")
    assert (done.status, done.errors) == (0, "")
    assert done.output.count("±") == 4  # R² and bits per spike at two bandwidths

    # one training is lost: it alone is trained again
    (run / "results.csv").write_text(
        "".join((run / "results.csv").read_text().splitlines(keepends=True)[:-1])
    )
    assert len(find_checkpoints([str(run)])) == 3
    assert "seed_4: left out, because its training failed" in capfd.readouterr().out
    done = call(tmp_path, "train.py", "--resume", str(run))
    assert (done.status, done.errors) == (0, "")
    assert "Training 1 bandwidth (2) with 2 seeds" in done.output
    again = rows_of(run / "results.csv")
    assert [row | {"seconds": ""} for row in again] == [row | {"seconds": ""} for row in rows]


@pytest.mark.parametrize("seeds", ["0", "-1"])
def test_a_number_of_seeds_that_cannot_be_is_refused(call, tmp_path, small_lorenz, seeds):
    done = call(tmp_path, "train.py", "--data.path", small_lorenz, "--seeds", seeds)
    assert done.status == 2
    assert f"--seeds {seeds}: expected at least 1" in done.errors
