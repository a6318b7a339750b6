"""Imports go strictly downward through the layers of docs/architecture.md."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dltrain"
TABLE = PACKAGE.parent / "docs" / "architecture.md"
MODULES = sorted(PACKAGE.rglob("*.py"))


def layers() -> dict[str, int]:
    """Package to layer, from the table in the documentation, which so stays true."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        package.removesuffix(".py").removesuffix("/"): int(layer)
        for layer, cell in rows
        for package in re.findall(r"`([\w./]+)`", cell)
    }


def package_of(module: str) -> str:
    """`dltrain.data.idx` is in package `data`; `dltrain` itself in none."""
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


def test_every_package_has_a_layer():
    packages = {p.stem for p in PACKAGE.glob("*.py")} | {
        p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"
    }
    assert packages - {"__init__", "__main__"} == set(layers())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    where = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if where in ("__init__", "__main__"):
        return  # the front door opens every package
    height = layers()
    for module in imports(path):
        package = package_of(module)
        if package == where:
            continue
        assert package, f"{where} imports the package itself, which imports everything below it"
        assert height[package] < height[where], f"{where} (layer {height[where]}) imports {module}"


def test_a_wrong_import_would_be_noticed(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from dltrain.training.trainer import Trainer\n")
    assert imports(wrong) == {"dltrain.training.trainer"}
    assert layers()["training"] > layers()["core"]
