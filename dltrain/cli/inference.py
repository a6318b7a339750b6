"""Verbs that use a trained model."""

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
IMAGE_OPTIONS = {"output": "--output", "interpolate": "--interpolate"}


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Split to evaluate.",
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
    """Compute the loss and the metrics of a run's model on a split."""
    load_plugins(plugins)
    from dltrain.commands.evaluate import evaluate as evaluate_command

    result = evaluate_command(run, split=split, checkpoint=checkpoint, device=device)

    def table() -> None:
        echo(f"{split}: {result.samples} samples, weights of {result.checkpoint}")
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
    """Predict labels, values or texts for new data.

    INPUTS are image files, or CSV files with one sample per row. A text model takes texts, files
    with one text per line, CSV, TSV and JSONL files with the text columns of the training data, or
    - for standard input.
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
    "-n",
    "num_samples",
    type=click.IntRange(min=1),
    help="Number of samples (default: 1 text, 64 images).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--prompt", metavar="TEXT", help="Beginning of each text (default: none).")
@click.option(
    "--tokens",
    "num_tokens",
    type=click.IntRange(min=1),
    help="Length of each text, in tokens of the run's data (default: 300).",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    help="Softmax temperature; lower is more predictable (default: 0.8).",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="Sample each token from the K most probable ones (default: all).",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="PNG",
    help="Output file for the grid of images (default: samples.png in RUN).",
)
@click.option(
    "--interpolate", is_flag=True, default=None, help="Interpolate between two images in each row."
)
@checkpoint_option
@plugin_option
@device_option
@json_option
def sample(run: Path, plugins: Sequence[Path], as_json: bool, **options: Any) -> None:
    """Generate text or images with a run's model.

    Text is printed while it is generated; images are written to one PNG file, as a grid.
    """
    load_plugins(plugins)
    from dltrain.commands import sample as command

    chosen = {name: value for name, value in options.items() if value is not None}
    is_image_model = command.generates_images(run)
    for name in TEXT_OPTIONS if is_image_model else IMAGE_OPTIONS:
        if name in chosen:
            option = {**TEXT_OPTIONS, **IMAGE_OPTIONS}[name]
            kind = "images" if is_image_model else "text"
            raise click.UsageError(f"{option} does not apply: {run} generates {kind}")
    if is_image_model:
        result = command.sample_images(run, **chosen)
        show(result, as_json, lambda: echo(result.path))
        return
    if as_json:
        show(command.sample(run, **chosen), as_json, lambda: None)
        return
    pieces = command.stream(run, **chosen)

    def text() -> None:
        number = -1
        for piece in pieces:
            if piece.number != number:
                separator = "" if number < 0 else "\n\n"
                write(separator + chosen.get("prompt", ""))
                number = piece.number
            write(piece.text)
        echo()

    show(None, as_json, text)
