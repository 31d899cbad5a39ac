"""Which trials are for training and which for validation."""

from pathlib import Path

import numpy as np

from command_line import require
from recordings.binning import ROUNDING
from recordings.hdf5 import MAX_IN_MEMORY, SPLITS, Trials


def split_trials(
    n_trials: int,
    valid_fraction: float = 0.2,
    seed: int = 0,
    condition: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    path: str | Path = "the recording",
) -> np.ndarray:
    """Choose trials for validation (trials,; bool) at random, an equal part of each condition.

    Args:
        n_trials: Number of trials.
        valid_fraction: Fraction of the trials, or of the groups, for validation.
        seed: Seed of the choice.
        condition: (trials,) labels of conditions, where known.
        groups: (trials,) labels. Trials of one group stay in one split.
        path: The file that an error names.

    Raises:
        InputError: too few trials or groups.
    """
    condition = np.zeros(n_trials) if condition is None else np.asarray(condition)
    labels = np.arange(n_trials) if groups is None else groups
    _, first, group_of = np.unique(labels, return_index=True, return_inverse=True)
    condition, n_groups = condition[first], len(first)
    n_valid = round(n_groups * valid_fraction)
    what = "trials" if groups is None else "groups of trials that share time"
    found = f"{n_valid} of {n_groups} {what} for validation"
    require(0 < n_valid < n_groups, f"{path}: {found}; expected some in both splits")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(n_groups)
    rank = np.empty(n_groups)  # of a group among those of its condition, as a fraction
    for label in np.unique(condition):
        same = shuffled[condition[shuffled] == label]
        rank[same] = (np.arange(len(same)) + rng.random()) / len(same)
    is_valid = np.zeros(n_groups, dtype=bool)
    is_valid[np.argsort(rank, kind="stable")[:n_valid]] = True
    return is_valid[group_of]


def overlap_groups(windows: np.ndarray) -> np.ndarray:
    """Return labels (trials,) of groups of trials that share time, directly or through others.

    Args:
        windows: (trials, 2) start and stop times (s).
    """
    order = np.argsort(windows[:, 0], kind="stable")
    latest_stop = np.maximum.accumulate(windows[order, 1])
    starts_a_group = np.append(True, windows[order[1:], 0] >= latest_stop[:-1] - ROUNDING)
    groups = np.empty(len(windows), dtype=int)
    groups[order] = np.cumsum(starts_a_group) - 1
    return groups


def hold_out_conditions(trials: dict[str, Trials], path: str | Path) -> dict[str, Trials]:
    """Split the trials anew: each fifth condition is for validation, the others for training.

    Raises:
        InputError: a file without labels, with fewer than five conditions, or too large for memory.
    """
    train, valid = (trials[split] for split in SPLITS)
    has_labels = train.condition is not None and valid.condition is not None
    require(has_labels, f"{path}: has no train_condition and valid_condition; expected labels")
    too_large = f"{path}: has more than {MAX_IN_MEMORY >> 30} GB of counts"
    in_memory = isinstance(train.spikes, np.ndarray)
    require(in_memory, f"{too_large}; expected less, to hold out whole conditions")
    pairs = zip(train, valid, strict=True)
    joined = Trials(*(None if pair[0] is None else np.concatenate(pair) for pair in pairs))
    labels = np.unique(joined.condition)
    found = f"{path}: has {len(labels)} conditions"
    require(len(labels) >= 5, f"{found}; expected at least 5, to hold out every fifth")
    is_valid = np.isin(joined.condition, labels[2::5])
    return trials | {
        split: Trials(*(None if field is None else field[chosen] for field in joined))
        for split, chosen in zip(SPLITS, (~is_valid, is_valid), strict=True)
    }


def has_new_conditions(trials: dict[str, Trials]) -> bool:
    """Return whether conditions repeat in training and those of validation are all others.

    False if labels are not known. If no condition repeats in training, training trials are as new
    to each other as validation trials are to them.
    """
    train, valid = (trials[split].condition for split in SPLITS)
    if train is None or valid is None:
        return False
    return len(np.unique(train)) < len(train) and not np.isin(valid, train).any()
