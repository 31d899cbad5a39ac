"""`python search.py`: a search for settings."""

from collections.abc import Callable
from types import SimpleNamespace

import optuna
import pytest
import yaml
from conftest import RUN, SMALL, Done, check_end

import search
from command_line import read_table
from model import SequentialAutoencoder
from search import StopIfWorse, continue_study, make_parser, open_study, suggest

SPACE = {
    "model.hidden_size": [4, 8],
    "model.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
}


@pytest.fixture
def look(call, tmp_path, small_lorenz, no_figures) -> Callable:
    """A function that runs search.py in RUN, over a space."""

    def look(options: str, space: object = SPACE, status: int = 0) -> Done:
        (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
        small = [*SMALL[2:], "--refinement.epochs=0", "--jobs=1", "--bandwidths=3"]
        words = f"--space space.yaml --data.path {small_lorenz} --name run {options}".split()
        return check_end(call(tmp_path, "search.py", *small, *words), status)

    return look


def test_a_search_finds_settings_and_continues_where_it_was_stopped(look, call, train, tmp_path):
    look("--trials 2")
    folder = tmp_path / RUN
    assert len(list(folder.glob("setting_*/best.ckpt"))) == 2

    # as if it had been stopped in the third of four
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("trials: 2", "trials: 4"))
    study = open_study(folder, 0)
    sizes = optuna.distributions.CategoricalDistribution((4, 8))
    stopped = study.ask({"model.hidden_size": sizes})
    done = call(tmp_path, "search.py", "--resume", str(folder), "--jobs", "1")
    assert (done.status, done.errors) == (0, "")
    assert "Trying 2 settings at bandwidth 3" in done.output

    rows = read_table(folder / "trials.csv")
    assert sorted(row["number"] for row in rows) == ["1", "2", "3", "4", "5"]
    assert {row["number"]: row["state"] for row in rows}["3"] == "FAIL"
    trials = study.get_trials()
    assert trials[0].params == {}, "the first is the recipe as it is"
    assert trials[3].params["model.hidden_size"] == stopped.params["model.hidden_size"]
    complete = [row for row in rows if row["state"] == "COMPLETE"]
    scores = [float(row["heldout_nll"]) for row in complete]
    assert scores == sorted(scores)
    assert f"held-out NLL {scores[0]:.4f}" in done.output
    assert f"(the recipe as it is: {trials[0].value:.4f})" in done.output

    best = yaml.safe_load((folder / "best.yaml").read_text())
    found = study.best_params.get("model.hidden_size", 50)
    assert best["model"]["hidden_size"] == found
    done = call(tmp_path, "train.py", "--config", str(folder / "best.yaml"), "--name", "again")
    assert (done.status, done.errors) == (0, "")
    (again,) = read_table(tmp_path / "lightning_logs" / "again" / "results.csv")
    assert float(again["heldout_nll"]) == pytest.approx(scores[0], abs=1e-6)


def test_a_run_that_raises_fails_its_trial_alone(look, monkeypatch, tmp_path):
    step = SequentialAutoencoder.training_step

    def fail_if_small(model: SequentialAutoencoder, *args: object) -> object:
        if model.hparams.hidden_size != 50:
            raise ZeroDivisionError("a bug")
        return step(model, *args)

    monkeypatch.setattr(SequentialAutoencoder, "training_step", fail_if_small)
    done = look("--trials 2")
    assert "The best: setting 1," in done.output
    states = {row["number"]: row for row in read_table(tmp_path / RUN / "trials.csv")}
    assert (states["1"]["state"], states["2"]["state"]) == ("COMPLETE", "FAIL")
    assert states["2"]["user_attrs_error"] == "ZeroDivisionError: a bug"


def test_a_search_in_which_all_runs_fail_says_where_to_look(look, monkeypatch, tmp_path):
    monkeypatch.setattr(SequentialAutoencoder, "training_step", lambda *_: 1 / 0)
    done = look("--trials 2", status=1)
    assert f"{RUN / 'trials.csv'} says why" in done.errors
    assert not (tmp_path / RUN / "best.yaml").exists()


def validate(trial: SimpleNamespace, epoch: int, n_epochs: int) -> None:
    scores = {"valid/heldout_nll_amortised": 1.0}
    limits = {"max_epochs": n_epochs, "current_epoch": epoch - 1}
    StopIfWorse(trial).on_validation_end(SimpleNamespace(**limits, callback_metrics=scores), None)


@pytest.mark.parametrize(
    ("n_epochs", "period", "compared"),
    [(10, 2, [1, 2, 3, 4]), (5, 1, [1, 2, 3, 4]), (7, 2, [1, 2, 4])],
)
def test_runs_are_compared_after_equal_fractions_and_not_at_their_end(n_epochs, period, compared):
    fifths = []
    trial = SimpleNamespace(report=lambda _, fifth: fifths.append(fifth), should_prune=bool)
    for epoch in range(period, n_epochs + 1, period):
        validate(trial, epoch, n_epochs)
    assert fifths == compared


def test_a_run_that_is_worse_than_others_is_stopped():
    trial = SimpleNamespace(report=lambda nll, fifth: None, should_prune=lambda: True)
    with pytest.raises(optuna.TrialPruned):
        validate(trial, 3, 5)
    validate(trial, 5, 5)  # it is at its end


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"model.no_such": [1]}, "model.no_such cannot be"),
        ({"model.hidden_size": ["many"]}, "model.hidden_size cannot be"),
        ({"model.hidden_size": [0]}, "model.hidden_size cannot be"),
        ({"model.hidden_size": []}, "some values"),
        ({"model.dropout": {"low": 0.0, "high": 3.0}}, "model.dropout cannot be"),
        ({"model.weight_decay": {"low": None, "high": 3.0}}, "--space"),
        ({"data.bandwidth": [2, 3]}, "data.bandwidth: expected options of"),
        ({"seed_everything": [2, 3]}, "seed_everything: expected options of"),
        ({"model.dropout": {"low": 0.1}}, "--space"),
        ({"model.dropout": {"low": 0.3, "high": 0.1}}, "model.dropout cannot be"),
        ({"model.dropout": {"low": 0.0, "high": 0.1, "log": True}}, "model.dropout cannot be"),
        (3, "--space"),
    ],
)
def test_a_wrong_space_is_refused_in_one_line(look, tmp_path, space, expected):
    done = look("", space, status=2)
    assert done.output == ""
    assert done.errors.startswith("search.py: --space")
    assert expected in done.errors
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--bandwidths 3 2", "one bandwidth, and --seeds 1"),
        ("--seeds 2", "one bandwidth, and --seeds 1"),
        ("--trials 0", "--trials"),
        ("--space missing.yaml", "missing.yaml"),
    ],
)
def test_other_mistakes_are_said_in_one_line(look, tmp_path, options, expected):
    assert expected in look(options, status=2).errors
    assert not (tmp_path / "lightning_logs").exists()


def test_without_optuna_it_is_said_how_to_install_it(look, monkeypatch):
    monkeypatch.setattr(search, "optuna", None)
    assert "pip install -r requirements-search.txt" in look("", status=2).errors


def test_values_are_drawn_from_the_space(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "model.dropout: {low: 1e-3, high: 1e-1}\nmodel.hidden_size: {low: 8, high: 9}\n"
        "model.optimizer: [adam]"
    )
    config = make_parser().parse_args(["--space", str(tmp_path / "space.yaml")])
    config.space.pop("__path__", None)
    study = optuna.create_study()
    assert continue_study(study) == 0
    assert suggest(study.ask(), config.space) == {}, "first the recipe as it is"
    settings = suggest(study.ask(), config.space)
    assert settings["model.hidden_size"] in (8, 9)
    assert 0.001 <= settings["model.dropout"] <= 0.1
    assert settings["model.optimizer"] == "adam"


def test_a_search_that_has_ended_says_its_result_again(look, call, tmp_path):
    look("--trials 1")
    (tmp_path / RUN / "best.yaml").unlink()
    done = call(tmp_path, "search.py", "--resume", str(RUN), "--jobs", "1")
    assert (done.status, done.errors) == (0, "")
    assert "Trying" not in done.output
    assert "The best: setting 1," in done.output
    assert (tmp_path / RUN / "best.yaml").exists()


def test_the_space_of_the_repo_can_be_searched(small_lorenz):
    words = ["--data.path", small_lorenz, "--bandwidths", "3", "--space", search.SPACE]
    config = make_parser().parse_args(words)
    config.space.pop("__path__")
    assert "model.learning_rate" in config.space
    search.check_space(config.space, search.choose_run(config))
