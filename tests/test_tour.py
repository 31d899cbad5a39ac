"""The tour's commands run, in its order."""

import shlex

import pytest
from conftest import ROOT, check_command, commands_in

TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [c for c in commands_in(TOUR) if c.startswith("python ")])
def test_a_command_of_the_tour_runs(call, copy_of_repo, command):
    check_command(call, copy_of_repo, shlex.split(command)[1:])
