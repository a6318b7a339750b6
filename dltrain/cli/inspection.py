"""Verbs that look at runs, and clear them away."""

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
    help="Where the page goes; default: report.html in the first RUN.",
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
    """Write an HTML page about runs: curves, errors, calibration, config.

    Each RUN is evaluated on its test split. The page needs no network and has no scripts.
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
@click.option("--watch", is_flag=True, help="Show the table anew every 2 seconds, until Ctrl-C.")
@json_option
def runs(directory: Path, watch: bool, as_json: bool) -> None:
    """List the runs in DIRECTORY, runs/ by default: state, step, best value, age."""
    from dltrain.commands.runs import runs as runs_command

    if watch and as_json:
        raise click.UsageError("--watch and --json don't go together")
    while True:
        found = runs_command(directory)
        if watch and sys.stdout.isatty():
            click.clear()
        show(found, as_json, lambda found=found: _print_runs(found))
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def _print_runs(found: Sequence[Any]) -> None:
    if not found:
        echo("no runs")
        return
    width = max(3, *(len(escape_control_characters(one.run)) for one in found))
    echo(f"{'run':{width}}  {'state':8} {'step':>9} {'age':>5}  best", bold=True)
    for one in found:
        best = one.best and f"{one.best['metric']} {one.best['value']:.6g} at {one.best['step']}"
        step = "-" if one.step is None else f"{one.step:,}"
        last = one.reason or best or "-"
        echo(f"{escape_control_characters(one.run):{width}}  ", nl=False)
        echo(f"{one.state:8}", nl=False, fg=STATE_COLOURS.get(one.state, "red"))
        echo(f" {step:>9} {_age(one.age):>5}  {last}")


def _age(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


@click.command()
@click.argument("paths", nargs=-1, required=True, type=DIRECTORY, metavar="RUN...")
@click.option(
    "--keep-best",
    is_flag=True,
    help="RUN... are directories of runs: remove all but the best run of each experiment.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
def rm(paths: Sequence[Path], keep_best: bool, yes: bool, as_json: bool) -> None:
    """Remove run directories, after showing which and asking.

    A run that is running is never removed, and no file that is not dltrain's.
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
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV, a line a group.")
@click.option("--html", "as_html", is_flag=True, help="Print the table as an HTML page.")
@json_option
def compare(paths: Sequence[Path], as_csv: bool, as_html: bool, as_json: bool) -> None:
    """Show what differs between runs, in config and in outcome.

    RUN is a run directory, or one that holds some. Runs that differ in their seed alone are one
    group, shown as mean ± standard deviation.
    """
    if as_csv + as_html + as_json > 1:
        raise click.UsageError("choose one of --csv, --html and --json")
    from dltrain.commands import compare as command

    groups = command.compare(paths)

    def table() -> None:
        if as_csv or as_html:
            write((command.groups_to_csv if as_csv else command.groups_to_html)(groups))
            return
        print_groups(groups)

    show(groups, as_json, table)


def print_groups(groups: Sequence[Any]) -> None:
    """A column for each group of runs."""
    from dltrain.commands import compare as command

    letters = command.group_labels(groups)
    for letter, group in zip(letters, groups, strict=True):
        damage = f"  ({group.reason})" if group.reason else ""
        echo(f"{letter}  {' '.join(group.runs)}{damage}")
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
    """What a config can ask for: components, or one component's options.

    KIND is models, data, losses, optimizers, schedules, metrics, tasks, or sections: the
    parts of a config that are no components, such as train.
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
    """Options, and the keys of those that are mappings by their dotted names."""
    for option in options:
        default = "required" if option.required else f"default {as_yaml(option.default)}"
        echo(f"  {prefix}{option.name}", bold=True, nl=False)
        echo(f"  {option.type}, {default}")
        echo(f"      {option.doc}")
        _print_options(option.options, f"{prefix}{option.name}.")


@click.command()
def schema() -> None:
    """Print the JSON Schema of config files, for editors."""
    from dltrain.commands.schema import schema as schema_command

    write(json.dumps(schema_command(), indent=2) + "\n")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   eval "$(dltrain completion bash)"     in ~/.bashrc
    zsh    eval "$(dltrain completion zsh)"      in ~/.zshrc
    fish   dltrain completion fish | source      in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    root = click.get_current_context().find_root().command
    write(found(root, {}, "dltrain", "_DLTRAIN_COMPLETE").source() + "\n")
