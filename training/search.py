"""A search for settings: Optuna's study, and a training with what the study suggests."""

import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from jsonargparse import Namespace
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from command_line import FailedWork, InputError
from data import SpikeDataModule
from training import options
from training.parallel import Scores
from training.space import Space, suggest, with_settings
from training.terminal import Report

N_VALIDATIONS = 5  # of each training, to compare it with others while it runs
N_FIRST = 8  # trainings that are neither stopped early nor chosen by the results of others
FIRST_STOP = 3  # the first validation at which a training may be stopped: a slow start may end well


class Worse(FailedWork):
    """A training that was stopped because others were better at the same moment."""


def epochs_between_validations(config: Namespace) -> int:
    """Return after how many epochs a training is validated, so that it is compared with others a
    few times."""
    data = SpikeDataModule(**config.data, seed=config.seed_everything)
    return max(
        1, math.ceil((options.choose_epochs(config.trainer, data) or N_VALIDATIONS) / N_VALIDATIONS)
    )


def open_study(run_dir: Path, seed: int) -> optuna.Study:
    """Return the study in the folder of a search. Several processes may work on it at a time."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(run_dir / "study.log"))),
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=N_FIRST, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=N_FIRST, n_warmup_steps=FIRST_STOP),
        load_if_exists=True,
    )


def begin(study: optuna.Study) -> int:
    """Prepare a study for its next trainings, and return how many have ended.

    The first is the recipe as it is. Those that were stopped in the middle come next.
    """
    if not study.get_trials():
        study.enqueue_trial({}, user_attrs={"is_default": True})
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    return sum(
        trial.state.is_finished() and "seconds" in trial.user_attrs for trial in study.get_trials()
    )


def best_of(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """Return the training with the lowest held-out NLL; None if none came to its end."""
    return min(
        study.get_trials(states=[TrialState.COMPLETE]), key=lambda trial: trial.value, default=None
    )


def table_of(study: optuna.Study) -> list[dict[str, object]]:
    """Return a row for each setting that was tried, the best first, those without a result last."""
    rows = [
        {
            "setting": trial.number + 1,
            "outcome": "default"
            if trial.user_attrs.get("is_default")
            else trial.state.name.lower(),
            "heldout_nll": trial.value if trial.state == TrialState.COMPLETE else math.nan,
            "seconds": trial.user_attrs["seconds"],
            **trial.params,
        }
        for trial in study.get_trials()
        if "seconds" in trial.user_attrs
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    rows.sort(key=lambda row: (math.isnan(row["heldout_nll"]), row["heldout_nll"]))
    return [{name: row.get(name, "") for name in names} for row in rows]


def try_setting(
    train_level: Callable[..., Scores],
    config: Namespace,
    run_dir: Path,
    home: Path,
    space: Space,
    seed: int,
    gpu: int | None,
    send: Callable[[str], None],
) -> Scores:
    """Train with settings that a study suggests, and tell it what came out.

    Args:
        train_level: Function that trains one bandwidth.
        config: Its options.
        run_dir: Folder of the search.
        home: Folder that the search was started in.
        space: What to vary.
        seed: Of the suggestion.
        gpu: Index of the GPU to train on.
        send: Called with a line about the training.

    Raises:
        InputError: a machine of a cluster does not see the folder of the search.
    """
    if Path.cwd() != home:
        raise InputError(
            f"--cluster: a machine does not see {home / run_dir}; expected a shared file system"
        )
    study = open_study(run_dir, seed)
    trial = study.ask()
    settings = {} if trial.user_attrs.get("is_default") else suggest(trial, space)
    start = time.perf_counter()
    state, nll = TrialState.COMPLETE, None
    try:
        nll = train_one(train_level, with_settings(config, settings), run_dir, gpu, trial)
        outcome = f"{nll:.4f}"
    except Worse:
        state, outcome = TrialState.PRUNED, "stopped early"
    except FailedWork as error:
        state, outcome = TrialState.FAIL, f"failed: {str(error).split(':')[0]}"
    except InputError as error:  # an option may be wrong beside others
        state, outcome = TrialState.FAIL, f"failed: {error}"
    trial.set_user_attr("seconds", time.perf_counter() - start)
    study.tell(trial, nll, state)
    said = "  ".join(f"{name.split('.')[-1]} {short(value)}" for name, value in settings.items())
    send(
        f"{trial.number + 1:7}  {outcome:>13}  {trial.user_attrs['seconds']:4.0f} s  {said or 'the recipe as it is'}"
    )
    return {}


def train_one(
    train_level: Callable[..., Scores],
    config: Namespace,
    run_dir: Path,
    gpu: int | None,
    trial: optuna.Trial,
) -> float:
    """Train one setting and return its held-out NLL.

    Raises:
        Worse: other settings were better.
    """
    validations = itertools.count(1)

    def compare(report: Report) -> None:
        if report.is_validated and not report.is_last:
            trial.report(report.heldout_nll, next(validations))
            if trial.should_prune():
                raise Worse

    scores = train_level(config, run_dir / f"setting_{trial.number + 1:03}", gpu, compare)
    if not math.isfinite(scores["heldout_nll"]):
        raise FailedWork("the held-out NLL is not a number")
    return scores["heldout_nll"]


def short(value: object) -> str:
    """Return a value as it is said in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
