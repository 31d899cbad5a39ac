"""Muon for hidden matrices, AdamW for the readout, Adam for vectors, in one optimizer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# coefficients of Jordan et al. 2024; small singular values grow fast with them
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315
MOMENTUM = 0.95  # weight of the past in Muon's running mean of the gradients
BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam, as usual
READOUT_DECAY = 1.0  # decoupled weight decay of the readout


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return approximately the nearest matrix with orthonormal rows (columns, if fewer).

    Each Newton-Schulz step applies an odd polynomial to the singular values and keeps the singular
    vectors. Five steps bring all but the smallest singular values to between 0.7 and 1.2.
    """
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
    """Return an optimizer of a kind: adam, adamw or muon (arguments of MuonAdam)."""
    if kind == "muon":
        return MuonAdam(hidden, readout, lr, weight_decay)
    parameters = nn.ModuleList([*hidden, readout]).parameters()
    optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    return optimizer(parameters, lr, weight_decay=weight_decay)


class MuonAdam(torch.optim.Optimizer):
    """Muon for hidden matrices (Jordan et al. 2024), AdamW for the readout, Adam for vectors.

    Muon orthogonalises the momentum of a matrix, so that all directions in the space of hidden
    units learn at the same speed. Its steps are scaled to the size of Adam's (Liu et al. 2025): a
    root mean square of 0.2 times the learning rate. A readout has few directions that matter, and
    at one speed the others would learn noise. So it is left to AdamW (Loshchilov & Hutter 2019), as
    Muon's authors advise. torch.optim.Muon does the same in bfloat16, slow on most CPUs.

    Args:
        hidden: Modules whose matrices lead to hidden units.
        readout: The module whose matrix leads to the outputs. None: there is none.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of the hidden matrices. Vectors do not decay, so decay
            pulls rates to their means.
    """

    def __init__(
        self, hidden: list[nn.Module], readout: nn.Module | None, lr: float, weight_decay: float
    ) -> None:
        hidden = list(nn.ModuleList(hidden).parameters())
        outputs = list(readout.parameters()) if readout else []
        matrices, output_matrices = ([p for p in part if p.ndim == 2] for part in (hidden, outputs))
        muon = {"params": matrices, "weight_decay": weight_decay, "momentum": MOMENTUM}
        groups = [muon]
        vectors = [p for p in hidden + outputs if p.ndim != 2]
        for params, decay in ((output_matrices, READOUT_DECAY), (vectors, 0.0)):
            groups.append({"params": params, "weight_decay": decay, "betas": BETAS, "eps": EPS})
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one step. `closure`, if given, computes the gradients; its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = muon_update if "momentum" in group else adam_update
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
    gradient, (beta1, beta2) = parameter.grad, group["betas"]
    if not state:
        zeros = torch.zeros_like(parameter)
        state.update(step=0, exp_avg=zeros, exp_avg_sq=zeros.clone())
    state["step"] += 1
    mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
    square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = (square.sqrt() / (1 - beta2 ** state["step"]) ** 0.5).add_(group["eps"])
    parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1 ** state["step"]))
