"""The model's GRUs give what nn.GRU gives, and the gradients that finite differences give."""

import pytest
import torch
from conftest import RUN, weights_of
from torch import Tensor, nn

from evaluation.checkpoints import load_model_and_data
from evaluation.run_folders import read_results
from evaluation.scoring import evaluate
from modules import gru
from modules.gru import GRUDecoder, GRUEncoder


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def trained(gru: nn.GRU) -> list[Tensor]:
    return [weights for weights in gru.parameters() if weights.requires_grad]


def check_gradients(
    ours: Tensor, theirs: Tensor, of: list[Tensor], of_theirs: list[Tensor]
) -> None:
    """Expect the same values, and the same gradients of their squares."""
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), of),
        torch.autograd.grad(theirs.square().sum(), of_theirs),
    )


def test_encoder_is_a_bidirectional_gru():
    encoder, reference = GRUEncoder(5, 4), nn.GRU(5, 4, batch_first=True, bidirectional=True)
    reference.load_state_dict(encoder.state_dict())
    inputs = torch.randn(3, 7, 5)
    final_states, states = encoder(inputs, each_bin=True)
    expected_states, expected = reference(inputs)
    assert final_states.shape == (3, 8)
    torch.testing.assert_close(states, expected_states.transpose(0, 1))
    expected = torch.cat(list(expected), dim=1)
    check_gradients(final_states, expected, trained(encoder), trained(reference))


@pytest.mark.parametrize("n_inputs", [0, 2])
def test_decoder_is_a_gru(n_inputs):
    """Without inputs, one whose input is zero."""
    decoder, reference = GRUDecoder(4, n_inputs), nn.GRU(max(n_inputs, 1), 4)
    reference.load_state_dict(decoder.state_dict())
    reference.weight_ih_l0.requires_grad = decoder.weight_ih_l0.requires_grad
    assert decoder.weight_ih_l0.requires_grad == (n_inputs > 0)
    start, inputs = torch.randn(3, 4, requires_grad=True), None
    zeros, arguments = torch.zeros(7, 3, max(n_inputs, 1)), [start]
    if n_inputs:
        inputs = torch.randn(zeros.shape, requires_grad=True)
        arguments.append(inputs)
    states = decoder(start, 7, inputs)
    expected = reference(zeros if inputs is None else inputs, start.unsqueeze(0))[0]
    assert states.shape == (7, 3, 4)
    of, of_theirs = (arguments + trained(module) for module in (decoder, reference))
    check_gradients(states, expected, of, of_theirs)
    torch.testing.assert_close(decoder(start, 7), decoder(start, 7, zeros))


def test_gradients_are_those_of_finite_differences():
    encoder, decoder = GRUEncoder(3, 4).double(), GRUDecoder(4, 8).double()
    inputs = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)

    def read_and_generate(inputs: Tensor, *_: Tensor) -> Tensor:
        final_states, states = encoder(inputs, each_bin=True)
        forward, backward = final_states.chunk(2, dim=1)
        return decoder(forward - backward, 5, states)

    given = inputs, *trained(encoder), *trained(decoder)
    assert torch.autograd.gradcheck(read_and_generate, given)


def test_other_devices_have_the_gru_of_torch():
    with torch.device("meta"):
        final_states, states = GRUEncoder(5, 4)(torch.zeros(3, 7, 5))
        assert final_states.shape == (3, 8)
        assert states.shape == (7, 3, 8)
        assert GRUDecoder(4)(torch.zeros(3, 4), 7).shape == (7, 3, 4)
        assert GRUDecoder(4, 8)(torch.zeros(3, 4), 7, states).shape == (7, 3, 4)


def test_a_run_with_the_grus_of_a_gpu_is_the_same(train, tmp_path, monkeypatch):
    """What runs on a GPU, nn.GRU, here on the CPU: a whole run with it, refinement and validation.

    Without dropout: it draws numbers in the order of memory, which is another one in nn.GRU.
    """
    forward = nn.GRU.forward

    def as_in_cudnn(module: nn.GRU, *args: Tensor) -> tuple[Tensor, Tensor]:
        states, final_states = forward(module, *args)
        is_possible = module.training or not states.requires_grad
        assert is_possible, "cudnn RNN backward can only be called in training mode"
        assert all(start.is_contiguous() for start in args[1:]), "rnn: hx is not contiguous"
        return states, final_states

    monkeypatch.setattr(nn.GRU, "forward", as_in_cudnn)
    words = "--bandwidths 4 --trainer.accelerator=cpu --trainer.max_epochs=2 --refinement.epochs=2"
    nothing_random = "--refinement.inputs 2 --model.dropout=0"
    weights = []
    for name, is_on_cpu in (("ours", True), ("theirs", False)):
        monkeypatch.setattr(gru, "is_on_cpu", lambda _, result=is_on_cpu: result)
        train(f"{words} {nothing_random} --name {name}")
        run = tmp_path / "lightning_logs" / name / "bandwidth_04"
        weights.append(weights_of(run / "last.ckpt"))
    ours, theirs = weights
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours), "not another GRU"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_run_on_a_gpu_gives_a_model_that_the_cpu_scores_alike(train, tmp_path):
    train("--bandwidths 8 --trainer.max_epochs 40")
    assert torch.cuda.max_memory_allocated() > 0
    (reported,) = read_results(tmp_path / RUN)
    checkpoint = tmp_path / RUN / "bandwidth_08" / "best.ckpt"
    scores, _ = evaluate(*load_model_and_data(checkpoint))
    for name in ("r2", "nll", "heldout_nll", "bps"):
        assert scores[name] == pytest.approx(reported[name], abs=1e-2), name
    assert scores["r2"] > 0.5
