"""Data files for the tests: small, and made in a temporary folder."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from filelock import FileLock

os.environ["OMP_NUM_THREADS"] = "1"  # of the commands too: two at a time have two cores
torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from simulate import simulate  # noqa: E402


@pytest.fixture
def data_arrays() -> dict[str, np.ndarray]:
    """The arrays of a valid file: 24 + 12 trials of 8 bins and 6 neurons, in 3 conditions, rates in spikes/s."""
    rng = np.random.default_rng(0)
    condition_rates = rng.uniform(5.0, 100.0, (3, 8, 6)).astype(np.float32)
    arrays = {}
    for split, n_trials in (("train", 24), ("valid", 12)):
        condition = np.arange(n_trials) % 3
        rates = condition_rates[condition]
        arrays |= {f"{split}_data": rng.poisson(rates * 0.02).astype(np.float32), f"{split}_truth": rates}
        arrays |= {f"{split}_condition": condition}
    return arrays


@pytest.fixture(scope="session")
def small_lorenz(tmp_path_factory) -> str:
    """A data set that a small model can learn in seconds: 96 + 24 trials of 20 bins and 12 neurons, 4 conditions."""
    path = tmp_path_factory.mktemp("lorenz") / "small.h5"
    simulate(path=str(path), conditions=4, trials=30, neurons=12, bins=20, mean_rate=40.0)
    return str(path)


@pytest.fixture
def write_file(tmp_path):
    """A function that writes arrays and root attributes to an HDF5 file and returns its path."""

    def write(arrays: dict[str, np.ndarray], name: str = "data.h5", **attributes) -> str:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key] = array
            file.attrs.update(attributes or {"bin_width": 0.02})
        return str(path)

    return write


@pytest.fixture
def data_file(data_arrays, write_file) -> str:
    return write_file(data_arrays)


SMALL = [
    "--model.hidden_size=8",
    "--data.batch_size=32",
    "--trainer.max_epochs=4",
    "--trainer.check_val_every_n_epoch=2",
]


def command(folder: Path, *words: str) -> subprocess.Popen:
    """Start `python words` in `folder`."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture(scope="session")
def sweep(tmp_path_factory, small_lorenz) -> tuple[Path, str]:
    """A sweep over two levels by two processes: its run folder, and what it printed; one for all workers of the tests."""
    temporary = tmp_path_factory.getbasetemp()
    folder = (temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / "sweep"
    printed = folder / "printed.txt"
    with FileLock(f"{folder}.lock"):
        if not printed.exists():
            folder.mkdir()
            printed.write_text(train_two_levels(folder, small_lorenz), encoding="utf-8")
    return folder / "lightning_logs" / "two", printed.read_text(encoding="utf-8")


def train_two_levels(folder: Path, data_file: str) -> str:
    """Train two small models in `folder` and return what was printed."""
    words = [
        str(ROOT / "train.py"),
        "--data.path",
        data_file,
        "--bandwidths",
        "4",
        "2",
        "--jobs",
        "2",
        "--name",
        "two",
    ]
    process = command(folder, *words, "--seed_everything", "7", *SMALL)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors == ""
    return output


@contextlib.contextmanager
def tensorboard(folder: Path, *words: str) -> Iterator[str]:
    """Run TensorBoard in `folder` with the given words, on loopback; yield its address."""
    program = Path(sys.executable).with_name("tensorboard")
    words = (program, *words, "--port", "0", "--host", "127.0.0.1")
    server = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        yield found[0]
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="Folder to save the pages of TensorBoard to, as pictures")


@pytest.fixture(scope="module")
def copy_of_repo(tmp_path_factory) -> Path:
    """What a user has after cloning, but for the figures, which the commands make again."""
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folder = tmp_path_factory.mktemp("clone")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.rmtree(folder / "figures")
    return folder


def run_in(folder: Path, words: list[str]) -> None:
    """Run a command, a training for one epoch only, and expect it to have nothing to complain of."""
    if "train.py" in words and not {"--help", "--print_config", "--resume"} & set(words):
        words += ["--trainer.max_epochs", "1"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def commands_in(document: str) -> list[str]:
    """Return the commands in the bash blocks of a document."""
    blocks = re.findall(r"```bash\n(.*?)```", document, re.DOTALL)
    return [command.strip() for block in blocks for line in block.splitlines() for command in line.split("&&")]
