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

from command_line import command_parser, expect, number_of, require, run
from recordings.listing import describe_nwb
from recordings.nwb import is_nwb
from recordings.session import Conversion, Session, read_session
from recordings.tensors import convert_tensors, describe_tensors
from recordings.writing import write_recording


def write_session(session: Session, path: str, out: str, valid_fraction: float, seed: int) -> str:
    """Write a session as a data file; return what was written, and what was left out."""
    spikes, condition, groups = session.spikes, session.condition, session.groups
    attributes = {"conversion": json.dumps(asdict(session.conversion)), "source": path}
    if session.n_heldin is not None:
        attributes["n_heldin"] = session.n_heldin
    written = write_recording(
        out,
        spikes,
        session.conversion.bin_width,
        condition=condition,
        valid_fraction=valid_fraction,
        seed=seed,
        groups=groups,
        per_trial={"start": session.windows[:, 0], "row": session.rows},
        attributes=attributes,
    )
    lines, n_sharing = [*session.notes], (np.bincount(groups)[groups] > 1).sum()
    if n_sharing:
        trials = f"{n_sharing} of {number_of(len(spikes), 'trial')} share time with another"
        lines.append(f"{trials}; they stay in one split")
    n_conditions = 0 if condition is None else len(np.unique(condition))
    if n_conditions > len(spikes) / 2:
        lines.append(f"{n_conditions} conditions in {len(spikes)} trials: are these labels?")
    return "\n".join([*lines, written])


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
        print(write_session(session, file, out, valid_fraction, seed))
        print(f"Look at it:    python describe.py {shlex.quote(out)}")
        words = f"--data.path {shlex.quote(out)} --bandwidths {session.spikes.shape[2]}"
        print(f"Train on it:   python train.py {words}")
        return
    none = asdict(Conversion(bin_width=conversion.bin_width))
    for name, value in asdict(conversion).items():
        expected = f"no such option, because {file} is no NWB file"
        expect(value == none[name], f"--{name}", value, expected)
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
