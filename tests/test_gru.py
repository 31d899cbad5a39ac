"""The model's GRUs give what nn.GRU gives, and the gradients that finite differences give."""

import csv

import pytest
import torch
from conftest import SMALL
from torch import Tensor, nn

from evaluation.scoring import load_model_and_data, validate
from modules import gru
from modules.gru import GRUDecoder, GRUEncoder


def weights_of(gru: nn.GRU) -> list[Tensor]:
    return [weights for weights in gru.parameters() if weights.requires_grad]


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def test_encoder_is_a_bidirectional_gru():
    encoder, reference = GRUEncoder(5, 4), nn.GRU(5, 4, batch_first=True, bidirectional=True)
    reference.load_state_dict(encoder.state_dict())
    inputs = torch.randn(3, 7, 5)
    final_states, states = encoder(inputs, each_bin=True)
    expected_states, expected = reference(inputs)
    expected = torch.cat(list(expected), dim=1)
    torch.testing.assert_close(final_states, expected)
    torch.testing.assert_close(states, expected_states.transpose(0, 1))
    assert final_states.shape == (3, 8)
    assert encoder(inputs)[1] is None

    ours = torch.autograd.grad(final_states.square().sum(), weights_of(encoder))
    torch.testing.assert_close(
        ours, torch.autograd.grad(expected.square().sum(), weights_of(reference))
    )


def test_decoder_is_a_gru_whose_input_is_zero():
    decoder, reference = GRUDecoder(4), nn.GRU(1, 4)
    reference.load_state_dict(decoder.state_dict())
    reference.weight_ih_l0.requires_grad = False
    initial_condition = torch.randn(3, 4, requires_grad=True)
    states = decoder(initial_condition, 7)
    expected = reference(torch.zeros(7, 3, 1), initial_condition.unsqueeze(0))[0]
    torch.testing.assert_close(states, expected)
    assert states.shape == (7, 3, 4)

    ours = torch.autograd.grad(states.square().sum(), [initial_condition, *weights_of(decoder)])
    theirs = torch.autograd.grad(
        expected.square().sum(), [initial_condition, *weights_of(reference)]
    )
    torch.testing.assert_close(ours, theirs)
    assert "weight_ih_l0" in decoder.state_dict()
    assert not decoder.weight_ih_l0.requires_grad


def test_decoder_with_inputs_is_a_gru():
    decoder, reference = GRUDecoder(4, 2), nn.GRU(2, 4)
    reference.load_state_dict(decoder.state_dict())
    initial_condition, inputs = (
        torch.randn(3, 4, requires_grad=True),
        torch.randn(7, 3, 2, requires_grad=True),
    )
    states, expected = (
        decoder(initial_condition, 7, inputs),
        reference(inputs, initial_condition.unsqueeze(0))[0],
    )
    torch.testing.assert_close(states, expected)
    ours, theirs = (
        torch.autograd.grad(result.square().sum(), [initial_condition, inputs, *weights_of(module)])
        for result, module in ((states, decoder), (expected, reference))
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        decoder(initial_condition, 7), decoder(initial_condition, 7, torch.zeros_like(inputs))
    )


def test_gradients_are_those_of_finite_differences():
    encoder, decoder = GRUEncoder(3, 4).double(), GRUDecoder(4, 8).double()
    inputs = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)

    def read_and_generate(inputs: Tensor, *_: Tensor) -> Tensor:
        final_states, states = encoder(inputs, each_bin=True)
        forward, backward = final_states.chunk(2, dim=1)
        return decoder(forward - backward, 5, states)

    assert torch.autograd.gradcheck(
        read_and_generate, (inputs, *weights_of(encoder), *weights_of(decoder))
    )


def test_other_devices_have_the_gru_of_torch():
    with torch.device("meta"):
        final_states, states = GRUEncoder(5, 4)(torch.zeros(3, 7, 5), each_bin=True)
        assert final_states.shape == (3, 8)
        assert states.shape == (7, 3, 8)
        assert GRUDecoder(4)(torch.zeros(3, 4), 7).shape == (7, 3, 4)
        assert GRUDecoder(4, 8)(torch.zeros(3, 4), 7, states).shape == (7, 3, 4)


def test_a_training_with_the_grus_of_a_gpu_is_the_same(call, tmp_path, small_lorenz, monkeypatch):
    """What runs on a GPU, nn.GRU, here on the CPU: a whole training with it, refinement and
    validation.

    Without dropout: it draws numbers in the order of memory, which is another one in nn.GRU.
    """
    forward = nn.GRU.forward

    def as_in_cudnn(module: nn.GRU, *args: Tensor) -> tuple[Tensor, Tensor]:
        states, final_states = forward(module, *args)
        assert module.training or not states.requires_grad, (
            "cudnn RNN backward can only be called in training mode"
        )
        assert all(start.is_contiguous() for start in args[1:]), "rnn: hx is not contiguous"
        return states, final_states

    monkeypatch.setattr(nn.GRU, "forward", as_in_cudnn)
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "4",
        "--model.input_size",
        "2",
        *SMALL,
        "--jobs",
        "1",
    ]
    words += [
        "--trainer.accelerator=cpu",
        "--model.dropout=0",
        "--model.input_dropout=0",
        "--model.refinement=2",
        "--trainer.max_epochs=2",
    ]
    weights = []
    for name, is_on_cpu in (("ours", True), ("theirs", False)):
        monkeypatch.setattr(gru, "is_on_cpu", lambda _, result=is_on_cpu: result)
        done = call(tmp_path, "train.py", *words, "--name", name)
        assert (done.status, done.errors) == (0, "")
        checkpoint = torch.load(
            tmp_path / "lightning_logs" / name / "bandwidth_04" / "last.ckpt", weights_only=True
        )
        weights.append(checkpoint["state_dict"])
    for name, ours in weights[0].items():
        torch.testing.assert_close(weights[1][name], ours, atol=1e-4, rtol=1e-4, msg=name)
    assert any(not torch.equal(weights[1][name], ours) for name, ours in weights[0].items()), (
        "not another GRU"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("inputs", [0, 2])
def test_a_training_on_a_gpu_gives_a_model_that_the_cpu_scores_alike(
    call, tmp_path, small_lorenz, inputs
):
    words = [
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "8",
        *SMALL,
        "--trainer.max_epochs",
        "40",
        "--jobs",
        "1",
    ]
    done = call(tmp_path, "train.py", *words, "--model.input_size", str(inputs), "--name", "run")
    assert done.status == 0, done.errors
    assert torch.cuda.max_memory_allocated() > 0
    with open(tmp_path / "lightning_logs" / "run" / "results.csv") as file:
        (trained,) = csv.DictReader(file)
    scores = validate(
        *load_model_and_data(tmp_path / "lightning_logs" / "run" / "bandwidth_08" / "best.ckpt")
    )
    for name in ("r2", "nll", "heldout_nll", "bps"):
        assert scores[name] == pytest.approx(float(trained[name]), abs=1e-2), name
    assert scores["r2"] > 0.5
