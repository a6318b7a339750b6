"""Verbs that use what was trained."""

from __future__ import annotations

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
from dltrain.cli.terminal import echo, show, write

TEXT_OPTIONS = {
    "prompt": "--prompt",
    "num_tokens": "--tokens",
    "temperature": "--temperature",
    "top_k": "--top-k",
}
PICTURE_OPTIONS = {"output": "--output", "interpolate": "--interpolate"}


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Which samples.",
)
@checkpoint_option
@plugin_option
@device_option
@json_option
def evaluate(
    run: Path,
    split: Any,
    checkpoint: str | None,
    plugins: Sequence[Path],
    device: str | None,
    as_json: bool,
) -> None:
    """Loss and metrics of a run's model on a split."""
    load_plugins(plugins)
    from dltrain.commands.evaluate import evaluate as evaluate_command

    result = evaluate_command(run, split=split, checkpoint=checkpoint, device=device)

    def table() -> None:
        echo(f"{result.samples} samples of {split}, weights of {result.checkpoint}")
        for name, value in result.metrics.items():
            echo(f"{name:24} {value:.6g}")

    show(result, as_json, table)


@click.command()
@click.argument("run", type=DIRECTORY)
@click.argument("inputs", nargs=-1, required=True)
@checkpoint_option
@plugin_option
@device_option
@json_option
def predict(
    run: Path,
    inputs: Sequence[str],
    checkpoint: str | None,
    plugins: Sequence[Path],
    device: str | None,
    as_json: bool,
) -> None:
    """Labels, values or texts for new data.

    INPUTS are picture files, or CSV files, of which each row is one. A model of text takes texts,
    files with one text per line, CSV, TSV and JSONL files with the text columns that training had,
    or - for standard input.
    """
    load_plugins(plugins)
    from dltrain.commands.predict import predict as predict_command

    predictions = predict_command(run, inputs, checkpoint=checkpoint, device=device)

    def table() -> None:
        for item in predictions:
            if item.text is not None:
                echo(f"{item.input}\t{item.text}")
            elif item.probabilities is None:
                echo(f"{item.input}\t{' '.join(f'{v:.6g}' for v in item.values or [])}")
            else:
                echo(f"{item.input}\t{item.label}\t{max(item.probabilities.values()):.4f}")

    show(predictions, as_json, table)


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option(
    "-n", "num_samples", type=click.IntRange(min=1), help="How many; default: 1 text, 64 pictures."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed, the same samples."
)
@click.option("--prompt", metavar="TEXT", help="What each text begins with.")
@click.option(
    "--tokens",
    "num_tokens",
    type=click.IntRange(min=1),
    help="Length of each text, 300 by default; what a token is, the run's data says.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    help="Lower is more predictable, higher more varied; 0.8 by default.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="Draw each token from this many most probable ones; default: all.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="PNG",
    help="Where the grid of pictures goes; default: samples.png in RUN.",
)
@click.option(
    "--interpolate", is_flag=True, default=None, help="Rows of pictures that turn into another."
)
@checkpoint_option
@plugin_option
@device_option
@json_option
def sample(run: Path, plugins: Sequence[Path], as_json: bool, **options: Any) -> None:
    """Text of a run's language model, or pictures of its generator.

    Text is shown as it is written; pictures go to a PNG file, side by side.
    """
    load_plugins(plugins)
    from dltrain.commands import sample as command

    given = {name: value for name, value in options.items() if value is not None}
    drawn = command.generates_images(run)
    for name in TEXT_OPTIONS if drawn else PICTURE_OPTIONS:
        if name in given:
            word = {**TEXT_OPTIONS, **PICTURE_OPTIONS}[name]
            kind = "pictures" if drawn else "text"
            raise click.UsageError(f"{word} can't be used here: {run} makes {kind}")
    if drawn:
        result = command.sample_images(run, **given)
        show(result, as_json, lambda: echo(result.path))
        return
    if as_json:
        show(command.sample(run, **given), as_json, lambda: None)
        return
    pieces = command.stream(run, **given)

    def text() -> None:
        number = -1
        for piece in pieces:
            if piece.number != number:
                separator = "" if number < 0 else "\n\n"
                write(separator + given.get("prompt", ""))
                number = piece.number
            write(piece.text)
        echo()

    show(None, as_json, text)
