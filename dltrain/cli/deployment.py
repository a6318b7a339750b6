"""Verbs that connect models with other programs: export, import and an HTTP service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from dltrain.cli.options import (
    DIRECTORY,
    FILE,
    checkpoint_option,
    device_option,
    json_option,
    load_plugins,
    plugin_option,
    quiet_option,
)
from dltrain.cli.terminal import echo, show
from dltrain.serving.limits import DEFAULTS, Limits

F = TypeVar("F", bound=Callable[..., Any])


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option(
    "--to",
    type=click.Choice(["onnx", "pt2", "safetensors"]),
    required=True,
    help="Format: onnx, pt2 (for torch.export.load) or safetensors (weights only).",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE",
    help="Output file (default: exports/model.FORMAT in RUN).",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="FRACTION",
    help="Maximum relative difference from the model (default: 1e-4; 0.1 with --quantize).",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8"]),
    help="Quantize the weights of linear layers to 8 bits, by torchao.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Minimum number of samples to compare (default: 100; 1000 with --quantize).",
)
@checkpoint_option
@plugin_option
@json_option
def export(
    run: Path,
    to: Any,
    output: Path | None,
    tolerance: float | None,
    quantize: Any,
    samples: int | None,
    checkpoint: str | None,
    plugins: Sequence[Path],
    as_json: bool,
) -> None:
    """Export a run's model for other programs, with a model card.

    The file takes raw inputs, such as pixels. It is verified before it is written: its outputs must
    equal those of the model, within the tolerance, on samples of the run's data.
    """
    load_plugins(plugins)
    from dltrain.commands.export import TOLERANCE
    from dltrain.commands.export import export as export_command

    result = export_command(
        run,
        to,
        output,
        checkpoint=checkpoint,
        quantize=quantize,
        tolerance=tolerance,
        samples=samples,
    )

    def table() -> None:
        for note in result.notes:
            echo(f"note: {note}")
        compared = result.exactness or result.comparison
        tolerance = result.tolerance if result.exactness is None else TOLERANCE
        for kind, port in (("input", result.inputs), ("output", result.outputs)):
            shape = " x ".join(map(str, port["shape"]))
            echo(f"{kind:8} {port['name']}, {port['dtype']}, {shape}: {port['meaning']}")
        if result.quantized is not None:
            echo(f"{result.quantized.method:8} {result.quantized.describe()}")
        echo(
            f"checked  {compared.samples:,} samples in batches of "
            f"{', '.join(map(str, compared.batch_sizes))}: maximum difference "
            f"{compared.largest_difference:.1e}, tolerance {tolerance:g}"
        )
        if result.quantized is not None:
            echo(f"cost     {result.comparison.cost()}; tolerance {result.tolerance:g}")
        echo(f"card     {result.card}")
        echo(f"{result.path}  ({result.bytes / 1000:,.0f} kB)")

    show(result, as_json, table)


_AT_LEAST_ONE = click.IntRange(min=1)
_POSITIVE = click.FloatRange(min=0, min_open=True)


def _limit(
    name: str, default: float, text: str, kind: click.ParamType = _AT_LEAST_ONE
) -> Callable[[F], F]:
    """Return an option of `dltrain serve` that sets one of its `Limits`."""
    return click.option(f"--{name}", type=kind, default=default, show_default=True, help=text)


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. With 0.0.0.0, other machines can send requests without a password.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 selects a free one.",
)
@_limit("max-batch", DEFAULTS.max_batch, "Maximum number of items in a batch.")
@_limit(
    "wait-ms",
    1000 * DEFAULTS.wait_seconds,
    "Time for which the first item of a batch waits for requests that are being parsed.",
    click.FloatRange(min=0),
)
@_limit(
    "max-requests",
    DEFAULTS.max_requests,
    "Maximum number of concurrent requests; further ones receive status 503.",
)
@_limit(
    "max-body-mib",
    DEFAULTS.max_body / 2**20,
    "Maximum size of a request's body, in MiB.",
    _POSITIVE,
)
@_limit("max-items", DEFAULTS.max_items, "Maximum number of images, rows or texts in a request.")
@_limit("max-pixels", DEFAULTS.max_pixels, "Maximum number of pixels of an image.")
@_limit(
    "max-request-pixels",
    DEFAULTS.max_request_pixels,
    "Maximum number of pixels of all images of a request together.",
)
@_limit("max-characters", DEFAULTS.max_characters, "Maximum length of a text, in characters.")
@_limit(
    "max-connections",
    DEFAULTS.max_connections,
    "Maximum number of open connections; further ones receive status 503.",
)
@_limit(
    "header-seconds",
    DEFAULTS.header_seconds,
    "Maximum time for the headers of a request to arrive.",
    _POSITIVE,
)
@_limit(
    "read-seconds",
    DEFAULTS.read_seconds,
    "Maximum time for the body of a request to arrive.",
    _POSITIVE,
)
@checkpoint_option
@plugin_option
@device_option
@quiet_option
@json_option
def serve(
    run: Path,
    host: str,
    port: int,
    checkpoint: str | None,
    plugins: Sequence[Path],
    device: str | None,
    wait_ms: float,
    max_body_mib: float,
    quiet: bool,
    as_json: bool,
    **limits: Any,
) -> None:
    """Serve predictions over HTTP.

    The server runs until Ctrl-C or SIGTERM. The demo page is at /, the API documentation at /docs.
    There is no authentication.
    """
    load_plugins(plugins)
    from dltrain.commands.serve import serve as serve_command

    result = serve_command(
        run,
        host=host,
        port=port,
        checkpoint=checkpoint,
        device=device,
        limits=Limits(wait_seconds=wait_ms / 1000, max_body=round(max_body_mib * 2**20), **limits),
        notify=lambda text: None if quiet else echo(text, err=True),
    )

    def line() -> None:
        echo(
            f"requests answered: {result.requests:,}, "
            f"predictions: {result.predictions:,}, in batches: {result.batches:,}"
        )

    show(result, as_json, line, quiet=quiet)


@click.command("import")
@click.argument("source", type=FILE, metavar="FILE")
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="SAFETENSORS",
    help="Output file (default: FILE with the suffix .safetensors).",
)
@json_option
def import_(source: Path, output: Path | None, as_json: bool) -> None:
    """Convert a PyTorch weights file to safetensors.

    FILE was written by torch.save. It holds a state_dict, or one under the key state_dict or model.
    It is read without executing code; a file that needs code to be loaded is refused.
    """
    from dltrain.commands.import_ import import_weights

    result = import_weights(source, output or source.with_suffix(".safetensors"))
    show(
        result,
        as_json,
        lambda: echo(f"{result.path}: {result.tensors} tensors, {result.values:,} values"),
    )
