"""A run starts from the weights of an earlier one."""

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, RUN, weights_of

from model import SequentialAutoencoder
from training.transfer import start_from

PRETRAINED = str(ROOT / "lightning_logs" / "pretrained" / "bandwidth_05" / "best.ckpt")


@pytest.fixture
def trained(sweep) -> str:
    return str(sweep[0] / "bandwidth_04" / "best.ckpt")


def close(before: dict, after: dict, name: str) -> bool:
    return torch.allclose(before[name], after[name], atol=1e-4, rtol=1e-4)


def test_what_is_frozen_stays_and_the_rest_learns(train, tmp_path, trained):
    train(f"--bandwidths 2 --init_from {trained} --freeze generator")
    before, after = map(weights_of, (trained, tmp_path / RUN / "bandwidth_02" / "last.ckpt"))
    assert not torch.equal(before["encoder.weight_hh_l0"], after["encoder.weight_hh_l0"])
    for name in ("decoder.weight_hh_l0", "decoder.bias_hh_l0", "readout.weight", "readout.bias"):
        assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("parts", ["encoder generator", "encoder"])
def test_a_run_starts_where_the_other_ended(train, tmp_path, trained, parts):
    start = f"--init_from {trained} --init_parts {parts}"
    train(f"--bandwidths 4 {start} --model.learning_rate 1e-9 --refinement.epochs 0")
    before, after = map(weights_of, (trained, tmp_path / RUN / "bandwidth_04" / "last.ckpt"))
    same = [name for name in before if close(before, after, name)]
    assert "encoder.weight_hh_l0" in same
    assert ("readout.weight" in same) == ("generator" in parts)
    assert len(same) == len(before) or parts == "encoder"


def test_a_checkpoint_of_an_earlier_version_is_read(call, tmp_path):
    """As --init_from and by infer.py. Its prior is a width, and the refinement a hyperparameter."""
    model = SequentialAutoencoder(29, 0.02, n_heldin=29)
    start_from(model, PRETRAINED, ["encoder", "generator"], [])
    stored = weights_of(PRETRAINED)
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
    with h5py.File(tmp_path / "spikes.h5", "w") as file:
        file["valid_data"] = np.random.default_rng(0).poisson(1.0, (2, 50, 29))
        file.attrs["bin_width"] = 0.02
    done = call(tmp_path, "infer.py", PRETRAINED, "spikes.h5", "--out", "rates.h5")
    assert (done.status, done.errors) == (0, "")
    with h5py.File(tmp_path / "rates.h5") as file:
        assert file["valid_rates"].shape == (2, 50, 29)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--init_from none.ckpt", "none.ckpt: cannot be read"),
        ("--init_from TRAINED --model.hidden_size 9", "its hidden_size is 8: expected 9"),
        ("--init_from TRAINED --data.bin_width 0.01", "its bin_width is 0.02: expected 0.01"),
        (
            "--init_from TRAINED --init_parts encoder --freeze generator",
            "--freeze generator: expected parts",
        ),
        ("--init_from TRAINED --freeze generator encoder", "expected a part that is left to train"),
        ("--freeze generator", "expected --init_from CHECKPOINT beside it"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(train, tmp_path, trained, words, message):
    done = train(f"--bandwidths 2 {words.replace('TRAINED', trained)}", status=2)
    assert message in " ".join(done.errors.split())
    assert not list(tmp_path.glob("lightning_logs/*"))
