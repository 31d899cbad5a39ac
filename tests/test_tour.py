"""The tour's commands run, in its order; those that README.md has too have their tests there."""

import shlex
import sys

import pytest
from conftest import ROOT, commands_in, run_in

COMMANDS = [
    command for command in commands_in((ROOT / "docs" / "tour.md").read_text()) if command.startswith("python ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_tour_runs(copy_of_repo, command):
    run_in(copy_of_repo, [sys.executable, *shlex.split(command)[1:]])
