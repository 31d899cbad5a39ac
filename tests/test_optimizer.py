"""Muon and AdamW as one optimizer."""

import copy

import pytest
import torch
from torch import nn

from modules.optimizer import MuonAdam, make_optimizer, orthogonalize


@pytest.mark.parametrize("shape", [(30, 10), (10, 30), (20, 20), (1, 8)])
def test_all_directions_become_about_equally_large(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(orthogonalize(matrix))
    large = before > 0.1 * before[0]
    assert ((after[large] > 0.65) & (after[large] < 1.25)).all()


def test_the_zero_matrix_stays():
    assert (orthogonalize(torch.zeros(4, 3)) == 0).all()


def copies_of_weights() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """A wide and a tall matrix and a vector, twice."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((6, 12), (15, 5), (7,))]
    return tuple([nn.Parameter(weight.clone()) for weight in weights] for _ in range(2))


def test_it_does_what_torch_does_in_lower_precision():
    ours, torchs = copies_of_weights()
    one = MuonAdam([nn.ParameterList(ours)], None, lr=1e-2, weight_decay=0.2)
    two = [
        torch.optim.Muon(torchs[:2], lr=1e-2, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(torchs[2:], lr=1e-2, weight_decay=0.0),
    ]
    start = [weight.detach().clone() for weight in ours]
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for our, their in zip(ours, torchs, strict=True):
            our.grad = torch.randn(our.shape, generator=generator)
            their.grad = our.grad.clone()
        for optimizer in (one, *two):
            optimizer.step()
    for our, their, before in zip(ours, torchs, start, strict=True):
        assert (our - their).abs().max() < 0.05 * (their - before).abs().max()


def test_a_closure_is_called_and_its_loss_returned():
    weights, _ = copies_of_weights()
    optimizer = MuonAdam([nn.ParameterList(weights)], None, lr=1e-2, weight_decay=0.0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum((weight**2).sum() for weight in weights)
        loss.backward()
        return loss

    before = closure().item()
    assert optimizer.step(closure).item() == before
    assert closure().item() < before


def test_vectors_take_the_steps_of_torchs_adam():
    ours, torchs = copies_of_weights()
    one, two = (
        MuonAdam([nn.ParameterList(ours)], None, lr=1e-2, weight_decay=0.2),
        torch.optim.Adam(torchs[2:], lr=1e-2),
    )
    for _ in range(3):
        ours[2].grad = torchs[2].grad = torch.randn(7)
        one.step()
        two.step()
    torch.testing.assert_close(ours[2], torchs[2], rtol=0, atol=0)


def test_a_saved_state_is_gone_on_with():
    ours, copies = copies_of_weights()
    first, second = (
        MuonAdam([nn.ParameterList(ours)], None, lr=1e-2, weight_decay=0.2),
        MuonAdam([nn.ParameterList(copies)], None, lr=1.0, weight_decay=0.0),
    )
    gradients = [[torch.randn_like(weight) for weight in ours] for _ in range(3)]
    for step, gradient in enumerate(gradients):
        for weight, value in zip(ours, gradient, strict=True):
            weight.grad = value
        first.step()
        if step == 1:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            for mine, other in zip(ours, copies, strict=True):
                other.data = mine.data.clone()
    for other, value in zip(copies, gradients[2], strict=True):
        other.grad = value
    second.step()
    for mine, other in zip(ours, copies, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_the_readout_takes_the_steps_of_torchs_adamw():
    hidden, ours, torchs = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)
    torchs.load_state_dict(ours.state_dict())
    one = MuonAdam([hidden], ours, lr=1e-2, weight_decay=0.2, readout_decay=0.7)
    decays = [
        {"params": [torchs.weight], "weight_decay": 0.7},
        {"params": [torchs.bias], "weight_decay": 0.0},
    ]
    two = torch.optim.AdamW(decays, lr=1e-2)
    for _ in range(3):
        for mine, other in zip(ours.parameters(), torchs.parameters(), strict=True):
            mine.grad = other.grad = torch.randn_like(mine)
        one.step()
        two.step()
    torch.testing.assert_close(ours.weight, torchs.weight)
    torch.testing.assert_close(ours.bias, torchs.bias)


def test_each_kind_optimises_all_parameters():
    for kind, expected in (
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("muon", MuonAdam),
    ):
        hidden, readout = nn.GRU(3, 4), nn.Linear(4, 3)
        optimizer = make_optimizer(kind, [hidden], readout, 0.1, 0.0)
        assert type(optimizer) is expected
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        assert {id(p) for p in held} == {
            id(p) for part in (hidden, readout) for p in part.parameters()
        }
