"""A training starts from the weights of an earlier one."""

import pytest
import torch
from conftest import SMALL

from evaluation.checkpoints import load_checkpoint


def weights(checkpoint) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint)[0].state_dict()


@pytest.fixture
def trained(sweep) -> str:
    return str(sweep[0] / "bandwidth_04" / "best.ckpt")


def test_what_is_frozen_stays_and_the_rest_learns(call, tmp_path, trained, small_lorenz):
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "2",
        "--init_from",
        trained,
        "--freeze",
        "generator",
    ]
    done = call(tmp_path, "train.py", *words, "--name", "adapted", *SMALL)
    assert (done.status, done.errors) == (0, "")
    before, after = (
        weights(trained),
        weights(tmp_path / "lightning_logs" / "adapted" / "bandwidth_02" / "last.ckpt"),
    )
    assert not torch.equal(before["encoder.weight_hh_l0"], after["encoder.weight_hh_l0"])
    for name in ("decoder.weight_hh_l0", "decoder.bias_hh_l0", "readout.weight", "readout.bias"):
        assert torch.equal(before[name], after[name])


def test_a_training_starts_where_the_other_ended(call, tmp_path, trained, small_lorenz):
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "4",
        "--init_from",
        trained,
        "--model.learning_rate",
        "1e-9",
    ]
    words += [*SMALL, "--model.refinement", "0"]
    done = call(tmp_path, "train.py", *words, "--name", "same")
    assert (done.status, done.errors) == (0, "")
    before, after = (
        weights(trained),
        weights(tmp_path / "lightning_logs" / "same" / "bandwidth_04" / "last.ckpt"),
    )
    for name, value in before.items():
        torch.testing.assert_close(value, after[name], atol=1e-4, rtol=1e-4)
    words += ["--init_parts", "encoder", "--name", "half"]
    assert call(tmp_path, "train.py", *words).status == 0
    after = weights(tmp_path / "lightning_logs" / "half" / "bandwidth_04" / "last.ckpt")
    assert not torch.allclose(before["readout.weight"], after["readout.weight"], atol=1e-2)
    torch.testing.assert_close(
        before["encoder.weight_hh_l0"], after["encoder.weight_hh_l0"], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--init_from", "none.ckpt"], "none.ckpt: cannot be read"),
        (
            ["--init_from", "TRAINED", "--model.hidden_size", "9"],
            "its hidden_size is 8; expected 9",
        ),
        (
            ["--init_from", "TRAINED", "--init_parts", "encoder", "--freeze", "generator"],
            "--freeze generator: expected parts",
        ),
        (
            ["--init_from", "TRAINED", "--freeze", "generator", "encoder"],
            "expected a part that is left to train",
        ),
        (["--freeze", "generator"], "expected --init_from CHECKPOINT beside it"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    call, tmp_path, trained, small_lorenz, words, message
):
    words = [trained if word == "TRAINED" else word for word in words]
    done = call(
        tmp_path, "train.py", "--data.path", small_lorenz, "--bandwidths", "2", *SMALL, *words
    )
    assert done.status == 2
    assert message in done.errors
    assert done.errors.count("\n") == 1
    assert not list(tmp_path.glob("lightning_logs/*"))
