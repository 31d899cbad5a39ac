"""Data files for the tests, and how they run the repo's commands."""

import contextlib
import importlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import torch
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

os.environ["OMP_NUM_THREADS"] = "1"  # in the commands too: two workers on two cores
torch.set_num_threads(1)
# children hear Ctrl-C, also if this process was started to ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).parent.parent
# a folder of real recordings, where there is one
SHARED = Path(os.environ.get("SBTT_RECORDINGS", "none"))
sys.path.insert(0, str(ROOT))

from command_line import run  # noqa: E402
from simulate import simulate  # noqa: E402

PATIENCE = 300  # s until a command is taken to hang; a slow machine must not fail a test
RUN = Path("lightning_logs", "run")  # what the fixture `train` trains
SMALL = [
    "--model.hidden_size=8", "--data.batch_size=32",
    "--refinement.epochs=5", "--refinement.inputs=0",
    "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2", "--trainer.logger=false",
]  # fmt: skip
LOGGED = [*SMALL, "--trainer.logger=true"]
STEEP = "--model.learning_rate=1e18 --model.schedule=constant --trainer.gradient_clip_val=null"
# of a trainer in a test that needs no files
BARE = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip


@pytest.fixture
def data_arrays() -> dict[str, np.ndarray]:
    """The arrays of a valid file: 24 + 12 trials of 8 bins and 6 neurons, in 3 conditions, rates in
    spikes/s."""
    rng = np.random.default_rng(0)
    condition_rates = rng.uniform(5.0, 100.0, (3, 8, 6)).astype(np.float32)
    arrays = {}
    for split, n_trials in (("train", 24), ("valid", 12)):
        condition = np.arange(n_trials) % 3
        rates = condition_rates[condition]
        spikes = rng.poisson(rates * 0.02).astype(np.float32)
        arrays |= {f"{split}_data": spikes, f"{split}_truth": rates}
        arrays |= {f"{split}_condition": condition}
    return arrays


@pytest.fixture(scope="session")
def small_lorenz(tmp_path_factory) -> str:
    """A data set that a small model learns in seconds: 96 + 24 trials of 20 bins and 12 neurons, 4
    conditions."""
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


class Done(NamedTuple):
    """What a command left."""

    status: int
    output: str
    errors: str


def check_end(done: Done, status: int = 0) -> Done:
    """Expect that a command ended with a status, and said its errors in one line."""
    assert (done.status, done.errors.count("\n")) == (status, int(status > 0)), done.errors
    return done


Call = Callable[..., Done]  # of a folder, a command and its options


def run_here(folder: Path, *words: str) -> int:
    """Run a command as a user types it, `run_here(folder, "train.py", "--bandwidths", "5")`, but in
    this process. Return its status."""
    words = words[1:] if words[0] == "-m" else words
    name = words[0].removeprefix(f"{ROOT}/").removesuffix(".py").replace("/", ".")
    main = importlib.import_module(name).main
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(sys, "argv", list(words))
        with pytest.raises(SystemExit) as end:
            run(main)
    return end.value.code


@pytest.fixture
def call(capfd) -> Call:
    """A function that runs a command as `run_here`, and returns what it printed, too."""

    def call(folder: Path, *words: str) -> Done:
        capfd.readouterr()
        return Done(run_here(folder, *words), *capfd.readouterr())

    return call


@pytest.fixture
def train(call, tmp_path, small_lorenz, no_figures) -> Callable:
    """A function that runs train.py on `small_lorenz` with SMALL and more options, in this process.

    The sweep is in RUN, unless the options name it otherwise. The command ends with `status`, and
    says its errors in one line.
    """

    def train(options: str = "", status: int = 0) -> Done:
        words = f"--data.path {small_lorenz} --name run --jobs 1 {options}".split()
        return check_end(call(tmp_path, "train.py", *SMALL, *words), status)

    return train


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file be larger than `size` bytes, as if the disk was full then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint."""
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def have_same_weights(*checkpoints: Path) -> bool:
    """Return whether two checkpoints have the same bits."""
    first, second = map(weights_of, checkpoints)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def read_history(folder: Path, name: str) -> dict[int, float]:
    """Return what TensorBoard shows of a score, by epoch, which must have it once."""
    events = EventAccumulator(str(folder)).Reload().Scalars(name)
    history = {event.step: event.value for event in events}
    assert len(history) == len(events), "an epoch was drawn twice"
    return history


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait until something is so, at most for PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def draw_no_figures(patch: pytest.MonkeyPatch) -> None:
    """Leave out the figures of runs in this process, which take longer than a small run."""
    patch.setattr("training.tensorboard.draw_inference", lambda model, data: {})


@pytest.fixture
def no_figures(monkeypatch) -> None:
    draw_no_figures(monkeypatch)


@pytest.fixture
def commands_in_process(monkeypatch, call, no_figures):
    """Let commands that the tested one starts run in this process, their output before that of the
    tested one."""

    def run_here(words: list[str], check: bool = False) -> subprocess.CompletedProcess:
        is_sweep = "train.py" in words[1] and "--resume" not in words
        done = call(Path.cwd(), *words[1:], *(["--jobs", "1"] if is_sweep else []))
        assert not check or done.status == 0, done.errors
        outputs.append(done.output)
        return subprocess.CompletedProcess(words, done.status)

    outputs = []
    monkeypatch.setattr(subprocess, "run", run_here)
    return outputs


@contextlib.contextmanager
def started(folder: Path, *words: str, **options) -> Iterator[subprocess.Popen]:
    """Start `python words` in `folder`. Whatever happens, no process of it is left at the end."""
    if "stdout" not in options:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options |= {"text": True, "encoding": "utf-8"}
    words = [sys.executable, *words]
    process = subprocess.Popen(words, cwd=folder, start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def finish(folder: Path, *words: str, **options) -> Done:
    """Run `python words` in a process of its own to its end."""
    with started(folder, *words, **options) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, output, errors)


@pytest.fixture(scope="session")
def sweep(tmp_path_factory, small_lorenz) -> tuple[Path, str]:
    """A sweep over two bandwidths by two processes: its folder, and what it printed. One for all
    workers of the tests."""
    temporary = tmp_path_factory.getbasetemp()
    folder = (temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / "sweep"
    printed = folder / "printed.txt"
    with FileLock(f"{folder}.lock"):
        if not printed.exists():
            folder.mkdir()
            words = "--bandwidths 4 2 --jobs 2 --name two --seed_everything 7 --data.path"
            done = finish(folder, f"{ROOT}/train.py", *LOGGED, *words.split(), small_lorenz)
            assert (done.status, done.errors) == (0, "")
            printed.write_text(done.output, encoding="utf-8")
    return folder / "lightning_logs" / "two", printed.read_text(encoding="utf-8")


@contextlib.contextmanager
def tensorboard(folder: Path, *words: str) -> Iterator[str]:
    """Run TensorBoard in `folder` with the given words, on loopback; yield its address."""
    words = ["-m", "tensorboard.main", *words, "--port", "0", "--host", "127.0.0.1"]
    with started(folder, *words) as server:
        for line in server.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        yield found[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "Folder to save the pages of TensorBoard to, as pictures"
    parser.addoption("--screenshots", type=Path, help=text)


@pytest.fixture(scope="module")
def copy_of_repo(tmp_path_factory) -> Path:
    """What a user has after cloning, without the figures, which the commands make again."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    folder = tmp_path_factory.mktemp("clone")
    for name in listed.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.rmtree(folder / "figures")
    return folder


def check_command(call: Call, folder: Path, words: list[str]) -> None:
    """Run `python words`, a sweep for one epoch without refinement and TensorBoard; expect no error
    and no complaint."""
    if "train.py" in words and not {"--help", "--print_config", "--resume"} & set(words):
        short = "--trainer.max_epochs=1 --refinement.epochs=0 --trainer.logger=false --jobs=1"
        words = [*words, *short.split()]
    done = call(folder, *words)
    assert done.status == 0, done.errors
    assert done.errors == ""


def commands_in(document: str) -> list[str]:
    """Return the commands in the bash blocks of a document."""
    blocks = re.findall(r"```bash\n(.*?)```", document, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [command.strip() for line in lines for command in line.split("&&")]
