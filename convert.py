"""Make a data file for train.py from a session in NWB, or from lfads-torch's or the NLB's tensors.

python convert.py session.nwb      list what is in the file, and a command that converts it
python convert.py session.nwb --out yours.h5 --start -0.2 --stop 0.8
python convert.py tensors.h5 --out yours.h5 --bin_width 0.005
"""

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np

from command_line import command_parser, expect, require, run, writable_folder
from recordings.nwb import describe_nwb, is_nwb
from recordings.session import Conversion, Session, read_session
from recordings.splitting import split_trials
from recordings.tensors import convert_tensors, describe_tensors
from recordings.writing import write_recording


def write_session(session: Session, path: str, out: str, valid_fraction: float, seed: int) -> None:
    """Write a session as a data file. Labels of conditions become 0, 1, ..., with names."""
    conversion, condition = session.conversion, session.condition
    attributes = {"conversion": json.dumps(asdict(conversion)), "source": path}
    if condition is not None:
        names, condition = np.unique(condition, return_inverse=True)
        attributes["condition_names"] = json.dumps(names.tolist())
    per_trial = {"start": session.windows[:, 0], "row": session.rows}
    split = {"valid_fraction": valid_fraction, "seed": seed, "groups": session.groups}
    described = {"condition": condition, "per_trial": per_trial, "attributes": attributes}
    write_recording(out, session.spikes, conversion.bin_width, **described, **split)


def report(session: Session, out: str, valid_fraction: float, seed: int) -> None:
    """Print what was left out, what was written, and what to do next."""
    for line in session.notes:
        print(line)
    spikes, condition, groups = session.spikes, session.condition, session.groups
    n_trials, n_bins, n_units = spikes.shape
    n_sharing = (np.bincount(groups)[groups] > 1).sum()
    if n_sharing:
        print(f"{n_sharing} of {n_trials} trials share time with another; they stay in one split")
    n_conditions = 0 if condition is None else len(np.unique(condition))
    if n_conditions > n_trials / 2:
        print(f"{n_conditions} conditions in {n_trials} trials: are these labels?")
    n_valid = split_trials(n_trials, valid_fraction, seed, condition, groups).sum()
    print(
        f"{out}: {n_trials} trials ({n_valid} for validation) of {n_bins} bins of "
        f"{session.conversion.bin_width:g} s, {n_units} units, "
        f"{100 * np.isnan(spikes).mean():.1f}% of the counts missing"
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
        also: Further files of the NLB, whose tensors are often in several.
        valid_fraction: Fraction of the trials for validation. Trials that share time are in one
            split.
        seed: Seed of the split.

    Raises:
        InputError: a file that cannot be read, an option that does not fit it, or an `out` that
            exists.
    """
    expect(seed >= 0, "--seed", seed, "a whole number of at least 0")
    expected = "expected a session in NWB, or a file of lfads-torch or the NLB"
    require(Path(file).is_file(), f"{file}: no such file; {expected}")
    if out is None:
        print(describe_nwb(file) if is_nwb(file) else describe_tensors([file, *also]))
        return
    require(not Path(out).exists(), f"--out {out}: exists; expected the name of a new file")
    if is_nwb(file):
        session = read_session(file, conversion)
        writable_folder(Path(out).parent, "--out")
        write_session(session, file, out, valid_fraction, seed)
        report(session, out, valid_fraction, seed)
        return
    none = asdict(Conversion(bin_width=conversion.bin_width))
    for name, value in asdict(conversion).items():
        expected = f"no such option, because {file} is no NWB file"
        expect(value == none[name], f"--{name}", value, expected)
    writable_folder(Path(out).parent, "--out")
    print(convert_tensors([file, *also], out, conversion.bin_width, valid_fraction, seed))


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_function_arguments(convert, as_positional=True, skip={"conversion", "also"})
    parser.add_argument("--also", nargs="+", default=[], help="Further files of the NLB")
    tables = "Tables of intervals whose rows are trials (default: trials, or the only table)"
    parser.add_argument("--trials", nargs="+", help=tables)
    parser.add_class_arguments(Conversion, skip={"trials", "unit_ids"})
    options = parser.parse_args()
    names = vars(Conversion()).keys() & vars(options).keys()
    conversion = Conversion(**{name: options.pop(name) for name in names})
    convert(conversion=conversion, **options)


if __name__ == "__main__":
    run(main)
