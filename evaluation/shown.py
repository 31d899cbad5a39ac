"""What figures show of a model and its data: example trials, means over trials, and their labels.

Shapes: B trials, T time bins, N neurons.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from data import SpikeDataModule
from evaluation.baselines import smooth
from plotting.labels import Labels
from plotting.trials import Example
from recordings.session import Conversion, parse_conversion

SMOOTHED_OVER = 5.0  # s, summed over trials, that the smoothing of a PSTH averages


class Psths(NamedTuple):
    """Mean rates over the trials of each condition (conditions, T, N) in spikes/s."""

    counted: np.ndarray  # NaN where nothing was recorded
    inferred: np.ndarray
    names: list[str]  # of the conditions
    largest_sd: float  # of the Gaussian that smooths the counted rates of a condition (s)


def choose_trials(n_trials: int, n_chosen: int) -> list[int]:
    """Choose trials that are evenly spread, with the middle one if their number is odd."""
    return sorted({(2 * i + 1) * n_trials // (2 * n_chosen) for i in range(n_chosen)})


def read_labels(data: SpikeDataModule) -> Labels:
    """Return the labels of time and neurons; those of the session that convert.py cut, if any."""
    conversion = parse_conversion(data.conversion) or Conversion()
    units = [str(unit) for unit in conversion.unit_ids or []]
    known = units if len(units) == data.n_neurons else None
    return Labels(data.bin_width, float(conversion.start or 0.0), known)


def name_conditions(data: SpikeDataModule) -> dict[int, str]:
    """Return the names of the validation trials' conditions; nothing without labels."""
    condition = data.trials["valid"].condition
    if condition is None:
        return {}
    conversion = parse_conversion(data.conversion) or Conversion()
    column = conversion.condition or "condition"
    names = dict(enumerate(data.condition_names or []))
    return {label: f"{column} {names.get(label, label)}" for label in np.unique(condition).tolist()}


def make_examples(
    data: SpikeDataModule, inferred: dict[str, np.ndarray], chosen: Iterable[int]
) -> list[Example]:
    """Return validation trials, with what was inferred from the first of them (`infer_arrays`)."""
    chosen, stored = list(chosen), data.trials["valid"]
    trials = data.datasets["valid"][chosen].to("cpu")
    trials.spikes[..., data.n_heldin :] = torch.nan  # the model never sees these
    labels, conditions = read_labels(data), name_conditions(data)
    names = [
        f"trial {trial}" + (f"\n{conditions[int(stored.condition[trial])]}" if conditions else "")
        for trial in chosen
    ]
    return [
        Example(
            name=names[i],
            bandwidth=data.n_observed,
            spikes=trials.spikes[i].numpy(),
            rates=None if trials.rates is None else trials.rates[i].numpy(),
            inferred=inferred["rates"][trial],
            labels=labels,
            inputs=inferred["inputs"][trial] if "inputs" in inferred else None,
        )
        for i, trial in enumerate(chosen)
    ]


def compute_psths(data: SpikeDataModule, inferred: np.ndarray) -> Psths:
    """Average counted and inferred rates of the first validation trials over each condition.

    Without labels, all trials are of one condition. `inferred` are rates (B, T, N) in spikes/s.
    Counted rates are smoothed, the more the fewer trials a condition has.
    """
    stored, n_trials = data.trials["valid"], len(inferred)
    counts = torch.as_tensor(stored.spikes[:n_trials].astype(np.float32))
    conditions = name_conditions(data) or {0: "all trials"}
    condition = np.zeros(n_trials) if stored.condition is None else stored.condition[:n_trials]
    members = {label: condition == label for label in conditions if (condition == label).any()}
    sums = torch.stack([counts[chosen].nansum(0) for chosen in members.values()])
    n_observed = torch.stack([(~counts[chosen].isnan()).sum(0) for chosen in members.values()])
    n_trials_of = n_observed.amax((1, 2)).clamp(min=1).numpy()
    sds = SMOOTHED_OVER / (n_trials_of * 2 * np.sqrt(np.pi) * data.bin_width)  # bins
    sds = sds.clip(0.01, counts.shape[1] / 10)  # the least is no smoothing
    counted = [
        smooth(of_one[None], n[None].float(), torch.zeros(()), sd, 1e-9)[0] / data.bin_width
        for of_one, n, sd in zip(sums, n_observed, sds.tolist(), strict=True)
    ]
    counted = torch.stack(counted).where(n_observed > 0, torch.nan).numpy()
    means = np.stack([inferred[chosen].mean(0) for chosen in members.values()])
    names = [conditions[label] for label in members]
    return Psths(counted, means, names, float(sds.max()) * data.bin_width)
