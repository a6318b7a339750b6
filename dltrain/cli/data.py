"""The verb that writes a config for the user's own data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dltrain.cli.options import FILE, json_option
from dltrain.cli.terminal import echo, show
from dltrain.core.errors import shorten


@click.command()
@click.argument("path", type=FILE, required=False)
@click.option("--example", metavar="NAME", help="Copy a config that comes with dltrain.")
@click.option("-o", "--output", type=FILE, help="Output file (default: ./NAME.yaml).")
@click.option("--target", metavar="COLUMN", help="Column to predict (default: detected).")
@click.option(
    "--text",
    multiple=True,
    metavar="COLUMN",
    help="Text column to use as input. Can be repeated (default: detected).",
)
@click.option("--no-text", is_flag=True, help="Use the other columns as input, not the text.")
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    help="Whether a numeric target holds classes or values (default: detected).",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@json_option
def init(
    path: Path | None,
    example: str | None,
    output: Path | None,
    target: str | None,
    text: Sequence[str],
    no_text: bool,
    task: Any,
    force: bool,
    as_json: bool,
) -> None:
    """Write a config for your own data, or copy an example.

    PATH is a folder of images with one subfolder per class, a folder of files in MNIST's format, a
    table (.csv, .tsv), labelled texts (.csv, .tsv, .jsonl), or plain text (.txt).

    With --example, write a copy of a config that comes with dltrain, to be edited.
    """
    if example is not None:
        if path or target or text or no_text or task:
            raise click.UsageError(
                "--example takes no PATH and no options but -o, --force and --json"
            )
        _init_example(example, output, force, as_json)
        return
    if path is None:
        raise click.UsageError("expected PATH to your data, or --example NAME")
    if text and no_text:
        raise click.UsageError("--text and --no-text exclude each other")
    from dltrain.commands.init import init as init_command

    columns = text if text or no_text else None
    result = init_command(path, output, target=target, text=columns, task=task, force=force)

    def table() -> None:
        echo(f"{shorten(str(path))}: {result.kind}")
        width = max(map(len, result.seen))
        for subject, description in result.seen.items():
            echo(f"  {subject:{width}}  {description}")
        sizes = ", ".join(f"{count:,} {split}" for split, count in result.sizes.items())
        echo(f"  {'split':{width}}  {sizes}")
        for doubt in result.doubts:
            echo(f"note: {doubt}")
        for finding in result.findings:
            echo(f"warning: {finding.kind}: {finding.message}")
        echo(f"{result.config}: written, {result.parameters:,} parameters; next:")
        _print_next_steps(result.config)

    show(result, as_json, table)


def _init_example(name: str, output: Path | None, force: bool, as_json: bool) -> None:
    from dltrain.commands.init import init_example

    written = init_example(name, output, force=force)

    def table() -> None:
        echo(f"{written.config}: written, a copy of the example {name}; next:")
        _print_next_steps(written.config)

    show(written, as_json, table)


def _print_next_steps(config: str) -> None:
    for verb in ("check", "train"):
        echo(f"  dltrain {verb} {shlex.quote(config)}")
