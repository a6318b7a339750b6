"""Pages of the documentation site that nobody writes by hand; a hook of mkdocs.

A page for each kind of component, from the registries; a reference of the command line, from
click; and the files that stand beside `docs/`, such as SECURITY.md. None of them is committed:
`mkdocs build` asks for them.
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

BESIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files at the root that are pages of the site, too."""

VERB_PAGES = {"rm": "runs.md", "schema": "list.md", "completion": "list.md"}
"""Verbs that share a page with another; each other verb has one of its own name."""

KEYS = {
    "models": "model",
    "data": "data",
    "losses": "loss",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "metrics": "metrics",
    "tasks": "task",
}
"""Kinds of components, and the key of a config that takes one."""

INTRODUCTIONS = {
    "models": "A model learns its shapes from the data, so no option repeats them.",
    "data": (
        "Where samples come from. Paths are looked for in the working directory, then in the "
        "common data folder: `data/`, or what `$DLTRAIN_DATA` names (ROOT below)."
    ),
    "losses": "What training makes small.",
    "optimizers": "`lr` is the rate that the [schedule](schedules.md) multiplies.",
    "schedules": (
        "A factor of the learning rate as a function of progress, from 0 at the first step to 1 "
        "at the last; it has no state to save."
    ),
    "metrics": "Computed over a whole split, never as an average of batches' averages.",
    "tasks": "What one step computes, and what an evaluation has to show.",
    "sections": (
        "The parts of a config that are no components. [The config file](../configuration.md) "
        "tells how they work together."
    ),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages to those in `docs/`; called by mkdocs."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Path below `docs/` to Markdown."""
    register_builtins()
    used = _configs_by_component()
    made = {f"components/{kind}.md": _kind_page(kind, used) for kind in KINDS}
    made["components/index.md"] = _overview()
    made["cli.md"] = _command_line()
    for source, path in BESIDE.items():
        made[path] = _moved_into_docs((ROOT / source).read_text(encoding="utf-8"))
    return made


def _moved_into_docs(text: str) -> str:
    """Links as they are from inside `docs/`."""
    text = text.replace("](docs/", "](")
    for source, path in BESIDE.items():
        text = text.replace(f"]({source})", f"]({path})")
    return text


# Components


def _configs_by_component() -> dict[tuple[str, str], list[str]]:
    """(kind in the singular, name) to the shipped configs that choose it."""
    used: dict[tuple[str, str], list[str]] = {}
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        for kind, name in sorted(set(_choices(vars(load(path))))):
            used.setdefault((kind, name), []).append(f"`configs/{path.name}`")
    return used


def _choices(value: Any) -> Iterator[tuple[str, str]]:
    """The components chosen anywhere in a config."""
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
        "All that a config can name. The same is in the terminal, `dltrain list models cnn`, and "
        "in an editor, through the [JSON Schema](../list.md). "
        "[Custom components](../extend/README.md) are registered with a decorator.",
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
    """The shortest way to ask for it: required options alone."""
    required = ", ".join(f"{option.name}: …" for option in component.options if option.required)
    if kind == "sections":
        return f"{component.name}: {{{required or '…'}}}"
    value = f"{{name: {component.name}, {required}}}" if required else component.name
    return f"{KEYS[kind]}: [{value}]" if kind == "metrics" else f"{KEYS[kind]}: {value}"


def _rest_of_docstring(component: Component) -> list[str]:
    """What follows the first line, less the options, which the table shows."""
    _, *rest = re.split(r"^(Args|Attributes|Raises):\n", "\n" + component.doc, flags=re.MULTILINE)
    prose = component.doc.partition("\n")[2]
    prose = re.split(r"^(?:Args|Attributes|Raises):\n", prose, flags=re.MULTILINE)[0].strip()
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    refused = re.sub(r"^\s*\w+: ", "", sections.get("Raises", ""), flags=re.MULTILINE)
    refused = " ".join(refused.split())
    return [*([prose] if prose else []), *([f"**Refused where:** {refused}"] if refused else [])]


def _table(options: tuple[Option, ...]) -> str:
    lines = ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
    for option in options:
        default = "required" if option.default is REQUIRED else f"`{as_yaml(option.default)}`"
        cells = [f"`{option.name}`", _type(option.annotation), default, option.doc]
        lines.append(_row(*cells))
    return "\n".join(lines)


def _type(annotation: Any) -> str:
    """`relu | gelu | silu` as "relu, gelu or silu"."""
    *others, last = type_name(annotation).split(" | ")
    return f"{', '.join(others)} or {last}" if others else last


# The command line


def _command_line() -> str:
    parts = [
        "# Command line",
        "`--json`, where a command has it, prints the result for a program; `KEY=VALUE` changes "
        "a value of the config for this run.",
        "Exit codes: 0 done; 1 the run failed, and one line says why; 2 the command line or the "
        "config is wrong; 130 and 143 stopped by a signal, after a checkpoint.",
        *_command("dltrain", cli, level=2),
    ]
    for name, command in cli.commands.items():
        page = VERB_PAGES.get(name, f"{name}.md")
        parts += _command(f"dltrain {name}", command, level=2)
        parts.append(f"More in [{page.removesuffix('.md')}]({page}).")
    return "\n\n".join(parts) + "\n"


def _command(words: str, command: click.Command, level: int) -> list[str]:
    context = click.Context(command, info_name=words)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    records = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) is not None
    ]
    table = ["| option | meaning |", "| --- | --- |"]
    table += [_row(f"`{option}`", meaning) for option, meaning in records]
    return [
        f"{'#' * level} {words}",
        f"```\n{usage}\n```",
        *_paragraphs(command.help or ""),
        "\n".join(table),
    ]


def _paragraphs(text: str) -> Iterator[str]:
    """A help text; what click is told not to wrap, by a backspace, is shown as it is."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        kept = paragraph.removeprefix("\b\n")
        yield paragraph if kept == paragraph else f"```\n{kept}\n```"


def _row(*texts: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
