"""Initial weights and biases from which a model learns fast from its first step."""

from torch import Tensor, nn


def init_orthogonal(gru: nn.GRU, gain: float) -> None:
    """Initialise a GRU with orthogonal recurrent matrices (Saxe et al. 2014) and quick updates.

    Args:
        gru: The GRU. Its update gates start near 0.4 instead of 0.5: 60% of a state is replaced at
            each step.
        gain: Scale of the recurrent matrix of the new states. The larger it is, the longer the
            states of different trials stay different.
    """
    for name, weights in gru.named_parameters():
        reset, update, new_state = weights.data.split(gru.hidden_size)
        if name.startswith("weight_hh"):
            for matrix, scale in ((reset, 1.0), (update, 1.0), (new_state, gain)):
                nn.init.orthogonal_(matrix, scale)
        elif name.startswith("bias_hh"):
            update.sub_(0.5)


def log_mean_counts(spikes: Tensor) -> Tensor:
    """Return the log of each neuron's mean count per bin.

    Args:
        spikes: (B, T, N) counts per bin, NaN = missing.

    Returns:
        (N,). A neuron that was never observed gets the mean of all neurons.
    """
    mean_counts = spikes.nanmean((0, 1))
    mean_counts = mean_counts.where(~mean_counts.isnan(), spikes.nanmean().nan_to_num(nan=1.0))
    return mean_counts.clamp(min=1e-3).log()
