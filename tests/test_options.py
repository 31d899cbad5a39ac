"""What train.py makes of its options, and what it says of wrong ones."""

import numpy as np
import pytest
import yaml
from conftest import ROOT

from data import SpikeDataModule
from recordings import write_recording
from training import options
from training.runs import make_run_dir


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bandwidths", "5", "0"], "--bandwidths 0: expected 1 to 6"),
        (["--bandwidths", "7"], "--bandwidths 7: expected 1 to 6"),
        (["--bandwidths", "2", "2"], "expected each number once"),
        (["--bandwidths", "many"], "bandwidths"),
        (["--data.bandwidth", "9"], "bandwidth 9: expected 1 to 6"),
        (["--data.batch_size", "0"], "--data.batch_size 0"),
        (["--data.heldout_fraction", "1.5"], "--data.heldout_fraction 1.5"),
        (
            ["--data.development_fraction", "0.7"],
            "--data.development_fraction 0.7: expected 0 to 0.5",
        ),
        (
            ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "valid/r2"],
            "EarlyStopping: stops before",
        ),
        (
            ["--trainer.devices", "abc", "--cluster", "auto"],
            "--trainer.devices abc: expected a number",
        ),
        (["--trainer.max_epochs", "0"], "--trainer.max_epochs 0"),
        (["--trainer.max_epochs", "-7"], "max_epochs"),
        (["--trainer.accelerator", "abacus"], "accelerator"),
        (
            ["--trainer.precision", "bf16-true"],
            "--trainer.precision bf16-true: expected one of 32-true, 64-true",
        ),
        (["--trainer.precision", "12"], "precision"),
        (["--model.dropout", "1.5"], "--model.dropout 1.5"),
        (["--model.hidden_size", "0"], "--model.hidden_size 0"),
        (["--model.learning_rate", "-1"], "--model.learning_rate -1"),
        (["--jobs", "0"], "--jobs 0"),
        (["--seed_everything", "-1"], "--seed_everything -1"),
        (["--data.num_workers", "-1"], "--data.num_workers -1"),
        (["--bandwidths", "2", "--name", "taken"], "--name taken"),
        (["--bandwidths", "2", "--name", "../outside"], "--name ../outside"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(call, tmp_path, data_file, words, message):
    (tmp_path / "lightning_logs" / "taken").mkdir(parents=True)
    words = words if "--bandwidths" in words else ["--bandwidths", "2", *words]
    done = call(tmp_path, "train.py", "--data.path", data_file, *words)
    assert done.status == 2
    assert done.errors.startswith("train.py: ")
    assert message in done.errors
    assert done.errors.count("\n") == 1
    assert [path.name for path in (tmp_path / "lightning_logs").rglob("*")] == ["taken"]


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert len({make_run_dir(None) for _ in range(5)}) == 5


def test_a_folder_that_cannot_be_written_is_named(call, tmp_path, data_file, sweep):
    (tmp_path / "lightning_logs").write_text("a file in the way")
    done = call(tmp_path, "train.py", "--data.path", data_file, "--bandwidths", "2")
    assert done.status == 2
    assert "lightning_logs: cannot write there" in done.errors
    done = call(tmp_path, "plot_results.py", str(sweep[0]), "--out", "lightning_logs")
    assert done.status == 2
    assert "--out lightning_logs: cannot write there" in done.errors
    assert (tmp_path / "lightning_logs").read_text() == "a file in the way"


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--bandwidths", "2.5"],
        ["train.py", "--model.optimizer", "sgd"],
        ["train.py", "--no_such_flag", "1"],
        ["train.py", "--config", "none.yaml"],
        ["plot_results.py", "--no_such_flag"],
        ["plot_results.py", "no_such_run"],
        ["simulate.py", "--neurons", "many"],
    ],
)
def test_a_usage_error_is_one_line_and_status_2(call, tmp_path, words):
    done = call(tmp_path, *words)
    assert done.status == 2
    assert done.errors.startswith(words[0] + ": ")
    assert done.errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_default_config_says_what_the_code_does(monkeypatch):
    """configs/default.yaml lists the whole recipe; the defaults in the code are the same."""
    config = options.make_parser().parse_args([])
    monkeypatch.setattr(options, "DEFAULT_CONFIG", "no such file")
    from_code = options.make_parser().parse_args([])
    assert config.model == from_code.model
    assert config.data == from_code.data
    written = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    assert written["model"].keys() == config.model.as_dict().keys()


def test_a_configuration_has_a_short_flag():
    assert (
        options.make_parser()
        .parse_args(["-c", str(ROOT / "configs" / "published.yaml")])
        .model.optimizer
        == "adam"
    )


def test_published_config_is_the_published_recipe():
    config = options.make_parser().parse_args(
        ["--config", str(ROOT / "configs" / "published.yaml")]
    )
    model, trainer = config.model, config.trainer
    assert (model.optimizer, model.learning_rate, model.weight_decay, model.dropout) == (
        "adam",
        1e-3,
        1e-4,
        0.1,
    )
    assert (model.schedule, model.coordinated_dropout, model.hidden_size) == ("constant", 0.0, 50)
    assert (trainer.max_epochs, trainer.gradient_clip_val, config.data.batch_size) == (
        1000,
        None,
        64,
    )
    assert config.monitor == "valid/nll"


def test_configurations_of_the_pretrained_runs_are_read():
    for path in (ROOT / "lightning_logs" / "pretrained").rglob("config.yaml"):
        config = options.make_parser().parse_args(["--config", str(path)])
        assert config.model.optimizer == "muon"
        assert config.data.bandwidth == (
            int(path.parent.name.split("_")[1]) if "bandwidth" in path.parent.name else None
        )


@pytest.mark.parametrize(
    ("n_neurons", "expected"),
    [
        (29, [29, 25, 20, 15, 10, 5, 3, 2]),
        (200, [200, 100, 50, 25]),
        (12, [12, 6, 3, 2]),
        (3, [3, 2, 1]),
        (1, [1]),
    ],
)
def test_default_bandwidths_are_fractions_of_the_neurons_there_are(n_neurons, expected):
    assert options.default_bandwidths(n_neurons) == expected


@pytest.mark.parametrize(
    ("n_bins", "training", "refinement"),
    [(20, 1, 1), (1950, 1, 1), (2925, 1.5, 1.5), (7800, 4, 2), (20000, 8, 2)],
)
def test_more_data_are_trained_on_for_longer(tmp_path, n_bins, training, refinement):
    """1950 bins of 32 training trials are as many as in the demonstration."""
    write_recording(tmp_path / "data.h5", np.ones((40, n_bins, 1)), 0.02)
    config = options.make_parser().parse_args(["--data.path", str(tmp_path / "data.h5")])
    data = SpikeDataModule(**config.data)
    assert (
        options.choose_epochs(config.trainer, data) == training * options.N_STEPS / 2
    )  # 32 trials are two batches
    assert options.choose_refinement(config, data) == refinement * config.model.refinement


@pytest.mark.parametrize(
    ("n_gpus", "flags", "expected"),
    [
        (0, [], [None, None, None]),
        (2, [], [0, 1, 0]),
        (2, ["--trainer.devices", "2"], [None, None, None]),
        (2, ["--trainer.accelerator", "cpu"], [None, None, None]),
    ],
)
def test_each_bandwidth_has_a_gpu_unless_told_otherwise(monkeypatch, n_gpus, flags, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)
    assert options.choose_gpus(options.make_parser().parse_args(flags), 3) == expected


@pytest.mark.parametrize(("n_gpus", "expected"), [(0, 64), (1, 8), (4, 32), (16, 64)])
def test_a_gpu_is_shared_by_a_few_trainings(monkeypatch, n_gpus, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)
    monkeypatch.setattr(options, "n_cores", lambda: 64)
    assert options.make_parser().parse_args([]).jobs == expected


@pytest.mark.parametrize(
    ("flags", "distributed"),
    [
        ([], False),
        (["--trainer.devices", "1"], False),
        (["--trainer.devices", "2"], True),
        (["--trainer.devices", "-1"], True),
        (["--trainer.devices", "[0]"], False),
        (["--trainer.devices", "[0, 1]"], True),
        (["--trainer.devices", "0,1"], True),
        (["--trainer.num_nodes", "2"], True),
    ],
)
def test_several_devices_for_one_model_are_recognised(flags, distributed):
    assert options.is_distributed(options.make_parser().parse_args(flags)) == distributed
