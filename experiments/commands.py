"""What all experiments share: their options, and how they run the repo's commands."""

import subprocess
import sys

from jsonargparse import Namespace

from command_line import FailedWork, InputError, command_parser, writable_folder
from training.flags import ROOT

HELP = {
    "runs": "Sweeps or checkpoints",
    "bandwidths": "Numbers of observed neurons",
    "seeds": "Number of seeds",
    "epochs": "Epochs of each run (default: those of its recipe)",
    "pieces": "Pieces of evidence",
    "data": "Data file with true rates",
    "name": "Start of the sweeps' names",
    "cluster": "Where to train: local, or a Ray cluster as in train.py",
    "quick": "In small, to see that it works",
    "redraw": "Only draw the figures of docs/ablation.csv",
    "out": "Folder for tables and figures",
}


def parse_options(description: str, **defaults: object) -> Namespace:
    """Parse the options of an experiment, named with their defaults; make the folder --out."""
    parser = command_parser(description)
    for name, default in defaults.items():
        kind = {"type": int | None if default is None else type(default)}
        if default is False:
            kind = {"action": "store_true"}
        elif isinstance(default, list):
            kind = {"type": type(default[0]), "nargs": "*" if name == "runs" else "+"}
        flag = name if name == "runs" else f"--{name}"
        parser.add_argument(flag, default=default, help=HELP[name], **kind)
    options = parser.parse_args()
    options.out = writable_folder(options.out, "--out")
    return options


def run_command(*words: str) -> None:
    """Print and run one of the repo's commands; raise InputError or FailedWork if it fails."""
    command = f"python {' '.join(words)}"
    print(f"\n$ {command}", flush=True)
    if status := subprocess.run([sys.executable, str(ROOT / words[0]), *words[1:]]).returncode:
        raise (InputError if status == 2 else FailedWork)(f"{command} failed")
