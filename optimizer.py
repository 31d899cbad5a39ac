"""Muon for the matrices of a network and AdamW for its vectors, in the form of one optimizer."""

from collections.abc import Iterable

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """Drive torch's Muon (matrices) and AdamW (biases) as one, which is what Lightning and its schedules expect.

    Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest matrix with orthonormal columns or rows, so
    that every direction in the space of hidden units learns at the same speed. Its step is scaled to the size of an
    AdamW step (Liu et al. 2025), so one learning rate serves both.

    Args:
        params: Parameters to optimise.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of the matrices; biases stay, so that what is decayed tends to the mean rates.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        params = list(params)
        matrices, vectors = [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]
        self.parts = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
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
