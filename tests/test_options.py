"""What train.py makes of its options, and what it says of wrong ones."""

import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from conftest import ROOT, finish

from data import SpikeDataModule
from evaluation.run_folders import make_sweep_folder
from recordings import write_recording
from training import flags, options

ONE = "expected 1: a model trains on one device"


def parse(*words: str) -> options.Namespace:
    return options.make_parser().parse_args(list(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--bandwidths 5 0", "--bandwidths 0: expected 1 to 6"),
        ("--bandwidths 7", "--bandwidths 7: expected 1 to 6"),
        ("--bandwidths 2 2", "--bandwidths 2 2: expected each number once"),
        ("--bandwidths many", "--bandwidths"),
        ("--data.bandwidth 9", "bandwidth 9: expected 1 to 6"),
        ("--data.batch_size 0", "--data.batch_size"),
        ("--data.heldout_fraction 1.5", "--data.heldout_fraction"),
        ("--data.development_fraction 0.7", "--data.development_fraction"),
        ("--data.development_fraction 0", "--refinement.epochs 0 beside it"),
        ("--data.num_workers -1", "--data.num_workers"),
        ("--trainer.fast_dev_run true", "--trainer.fast_dev_run True: expected none"),
        (
            "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor valid/r2",
            "EarlyStopping: stops before the refinement",
        ),
        ("--trainer.devices abc", f"--trainer.devices abc: {ONE}"),
        ("--trainer.devices 2", f"--trainer.devices 2: {ONE}"),
        ("--trainer.devices [0,1]", f"--trainer.devices [0, 1]: {ONE}"),
        ("--trainer.devices 0,1", f"--trainer.devices 0,1: {ONE}"),
        ("--trainer.devices -1", f"--trainer.devices -1: {ONE}"),
        ("--trainer.num_nodes 2", f"--trainer.num_nodes 2: {ONE}"),
        ("--trainer.max_epochs 0", "--trainer.max_epochs 0: expected at least 1"),
        ("--trainer.max_epochs -7", "max_epochs"),
        ("--trainer.accelerator abacus", "accelerator"),
        ("--trainer.precision bf16-mixed", "--trainer.precision bf16-mixed: expected 32-true or"),
        ("--trainer.precision 16-mixed", "--trainer.precision 16-mixed: expected 32-true or"),
        ("--trainer.precision 12", "--trainer.precision"),
        ("--model.dropout 1.5", "--model.dropout"),
        ("--model.hidden_size 0", "--model.hidden_size"),
        ("--model.learning_rate -1", "--model.learning_rate"),
        ("--model.optimizer sgd", "--model.optimizer"),
        ("--refinement.epochs -1", "--refinement.epochs"),
        ("--jobs 0", "--jobs"),
        ("--seeds 0", "--seeds"),
        ("--seeds -1", "--seeds"),
        ("--seed_everything -1", "--seed_everything"),
        ("--bandwidths 2 --name taken", "--name taken"),
        ("--bandwidths 2 --name ../outside", "--name ../outside: expected the name of a folder"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(call, tmp_path, data_file, words, message):
    (tmp_path / "lightning_logs" / "taken").mkdir(parents=True)
    words = ["--data.path", data_file, "--bandwidths", "2", *words.split()]
    if "--data.bandwidth" in words:
        del words[2:4]
    done = call(tmp_path, "train.py", *words)
    assert (done.status, done.errors.count("\n")) == (2, 1), done.errors
    assert done.errors.startswith("train.py: ")
    assert message in done.errors
    assert [path.name for path in (tmp_path / "lightning_logs").rglob("*")] == ["taken"]


@pytest.mark.parametrize(
    "words",
    [
        "train.py --bandwidths 2.5",
        "train.py --no_such_flag 1",
        "train.py --config none.yaml",
        f"train.py --config {ROOT}/lorenz_data.h5",
        "plot_results.py --no_such_flag",
        "plot_results.py no_such_run",
        "simulate.py --neurons many",
    ],
)
def test_a_usage_error_is_one_line_and_status_2(call, tmp_path, words):
    done = call(tmp_path, *words.split())
    assert (done.status, done.errors.count("\n")) == (2, 1)
    assert done.errors.startswith(words.split()[0] + ": ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("--bandwiths", "did you mean --bandwidths?"),
        ("--learning_rate", "did you mean --model.learning_rate?"),
        ("--max_epochs=3", "did you mean --trainer.max_epochs?"),
        ("--model.refinment=0", "did you mean --model.refinement?"),
        ("--zzz", "expected one that --help lists"),
    ],
)
def test_a_wrong_flag_is_answered_with_the_nearest(word, answer):
    with pytest.raises(flags.InputError, match=f"{word.split('=')[0]}: no such flag; {answer}"):
        flags.check_names([word, "3"])


def test_every_flag_is_known():
    names = {name for action in options.make_parser()._actions for name in action.option_strings}
    flags.check_names([name for name in names if name.startswith("--")])
    flags.check_names(
        ["--data.batch_size=3", "--trainer.callbacks+=Timer", "--trainer.logger.name"]
    )
    flags.check_names(["-c", "a.yaml", "--bandwidths", "5", "3"])
    flags.check_names(["--trials", "3"], more=("--trials",))


def test_a_wrong_flag_is_answered_before_torch_is_imported(tmp_path):
    start = time.monotonic()
    done = finish(tmp_path, f"{ROOT}/train.py", "--bandwidth", "5")
    assert time.monotonic() - start < 3
    message = "train.py: --bandwidth: no such flag; did you mean --data.bandwidth?\n"
    assert done == (2, "", message)
    check = (
        "import sys, training.flags; assert not {'torch', 'pytorch_lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_help_shows_the_options_of_the_repo_and_those_of_lightning_apart(call, tmp_path):
    own, trainer = (call(tmp_path, "train.py", flag) for flag in ("--help", "--help.trainer"))
    assert (own.status, trainer.status) == (0, 0)
    for flag in ("--bandwidths", "--data.path", "--model.hidden_size", "--refinement.epochs"):
        assert f"  {flag} " in own.output
        assert f"  {flag} " not in trainer.output
    assert "  --trainer.max_epochs " in trainer.output
    assert "--trainer." not in own.output
    assert "--model.refinement " not in own.output


def test_an_old_name_of_an_option_is_read(tmp_path):
    (tmp_path / "old.yaml").write_text("model:\n  refinement: 3\n  hidden_size: 9\n")
    for words in (["--model.refinement", "3"], ["--config", str(tmp_path / "old.yaml")]):
        config = parse(*words, "--model.input_size", "4", "--model.input_dropout", "0.5")
        assert (config.refinement.epochs, config.refinement.inputs) == (3, 4)
        assert not {"refinement", "input_size", "input_dropout"} & set(vars(config.model))
    assert parse("--refinement.epochs", "0").refinement.epochs == 0


def test_all_options_are_saved_and_read_again(tmp_path):
    parser = options.make_parser()
    config = parser.parse_args(["--trainer.max_epochs=3", "--bandwidths", "5", "3"])
    options.save_config(config, tmp_path / "a.yaml", parser)
    assert parser.parse_path(tmp_path / "a.yaml") == config
    saved = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert (saved["trainer"]["max_epochs"], saved["refinement"]["epochs"]) == (3, 40)


def test_sweeps_that_start_in_the_same_second_have_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert len({make_sweep_folder(None) for _ in range(5)}) == 5


def test_a_folder_that_cannot_be_written_is_named(call, tmp_path, data_file, sweep):
    (tmp_path / "lightning_logs").write_text("a file in the way")
    done = call(tmp_path, "train.py", "--data.path", data_file, "--bandwidths", "2")
    assert done.status == 2
    assert "lightning_logs: cannot write there" in done.errors
    done = call(tmp_path, "plot_results.py", str(sweep[0]), "--out", "lightning_logs")
    assert done.status == 2
    assert "--out lightning_logs: cannot write there" in done.errors
    assert (tmp_path / "lightning_logs").read_text() == "a file in the way"


def test_default_config_says_what_the_code_does(monkeypatch):
    """configs/default.yaml lists the whole recipe; the defaults in the code are the same."""
    config = parse()
    monkeypatch.setattr(options, "DEFAULT_CONFIG", "no such file")
    from_code = parse()
    for part in ("model", "data", "refinement"):
        assert config[part] == from_code[part]
    written = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    assert written["model"].keys() == config.model.as_dict().keys()


def test_published_config_is_the_published_recipe():
    config = parse("-c", str(ROOT / "configs" / "published.yaml"))
    chosen = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 1e-4, "dropout": 0.1}
    chosen |= {"schedule": "constant", "coordinated_dropout": 0.0, "hidden_size": 50}
    assert config.model.as_dict().items() >= chosen.items()
    assert (config.trainer.max_epochs, config.trainer.gradient_clip_val) == (1000, None)
    assert (config.data.batch_size, config.refinement.epochs) == (64, 0)
    assert config.monitor == "valid/nll"


def test_configurations_of_the_pretrained_runs_are_read():
    paths = list((ROOT / "lightning_logs" / "pretrained").rglob("config.yaml"))
    assert len(paths) == 9
    for path in paths:
        config, name = parse("--config", str(path)), path.parent.name
        assert (config.model.optimizer, config.refinement.epochs) == ("muon", 40)
        bandwidth = int(name.split("_")[1]) if "bandwidth" in name else None
        assert config.data.bandwidth == bandwidth


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
    """1950 bins of 32 training trials, two batches, are as many as in the demonstration."""
    write_recording(tmp_path / "data.h5", np.ones((40, n_bins, 1)), 0.02)
    config = parse("--data.path", str(tmp_path / "data.h5"))
    data = SpikeDataModule(**config.data)
    assert options.choose_epochs(config.trainer, data) == training * options.N_STEPS / 2
    assert options.choose_refinement(config, data) == refinement * config.refinement.epochs


@pytest.mark.parametrize(
    ("n_gpus", "words", "expected"),
    [
        (0, "", [None, None, None]),
        (2, "", [0, 1, 0]),
        (2, "--trainer.devices 1", [None, None, None]),
        (2, "--trainer.accelerator cpu", [None, None, None]),
        (2, "--cluster auto", [None, None, None]),
    ],
)
def test_each_run_has_a_gpu_unless_told_otherwise(monkeypatch, n_gpus, words, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)
    assert options.choose_gpus(parse(*words.split()), 3) == expected


@pytest.mark.parametrize("devices", ["auto", "1", "[0]", "[3]", "0,"])
def test_one_device_may_be_chosen(devices):
    assert options.is_one_device(parse("--trainer.devices", devices).trainer.devices)
