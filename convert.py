"""Make a data file for train.py from a session in NWB, or from a file of lfads-torch or the Neural Latents Benchmark.

python convert.py session.nwb                                   list what is in the file, and a command that converts it
python convert.py session.nwb --out yours.h5 --start -0.2 --stop 0.8
python convert.py nlb_tensors.h5 --out yours.h5 --bin_width 0.005
"""

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import jsonargparse
import numpy as np

from command_line import InputError, run, writable_folder
from recordings.nwb import describe_nwb, is_nwb
from recordings.session import Conversion, Session, read_session
from recordings.tensors import convert_tensors
from recordings.writing import write_recording


def write_session(session: Session, path: str, out: str, valid_fraction: float, seed: int) -> None:
    """Write a session as a data file for train.py. Conditions get whole numbers; their names are an attribute."""
    condition, attributes = session.condition, {"conversion": json.dumps(asdict(session.conversion)), "source": path}
    if condition is not None:
        names, condition = np.unique(condition, return_inverse=True)
        attributes["condition_names"] = json.dumps(names.tolist())
    write_recording(
        out, session.spikes, session.conversion.bin_width, condition=condition, valid_fraction=valid_fraction,
        seed=seed, groups=session.groups, attributes=attributes,
    )  # fmt: skip


def convert(
    file: str,
    conversion: Conversion,
    out: str | None = None,
    valid_fraction: float = 0.2,
    seed: int = 0,
) -> None:
    """Convert a recording to a data file for train.py.

    Args:
        file: NWB file of a session, or HDF5 file of lfads-torch or the Neural Latents Benchmark.
        conversion: How a session is cut into trials.
        out: HDF5 file to write. It must not exist. None: list what is in an NWB file.
        valid_fraction: Fraction of the trials for validation. Trials that share time are in one split.
        seed: Seed of the split.

    Raises:
        InputError: a file that cannot be read, an option that does not fit it, or an `out` that exists.
    """
    if out is None:
        print(describe_nwb(file))
        return
    if Path(out).exists():
        raise InputError(f"--out {out}: exists; expected the name of a new file")
    writable_folder(Path(out).parent, "--out")
    if not is_nwb(file):
        print(convert_tensors(file, out, conversion.bin_width, valid_fraction, seed))
        return
    session = read_session(file, conversion)
    for line in session.notes:
        print(line)
    write_session(session, file, out, valid_fraction, seed)
    n_trials, n_bins, n_units = session.spikes.shape
    print(f"{out}: {n_trials} trials of {n_bins} bins of {session.conversion.bin_width:g} s, {n_units} units")
    print(f"Look at it:    python describe.py {shlex.quote(out)}")
    print(f"Train on it:   python train.py --data.path {shlex.quote(out)} --bandwidths {n_units}")


def main() -> None:
    parser = jsonargparse.ArgumentParser(description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_function_arguments(convert, as_positional=True, skip={"conversion"})
    parser.add_argument(
        "--trials", nargs="+", help="Tables of intervals whose rows are trials (default: trials, or the only table)"
    )
    parser.add_class_arguments(Conversion, skip={"trials", "unit_ids"})
    options = parser.parse_args()
    of_conversion = {name: options.pop(name) for name in vars(Conversion()) if name in options}
    convert(conversion=Conversion(**of_conversion), **options)


if __name__ == "__main__":
    run(main)
