"""Verbs that list, compare and remove runs, and list what a config can contain."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dltrain.cli.options import (
    DIRECTORY,
    FILE,
    checkpoint_option,
    device_option,
    json_option,
    load_plugins,
    plugin_option,
)
from dltrain.cli.terminal import as_yaml, echo, show, write
from dltrain.core.errors import escape_control_characters

WATCH_SECONDS = 2.0
STATE_COLOURS = {"running": "cyan", "done": "green", "stopped": "yellow", "pruned": "yellow"}


@click.command()
@click.argument("runs", nargs=-1, required=True, type=DIRECTORY, metavar="RUN...")
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="HTML",
    help="Output file (default: report.html in the first RUN).",
)
@checkpoint_option
@plugin_option
@device_option
@json_option
def report(
    runs: Sequence[Path],
    output: Path | None,
    checkpoint: str | None,
    plugins: Sequence[Path],
    device: str | None,
    as_json: bool,
) -> None:
    """Write an HTML report on runs.

    It shows curves, errors, calibration and config. Each RUN is evaluated on its test split. The
    page needs no network and runs no scripts.
    """
    load_plugins(plugins)
    from dltrain.commands.report import report as report_command

    result = report_command(runs, output, checkpoint=checkpoint, device=device)

    def table() -> None:
        for note in result.notes:
            echo(f"note: {note}")
        echo(f"{result.path}  ({result.bytes / 1000:,.0f} kB)")

    show(result, as_json, table)


@click.command()
@click.argument("directory", type=DIRECTORY, default="runs")
@click.option("--watch", is_flag=True, help="Refresh the table every 2 seconds until Ctrl-C.")
@json_option
def runs(directory: Path, watch: bool, as_json: bool) -> None:
    """List runs with state, step, age and best value.

    DIRECTORY holds the runs (default: runs).
    """
    from dltrain.commands.runs import runs as runs_command

    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    while True:
        infos = runs_command(directory)
        if watch and sys.stdout.isatty():
            click.clear()
        show(infos, as_json, lambda infos=infos: _print_runs(infos))
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def _print_runs(infos: Sequence[Any]) -> None:
    if not infos:
        echo("no runs")
        return
    width = max(3, *(len(escape_control_characters(info.run)) for info in infos))
    echo(f"{'run':{width}}  {'state':8} {'step':>9} {'age':>5}  best", bold=True)
    for info in infos:
        best = info.best
        value = best and f"{best['metric']} {best['value']:.6g} at {best['step']}"
        step = "-" if info.step is None else f"{info.step:,}"
        echo(f"{escape_control_characters(info.run):{width}}  ", nl=False)
        echo(f"{info.state:8}", nl=False, fg=STATE_COLOURS.get(info.state, "red"))
        echo(f" {step:>9} {_age(info.age):>5}  {info.reason or value or '-'}")


def _age(seconds: float) -> str:
    """Format a duration in the largest unit that it has at least two of."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


@click.command()
@click.argument("paths", nargs=-1, required=True, type=DIRECTORY, metavar="RUN...")
@click.option(
    "--keep-best",
    is_flag=True,
    help="Remove all but the best run of each experiment; RUN... are directories of runs.",
)
@click.option("--yes", is_flag=True, help="Remove without confirmation.")
@json_option
def rm(paths: Sequence[Path], keep_best: bool, yes: bool, as_json: bool) -> None:
    """Remove runs, after confirmation.

    Runs in progress and files that dltrain did not write are never removed.
    """
    from dltrain.commands import rm as command

    removal = command.plan(paths, keep_best=keep_best)
    for run, reason in removal.keep.items():
        echo(f"keep    {run}  ({reason})", err=True)
    for run in removal.remove:
        echo(f"remove  {run}", err=True)
    if removal.remove and not yes:
        click.confirm(f"Remove {len(removal.remove)}?", abort=True, err=True)
    for line in command.remove(removal):
        echo(line, err=True)
    show(removal, as_json, lambda: echo(f"{len(removal.remove)} removed"))


@click.command()
@click.argument("paths", nargs=-1, required=True, type=DIRECTORY, metavar="RUN...")
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV, one line per group.")
@click.option("--html", "as_html", is_flag=True, help="Print the table as an HTML page.")
@json_option
def compare(paths: Sequence[Path], as_csv: bool, as_html: bool, as_json: bool) -> None:
    """Compare runs: differences in config and in results.

    RUN is a run directory, or a directory of runs. Runs that differ only in their seed form one
    group, shown as mean ± standard deviation.
    """
    if as_csv + as_html + as_json > 1:
        raise click.UsageError("--csv, --html and --json exclude each other")
    from dltrain.commands import compare as command

    groups = command.compare(paths)

    def table() -> None:
        if as_csv or as_html:
            write((command.groups_to_csv if as_csv else command.groups_to_html)(groups))
            return
        print_groups(groups)

    show(groups, as_json, table)


def print_groups(groups: Sequence[Any]) -> None:
    """Print a table with one column per group of runs."""
    from dltrain.commands import compare as command

    letters = command.group_labels(groups)
    for letter, group in zip(letters, groups, strict=True):
        reason = f"  ({group.reason})" if group.reason else ""
        echo(f"{letter}  {' '.join(group.runs)}{reason}")
    echo()
    lines = [
        ["", *letters],
        *([escape_control_characters(cell) for cell in row] for row in command.table_rows(groups)),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        cells = (f"{cell:{width}}" for cell, width in zip(line, widths, strict=True))
        echo("  ".join(cells).rstrip(), bold=number == 0)


@click.command("list")
@click.argument("kind", required=False)
@click.argument("name", required=False)
@plugin_option
@json_option
def list_(kind: str | None, name: str | None, plugins: Sequence[Path], as_json: bool) -> None:
    """List components, or the options of one component.

    KIND is models, data, losses, optimizers, schedules, metrics, tasks or sections. Sections are
    the parts of a config that are not components, such as train.
    """
    load_plugins(plugins)
    from dltrain.commands.list import list_components

    listed = list_components(kind, name)

    def table() -> None:
        if name is None:
            for previous, item in zip([None, *listed], listed, strict=False):
                if previous is None or previous.kind != item.kind:
                    echo(item.kind, bold=True)
                echo(f"  {item.name:20} {item.summary}")
            return
        for item in listed:
            echo(f"{item.kind} {item.name}: {item.summary}")
            echo()
            _print_options(item.options, "")

    show(listed, as_json, table)


def _print_options(options: Sequence[Any], prefix: str) -> None:
    """Print options with type, default and description; keys of mappings by their dotted names."""
    for option in options:
        default = "required" if option.required else f"default {as_yaml(option.default)}"
        echo(f"  {prefix}{option.name}", bold=True, nl=False)
        echo(f"  {option.type}, {default}")
        echo(f"      {option.doc}")
        _print_options(option.options, f"{prefix}{option.name}.")


@click.command()
def schema() -> None:
    """Print the JSON Schema of configs, for editors."""
    from dltrain.commands.schema import schema as schema_command

    write(json.dumps(schema_command(), indent=2) + "\n")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash   eval "$(dltrain completion bash)"     in ~/.bashrc
    zsh    eval "$(dltrain completion zsh)"      in ~/.zshrc
    fish   dltrain completion fish | source      in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    root = click.get_current_context().find_root().command
    write(completion_class(root, {}, "dltrain", "_DLTRAIN_COMPLETE").source() + "\n")
