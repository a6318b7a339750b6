"""Verbs that look at finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
from dltrain.terminal import show


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
            click.echo(f"note: {note}")
        click.echo(f"{result.path}  ({result.bytes / 1000:,.0f} kB)")

    show(result, as_json, table)
