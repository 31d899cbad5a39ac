"""The options of a sweep, and the names of all flags. Without torch, whose import takes seconds."""

import ast
import difflib
import sys
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_number_type

from command_line import InputError, one_line_errors

ROOT = Path(__file__).parent.parent
TRAINER = Path(find_spec("pytorch_lightning").origin).parent / "trainer" / "trainer.py"
GROUPS = {  # the classes whose arguments are flags
    "trainer": (TRAINER, "Trainer"),
    "model": (ROOT / "model.py", "SequentialAutoencoder"),
    "data": (ROOT / "data.py", "SpikeDataModule"),
    "refinement": (Path(__file__), "RefinementOptions"),
}
OTHER_FLAGS = ["--config", "--print_config", "--help", "--help.trainer"]
EARLIER_NAMES = {  # of options; None: one that is gone
    "model.refinement": "refinement.epochs",
    "model.input_size": "refinement.inputs",
    "model.input_dropout": None,
}

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
Part = Literal["encoder", "generator"]


@dataclass
class RefinementOptions:
    """How a trained model is refined.

    Args:
        epochs: Epochs in which decoder, readout and the training trials' initial conditions are
            fitted at the end of a run (refinement/), up to twice as many for large data. 0: none,
            and the encoder alone infers.
        inputs: Number of inputs that may drive the decoder, if held-out counts ask for them. 0:
            the decoder always runs without input.
    """

    epochs: NonNegativeInt = 40
    inputs: NonNegativeInt = 8


@dataclass
class SweepOptions:
    """What a sweep trains, and where.

    Args:
        bandwidths: Numbers of observed neurons, one run each. Without it --data.bandwidth if given;
            else for 29 neurons 29 25 20 15 10 5 3 2, for another number all, 1/2, 1/4 and 1/8.
        seeds: Train each bandwidth with so many seeds: --seed_everything and those after it.
        seed_everything: Seed of weights, masks, shuffling and dropout.
        name: Folder under lightning_logs. Without it a time stamp.
        resume: Folder of a sweep that was stopped, to continue it.
        jobs: Runs at a time on this machine. Without it as many as cores, at most 8 on each GPU.
        cluster: Where to train: in processes of this machine (local), on the Ray cluster that it
            belongs to (auto), or on another (HOST:PORT, ray://HOST:PORT).
        quiet: Print only the table of results, and errors.
        monitor: Score that chooses best.ckpt.
        init_from: Checkpoint of a trained model to start from.
        init_parts: Parts to take from that checkpoint; generator: decoder and readout.
        freeze: Parts taken from --init_from that the training must not change.
    """

    bandwidths: list[int] | None = None
    seeds: PositiveInt = 1
    seed_everything: Seed = 0
    name: str | None = None
    resume: str | None = None
    jobs: PositiveInt | None = None
    cluster: str = "local"
    quiet: bool = False
    monitor: Literal["valid/heldout_nll", "valid/heldout_nll_amortised", "valid/nll"] = (
        "valid/heldout_nll"
    )
    init_from: str | None = None
    init_parts: list[Part] = field(default_factory=lambda: ["encoder", "generator"])
    freeze: list[Part] = field(default_factory=list)


def list_arguments(file: Path, name: str) -> list[str]:
    """Return the arguments of a class in a file, which is not run."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    body = next(node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name).body
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return [argument.arg for argument in (*node.args.args[1:], *node.args.kwonlyargs)]
    return [node.target.id for node in body if isinstance(node, ast.AnnAssign)]


def check_names(words: list[str], more: tuple[str, ...] = ()) -> None:
    """Raise InputError for the first flag that does not exist, with the nearest one.

    Args:
        words: What was typed after the name of the command.
        more: Flags beside those of train.py.
    """
    known = [f"--{option.name}" for option in fields(SweepOptions)]
    known += [*OTHER_FLAGS, *(f"--{name}" for name in EARLIER_NAMES), *more]
    for group, place in GROUPS.items():
        known += [f"--{group}.{name}" for name in list_arguments(*place)]
    for word in words:
        flag = word.split("=")[0].removesuffix("+")
        is_known = any(flag == name or flag.startswith(f"{name}.") for name in known)
        if flag.startswith("--") and not is_known and flag[2:] not in GROUPS:
            near = [name for name in known if name.endswith(f".{flag[2:]}")]
            near += difflib.get_close_matches(flag, known, 1)
            hint = f"did you mean {near[0]}?" if near else "expected one that --help lists"
            raise InputError(f"{flag}: no such flag; {hint}")


def begin(more: tuple[str, ...] = ()) -> None:
    """Refuse a wrong flag, and say that the command is loading, before torch is imported."""
    words = sys.argv[1:]
    with one_line_errors():
        check_names(words, more)
    if not any(word.startswith(("-h", "--help", "--print_config", "--quiet")) for word in words):
        print("loading ...", flush=True)
