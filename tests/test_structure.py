"""The rules of the house: arrows point down, modules need torch alone, an idea stands in one place,
functions and lines are short, and commands say what they do."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

COMMANDS = {  # and the function whose docstring is their help, if not that of the module
    "train": None,
    "plot_results": None,
    "infer": "infer_file",
    "convert": None,
    "simulate": "simulate",
    "describe": "describe",
    "search": None,
}
# from the ground floor up; a file imports files of its own room and of lower floors
FLOORS = [
    {"command_line"},
    {"modules", "recordings"},
    {"plotting", "data", "model"},
    {"evaluation", "refinement"},
    {"training"},
    {*COMMANDS, "experiments"} - {"search"},
    {"search"},
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
LONGEST_LINE, LONGEST_FUNCTION = 100, 60  # columns; lines without the docstring
ONE_PLACE = {
    r"default_rng": {"recordings/masks.py", "recordings/splitting.py", "simulate.py"},
    r'f"bandwidth_': {"evaluation/run_folders.py"},  # names of run folders
    r"FileLock\(": {"evaluation/run_folders.py"},
    r"import csv": {"command_line.py"},
}


def find_files(rooms: set[str]) -> dict[str, Path]:
    """Return the Python files in rooms of the repo, by their names from its root."""
    paths = [path for room in rooms for path in (ROOT / f"{room}.py", *ROOT.glob(f"{room}/*.py"))]
    return {path.relative_to(ROOT).as_posix(): path for path in sorted(paths) if path.exists()}


def imports(path: Path) -> set[str]:
    """Return the first parts of the names of all modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def count_lines(function: ast.FunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    first = function.body[0]
    n_lines = function.end_lineno - function.lineno + 1
    has_docstring = ast.get_docstring(function) is not None
    return n_lines - (first.end_lineno - first.lineno + 1 if has_docstring else 0)


FILES = find_files(set(FLOOR_OF))
ALL_FILES = FILES | find_files({"tests", "examples"})


@pytest.mark.parametrize("name", FILES)
def test_arrows_point_down(name):
    room = name.split("/")[0].removesuffix(".py")
    for imported in imports(FILES[name]) & FLOOR_OF.keys() - {room}:
        assert FLOOR_OF[imported] < FLOOR_OF[room], f"{room} imports {imported}"


def test_the_method_knows_no_command_line_and_its_parts_need_torch_alone():
    allowed = {"torch", "torchmetrics", "modules"} | sys.stdlib_module_names
    for name in find_files({"modules"}):
        assert imports(FILES[name]) <= allowed, name
    assert "command_line" not in imports(ROOT / "model.py")


def test_the_root_holds_commands_data_model_and_command_line():
    found = {path.stem for path in ROOT.glob("*.py")}
    assert found == {*COMMANDS, "data", "model", "command_line"}


@pytest.mark.parametrize("what", ONE_PLACE)
def test_an_idea_stands_in_one_place(what):
    names = [name for name in FILES if not name.startswith("experiments/")]
    users = {name for name in names if re.search(what, FILES[name].read_text(encoding="utf-8"))}
    assert users == ONE_PLACE[what]


def test_lines_and_functions_are_short():
    long = []
    for name, path in ALL_FILES.items():
        text = path.read_text(encoding="utf-8")
        lines = enumerate(text.splitlines(), 1)
        long += [f"{name}:{number}" for number, line in lines if len(line) > LONGEST_LINE]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and count_lines(node) > LONGEST_FUNCTION:
                long.append(f"{name}:{node.name}")
    assert long == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_it_does(call, tmp_path, command):
    module = importlib.import_module(command)
    described = getattr(module, COMMANDS[command] or "", module)
    done = call(tmp_path, f"{command}.py", "--help")
    assert (done.status, done.errors) == (0, "")
    assert described.__doc__.splitlines()[0] in " ".join(done.output.split())
