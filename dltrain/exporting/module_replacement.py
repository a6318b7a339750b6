"""Temporarily replace modules of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn


@contextmanager
def replace_modules(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Replace the submodules of these names inside this context."""
    originals = {name: model.get_submodule(name) for name in layers}
    try:
        for name, layer in layers.items():
            model.set_submodule(name, layer)
        yield
    finally:
        for name, layer in originals.items():
            model.set_submodule(name, layer)
