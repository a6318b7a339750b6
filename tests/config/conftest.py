"""Isolate each test: small components, a working directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_components import fill

from dltrain.config import plugins
from dltrain.core.registry import REGISTRIES


@pytest.fixture
def components(monkeypatch):
    """The registries, with this file's components alone."""
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_components", {})
    monkeypatch.setattr(plugins, "register_builtins", lambda: None)
    fill(REGISTRIES)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a config into the working directory and gives its relative path."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "config.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
