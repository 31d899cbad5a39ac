"""The house rules that the design rests on: arrows point down, wings import no command, modules
need torch alone."""

import ast
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# from the ground floor up; a file imports files of its own wing and of lower floors
FLOORS = [
    {"command_line"},
    {"modules", "recordings"},
    {"data", "model", "plotting"},
    {"evaluation"},
    {"training"},
    {"train", "plot_results", "infer", "convert", "simulate", "describe", "experiments"},
    {"search"},
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
FILES = [
    path
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] in FLOOR_OF
    or (path.parent == ROOT and path.stem in FLOOR_OF)
]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The first parts of the names of all modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path):
    room = room_of(path)
    for imported in imports(path) & set(FLOOR_OF) - {room}:
        assert FLOOR_OF[imported] < FLOOR_OF[room], f"{room} imports {imported}"


def test_parts_of_the_model_need_torch_and_torchmetrics_alone():
    for path in (ROOT / "modules").glob("*.py"):
        assert imports(path) <= {"torch", "torchmetrics", "modules"} | sys.stdlib_module_names, (
            path.name
        )


def test_the_root_holds_commands_data_model_and_command_line():
    allowed = {
        "train",
        "model",
        "data",
        "plot_results",
        "infer",
        "convert",
        "simulate",
        "describe",
        "search",
    }
    assert {path.stem for path in ROOT.glob("*.py")} <= allowed | {"command_line"}


def test_no_module_is_long():
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250, path.name
