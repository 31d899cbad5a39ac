"""What the commands of this repo share: one-line errors with an exit status, and files that appear whole or not at all."""

import contextlib
import csv
import os
import sys
import tempfile
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from pathlib import Path


class InputError(Exception):
    """A mistake in what the user gave: the message names the file, key or flag, what was found, what was expected."""


class FailedWork(Exception):
    """Work that could not be done, though the input was no mistake: the message says what became of it."""


def run(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: 0 for success, 2 for a mistake in the input, 1 for work that failed, 130 for Ctrl-C.

    Errors that a user can mend are printed as one line; anything else is a bug and keeps its traceback.
    """
    name = Path(sys.argv[0]).name
    try:
        status = main() or 0
    except (InputError, ArgumentError) as error:
        status, message = 2, str(error)
    except (FailedWork, OSError) as error:
        status, message = 1, str(error)
    except KeyboardInterrupt as error:
        status, message = 130, str(error) or "interrupted"
    else:
        sys.exit(status)
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def writable_folder(path: str | Path, flag: str) -> Path:
    """Make the folder `path` (given by `flag`) if need be and return it; raise InputError where nothing can be written."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{flag} {path}: cannot write there ({error.strerror}); expected a folder that can be written"
        ) from None
    return folder


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it becomes `path` only if the block ends without an error."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: str | Path, rows: list[dict]) -> None:
    """Write rows, which all have the same keys, as CSV; an existing file is replaced, at once."""
    with whole_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
