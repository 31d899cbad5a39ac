"""Make a data file for train.py from a session in NWB, or from files of lfads-torch or the Neural
Latents Benchmark.

python convert.py session.nwb                                   list what is in the file, and a
command that converts it python convert.py session.nwb --out yours.h5 --start -0.2 --stop 0.8 python
convert.py tensors.h5 --out yours.h5 --bin_width 0.005
"""

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np

from command_line import InputError, command_parser, expect, run, writable_folder
from recordings.nwb import describe_nwb, is_nwb
from recordings.session import Conversion, Session, read_session
from recordings.tensors import convert_tensors, describe_tensors
from recordings.writing import split_trials, write_recording


def write_session(session: Session, path: str, out: str, valid_fraction: float, seed: int) -> None:
    """Write a session as a data file for train.py. Conditions get whole numbers; their names are an
    attribute."""
    condition, attributes = (
        session.condition,
        {"conversion": json.dumps(asdict(session.conversion)), "source": path},
    )
    if condition is not None:
        names, condition = np.unique(condition, return_inverse=True)
        attributes["condition_names"] = json.dumps(names.tolist())
    write_recording(
        out, session.spikes, session.conversion.bin_width, condition=condition, valid_fraction=valid_fraction,
        seed=seed, groups=session.groups, per_trial={"start": session.windows[:, 0], "row": session.rows},
        attributes=attributes,
    )  # fmt: skip


def report(session: Session, out: str, valid_fraction: float, seed: int) -> None:
    """Print what was written, what was left out, and what to do next."""
    for line in session.notes:
        print(line)
    n_trials, n_bins, n_units = session.spikes.shape
    sharing = np.bincount(session.groups)[session.groups] > 1
    if sharing.any():
        print(
            f"{sharing.sum()} of {n_trials} trials share time with another; they stay in one split"
        )
    n_conditions = 0 if session.condition is None else len(np.unique(session.condition))
    if n_conditions > n_trials / 2:
        print(f"{n_conditions} conditions in {n_trials} trials: are these labels?")
    n_valid = split_trials(n_trials, valid_fraction, seed, session.condition, session.groups).sum()
    missing = np.isnan(session.spikes).mean()
    print(
        f"{out}: {n_trials} trials ({n_valid} for validation) of {n_bins} bins of {session.conversion.bin_width:g} s, "
        f"{n_units} units, {100 * missing:.1f}% of the counts missing"
    )
    print(f"Look at it:    python describe.py {shlex.quote(out)}")
    print(f"Train on it:   python train.py --data.path {shlex.quote(out)} --bandwidths {n_units}")


def convert(
    file: str,
    conversion: Conversion,
    out: str | None = None,
    also: tuple[str, ...] = (),
    valid_fraction: float = 0.2,
    seed: int = 0,
) -> None:
    """Convert a recording to a data file for train.py.

    Args:
        file: NWB file of a session, or HDF5 file of lfads-torch or the Neural Latents Benchmark.
        conversion: How a session is cut into trials.
        out: HDF5 file to write. It must not exist. None: list what is in the file.
        also: Further files of the Neural Latents Benchmark, whose tensors are often in several.
        valid_fraction: Fraction of the trials for validation. Trials that share time are in one
            split.
        seed: Seed of the split.

    Raises:
        InputError: a file that cannot be read, an option that does not fit it, or an `out` that
            exists.
    """
    expect(seed >= 0, "--seed", seed, "a whole number of at least 0")
    if not Path(file).is_file():
        raise InputError(
            f"{file}: no such file; expected a session in NWB, or a file of lfads-torch or the NLB"
        )
    if out is None:
        print(describe_nwb(file) if is_nwb(file) else describe_tensors([file, *also]))
        return
    if Path(out).exists():
        raise InputError(f"--out {out}: exists; expected the name of a new file")
    if is_nwb(file):
        session = read_session(file, conversion)
        writable_folder(Path(out).parent, "--out")
        write_session(session, file, out, valid_fraction, seed)
        report(session, out, valid_fraction, seed)
        return
    of_sessions = asdict(conversion) | {"bin_width": None}
    for name, value in of_sessions.items():
        expect(
            value == asdict(Conversion())[name],
            f"--{name}",
            value,
            f"no such option, because {file} is no NWB file",
        )
    writable_folder(Path(out).parent, "--out")
    print(convert_tensors([file, *also], out, conversion.bin_width, valid_fraction, seed))


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_function_arguments(convert, as_positional=True, skip={"conversion", "also"})
    parser.add_argument(
        "--also",
        nargs="+",
        default=[],
        help="Further files of the NLB, whose tensors are often in several",
    )
    parser.add_argument(
        "--trials",
        nargs="+",
        help="Tables of intervals whose rows are trials (default: trials, or the only table)",
    )
    parser.add_class_arguments(Conversion, skip={"trials", "unit_ids"})
    options = parser.parse_args()
    of_conversion = {name: options.pop(name) for name in vars(Conversion()) if name in options}
    convert(conversion=Conversion(**of_conversion), **options)


if __name__ == "__main__":
    run(main)
