"""Write a config for the user's own data."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dltrain.autoconfig import Hints, render, suggest
from dltrain.checkpoints.atomic_files import write_atomically
from dltrain.commands.check import Check, check
from dltrain.commands.findings import Finding
from dltrain.config import ConfigError, load
from dltrain.config.plugins import register_builtins
from dltrain.config.problems import did_you_mean
from dltrain.config.shipped import example_names, shipped_configs
from dltrain.core.errors import DataError, UsageError, shorten
from dltrain.core.paths import to_directory_name

SCHEMA = "dltrain.schema.json"
"""What `dltrain schema > dltrain.schema.json` writes, for editors."""
_SCHEMA_COMMENT = "yaml-language-server:"


@dataclass(frozen=True)
class Init:
    """The config that was written, and the reasons for it.

    Attributes:
        config: Path of the config.
        kind: Kind of the data, such as `a table`.
        seen: What was recognized in the data, by subject.
        doubts: What may be meant differently, each with the option that decides it.
        sizes: Number of samples of each split.
        parameters: Number of parameters of the proposed model.
        findings: What `dltrain check` finds wrong with the data.
    """

    config: str
    kind: str
    seen: dict[str, str]
    doubts: list[str]
    sizes: dict[str, int]
    parameters: int
    findings: list[Finding]


@dataclass(frozen=True)
class Example:
    """A copy of a shipped config.

    Attributes:
        config: The file that was written.
        example: Name of the shipped config.
    """

    config: str
    example: str


def init_example(name: str, output: str | Path | None = None, *, force: bool = False) -> Example:
    """Write a config that comes with dltrain as a file to edit.

    Args:
        name: Name of the shipped config, such as `mnist_cnn`.
        output: File to write (default: NAME.yaml in the working directory).
        force: Whether to replace an existing file.

    Raises:
        UsageError: No config of that name comes with dltrain, or the file can't be written.
    """
    names = example_names()
    if name not in names:
        message = f"unknown example {shorten(name)!r}{did_you_mean(name, names) or '.'}"
        raise UsageError(f"{message} Expected one of {', '.join(names)}")
    config = Path(output) if output is not None else Path(f"{name}.yaml")
    _refuse_existing(config, force)
    text = shipped_configs()[name].read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(f"# {_SCHEMA_COMMENT}")]
    head = [f"# {line}" for line in _schema_line(config)]
    _write(config, "\n".join([*head, *lines, ""]))
    return Example(str(config), name)


def init(
    path: str | Path,
    output: str | Path | None = None,
    *,
    target: str | None = None,
    text: Sequence[str] | None = None,
    task: Literal["classification", "regression"] | None = None,
    force: bool = False,
) -> Init:
    """Inspect data, and write a commented config that `check` accepts.

    Args:
        path: Folder of images, folder with MNIST's files, or file: a table, texts with labels, or
            plain text.
        output: Config to write (default: NAME.yaml in the working directory).
        target: Column to predict (default: guessed).
        text: Columns that hold text, none if empty (default: guessed).
        task: Whether the target is a class or a value (default: guessed).
        force: Whether to replace an existing file.

    Raises:
        DataError: The data can't be used unchanged; nothing is written.
        UsageError: The output exists, or an option does not fit the data.
    """
    path = Path(path)
    name = to_directory_name(path.absolute().stem if path.is_file() else path.absolute().name)
    config = Path(output) if output is not None else Path(f"{name}.yaml")
    _refuse_existing(config, force)
    register_builtins()
    suggestion = suggest(path, Hints(target, None if text is None else tuple(text), task))
    head = [
        *_schema_line(config),
        f"Written by `dltrain init {shlex.quote(str(path))}`, with what it found as comments.",
        "What a key can be: `dltrain list KIND NAME`, such as `dltrain list models mlp`.",
    ]
    content = render({"name": name, "seed": 0, **suggestion.config}, head)
    checked = _check(content, config.name)
    _write(config, content)
    return Init(
        str(config),
        suggestion.kind,
        dict(suggestion.seen),
        list(suggestion.doubts),
        checked.sizes,
        checked.parameters,
        checked.findings,
    )


def _refuse_existing(config: Path, force: bool) -> None:
    if os.path.lexists(config) and not force:
        raise UsageError(f"{config}: already exists; --force replaces it, -o FILE names another")
    if not config.parent.is_dir():
        raise UsageError(f"{config}: there is no folder {config.parent}")


def _write(config: Path, content: str) -> None:
    try:
        write_atomically(config, content.encode())
    except OSError as error:
        raise UsageError(f"{config}: can't be written: {error.strerror}") from error


def _check(content: str, name: str) -> Check:
    """Check a config that is not written yet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_text(content, encoding="utf-8")
        try:
            return check(load(file))
        except ConfigError as error:  # its line numbers refer to a temporary file
            raise DataError("; ".join(problem.message for problem in error.problems)) from error


def _schema_line(config: Path) -> list[str]:
    """Return the comment that names the schema, if it lies beside the config or above it."""
    folder = config.absolute().parent
    for parent in (folder, *folder.parents):
        if (parent / SCHEMA).is_file():
            relative = os.path.relpath(parent / SCHEMA, folder)
            return [f"{_SCHEMA_COMMENT} $schema={relative}"]
    return []
