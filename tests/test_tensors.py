"""Files of lfads-torch and of the Neural Latents Benchmark, and the score of neurons that the
encoder never sees."""

from collections.abc import Callable

import h5py
import numpy as np
import pytest
from conftest import SMALL

from evaluation.checkpoints import load_model_and_data
from evaluation.inference import infer_arrays
from evaluation.run_folders import read_results
from evaluation.scoring import evaluate
from recordings.hdf5 import read_file

Arrays = dict[str, np.ndarray]
N_HELDIN = 9  # of 12 neurons


def write(path, **arrays: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array


@pytest.fixture
def counts(small_lorenz) -> Arrays:
    with h5py.File(small_lorenz) as file:
        return {split: file[f"{split}_data"][:].astype(float) for split in ("train", "valid")}


@pytest.fixture
def nlb(counts) -> Arrays:
    """The arrays of make_train_input_tensors, make_eval_input_tensors and
    make_eval_target_tensors."""
    train, valid = counts["train"], counts["valid"]
    return {
        "train_spikes_heldin": train[..., :N_HELDIN],
        "train_spikes_heldout": train[..., N_HELDIN:],
        "train_spikes_heldin_forward": train[:, :5, :N_HELDIN],
        "eval_spikes_heldin": valid[..., :N_HELDIN],
        "eval_spikes_heldout": valid[..., N_HELDIN:],
    }


@pytest.fixture
def lfads_torch(counts) -> Arrays:
    """Fifteen bins to be read, twenty to be predicted."""
    arrays = {f"{split}_recon_data": spikes for split, spikes in counts.items()}
    return arrays | {f"{split}_encod_data": counts[split][:, :15, :N_HELDIN] for split in counts}


@pytest.fixture
def convert(call, tmp_path) -> Callable:
    """A function that converts tensors to a.h5, and returns what is printed.

    If an `error` is expected: in one line, and without a file.
    """

    def convert(arrays: Arrays, options: str = "--bin_width 0.02", error: str = "") -> str:
        write(tmp_path / "tensors.h5", **arrays)
        done = call(tmp_path, "convert.py", "tensors.h5", "--out", "a.h5", *options.split())
        assert error in done.errors
        assert (done.status, done.errors.count("\n")) == ((2, 1) if error else (0, 0)), done.errors
        assert (tmp_path / "a.h5").exists() == (not error)
        return done.output

    return convert


def bits_per_spike(rates: np.ndarray, spikes: np.ndarray) -> float:
    """Return the benchmark's score: log-likelihood of expected counts minus that of mean counts, in
    bits per spike."""
    mean = np.broadcast_to(spikes.mean((0, 1)), spikes.shape)
    gain = (spikes * np.log(rates) - rates).sum() - (spikes * np.log(mean) - mean).sum()
    return gain / spikes.sum() / np.log(2)


def test_co_smoothing_is_the_benchmarks_and_the_encoder_never_sees_held_out_neurons(
    call, convert, tmp_path, counts, nlb
):
    assert "24 for the test, " in (printed := convert(nlb))
    assert "12 neurons, the last 3 of them never seen by the encoder" in printed
    words = "--data.path a.h5 --bandwidths 12 --name nlb"
    done = call(tmp_path, "train.py", *words.split(), *SMALL)
    assert (done.status, done.errors) == (0, "")
    (row,) = read_results(tmp_path / "lightning_logs" / "nlb")
    assert f"{row['test_bps']:.4f}" in done.output
    checkpoint = tmp_path / "lightning_logs" / "nlb" / "bandwidth_12" / "best.ckpt"
    model, data = load_model_and_data(checkpoint, str(tmp_path / "a.h5"))
    hidden = counts["valid"].copy()
    hidden[..., N_HELDIN:] = np.nan
    rates = infer_arrays(model, hidden)["rates"][..., N_HELDIN:] * 0.02
    expected = bits_per_spike(rates, counts["valid"][..., N_HELDIN:])
    scores = evaluate(model, data, split="test")[0]
    assert row["test_co_bps"] == pytest.approx(scores["co_bps"], abs=1e-6)
    assert scores["co_bps"] == pytest.approx(expected, abs=2e-4)
    assert expected > 0.02

    for first, is_same in ((N_HELDIN, True), (0, False)):
        changed = counts["valid"].copy()
        changed[..., first:] += 3
        inferred, others = (infer_arrays(model, spikes, True) for spikes in (hidden, changed))
        for name in ("rates", "rates_sd", "latents"):
            assert np.array_equal(inferred[name], others[name]) == is_same
    kept = evaluate(model, data, n_kept=24, split="test")[1]["rates"]
    np.testing.assert_allclose(kept, infer_arrays(model, hidden)["rates"], rtol=1e-4)


@pytest.mark.parametrize("is_published", [True, False])
def test_evaluation_trials_are_a_test_and_choose_nothing(convert, tmp_path, nlb, is_published):
    if not is_published:
        del nlb["eval_spikes_heldout"]
    convert(nlb, "--valid_fraction 0.25 --bin_width 0.005")
    recording = read_file(tmp_path / "a.h5")
    shapes = {split: trials.spikes.shape for split, trials in recording.trials.items()}
    assert shapes == {"train": (72, 20, 12), "valid": (24, 20, 12), "test": (24, 20, 12)}
    assert recording.n_heldin == N_HELDIN
    test = recording.trials["test"].spikes
    np.testing.assert_array_equal(test[..., :N_HELDIN], nlb["eval_spikes_heldin"])
    assert np.isnan(test[..., N_HELDIN:]).all() == (not is_published)
    with h5py.File(tmp_path / "a.h5") as file:
        train = nlb["train_spikes_heldin"][file["train_index"][:]]
    np.testing.assert_array_equal(recording.trials["train"].spikes[..., :N_HELDIN], train)


def test_files_of_lfads_torch(convert, tmp_path, counts, lfads_torch):
    truth = {f"{split}_truth": np.full(counts[split].shape, 0.4) for split in counts}
    convert(lfads_torch | truth | {"conversion_factor": 2.0}, "--bin_width 0.01")
    recording = read_file(tmp_path / "a.h5")
    assert (recording.bin_width, recording.n_heldin) == (0.01, N_HELDIN)
    for split, trials in recording.trials.items():
        np.testing.assert_array_equal(trials.spikes, counts[split][:, :15])
        np.testing.assert_allclose(trials.rates, 0.4 / 2.0 / 0.01, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"train_encod_data": np.ones((96, 15, 9))}, "train_encod_data differs from the first"),
        ({"valid_recon_data": np.zeros(3)}, "valid_recon_data has shape (3,)"),
        ({"train_spikes_heldout": np.zeros((2, 20, 3))}, "expected the same trials and bins"),
        ({"train_spikes_heldin": np.full((96, 20, 9), -1)}, "negative"),
        (
            {
                f"eval_spikes_held{side}": np.zeros((24, 9, n))
                for side, n in (("in", 9), ("out", 3))
            },
            "expected the same time bins",
        ),
        ({"eval_spikes_heldin": np.zeros((24, 20, 8))}, "held-in neurons in training and evaluat"),
    ],
)
def test_arrays_that_do_not_fit_each_other(convert, nlb, lfads_torch, changed, error):
    given = lfads_torch if changed.keys() <= lfads_torch.keys() else nlb
    convert(given | changed, error=error)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("", "does not say how wide its bins are; expected --bin_width"),
        ("--bin_width 0.02 --window 1", "--window 1.0: expected no such option, because"),
    ],
)
def test_options_that_do_not_fit_tensors(convert, nlb, options, error):
    convert(nlb, options, error)


def test_tensors_in_several_files_are_listed_and_joined(call, convert, tmp_path, counts, nlb):
    write(tmp_path / "target.h5", eval_spikes_heldout=nlb.pop("eval_spikes_heldout"))
    convert(nlb, "--also target.h5 --bin_width 0.02")
    test = read_file(tmp_path / "a.h5").trials["test"].spikes
    np.testing.assert_array_equal(test, counts["valid"])
    listed = call(tmp_path, "convert.py", "tensors.h5", "--also", "target.h5").output
    assert "tensors of NLB" in listed
    assert "eval_spikes_heldout: (24, 20, 3)" in listed
