"""From a session in NWB to rates, and back into a copy of the session."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import SMALL, run_here
from nwb_files import NWBHDF5IO, QUALITY, SPIKE_TIMES, trials_of, write_nwb

from recordings.nwb import write_inferred


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[str, str, str]:
    """A session, the checkpoint of a run on four of its six units, and the file of its data.

    The prior is one that knows how uncertain rates are, whatever so short a run would have chosen.
    """
    folder = tmp_path_factory.mktemp("trained")
    path = write_nwb(folder / "session.nwb", trials=trials_of(60), quality=QUALITY)
    words = "--out a.h5 --units 'quality == \"good\"' --align_to cue_time --start -0.1 --stop 0.5"
    assert run_here(folder, "convert.py", path, *shlex.split(words)) == 0
    words = "--data.path a.h5 --bandwidths 4 --name nwb"
    assert run_here(folder, "train.py", *words.split(), *SMALL) == 0
    checkpoint = folder / "lightning_logs" / "nwb" / "bandwidth_04" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["prior"] = {"name": "shared", "numbers": {"reference": torch.randn(20, 8)}}
    torch.save(content, checkpoint)
    return path, str(checkpoint), str(folder / "a.h5")


@pytest.fixture
def infer(call, tmp_path) -> Callable:
    """A function that runs infer.py. If an `error` is expected: in one line."""

    def infer(checkpoint: str, path: str, options: str, error: str = "") -> None:
        done = call(tmp_path, "infer.py", checkpoint, path, *options.split())
        assert error in done.errors
        assert (done.status, done.errors.count("\n")) == ((2, 1) if error else (0, 0)), done.errors

    return infer


def test_rates_of_a_session_in_three_formats(infer, tmp_path, trained):
    session, checkpoint, data = trained
    before = Path(session).read_bytes()
    for to in ("hdf5", "npz", "nwb"):
        infer(checkpoint, session, f"--out rates.{to} --to {to}")
    assert Path(session).read_bytes() == before
    with h5py.File(tmp_path / "rates.hdf5") as file, np.load(tmp_path / "rates.npz") as arrays:
        rates = file["rates"][:]
        assert set(file) == set(arrays) - {"about"}
        np.testing.assert_array_equal(arrays["rates"], rates)
        for given in (file, arrays):
            np.testing.assert_allclose(given["start"][:], 1.2 + 1.5 * np.arange(59))
            assert given["unit_ids"][:].tolist() == [0, 10, 30, 40]
            assert given["row"][:].tolist() == list(range(59))
    assert rates.shape == (59, 30, 4)
    # the same trials and units as in the file of the training
    infer(checkpoint, data, "--out again.h5")
    with h5py.File(tmp_path / "again.h5") as file:
        again = np.concatenate((file["train_rates"], file["valid_rates"]))
    np.testing.assert_allclose(np.sort(again.sum((1, 2))), np.sort(rates.sum((1, 2))), rtol=1e-3)
    with NWBHDF5IO(tmp_path / "rates.nwb", "r") as file:
        nwb = file.read()
        module = nwb.processing["ecephys"]
        series, latents = module["inferred_rates"], module["inferred_latents"]
        np.testing.assert_allclose(series.data[:].reshape(59, 30, 4), rates, rtol=1e-5)
        np.testing.assert_allclose(series.timestamps[:30], 1.2 + 0.02 * (0.5 + np.arange(30)))
        assert (series.unit, len(nwb.units)) == ("spikes/s", 6)
        assert module["inferred_rates_sd"].data.shape == series.data.shape
        assert latents.data.shape == (59 * 30, 8)
        assert module["inferred_units"]["unit"].table is nwb.units
        assert module["inferred_units"]["unit"][:].index.tolist() == [0, 10, 30, 40]
    found = "has inferred_rates in the processing module ecephys"
    infer(checkpoint, str(tmp_path / "rates.nwb"), "--out b.nwb --to nwb", found)
    assert not (tmp_path / "b.nwb").exists()
    infer(checkpoint, session, "--bin_width 0.05", "--bin_width 0.05: expected that of the train")


def test_rates_in_a_session_have_one_value_at_each_time(infer, tmp_path, trained):
    trials = trials_of(40)
    for key in ("start_time", "stop_time", "cue_time"):
        trials[key][1::2] = [time + 0.25 for time in trials[key][::2]]
    session = write_nwb(tmp_path / "s.nwb", trials=trials, quality=QUALITY)
    infer(trained[1], session, "--out rates.nwb")
    with NWBHDF5IO(tmp_path / "rates.nwb", "r") as file:
        times = file.read().processing["ecephys"]["inferred_rates"].timestamps[:]
    assert (np.diff(times) > 0.01).all()
    assert len(times) > 20 * 30


def test_rates_at_regular_times_have_a_sampling_rate(tmp_path, trained):
    rates, times = np.ones((100, 6)), 3.01 + 0.02 * np.arange(100)
    series = {"inferred_rates": (rates, "spikes/s")}
    ids = [10 * unit for unit in range(6)]
    write_inferred(trained[0], tmp_path / "rates.nwb", series, times, ids, "a test")
    with NWBHDF5IO(tmp_path / "rates.nwb", "r") as file:
        series = file.read().processing["ecephys"]["inferred_rates"]
        assert (series.starting_time, series.rate) == (3.01, pytest.approx(50))
        assert series.timestamps is None


def test_sessions_that_do_not_fit_the_model(infer, tmp_path, trained, sweep):
    _, checkpoint, data = trained
    of_no_session = str(sweep[0] / "bandwidth_04" / "best.ckpt")
    fewer = write_nwb(tmp_path / "fewer.nwb", SPIKE_TIMES[:4], trials_of(60))
    infer(checkpoint, fewer, "--out b.h5", "has no units [40]; expected those of the training")
    infer(checkpoint, data, "--out b.nwb", "--to nwb: expected hdf5 or npz, because")
    expected = "was not trained on a session; expected a file that convert.py made"
    infer(of_no_session, fewer, "--out b.h5", expected)
    assert not list(tmp_path.glob("b.*"))


def test_no_query_of_a_checkpoint_is_evaluated(infer, tmp_path, trained):
    """Queries can run code, and a checkpoint may be anyone's."""
    session, checkpoint, _ = trained
    content = torch.load(checkpoint, weights_only=True)
    conversion = json.loads(content["SpikeDataModule"]["conversion"])
    query = {"units": "@pd.io.common.os.mkdir('ran')", "unit_ids": None}
    for changed, error in ((query, "has 6 neurons"), ({"more": 1}, "holds no conversion")):
        content["SpikeDataModule"]["conversion"] = json.dumps(conversion | changed)
        torch.save(content, tmp_path / "foreign.ckpt")
        infer("foreign.ckpt", session, "--out rates.h5", error)
        assert [path.name for path in tmp_path.iterdir()] == ["foreign.ckpt"]
