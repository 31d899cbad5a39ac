"""The two GRUs of the model: parameters and results of nn.GRU, but faster on a CPU.

In nn.GRU, trials are the first axis: a gate is not contiguous in memory, and each time step makes
many tensors. Here hidden units are the first axis: a gate is one block of memory, and three tensors
hold all time steps for the backward pass. On a GPU, nn.GRU itself is used.

Letters in shapes: B trials, T time bins, N inputs, H hidden units.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def is_on_cpu(values: Tensor) -> bool:
    """Return whether values are on the CPU, where the scan below is faster than nn.GRU."""
    return values.device.type == "cpu"


class GRUEncoder(nn.GRU):
    """Bidirectional GRU."""

    def __init__(self, n_inputs: int, hidden_size: int) -> None:
        super().__init__(n_inputs, hidden_size, batch_first=True, bidirectional=True)

    def forward(self, inputs: Tensor, each_bin: bool = False) -> tuple[Tensor, Tensor | None]:
        """Read inputs (B, T, N) in both directions, from zeros.

        Returns:
            The final states (B, 2 H), first those of the forward direction, and, if `each_bin`, the
            states (T, B, 2 H).
        """
        if not is_on_cpu(inputs):
            states, final_states = super().forward(inputs)
            return torch.cat(final_states.unbind(), dim=1), states.transpose(0, 1)
        inputs = inputs.permute(1, 2, 0).contiguous()
        start = inputs.new_zeros(self.hidden_size, inputs.shape[2])
        directions = zip((inputs, inputs.flip(0)), self.all_weights, strict=True)
        forward, backward = (Scan.apply(bins, start, *weights) for bins, weights in directions)
        final_states = torch.cat((forward[-1], backward[-1])).T
        if not each_bin:
            return final_states, None
        return final_states, torch.cat((forward, backward.flip(0)), dim=1).mT


class GRUDecoder(nn.GRU):
    """GRU that starts from an initial condition.

    Without inputs, its parameters are those of an nn.GRU with one input, which is always zero.
    """

    def __init__(self, hidden_size: int, n_inputs: int = 0) -> None:
        super().__init__(max(n_inputs, 1), hidden_size)
        self.weight_ih_l0.requires_grad = n_inputs > 0

    def set_inputs(self, n_inputs: int) -> None:
        """Replace the input's matrix by a random one for another number of inputs."""
        others = self.weight_hh_l0
        matrix = others.new_empty(3 * self.hidden_size, max(n_inputs, 1))
        nn.init.uniform_(matrix, -(self.hidden_size**-0.5), self.hidden_size**-0.5)
        self.input_size = matrix.shape[1]
        self.weight_ih_l0 = nn.Parameter(matrix, n_inputs > 0 and others.requires_grad)

    def train(self, mode: bool = True) -> "GRUDecoder":
        """Stay in training mode: cuDNN gives gradients in no other, and nothing else changes."""
        return super().train(True)

    def forward(
        self, initial_condition: Tensor, n_bins: int, inputs: Tensor | None = None
    ) -> Tensor:
        """Unroll for `n_bins` time bins.

        Args:
            initial_condition: (B, H) state before the first bin.
            n_bins: Number of time bins.
            inputs: (T, B, I) what drives the decoder, if anything does.

        Returns:
            The states (T, B, H).
        """
        n_trials = len(initial_condition)
        if not is_on_cpu(initial_condition):
            if inputs is None:
                inputs = initial_condition.new_zeros(n_bins, n_trials, self.input_size)
            # cuDNN takes no other than contiguous initial conditions
            return super().forward(inputs, initial_condition.contiguous().unsqueeze(0))[0]
        w_ih, *others = self.all_weights[0]
        if inputs is None:
            driven_by, w_ih = initial_condition.new_zeros(n_bins, 0, n_trials), w_ih[:, :0]
        else:
            driven_by = inputs.mT.contiguous()
        return Scan.apply(driven_by, initial_condition.T.contiguous(), w_ih, *others).mT


class Scan(torch.autograd.Function):
    """One direction of a GRU over all time bins (Cho et al. 2014; letters of nn.GRU).

    r, z = sigmoid(W_ih x + b_ih + W_hh h + b_hh)   reset and update gate
    q = W_hh h + b_hh                               what the reset gate scales
    n = tanh(W_ih x + b_ih + r q)                   new state
    h' = n + z (h - n)

    The first H rows of W and b are those of r, the next H those of z, the last H those of n (or q).
    """

    @staticmethod
    def forward(
        ctx, inputs: Tensor, start: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> Tensor:
        """Return the states (T, H, B) after the inputs (T, N, B), from a state (H, B) at first."""
        n_bins, (size, n_trials) = len(inputs), start.shape
        gates = start.new_empty(n_bins, 3 * size, n_trials)  # r, z, n
        q = start.new_empty(n_bins, size, n_trials)
        states = start.new_empty(n_bins + 1, size, n_trials)
        states[0] = start
        (w_rz, w_q), (b_rz, b_q) = (weights.split((2 * size, size)) for weights in (w_hh, b_hh))
        bias = torch.cat((b_ih[: 2 * size] + b_rz, b_ih[2 * size :])).unsqueeze(1)
        b_q = b_q.unsqueeze(1)
        r_z, parts = gates[:, : 2 * size], gates.split(size, dim=1)
        steps = inputs, gates, r_z, *parts, q, states[:-1], states[1:]
        for x, rzn, rz, r, z, n, q_t, h, h_next in zip(*steps, strict=True):
            torch.addmm(bias, w_ih, x, out=rzn)
            rz.addmm_(w_rz, h).sigmoid_()
            torch.addmm(b_q, w_q, h, out=q_t)
            n.addcmul_(r, q_t).mul_(2).sigmoid_().mul_(2).sub_(1)  # tanh; torch's own takes longer
            torch.lerp(n, h, z, out=h_next)
        ctx.save_for_backward(inputs, gates, q, states, w_ih, w_hh)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, d_states: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments of `forward`; d_x is the gradient of x."""
        inputs, gates, q, states, w_ih, w_hh = ctx.saved_tensors
        _, size, n_trials = q.shape
        needs_d_inputs, needs_d_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[2:])
        d_inputs = torch.empty_like(inputs)
        # transposed: adding to them is faster
        d_w_ih_t, d_w_hh_t = (w.new_zeros(w.T.shape) for w in (w_ih, w_hh))
        d_b_ih, d_b_hh = w_hh.new_zeros(2, 3 * size)
        d_h = torch.zeros_like(q[0])
        d_h_before, d_n = torch.empty_like(d_h), torch.empty_like(d_h)
        d_rzq = d_h.new_empty(3 * size, n_trials)  # before the nonlinearities, like d_n
        d_rz, (d_r, d_z, d_q) = d_rzq[: 2 * size], d_rzq.split(size)
        ones = d_h.new_ones(n_trials)
        r_z, parts = gates[:, : 2 * size], gates.split(size, dim=1)
        steps = inputs, d_inputs, r_z, *parts, q, states[:-1], d_states
        for x, d_x, rz, r, z, n, q_t, h, d_output in reversed(list(zip(*steps, strict=True))):
            d_h += d_output
            torch.sub(h, n, out=d_z).mul_(d_h)
            torch.mul(d_h, z, out=d_h_before)
            d_h -= d_h_before
            torch.ops.aten.tanh_backward.grad_input(d_h, n, grad_input=d_n)
            torch.mul(d_n, q_t, out=d_r)
            torch.ops.aten.sigmoid_backward.grad_input(d_rz, rz, grad_input=d_rz)
            torch.mul(d_n, r, out=d_q)
            d_h_before.addmm_(w_hh.T, d_rzq)
            if needs_d_weights:
                d_w_hh_t.addmm_(h, d_rzq.T)
                d_b_hh.addmv_(d_rzq, ones)
            d_q.copy_(d_n)  # the rows of W_ih are those of n instead of q
            if needs_d_weights:
                d_w_ih_t.addmm_(x, d_rzq.T)
                d_b_ih.addmv_(d_rzq, ones)
            if needs_d_inputs:
                torch.mm(w_ih.T, d_rzq, out=d_x)
            d_h, d_h_before = d_h_before, d_h
        return d_inputs if needs_d_inputs else None, d_h, d_w_ih_t.T, d_w_hh_t.T, d_b_ih, d_b_hh
