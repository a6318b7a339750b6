"""Properties of every registered component."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import dltrain
from dltrain.core.registry import REGISTRIES, Component, Option

for module in pkgutil.walk_packages(dltrain.__path__, "dltrain."):
    if module.name.split(".")[1] in {"models", "data", "losses", "optimizers", "schedules",
                                     "metrics", "tasks"}:  # fmt: skip
        importlib.import_module(module.name)

COMPONENTS = [
    pytest.param(component, id=f"{component.kind}-{component.name}")
    for registry in REGISTRIES.values()
    for component in registry.values()
]
OPTIONS = [
    pytest.param(option, id=f"{component.kind}-{component.name}-{option.name}")
    for registry in REGISTRIES.values()
    for component in registry.values()
    for option in component.options
]


@pytest.mark.parametrize("component", COMPONENTS)
def test_components_have_a_one_line_summary(component: Component) -> None:
    assert component.summary.endswith((".", ")."))


@pytest.mark.parametrize("option", OPTIONS)
def test_options_are_documented_in_a_sentence(option: Option) -> None:
    assert option.doc.endswith(".")
