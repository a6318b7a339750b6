"""The examples in docstrings run, and every component of some kinds has one."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from dltrain.config.plugins import register_builtins
from dltrain.core.registry import LOSSES, METRICS, MODELS, OPTIMIZERS, REGISTRIES, SCHEDULES, TASKS

PACKAGE = Path(__file__).parents[2] / "dltrain"
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")  # importing all others would take a minute
]
register_builtins()
COMPONENTS = [
    pytest.param(component, id=f"{component.kind}-{component.name}")
    for registry in (MODELS, LOSSES, METRICS, OPTIMIZERS, SCHEDULES, TASKS)
    for component in registry.values()
    if component.builder.__module__.startswith("dltrain.")
]


@pytest.fixture(autouse=True)
def registries():
    """An example may register a component."""
    before = {name: dict(registry._components) for name, registry in REGISTRIES.items()}
    yield
    for name, registry in REGISTRIES.items():
        registry._components = before[name]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(import_module(module), optionflags=flags)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_has_an_example_that_its_options_do_not_show(component):
    assert "\n>>> " in component.doc.replace("    >>> ", ">>> ")
    assert ">>>" not in component.summary
    assert not any(">>>" in option.doc for option in component.options)
