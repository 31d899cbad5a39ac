"""`python search.py`: a search for settings."""

import optuna
import pytest
import yaml
from conftest import SMALL

import search as command
from command_line import read_table
from training.options import make_parser
from training.search import open_study
from training.space import SPACE as SPACE_FILE
from training.space import read_space, suggest

SPACE = {
    "model.hidden_size": [4, 8],
    "model.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
}


@pytest.fixture
def words(tmp_path, small_lorenz) -> list[str]:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    small = [*SMALL[2:], "--model.refinement=0", "--jobs=1", "--space", "space.yaml"]
    return [
        "search.py",
        "--data.path",
        small_lorenz,
        "--bandwidths",
        "3",
        "--name",
        "found",
        *small,
    ]


def test_a_search_finds_settings_and_goes_on_where_it_was_stopped(call, tmp_path, words):
    done = call(tmp_path, *words, "--trials", "2")
    assert (done.status, done.errors) == (0, "")
    run = tmp_path / "lightning_logs" / "found"
    assert len(list(run.glob("setting_*/best.ckpt"))) == 2
    assert done.output.count("the recipe as it is") == 2

    # as if it had been stopped in the third of four
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace("trials: 2", "trials: 4")
    )
    study = open_study(run, 0)
    stopped = study.ask({"model.hidden_size": optuna.distributions.CategoricalDistribution((4, 8))})
    done = call(tmp_path, "search.py", "--resume", str(run), "--jobs", "1")
    assert (done.status, done.errors) == (0, "")
    assert "Trying 2 settings at bandwidth 3" in done.output

    rows = read_table(run / "trials.csv")
    assert len(rows) == 4
    assert rows[0]["model.hidden_size"] in ("", "4", "8")
    assert [row["outcome"] for row in rows].count("default") == 1
    tried = [trial for trial in study.get_trials() if "seconds" in trial.user_attrs]
    assert tried[2].params["model.hidden_size"] == stopped.params["model.hidden_size"]
    scores = [
        float(row["heldout_nll"]) for row in rows if row["outcome"] in ("complete", "default")
    ]
    assert scores == sorted(scores)
    assert f"held-out NLL {scores[0]:.4f}" in done.output

    best = yaml.safe_load((run / "best.yaml").read_text())
    if rows[0]["outcome"] != "default":
        assert str(best["model"]["hidden_size"]) == rows[0]["model.hidden_size"]
    done = call(
        tmp_path, "train.py", "--config", str(run / "best.yaml"), "--jobs", "1", "--name", "again"
    )
    assert (done.status, done.errors) == (0, "")
    (again,) = read_table(tmp_path / "lightning_logs" / "again" / "results.csv")
    assert float(again["heldout_nll"]) == pytest.approx(scores[0], abs=1e-6), (
        "the same training gives the same score"
    )


def test_a_training_that_is_worse_than_others_is_stopped(tmp_path):
    class Study:
        def report(self, value: float, step: int) -> None:
            self.reported = value, step

        def should_prune(self) -> bool:
            return self.reported[0] > 1

    from training.search import Worse, train_one
    from training.terminal import Report

    trial = Study()
    trial.number = 0

    def train_level(config, folder, gpu, report) -> dict[str, float]:
        for epoch, nll in enumerate(config, start=1):
            report(Report("", epoch, 10, "", False, nll))
            report(Report("", epoch, 10, "", True, nll, epoch == len(config)))
        return {"heldout_nll": config[-1]}

    assert train_one(train_level, [0.9, 0.8, 1.2], tmp_path, None, trial) == 1.2, (
        "the last is not compared"
    )
    assert trial.reported == (0.8, 2)
    with pytest.raises(Worse):
        train_one(train_level, [0.9, 1.1, 0.7], tmp_path, None, trial)
    assert trial.reported == (1.1, 2)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"model.no_such": [1]}, "model.no_such cannot be 1"),
        ({"model.hidden_size": ["many"]}, "model.hidden_size cannot be many"),
        ({"model.hidden_size": [0]}, "model.hidden_size cannot be 0"),
        ({"model.dropout": {"low": 0.0, "high": 3.0}}, "model.dropout cannot be 3.0"),
        ({"model.weight_decay": {"low": None, "high": 3.0}}, "expected numbers"),
        ({"data.bandwidth": [2, 3]}, "data.bandwidth cannot be varied"),
        ({"seed_everything": [2, 3]}, "seed_everything cannot be varied"),
        ({"model.dropout": {"low": 0.1}}, "expected a list, or low and high"),
        ({"model.dropout": {"low": 0.3, "high": 0.1}}, "low < high"),
        ({"model.dropout": {"low": 0.0, "high": 0.1, "log": True}}, "low > 0 if log"),
        ([], "expected options and their values"),
    ],
)
def test_a_wrong_space_is_refused_in_one_line(call, tmp_path, words, space, expected):
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    done = call(tmp_path, *words)
    assert (done.status, done.output, done.errors.count("\n")) == (2, "", 1)
    assert done.errors.startswith("search.py: --space space.yaml: ")
    assert expected in done.errors
    assert not (tmp_path / "lightning_logs").exists()


def test_other_mistakes_are_said_in_one_line(call, tmp_path, words, monkeypatch):
    for wrong, expected in (
        (["--bandwidths", "3", "2"], "one bandwidth"),
        (["--trials", "0"], "--trials 0: expected at least 1"),
        (["--space", "missing.yaml"], "No such file"),
    ):
        done = call(tmp_path, *words, *wrong)
        assert (done.status, expected in done.errors, done.errors.count("\n")) == (2, True, 1), (
            done.errors
        )
    monkeypatch.setattr(command, "search", None)
    done = call(tmp_path, *words)
    assert "pip install -r requirements-search.txt" in done.errors
    assert not (tmp_path / "lightning_logs").exists()


def test_values_are_read_as_the_parser_reads_them(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "model.dropout: {low: 1e-3, high: 1e-1}\nmodel.hidden_size: {low: 8, high: 9}"
    )
    space = read_space(tmp_path / "space.yaml", make_parser(), lambda settings: None)
    assert space["model.dropout"] == {"low": 0.001, "high": 0.1}
    trial = optuna.create_study().ask()
    settings = suggest(trial, space)
    assert settings["model.hidden_size"] in (8, 9)
    assert 0.001 <= settings["model.dropout"] <= 0.1


def test_the_space_of_the_repo_can_be_read():
    assert "model.learning_rate" in read_space(SPACE_FILE, make_parser(), lambda settings: None)


def test_a_search_that_has_ended_says_its_result_again(call, tmp_path, words):
    call(tmp_path, *words, "--trials", "1")
    run = tmp_path / "lightning_logs" / "found"
    (run / "best.yaml").unlink()
    done = call(tmp_path, "search.py", "--resume", str(run), "--jobs", "1")
    assert (done.status, done.errors) == (0, "")
    assert "Trying" not in done.output
    assert "The best: setting 1," in done.output
    assert (run / "best.yaml").exists()
