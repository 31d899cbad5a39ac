"""The tour's commands run, in its order; those that README.md has too have their tests there."""

import shlex

import pytest
from conftest import ROOT, check_command, commands_in

COMMANDS = [
    command
    for command in commands_in((ROOT / "docs" / "tour.md").read_text())
    if command.startswith("python ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_tour_runs(call, copy_of_repo, command):
    check_command(call, copy_of_repo, shlex.split(command)[1:])
