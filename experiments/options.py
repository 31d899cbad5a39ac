"""The options of the experiments, parsed in one place."""

from jsonargparse import Namespace

from command_line import command_parser, writable_folder

PRETRAINED = ["lightning_logs/pretrained"]
HELP = {
    "runs": "Sweeps or checkpoints",
    "bandwidths": "Numbers of observed neurons",
    "seeds": "Seeds: which, or how many",
    "epochs": "Epochs of each run (default: those of its recipe)",
    "pieces": "Pieces of evidence",
    "factors": "Factors of the dynamic factor model",
    "trials": "Training trials that it is fitted to",
    "iterations": "Iterations of its expectation-maximisation",
    "data": "Data file with true rates",
    "name": "Start of the sweeps' names",
    "cluster": "Where to train: local, or a Ray cluster as in train.py",
    "quick": "In small, to see that it works",
    "out": "Folder for tables and figures",
}


def parse_options(description: str, **defaults: object) -> Namespace:
    """Parse the options of an experiment, which has these and their defaults; make the folder
    --out."""
    parser = command_parser(description)
    for name, default in defaults.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true", help=HELP[name])
        elif name == "runs":
            parser.add_argument(name, type=str, nargs="*", default=default, help=HELP[name])
        elif isinstance(default, list):
            kind = type(default[0])
            parser.add_argument(f"--{name}", type=kind, nargs="+", default=default, help=HELP[name])
        else:
            kind = int | None if default is None else type(default)
            parser.add_argument(f"--{name}", type=kind, default=default, help=HELP[name])
    options = parser.parse_args()
    options.out = writable_folder(options.out, "--out")
    return options
