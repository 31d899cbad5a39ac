"""Muon and AdamW as one optimizer."""

import copy

import pytest
import torch
from torch import nn

from modules.optimizer import READOUT_DECAY, MuonAdam, make_optimizer, orthogonalize


@pytest.mark.parametrize("shape", [(30, 10), (10, 30), (20, 20), (1, 8)])
def test_all_directions_become_about_equally_large(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(orthogonalize(matrix))
    large = before > 0.1 * before[0]
    assert ((after[large] > 0.65) & (after[large] < 1.25)).all()


def test_the_zero_matrix_stays():
    assert (orthogonalize(torch.zeros(4, 3)) == 0).all()


def copies_of_weights() -> tuple[nn.ParameterList, nn.ParameterList]:
    """A wide and a tall matrix and a vector, twice."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((6, 12), (15, 5), (7,))]
    return tuple(nn.ParameterList(weight.clone() for weight in weights) for _ in range(2))


def hidden_optimizer(weights: nn.Module, weight_decay: float = 0.2) -> MuonAdam:
    return MuonAdam([weights], None, lr=1e-2, weight_decay=weight_decay)


def set_gradients(*modules: nn.Module) -> None:
    """Give the same random gradients to the parameters of all modules."""
    for parameters in zip(*(module.parameters() for module in modules), strict=True):
        gradient = torch.randn_like(parameters[0])
        for parameter in parameters:
            parameter.grad = gradient.clone()


def test_it_does_what_torch_does_in_lower_precision_and_for_vectors_exactly():
    ours, torchs = copies_of_weights()
    start, optimizer = [weight.detach().clone() for weight in ours], hidden_optimizer(ours)
    muon = {"lr": 1e-2, "weight_decay": 0.2, "adjust_lr_fn": "match_rms_adamw"}
    others = torch.optim.Muon(list(torchs)[:2], **muon), torch.optim.Adam([torchs[2]], lr=1e-2)
    for _ in range(5):
        set_gradients(ours, torchs)
        for each in (optimizer, *others):
            each.step()
    for our, their, before in zip(ours, torchs, start, strict=True):
        assert (our - their).abs().max() < 0.05 * (their - before).abs().max()
    torch.testing.assert_close(ours[2], torchs[2], rtol=0, atol=0)


def test_a_closure_is_called_and_its_loss_returned():
    weights, _ = copies_of_weights()
    optimizer = hidden_optimizer(weights, weight_decay=0.0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum((weight**2).sum() for weight in weights)
        loss.backward()
        return loss

    before = closure().item()
    assert optimizer.step(closure).item() == before
    assert closure().item() < before


def test_a_saved_state_is_continued():
    ours, copies = copies_of_weights()
    first, second = hidden_optimizer(ours), MuonAdam([copies], None, lr=1.0, weight_decay=0.0)
    for _ in range(2):
        set_gradients(ours)
        first.step()
    copies.load_state_dict(ours.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    set_gradients(ours, copies)
    first.step()
    second.step()
    for mine, other in zip(ours, copies, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_the_readout_takes_the_steps_of_torchs_adamw():
    hidden, ours, torchs = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)
    torchs.load_state_dict(ours.state_dict())
    one = MuonAdam([hidden], ours, lr=1e-2, weight_decay=0.2)
    decays = [
        {"params": [torchs.weight], "weight_decay": READOUT_DECAY},
        {"params": [torchs.bias], "weight_decay": 0.0},
    ]
    two = torch.optim.AdamW(decays, lr=1e-2)
    for _ in range(3):
        set_gradients(ours, torchs)
        one.step()
        two.step()
    torch.testing.assert_close(ours.state_dict(), torchs.state_dict())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("muon", MuonAdam)],
)
def test_each_kind_optimises_all_parameters(kind, expected):
    modules = nn.ModuleList([nn.GRU(3, 4), nn.Linear(4, 3)])
    optimizer = make_optimizer(kind, [modules[0]], modules[1], 0.1, 0.0)
    assert type(optimizer) is expected
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in modules.parameters()}
