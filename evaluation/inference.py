"""Inference with a trained model: spikes in, rates out."""

import numpy as np
import torch
from numpy.typing import ArrayLike

from command_line import require
from model import SequentialAutoencoder
from modules.posterior import Inference, n_affordable
from recordings.checks import check_observed, read_spikes

BATCH_SIZE = 512  # trials inferred at a time
UNITS = {
    "rates": "spikes/s",
    "rates_sd": "spikes/s, posterior standard deviation",
    "log_rates": "log of the expected spikes in a bin",
    "latents": "state of the decoder, no unit",
    "initial_condition": "state of the decoder before the first bin, no unit",
    "inputs": "input of the decoder, no unit",
}


@torch.no_grad()
def infer_arrays(
    model: SequentialAutoencoder, spikes: ArrayLike | torch.Tensor, with_sd: bool = False
) -> dict[str, np.ndarray]:
    """Infer rates and latents from spikes.

    Args:
        model: The model, in evaluation mode (as evaluation.checkpoints.load_checkpoint returns it).
        spikes: (trials, time, neurons) counts per bin, NaN = missing. A tensor, as data.py makes
            them, is not checked: it may hold interpolated counts.
        with_sd: Also `rates_sd`, how uncertain the rates are. The encoder alone does not know it.

    Returns:
        float32 arrays: `rates` in spikes/s and `log_rates` (trials, time, neurons), `latents`
        (trials, time, hidden units), `initial_condition` (trials, hidden units) and, if the decoder
        has any, `inputs` (trials, time, inputs).

    Raises:
        InputError: not counts, another number of neurons, or nothing observed.
    """
    if not isinstance(spikes, torch.Tensor):
        spikes = check_spikes(spikes, model.hparams.n_neurons)
    n_together = min(BATCH_SIZE, n_affordable(*spikes.shape[1:], model.hparams.hidden_size))
    parts = []
    for batch in torch.as_tensor(spikes, dtype=torch.float32).split(n_together):
        batch = batch.to(model.device, model.dtype)
        inferred = model.infer(batch)
        sd = model.rates_sd(batch, inferred) if with_sd else None
        parts.append(to_arrays(model, inferred, sd))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_spikes(spikes: ArrayLike, n_neurons: int) -> np.ndarray:
    """Return counts (trials, time, neurons) as float32; raise InputError for others."""
    spikes = read_spikes(spikes, "infer_arrays", "spikes")
    found = f"infer_arrays: spikes have shape {spikes.shape}"
    require(spikes.shape[2] == n_neurons, f"{found}; expected {n_neurons} neurons on the last axis")
    check_observed(~np.isnan(spikes), "infer_arrays", "spikes")
    return spikes


def to_arrays(
    model: SequentialAutoencoder, inferred: Inference, rates_sd: torch.Tensor | None = None
) -> dict[str, np.ndarray]:
    """Return what was inferred as the arrays of `infer_arrays`."""
    arrays = {"rates": model.rates(inferred.log_rates), "rates_sd": rates_sd, **inferred._asdict()}
    known = {name: arrays[name] for name in UNITS if arrays[name] is not None}
    return {name: array.float().cpu().numpy() for name, array in known.items()}
