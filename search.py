"""Look for settings that suit a recording, by the held-out NLL.

python search.py --data.path yours.h5 --bandwidths 30 --trials 30
python search.py --resume SEARCH           continue a search that was stopped
python train.py --config SEARCH/best.yaml  train with what was found

It needs Optuna and pandas: pip install -r requirements-search.txt
"""

import math
from dataclasses import dataclass
from pathlib import Path

from training.flags import ROOT, begin

if __name__ == "__main__":
    begin(more=("--trials", "--space"))  # the imports below take seconds

import pytorch_lightning as pl
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from pytorch_lightning.callbacks import Callback

from command_line import (
    FailedWork,
    InputError,
    atomic_write,
    expect,
    number_of,
    run,
    silence_lightning,
)
from data import SpikeDataModule
from evaluation.run_folders import make_sweep_folder, open_sweep, read_stopped_sweep
from train import check_by_building, train_run
from training import options
from training.pool import connect, do_tasks
from training.progress import show_progress

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState
except ImportError:
    optuna = None  # main says so

SPACE = str(ROOT / "configs" / "search.yaml")
FREE = ("model.", "trainer.", "refinement.", "data.batch_size")  # do not change what is scored
N_VALIDATIONS = 5  # of each run, to compare it with others while it runs
N_FIRST = 8  # runs that are neither stopped early nor chosen by the results of others
FIRST_STOP = 3  # the first validation at which a run may be stopped: a slow start may end well


@dataclass
class Range:
    """Numbers from low to high; log: as many from 0.01 to 0.1 as from 0.1 to 1."""

    low: int | float
    high: int | float
    log: bool = False


Space = dict[str, Range | list]  # option of train.py: its values


def make_parser() -> options.OptionParser:
    """Return the parser of the options of train.py, and of those of a search."""
    parser = options.make_parser(__doc__)
    text = "Settings to try; the first is the recipe as it is"
    parser.add_argument("--trials", type=PositiveInt, default=30, help=text)
    text = f"YAML file: what to vary (default: {SPACE})"
    parser.add_argument("--space", type=Space | None, sub_configs=True, help=text)
    return parser


def choose_run(config: Namespace) -> Namespace:
    """Return the options of each run of a search; raise InputError for a wrong one."""
    options.check_options(config)
    runs = options.choose_runs(config)
    found = " ".join(str(bandwidth) for bandwidth, _ in runs)
    expect(len(runs) == 1, "--bandwidths", found, "one bandwidth, and --seeds 1")
    config = options.run_options(config, *runs[0])
    del config["trials"], config["space"]
    check_by_building(config)
    return config


def check_space(space: Space, config: Namespace) -> None:
    """Raise InputError for an option that a search cannot vary, or a value that it cannot have."""
    for name, values in space.items():
        expect(name.startswith(FREE), "--space", name, f"options of {', '.join(FREE)}")
        ends = values if isinstance(values, list) else [values.low, values.high]
        expect(len(ends) > 0, f"--space: {name}", values, "some values")
        try:
            if not isinstance(values, list):
                optuna.distributions.FloatDistribution(*ends, log=values.log)
            for value in ends:
                parsed = options.train_parser().parse_object({name: value})[name]
                check_by_building(set_options(config, {name: parsed}))
        except Exception as error:  # Optuna's, jsonargparse's, torch's or ours
            problem = " ".join(str(error).splitlines()[-1].split())
            raise InputError(f"--space: {name} cannot be {values}: {problem}") from None


def set_options(config: Namespace, settings: dict[str, object]) -> Namespace:
    """Return the options of a run with some of them set."""
    config = config.clone()
    for name, value in settings.items():
        config[name] = value
    return config


def open_study(folder: Path, seed: int) -> "optuna.Study":
    """Return the study in the folder of a search. Several processes may work on it at a time."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.log")))
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=N_FIRST, constant_liar=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=N_FIRST, n_warmup_steps=FIRST_STOP)
    names = {"study_name": "search", "load_if_exists": True}
    return optuna.create_study(storage=storage, sampler=sampler, pruner=pruner, **names)


def suggest(trial: "optuna.Trial", space: Space) -> dict[str, object]:
    """Return the settings to try: first the recipe as it is, then values in the space."""
    settings = {}
    for name, values in ({} if "is_default" in trial.user_attrs else space).items():
        if isinstance(values, list):
            settings[name] = trial.suggest_categorical(name, values)
            continue
        are_whole = isinstance(values.low, int) and isinstance(values.high, int)
        draw = trial.suggest_int if are_whole else trial.suggest_float
        settings[name] = draw(name, values.low, values.high, log=values.log)
    return settings


class StopIfWorse(Callback):
    """Stop a run if others were better after the same fraction of theirs."""

    def __init__(self, trial: "optuna.Trial") -> None:
        self.trial = trial

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        n_epochs, epoch = trainer.max_epochs or math.inf, trainer.current_epoch + 1
        step = int(N_VALIDATIONS * epoch / n_epochs)
        if 0 < step < N_VALIDATIONS:
            nll = float(trainer.callback_metrics["valid/heldout_nll_amortised"])
            self.trial.report(nll, step)
            if self.trial.should_prune():
                raise optuna.TrialPruned


def train_setting(
    trial: "optuna.Trial", config: Namespace, folder: Path, space: Space, gpu: int | None
) -> float:
    """Train with settings that a study suggests, and return the held-out NLL."""
    try:
        config = set_options(config, suggest(trial, space))
        data = SpikeDataModule(**config.data, seed=config.seed_everything)
        if config.trainer.check_val_every_n_epoch is not None:
            n_epochs = options.choose_epochs(config.trainer, data) or N_VALIDATIONS
            config.trainer.check_val_every_n_epoch = max(1, math.ceil(n_epochs / N_VALIDATIONS))
        place = folder / f"setting_{trial.number + 1:03}"
        nll = train_run(config, place, gpu, (StopIfWorse(trial),))["heldout_nll"]
        if not math.isfinite(nll):
            raise FailedWork(f"the held-out NLL is {nll}")
        return nll
    except optuna.TrialPruned:
        raise
    except Exception as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        raise


def try_setting(config: Namespace, folder: Path, space: Space, gpu: int | None, seed: int) -> None:
    """Train with one more setting. Whatever goes wrong fails the trial, not the search."""

    def train(trial: optuna.Trial) -> float:
        return train_setting(trial, config, folder, space, gpu)

    open_study(folder, seed).optimize(train, n_trials=1, catch=(Exception,))


def continue_study(study: "optuna.Study") -> int:
    """Let a study begin, or begin again what was stopped, and return how many trials ended."""
    if not study.trials:
        study.enqueue_trial({}, user_attrs={"is_default": True})
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return sum(trial.state != TrialState.FAIL or "error" in trial.user_attrs for trial in ended)


def report(study: "optuna.Study", run_config: Namespace, folder: Path) -> None:
    """Write trials.csv and best.yaml, and print the best; raise FailedWork if there is none."""
    attributes = ("number", "state", "value", "duration", "params", "user_attrs")
    table = study.trials_dataframe(attributes).rename(columns={"value": "heldout_nll"})
    table["duration"] = table["duration"].dt.total_seconds().round(1)
    table["number"] += 1
    with atomic_write(folder / "trials.csv") as path:
        table.sort_values("heldout_nll").to_csv(path, index=False)
    if table["heldout_nll"].isna().all():
        raise FailedWork(f"{folder}: no run came to its end; {folder / 'trials.csv'} says why")
    best = study.best_trial
    defaults = [trial.value for trial in study.trials if "is_default" in trial.user_attrs]
    found, best_yaml = set_options(run_config, best.params), folder / "best.yaml"
    options.save_config(found, best_yaml, options.train_parser())
    as_it_is = f" (the recipe as it is: {defaults[-1]:.4f})" if defaults[-1] else ""
    print(f"\nThe best: setting {best.number + 1}, held-out NLL {best.value:.4f}{as_it_is}")
    for name, value in best.params.items():
        print(f"  --{name} {value:.3g}" if isinstance(value, float) else f"  --{name} {value}")
    print(f"All of them:    {folder / 'trials.csv'}, and tensorboard --logdir {folder}")
    print(f"Train with it:  python train.py --config {best_yaml}")


def search(config: Namespace, run_config: Namespace, folder: Path) -> None:
    """Try the settings that are left, and report what was found."""
    study = open_study(folder, config.seed_everything)
    n_left = max(0, config.trials - continue_study(study))
    first = sum(trial.state != TrialState.WAITING for trial in study.trials)
    numbers = range(first, first + n_left)
    if n_left and not config.quiet:
        bandwidth = run_config.data.bandwidth
        print(f"Trying {number_of(n_left, 'setting')} at bandwidth {bandwidth} in {folder}")
    gpus = dict(zip(numbers, options.choose_gpus(config, n_left), strict=True))
    seeds = {number: config.seed_everything + number for number in numbers}
    tasks = {n: (run_config, folder, config.space, gpus[n], seeds[n]) for n in numbers}
    folders = {f"setting {n + 1}": folder / f"setting_{n + 1:03}" for n in numbers}
    with show_progress(folders, config.quiet or not tasks):
        results = do_tasks(try_setting, tasks, config, folder)
    for lost in (result for result in results.values() if isinstance(result, FailedWork)):
        raise FailedWork(f"{lost}; continue with: python search.py --resume {folder}")
    report(study, run_config, folder)


def main() -> None:
    silence_lightning()
    if optuna is None:
        install = "pip install -r requirements-search.txt"
        raise InputError(f"Optuna is not installed; expected: {install}")
    parser = make_parser()
    config, folder = parser.parse_args(), None
    if config.resume is not None:
        folder, config = read_stopped_sweep(parser, config)
    run_config = choose_run(config)
    if config.space is None:
        config.space = parser.parse_args(["--space", SPACE]).space
    config.space.pop("__path__", None)  # where it was read
    check_space(config.space, run_config)
    if config.cluster != "local":
        connect(config.cluster)
    if folder is None:
        folder = make_sweep_folder(config.name)
        options.save_config(config, folder / "config.yaml", parser)
    with open_sweep(folder):
        search(config, run_config, folder)


if __name__ == "__main__":
    run(main)
