"""`--seeds`: each bandwidth with several seeds in one sweep."""

import re

import h5py
import numpy as np
from conftest import RUN, check_end, have_same_weights

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
    assert f"Training 1 model in {folder}: bandwidth  2 seed 4\n" in done.output
    again = read_results(folder)
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in rows]


def test_seeds_on_the_same_masks_infer_together(call, train, tmp_path, small_lorenz):
    train("--bandwidths 4 --seeds 2 --data.mask_seed 3 --refinement.inputs 0")
    folder, rates, sds = RUN / "bandwidth_04", [], []
    for name in ("", "seed_0/best.ckpt", "seed_1/best.ckpt"):
        out = f"{name[:6]}.h5"
        check_end(call(tmp_path, "infer.py", str(folder / name), small_lorenz, "--out", out))
        with h5py.File(tmp_path / out) as file:
            rates.append(file["valid_rates"][:])
            sds.append(file["valid_rates_sd"][:] if "valid_rates_sd" in file else 0.0)
    np.testing.assert_allclose(rates[0], (rates[1] + rates[2]) / 2, rtol=1e-4)
    spread = (rates[1] - rates[2]) / 2
    expected = np.sqrt((sds[1] ** 2 + sds[2] ** 2) / 2 + spread**2)
    np.testing.assert_allclose(sds[0], expected, rtol=1e-3, atol=1e-3)
    done = check_end(call(tmp_path, "plot_results.py", str(RUN), "--out", "figures"))
    (score,) = re.findall(
        r"R² of the seeds' mean \|.*\n.*\n.*\| ([-.\d]+) \| [-.\d]+ \| [.\d]+ \|\n", done.output
    )
    assert -0.5 < float(score) < 1
