"""What all commands share: one-line errors with an exit status, files that are written whole or not
at all, and tables."""

import contextlib
import csv
import errno
import logging
import os
import re
import sys
import tempfile
import warnings
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from pathlib import Path

from jsonargparse import ArgumentParser, DefaultHelpFormatter

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a disk without room


class InputError(Exception):
    """A mistake in the input. The message names the file, key or flag, what was found and what was
    expected."""


def require(is_right: bool, message: str) -> None:
    """Raise InputError with a message that says what was found and what was expected."""
    if not is_right:
        raise InputError(message)


def expect(is_right: bool, flag: str, value: object, expected: str) -> None:
    """Raise InputError about the value of a flag if it is not right."""
    require(is_right, f"{flag} {value}: expected {expected}")


def number_of(n: int, noun: str) -> str:
    """Return a number with its noun: 1 trial, 2 trials."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


class FailedWork(Exception):
    """Work that failed although the input was right. The message says what happened."""


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keep the lines of the description, and use wide lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=100)


def command_parser(description: str) -> ArgumentParser:
    """Return a parser of options for a command. The description is that of its module."""
    return ArgumentParser(
        description=description, exit_on_error=False, allow_abbrev=False, formatter_class=Help
    )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error of the block in one line, and exit.

    The status is 1 for failed work, 2 for a mistake in the input, 130 for Ctrl-C. Any other
    exception is a bug and keeps its traceback.
    """
    try:
        yield
        return
    except (InputError, ArgumentError) as error:
        status, message = 2, shorten(str(error))
    except (FailedWork, OSError) as error:
        status, message = 1, str(error)
    except KeyboardInterrupt as error:
        status, message = 130, str(error) or "interrupted"
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def shorten(message: str) -> str:
    """Return a message of jsonargparse as: flag, what is wrong, what was found."""
    message = re.sub(r'^Parser key "([^"]+)"( element \d+)?:', r"--\1:", message)
    union = r"Does not validate.*Errors:\s*- (.*?)\s*- .*Given value: (.*)"
    return re.sub(union, r"\1; found \2", message, flags=re.DOTALL)


def run(main: Callable[[], int | None]) -> None:
    """Run a command and exit, with its errors in one line. Status 0 is success."""
    with one_line_errors():
        sys.exit(main() or 0)


def silence_lightning() -> None:
    """Hide what Lightning prints about every trainer. Errors are still printed."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)


def writable_folder(path: str | Path, flag: str) -> Path:
    """Return the folder `path`, made if necessary; raise InputError if it cannot be written to."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = f"{flag} {path}: cannot write there ({error.strerror})"
        raise InputError(f"{found}; expected a folder that can be written") from None
    return folder


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename it to `path` unless there is an error."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in FULL:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: str | Path, rows: list[dict]) -> None:
    """Write rows that have the same keys as CSV. Replace an existing file."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def markdown_table(columns: dict[str, list[str]], n_left: int = 0) -> str:
    """Return a Markdown table of columns (title: cells), the first `n_left` aligned left."""
    alignment = ["---" if index < n_left else "---:" for index in range(len(columns))]
    rows = [list(columns), alignment, *zip(*columns.values(), strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
