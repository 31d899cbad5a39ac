"""Files of lfads-torch and of the Neural Latents Benchmark, and the score of neurons that the
encoder never sees."""

import h5py
import numpy as np
import pytest
import torch
from conftest import SMALL

from evaluation.checkpoints import load_checkpoint
from evaluation.inference import infer_arrays
from evaluation.scoring import load_model_and_data, validate
from recordings.hdf5 import read_file

N_HELDIN, N_NEURONS = 9, 12


@pytest.fixture
def counts(small_lorenz) -> dict[str, np.ndarray]:
    with h5py.File(small_lorenz) as file:
        return {split: file[f"{split}_data"][:].astype(float) for split in ("train", "valid")}


@pytest.fixture
def write(tmp_path):
    def write(**arrays) -> str:
        with h5py.File(tmp_path / "tensors.h5", "w") as file:
            for key, array in arrays.items():
                file[key] = array
        return str(tmp_path / "tensors.h5")

    return write


def nlb_tensors(counts: dict[str, np.ndarray], with_target: bool = True) -> dict[str, np.ndarray]:
    """The arrays of make_train_input_tensors, make_eval_input_tensors and
    make_eval_target_tensors."""
    arrays = {
        f"{name}_spikes_heldin": counts[split][..., :N_HELDIN]
        for split, name in (("train", "train"), ("valid", "eval"))
    }
    arrays["train_spikes_heldout"] = counts["train"][..., N_HELDIN:]
    arrays["train_spikes_heldin_forward"] = counts["train"][:, :5, :N_HELDIN]
    return arrays | (
        {"eval_spikes_heldout": counts["valid"][..., N_HELDIN:]} if with_target else {}
    )


def bits_per_spike(rates: np.ndarray, spikes: np.ndarray) -> float:
    """The benchmark's formula: log-likelihood of expected counts minus that of mean counts, in bits
    per spike."""
    mean = np.broadcast_to(spikes.mean((0, 1)), spikes.shape)
    gain = (spikes * np.log(rates) - rates).sum() - (spikes * np.log(mean) - mean).sum()
    return gain / spikes.sum() / np.log(2)


def test_co_smoothing_is_the_benchmarks(call, tmp_path, counts, write):
    done = call(
        tmp_path, "convert.py", write(**nlb_tensors(counts)), "--out", "a.h5", "--bin_width", "0.02"
    )
    assert (done.status, done.errors) == (0, "")
    assert "12 neurons, the last 3 of them never seen by the encoder" in done.output
    done = call(
        tmp_path, "train.py", "--data.path", "a.h5", "--bandwidths", "12", "--name", "nlb", *SMALL
    )
    assert (done.status, done.errors) == (0, "")
    checkpoint = tmp_path / "lightning_logs" / "nlb" / "bandwidth_12" / "best.ckpt"
    model, data = load_model_and_data(checkpoint, str(tmp_path / "a.h5"))
    scores = validate(model, data)
    hidden = counts["valid"].copy()
    hidden[..., N_HELDIN:] = np.nan
    rates = infer_arrays(model, hidden)["rates"][..., N_HELDIN:] * 0.02
    expected = bits_per_spike(rates, counts["valid"][..., N_HELDIN:])
    assert scores["co_bps"] == pytest.approx(expected, abs=2e-4)
    assert expected > 0.02


def test_the_encoder_never_sees_held_out_neurons(call, tmp_path, counts, write):
    call(
        tmp_path, "convert.py", write(**nlb_tensors(counts)), "--out", "a.h5", "--bin_width", "0.02"
    )
    call(tmp_path, "train.py", "--data.path", "a.h5", "--bandwidths", "12", "--name", "nlb", *SMALL)
    model, _ = load_checkpoint(tmp_path / "lightning_logs" / "nlb" / "bandwidth_12" / "best.ckpt")
    spikes = torch.from_numpy(counts["valid"]).float()
    changed = spikes.clone()
    changed[..., N_HELDIN:] += 3
    with torch.no_grad():
        assert torch.equal(model(spikes).log_rates, model(changed).log_rates)
        changed[..., 0] += 3
        assert not torch.equal(model(spikes).log_rates, model(changed).log_rates)


def test_without_the_target_some_training_trials_validate(call, tmp_path, counts, write):
    path = write(**nlb_tensors(counts, with_target=False))
    done = call(
        tmp_path,
        "convert.py",
        path,
        "--out",
        "a.h5",
        "--valid_fraction",
        "0.25",
        "--bin_width",
        "0.005",
    )
    assert (done.status, done.errors) == (0, "")
    assert "evaluation trials were left out" in done.output
    recording = read_file(tmp_path / "a.h5")
    assert {split: trials.spikes.shape for split, trials in recording.trials.items()} == {
        "train": (72, 20, 12),
        "valid": (24, 20, 12),
    }
    assert recording.n_heldin == N_HELDIN


def test_files_of_lfads_torch(call, tmp_path, counts, write):
    truth = {
        f"{split}_truth": np.full((*spikes.shape[:2], 12), 0.4) for split, spikes in counts.items()
    }
    arrays = {f"{split}_recon_data": spikes for split, spikes in counts.items()} | {
        "conversion_factor": 2.0
    }
    arrays |= {f"{split}_encod_data": spikes[:, :15, :N_HELDIN] for split, spikes in counts.items()}
    done = call(
        tmp_path, "convert.py", write(**arrays, **truth), "--out", "a.h5", "--bin_width", "0.01"
    )
    assert (done.status, done.errors) == (0, "")
    recording = read_file(tmp_path / "a.h5")
    assert (recording.bin_width, recording.n_heldin) == (0.01, N_HELDIN)
    for split, trials in recording.trials.items():
        np.testing.assert_array_equal(trials.spikes, counts[split][:, :15])
        np.testing.assert_allclose(trials.rates, 0.4 / 2.0 / 0.01, rtol=1e-6)


def test_arrays_that_do_not_fit_each_other(call, tmp_path, counts, write):
    arrays = {
        f"{split}_{kind}_data": spikes
        for split, spikes in counts.items()
        for kind in ("encod", "recon")
    }
    nlb = nlb_tensors(counts)
    words = ["--bin_width", "0.02"]
    for given, message in (
        (
            arrays | {"train_encod_data": counts["train"][..., ::-1]},
            "train_encod_data differs from the first neurons",
        ),
        (arrays | {"valid_recon_data": np.zeros(3)}, "valid_recon_data has shape (3,)"),
        (nlb | {"train_spikes_heldout": np.zeros((2, 20, 3))}, "expected the same trials and bins"),
        (nlb | {"train_spikes_heldin": -nlb["train_spikes_heldin"]}, "negative"),
        (
            nlb
            | {
                f"eval_spikes_{kind}": nlb[f"eval_spikes_{kind}"][:, :9]
                for kind in ("heldin", "heldout")
            },
            "expected the same time bins",
        ),
        (
            nlb | {"eval_spikes_heldin": counts["valid"][..., :8]},
            "held-in neurons in training and evaluation",
        ),
    ):
        done = call(tmp_path, "convert.py", write(**given), "--out", "a.h5", *words)
        assert done.status == 2
        assert message in done.errors
        assert not (tmp_path / "a.h5").exists()
    for words, message in (
        ([], "does not say how wide its bins are; expected --bin_width"),
        (
            ["--bin_width", "0.02", "--window", "1"],
            "--window 1.0: expected no such option, because",
        ),
    ):
        done = call(tmp_path, "convert.py", write(**nlb), "--out", "a.h5", *words)
        assert done.status == 2
        assert message in done.errors
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["train_data"] = file["valid_data"] = np.zeros((2, 3, 4))
        file.attrs.update(bin_width=0.02, n_heldin=5)
    done = call(tmp_path, "describe.py", "b.h5")
    assert done.status == 2
    assert "n_heldin is" in done.errors


def test_tensors_in_several_files_are_listed_and_joined(call, tmp_path, counts, write):
    arrays = nlb_tensors(counts)
    target = arrays.pop("eval_spikes_heldout")
    write(**arrays)
    with h5py.File(tmp_path / "target.h5", "w") as file:
        file["eval_spikes_heldout"] = target
    done = call(tmp_path, "convert.py", "tensors.h5", "--also", "target.h5")
    assert "tensors of NLB" in done.output
    assert "eval_spikes_heldout: (24, 20, 3)" in done.output
    words = ["tensors.h5", "--also", "target.h5", "--out", "a.h5", "--bin_width", "0.02"]
    assert call(tmp_path, "convert.py", *words).status == 0
    np.testing.assert_array_equal(
        read_file(tmp_path / "a.h5").trials["valid"].spikes, counts["valid"]
    )
