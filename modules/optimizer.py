"""Muon for hidden matrices, AdamW for the readout, Adam for vectors, in one optimizer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (
    3.4445,
    -4.7750,
    2.0315,
)  # coefficients of Jordan et al. 2024; small singular values grow fast with them


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return approximately the nearest matrix with orthonormal rows (or columns, if there are
    fewer).

    Each Newton-Schulz step applies an odd polynomial to the singular values and keeps the singular
    vectors. Five steps bring all but the smallest singular values to between 0.7 and 1.2."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalize(matrix.T, steps).T
    a, b, c = NEWTON_SCHULZ
    result = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result


def make_optimizer(
    kind: str, hidden: list[nn.Module], readout: nn.Module, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimizer of a kind: adam, adamw or muon. The other arguments are those of
    MuonAdam."""
    if kind == "muon":
        return MuonAdam(hidden, readout, lr, weight_decay)
    parameters = nn.ModuleList([*hidden, readout]).parameters()
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind](
        parameters, lr, weight_decay=weight_decay
    )


class MuonAdam(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for hidden matrices, AdamW (Loshchilov & Hutter 2019) for the
    readout, Adam for vectors.

    Muon orthogonalises the momentum of a matrix, so that all directions in the space of hidden
    units learn at the same speed. Its steps are scaled to the size of Adam's (Liu et al. 2025): a
    root mean square of 0.2 times the learning rate. A readout has few directions that matter, and
    at one speed the others would learn noise. So it is left to AdamW, as Muon's authors advise.
    torch.optim.Muon does the same in bfloat16, which is slow on most CPUs.

    Args:
        hidden: Modules whose matrices lead to hidden units.
        readout: The module whose matrix leads to the outputs. None: there is none.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of the hidden matrices. Vectors do not decay, so decay pulls rates to their
            means.
        readout_decay: The same for the readout.
        momentum: Weight of the past in Muon's running mean of the gradients.
        betas: The same for Adam's running means of the gradients and of their squares.
        eps: Added to Adam's denominator.
    """

    def __init__(
        self,
        hidden: list[nn.Module],
        readout: nn.Module | None,
        lr: float,
        weight_decay: float,
        readout_decay: float = 1.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        parts = [
            list(nn.ModuleList(modules).parameters())
            for modules in (hidden, [readout] if readout else [])
        ]
        matrices, readout_matrices = ([p for p in part if p.ndim == 2] for part in parts)
        vectors = [p for part in parts for p in part if p.ndim != 2]
        groups = [
            {
                "params": matrices,
                "update": "muon",
                "weight_decay": weight_decay,
                "momentum": momentum,
            },
            {
                "params": readout_matrices,
                "update": "adam",
                "weight_decay": readout_decay,
                "betas": betas,
                "eps": eps,
            },
            {"params": vectors, "update": "adam", "weight_decay": 0.0, "betas": betas, "eps": eps},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one step. `closure`, if given, computes the gradients first; its loss is
        returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = muon_update if group["update"] == "muon" else adam_update
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, self.state[parameter], group)
        return loss


def muon_update(matrix: Tensor, state: dict, group: dict) -> None:
    """Change a matrix by one step of Muon with Nesterov momentum."""
    if not state:
        state["momentum_buffer"] = torch.zeros_like(matrix)
    momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
    direction = orthogonalize(matrix.grad.lerp(momentum, group["momentum"]))
    matrix.add_(direction, alpha=-0.2 * max(matrix.shape) ** 0.5 * group["lr"])


def adam_update(parameter: Tensor, state: dict, group: dict) -> None:
    """Change a parameter by one step of Adam, as torch.optim.Adam does."""
    if not state:
        state.update(
            step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter)
        )
    state["step"] += 1
    beta1, beta2 = group["betas"]
    mean = state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
    square = (
        state["exp_avg_sq"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
    )
    root = (square.sqrt() / (1 - beta2 ** state["step"]) ** 0.5).add_(group["eps"])
    parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1 ** state["step"]))
