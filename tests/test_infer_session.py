"""From a session in NWB to rates, and back into a copy of the session."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("pynwb")
from conftest import SMALL, run_here
from nwb_files import some_spike_times, trials_of, write_nwb
from pynwb import NWBHDF5IO


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple:
    """A session, and the checkpoint of a training on it with two of the six units left out."""
    folder = tmp_path_factory.mktemp("trained")
    quality = ["good", "good", "mua", "good", "good", "mua"]
    path = write_nwb(
        folder / "session.nwb", some_spike_times(), {"trials": trials_of(60)}, quality=quality
    )
    words = [
        "--units",
        'quality == "good"',
        "--align_to",
        "cue_time",
        "--start",
        "-0.1",
        "--stop",
        "0.5",
    ]
    assert run_here(folder, "convert.py", path, "--out", "a.h5", *words) == 0
    words = ["--data.path", "a.h5", "--bandwidths", "4", "--name", "nwb", *SMALL]
    assert run_here(folder, "train.py", *words) == 0
    return (
        path,
        str(folder / "lightning_logs" / "nwb" / "bandwidth_04" / "best.ckpt"),
        folder / "a.h5",
    )


def test_rates_of_a_session_in_three_formats(call, tmp_path, trained):
    session, checkpoint, converted_file = trained
    before = Path(session).read_bytes()
    for to in ("hdf5", "npz", "nwb"):
        done = call(tmp_path, "infer.py", checkpoint, session, "--out", f"rates.{to}", "--to", to)
        assert (done.status, done.errors) == (0, "")
    assert Path(session).read_bytes() == before
    with h5py.File(tmp_path / "rates.hdf5") as file, np.load(tmp_path / "rates.npz") as arrays:
        rates = file["rates"][:]
        assert set(file) == set(arrays) - {"about"}
        np.testing.assert_array_equal(arrays["rates"], rates)
        for given in (file, arrays):
            np.testing.assert_allclose(given["start"][:], 1.0 + 1.5 * np.arange(59) + 0.3 - 0.1)
            assert given["unit_ids"][:].tolist() == [0, 10, 30, 40]
    assert rates.shape == (59, 30, 4)
    # the same trials and units as in the file of the training
    assert (
        call(tmp_path, "infer.py", checkpoint, str(converted_file), "--out", "again.h5").status == 0
    )
    with h5py.File(tmp_path / "again.h5") as file:
        again = np.concatenate((file["train_rates"], file["valid_rates"]))
    np.testing.assert_allclose(np.sort(again.sum((1, 2))), np.sort(rates.sum((1, 2))), rtol=1e-3)
    with NWBHDF5IO(tmp_path / "rates.nwb", "r") as file:
        nwb = file.read()
        series = nwb.processing["sbtt"]["rates"]
        assert series.unit == "spikes/s"
        np.testing.assert_allclose(series.data[:].reshape(59, 30, 4), rates, rtol=1e-5)
        np.testing.assert_allclose(
            series.timestamps[:30], 1.0 + 0.3 - 0.1 + 0.02 * (0.5 + np.arange(30))
        )
        assert len(nwb.units) == 6
        assert "0, 10, 30, 40" in series.comments
    done = call(
        tmp_path,
        "infer.py",
        checkpoint,
        str(tmp_path / "rates.nwb"),
        "--out",
        "b.nwb",
        "--to",
        "nwb",
    )
    assert done.status == 2
    assert "has a processing module sbtt" in done.errors
    assert not (tmp_path / "b.nwb").exists()
    done = call(tmp_path, "infer.py", checkpoint, session, "--bin_width", "0.05")
    assert "--bin_width 0.05: expected that of the training" in done.errors


def test_rates_in_a_session_have_one_value_at_each_time(call, tmp_path, trained):
    _, checkpoint, _ = trained
    trials = trials_of(40)
    for key in ("start_time", "stop_time", "cue_time"):
        trials[key][1::2] = [t + 0.25 for t in trials[key][::2]]
    session = write_nwb(
        tmp_path / "s.nwb", some_spike_times(), {"trials": trials}, quality=["good"] * 6
    )
    done = call(tmp_path, "infer.py", checkpoint, session, "--out", "rates.nwb")
    assert (done.status, done.errors) == (0, "")
    with NWBHDF5IO(tmp_path / "rates.nwb", "r") as file:
        times = file.read().processing["sbtt"]["rates"].timestamps[:]
    assert (np.diff(times) > 0.01).all()
    assert len(times) > 20 * 30


def test_sessions_that_do_not_fit_the_model(call, tmp_path, trained, sweep):
    _, checkpoint, converted_file = trained
    fewer = write_nwb(tmp_path / "fewer.nwb", some_spike_times()[:4], {"trials": trials_of(60)})
    done = call(tmp_path, "infer.py", checkpoint, fewer, "--out", "b.h5")
    assert done.status == 2
    assert "has no units [40]; expected those of the training" in done.errors
    done = call(
        tmp_path, "infer.py", checkpoint, str(converted_file), "--out", "b.nwb", "--to", "nwb"
    )
    assert "--to nwb: expected hdf5 or npz, because" in done.errors
    done = call(
        tmp_path, "infer.py", str(sweep[0] / "bandwidth_04" / "best.ckpt"), fewer, "--out", "b.h5"
    )
    assert "was not trained on a session; expected a file that convert.py made" in done.errors
    assert not list(tmp_path.glob("b.*"))


def test_no_query_of_a_checkpoint_is_evaluated(call, tmp_path, trained):
    """Queries can run code, and a checkpoint may be anyone's."""
    session, checkpoint, _ = trained
    content = torch.load(checkpoint, weights_only=True)
    conversion = json.loads(content["SpikeDataModule"]["conversion"])
    for changed in ({"units": "@pd.io.common.os.mkdir('ran')", "unit_ids": None}, {"more": 1}):
        content["SpikeDataModule"]["conversion"] = json.dumps(conversion | changed)
        torch.save(content, tmp_path / "foreign.ckpt")
        done = call(tmp_path, "infer.py", "foreign.ckpt", session, "--out", "rates.h5")
        assert done.status == 2
        assert done.errors.count("\n") == 1
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "rates.h5").exists()
