"""Generated pages of the documentation site; a hook of mkdocs.

The hook adds a page for each kind of component, from the registries; a reference of the command
line, from click; and Markdown files outside `docs/`, such as SECURITY.md. `mkdocs build` generates
these pages, so none is committed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dltrain.cli import cli
from dltrain.cli.terminal import as_yaml
from dltrain.commands.list import KINDS, type_name
from dltrain.config import load
from dltrain.config.plugins import register_builtins
from dltrain.core.registry import REQUIRED, Choice, Component, Option

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent

ROOT_FILES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files in the root directory to their pages."""

VERB_PAGES = {"rm": "runs.md", "schema": "list.md", "completion": "list.md"}
"""Commands that are described on the page of another command."""

KEYS = {
    "models": "model",
    "data": "data",
    "losses": "loss",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "metrics": "metrics",
    "tasks": "task",
}
"""Kinds of components to the key of a config that selects one."""

INTRODUCTIONS = {
    "models": "Input and output shapes are inferred from the data, so they are not options.",
    "data": (
        "Sources of samples. Relative paths are searched in the working directory, then in the "
        "data root: `$DLTRAIN_DATA` if it is set, otherwise `data/` (ROOT below)."
    ),
    "losses": "Loss functions to minimize.",
    "optimizers": (
        "Optimizers of the parameters. `lr` is the learning rate that the "
        "[schedule](schedules.md) multiplies."
    ),
    "schedules": (
        "Learning rate schedules. A schedule is a factor of the learning rate as a function of "
        "progress, from 0 at the first step to 1 at the last; it has no state to save."
    ),
    "metrics": (
        "Metrics of an evaluation, computed over a whole split and not as an average over batches."
    ),
    "tasks": "Kinds of training: the loss of a step, and the results of an evaluation.",
    "sections": (
        "Sections of a config that are not components. [The config file](../configuration.md) "
        "explains how they work together."
    ),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those in `docs/`; called by mkdocs."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Return the path of each page below `docs/` and its Markdown."""
    register_builtins()
    used = _configs_by_component()
    generated = {f"components/{kind}.md": _kind_page(kind, used) for kind in KINDS}
    generated["components/index.md"] = _overview()
    generated["cli.md"] = _command_line()
    for source, path in ROOT_FILES.items():
        generated[path] = _relink((ROOT / source).read_text(encoding="utf-8"))
    return generated


def _relink(text: str) -> str:
    """Rewrite the links of a file in the root directory for a page in `docs/`."""
    text = text.replace("](docs/", "](")
    for source, path in ROOT_FILES.items():
        text = text.replace(f"]({source})", f"]({path})")
    return text


# Components


def _configs_by_component() -> dict[tuple[str, str], list[str]]:
    """Map (kind in the singular, name) to the shipped configs that select the component."""
    used: dict[tuple[str, str], list[str]] = {}
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        for kind, name in sorted(set(_choices(vars(load(path))))):
            used.setdefault((kind, name), []).append(f"`configs/{path.name}`")
    return used


def _choices(value: Any) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each component selected anywhere in a config."""
    if isinstance(value, Choice):
        yield value.component.kind, value.name
        yield from _choices(value.options)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _choices(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _choices(item)


def _overview() -> str:
    lines = [
        "# Components",
        "",
        "All components that a config can select. The same descriptions are available in the "
        "terminal, for example with `dltrain list models cnn`, and in an editor through the "
        "[JSON Schema](../list.md). [Custom components](../extend/README.md) are registered with "
        "a decorator.",
        "",
    ]
    for kind, registry in KINDS.items():
        lines += [f"## [{kind.capitalize()}]({kind}.md)", ""]
        for component in registry.values():
            link = f"[`{component.name}`]({kind}.md#{component.name})"
            lines.append(f"- {link}: {component.summary}")
        lines.append("")
    return "\n".join(lines)


def _kind_page(kind: str, used: dict[tuple[str, str], list[str]]) -> str:
    parts = [f"# {kind.capitalize()}", INTRODUCTIONS[kind]]
    for component in KINDS[kind].values():
        parts += [f"## {component.name}", component.summary]
        parts += [f"```yaml\n{_example(kind, component)}\n```"]
        parts += _rest_of_docstring(component)
        if component.options:
            parts.append(_table(component.options))
        configs = used.get((component.kind, component.name))
        if configs:
            parts.append(f"Used by {', '.join(configs)}.")
    return "\n\n".join(parts) + "\n"


def _example(kind: str, component: Component) -> str:
    """Return the shortest config of a component, with required options only."""
    required = ", ".join(f"{option.name}: …" for option in component.options if option.required)
    if kind == "sections":
        return f"{component.name}: {{{required or '…'}}}"
    value = f"{{name: {component.name}, {required}}}" if required else component.name
    return f"{KEYS[kind]}: [{value}]" if kind == "metrics" else f"{KEYS[kind]}: {value}"


def _rest_of_docstring(component: Component) -> list[str]:
    """Return the docstring without its first line and its options, which the table shows."""
    heading = r"^(Args|Attributes|Raises|Example):\n"
    prose, *rest = re.split(heading, component.doc, flags=re.MULTILINE)
    prose = prose.partition("\n")[2].strip()
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    errors = re.sub(r"^\s*\w+: ", "", sections.get("Raises", ""), flags=re.MULTILINE)
    errors = " ".join(errors.split())
    example = inspect.cleandoc(sections.get("Example", ""))
    return [
        *([prose] if prose else []),
        *([f"**Errors:** {errors}"] if errors else []),
        *([f"**In Python:**\n\n```pycon\n{example}\n```"] if example else []),
    ]


def _table(options: tuple[Option, ...]) -> str:
    lines = ["| option | type | default | description |", "| --- | --- | --- | --- |"]
    for option in options:
        default = "required" if option.default is REQUIRED else f"`{as_yaml(option.default)}`"
        cells = [f"`{option.name}`", _type(option.annotation), default, option.doc]
        lines.append(_row(*cells))
    return "\n".join(lines)


def _type(annotation: Any) -> str:
    """Format a type such as `relu | gelu | silu` as "relu, gelu or silu"."""
    *others, last = type_name(annotation).split(" | ")
    return f"{', '.join(others)} or {last}" if others else last


# The command line


def _command_line() -> str:
    parts = [
        "# Command line",
        "`--json`, where available, prints the result as JSON; `KEY=VALUE` overrides a value of "
        "the config for this run.",
        "Exit codes: 0 success; 1 the command failed, and one line states the reason; 2 the "
        "command line or the config is invalid; 130 and 143 interrupted by a signal, after a "
        "checkpoint.",
        *_command("dltrain", cli, level=2),
    ]
    for name, command in cli.commands.items():
        page = VERB_PAGES.get(name, f"{name}.md")
        parts += _command(f"dltrain {name}", command, level=2)
        parts.append(f"See [{page.removesuffix('.md')}]({page}).")
    return "\n\n".join(parts) + "\n"


def _command(words: str, command: click.Command, level: int) -> list[str]:
    context = click.Context(command, info_name=words)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    records = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) is not None
    ]
    table = ["| option | description |", "| --- | --- |"]
    table += [_row(f"`{option}`", description) for option, description in records]
    return [
        f"{'#' * level} {words}",
        f"```\n{usage}\n```",
        *_paragraphs(command.help or ""),
        "\n".join(table),
    ]


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text, with a code block for each that click does not wrap."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        unwrapped = paragraph.removeprefix("\b\n")
        yield paragraph if unwrapped == paragraph else f"```\n{unwrapped}\n```"


def _row(*texts: str) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
