"""`--seeds`: each bandwidth with several seeds in one sweep."""

from conftest import RUN, have_same_weights

from evaluation.run_folders import find_checkpoints, read_results


def test_each_seed_is_a_run_of_its_own(call, capfd, train, tmp_path):
    done = train("--bandwidths 4 2 --seeds 2 --seed_everything 3 --refinement.epochs 1")
    names = ", ".join(f"bandwidth  {n} seed {seed}" for n in (4, 2) for seed in (3, 4))
    assert f"Training 4 models in {RUN}: {names}\n" in done.output
    assert "bandwidth  2 seed 4 " in done.output.replace(names, "")
    folder = tmp_path / RUN
    rows = read_results(folder)
    assert [(row["bandwidth"], row["seed"]) for row in rows] == [(4, 3), (4, 4), (2, 3), (2, 4)]
    assert len({row["r2"] for row in rows}) == 4
    assert len(find_checkpoints([str(folder)])) == 4
    assert len(find_checkpoints([str(folder / "bandwidth_02")])) == 2

    train("--bandwidths 2 --seed_everything 4 --refinement.epochs 1 --name alone")
    alone = tmp_path / "lightning_logs" / "alone" / "bandwidth_02"
    together = folder / "bandwidth_02" / "seed_4"
    assert have_same_weights(alone / "best.ckpt", together / "best.ckpt")

    done = call(tmp_path, "plot_results.py", str(folder), "--out", "figures")
    assert (done.status, done.errors) == (0, "")
    assert done.output.count("±") == 4  # R² and bits per spike at two bandwidths

    # one run is lost: it alone is trained again
    results = folder / "results.csv"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[:-1]))
    assert len(find_checkpoints([str(folder)])) == 3
    assert "seed_4: left out, because it failed" in capfd.readouterr().out
    done = call(tmp_path, "train.py", "--resume", str(folder))
    assert (done.status, done.errors) == (0, "")
    assert f"Training 1 models in {folder}: bandwidth  2 seed 4\n" in done.output
    again = read_results(folder)
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in rows]
