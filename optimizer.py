"""Muon for the matrices of a network and AdamW for its vectors, in the form of one optimizer."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # coefficients of Jordan et al. 2024, who have small singular values grow fast


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return about the nearest matrix with orthonormal rows (or columns, if there are fewer), by Newton-Schulz steps.

    Each step is an odd polynomial in the singular values and leaves the singular vectors as they are; five bring all but
    the smallest values to between 0.7 and 1.2.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalized(matrix.T, steps).T
    a, b, c = NEWTON_SCHULZ
    result = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), so that every direction in the space of hidden units learns at one speed.

    A step has the size of an AdamW step (Liu et al. 2025): a root mean square of 0.2 times the learning rate. torch's own
    Muon does the same in bfloat16, which most processors emulate: there it takes three times as long, 8% of an epoch.

    Args:
        params: Matrices.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
        momentum: Weight of the past in the running mean of the gradients.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        for group in self.param_groups:
            for matrix in (matrix for matrix in group["params"] if matrix.grad is not None):
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                direction = orthogonalized(matrix.grad.lerp(momentum, group["momentum"]))  # Nesterov's
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction, alpha=-0.2 * max(matrix.shape) ** 0.5 * group["lr"])


class MuonAdamW(torch.optim.Optimizer):
    """Drive Muon (matrices) and torch's AdamW (biases) as one, which is what Lightning and its schedules expect.

    Args:
        params: Parameters to optimise.
        lr: Learning rate, of both.
        weight_decay: Decoupled weight decay of the matrices; biases stay, so that what is decayed tends to the mean rates.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        params = list(params)
        matrices, vectors = [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]
        self.parts = [
            Muon(matrices, lr=lr, weight_decay=weight_decay),
            torch.optim.AdamW(vectors, lr=lr, weight_decay=0.0),
        ]
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure=None):
        """Take one step; `closure`, if given, computes the gradients first and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # one state and one set of options, here: schedules change them, checkpoints save and replace them
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.state, part.param_groups = self.state, [group]
            part.step()
        return loss
