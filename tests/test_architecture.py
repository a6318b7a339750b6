"""Imports go strictly downward through the floors of docs/architecture.md."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dltrain"
TABLE = PACKAGE.parent / "docs" / "architecture.md"
MODULES = sorted(PACKAGE.rglob("*.py"))


def floors() -> dict[str, int]:
    """Room to floor, from the table in the documentation, which so stays true."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        room.removesuffix(".py").removesuffix("/"): int(floor)
        for floor, cell in rows
        for room in re.findall(r"`([\w./]+)`", cell)
    }


def room_of(module: str) -> str:
    """`dltrain.data.idx` is in room `data`; `dltrain` itself in none."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= (
                {f"{node.module}.{a.name}" for a in node.names}
                if (node.module == "dltrain")
                else {node.module}
            )
    return {name for name in found if name.split(".")[0] == "dltrain"}


def test_every_room_stands_on_a_floor():
    rooms = {p.stem for p in PACKAGE.glob("*.py")} | {
        p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"
    }
    assert rooms - {"__init__", "__main__"} == set(floors())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    where = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if where in ("__init__", "__main__"):
        return  # the front door opens every room
    height = floors()
    for module in imports(path):
        room = room_of(module)
        if room == where:
            continue
        assert room, f"{where} imports the package itself, which imports everything below it"
        assert height[room] < height[where], f"{where} (floor {height[where]}) imports {module}"


def test_a_wrong_import_would_be_noticed(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from dltrain.trainer import Trainer\n")
    assert imports(wrong) == {"dltrain.trainer"}
    assert floors()["trainer"] > floors()["spec"]
