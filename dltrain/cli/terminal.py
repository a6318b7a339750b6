"""Print results on standard output, as text or as JSON.

Every command prints through `echo` or `write`, which escape control characters: a file or a run
may contain any text.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from dltrain.core.errors import RunError, escape_control_characters
from dltrain.core.jsonable import describe_early_stop, format_decimal, format_value, to_jsonable


def show(result: Any, as_json: bool, table: Callable[[], None], *, quiet: bool = False) -> None:
    """Print a result on standard output.

    Args:
        result: Value to print as JSON.
        as_json: Whether to print JSON instead of text.
        table: Function that prints the result as text.
        quiet: Whether to omit the text.

    Raises:
        RunError: Standard output can't be written to.
    """
    try:
        if as_json:
            write(f"{as_json_text(result)}\n")
        elif not quiet:
            table()
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # the reader has closed the pipe; the files of the run are complete
    except OSError as error:
        raise RunError(f"standard output: {error.strerror}") from error


def echo(text: str = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print one line, with control characters and line breaks in it escaped.

    Args:
        text: Line to print.
        err: Whether to print on standard error.
        nl: Whether to print a line break after it.
        **style: See `click.style`.
    """
    click.secho(escape_control_characters(text).replace("\n", "\\n"), err=err, nl=nl, **style)


def write(text: str, *, err: bool = False) -> None:
    """Print text unchanged except for control characters, which are escaped.

    Args:
        text: Text to print, which may have line breaks.
        err: Whether to print on standard error.
    """
    click.echo(escape_control_characters(text), err=err, nl=False)


def as_json_text(result: Any) -> str:
    """Return a result as ASCII JSON without control characters other than line breaks."""
    text = json.dumps(to_jsonable(result), indent=1, default=str, allow_nan=False)
    return text.replace("\x7f", "\\u007f")  # the only one that `json` does not escape


def usage_error_text(error: click.ClickException) -> str:
    """Return what click prints for an error, which quotes arguments of the command line."""
    shown = io.StringIO()
    shown.isatty = lambda: True  # otherwise click removes escape sequences instead of showing them
    error.show(shown)
    return shown.getvalue()


def escape_python_output() -> None:
    """Escape control characters in tracebacks, warnings and logs, which may quote any text."""

    def print_traceback(*exception: Any) -> None:
        write("".join(traceback.format_exception(*exception)), err=True)

    sys.excepthook = print_traceback
    warnings.formatwarning = lambda *args, **kwargs: escape_control_characters(
        _FORMAT_WARNING(*args, **kwargs)
    )
    if logging.lastResort is not None:  # for loggers without a handler, such as the server's
        logging.lastResort.setFormatter(_EscapingFormatter())


class _EscapingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escape_control_characters(super().format(record))


_FORMAT_WARNING = warnings.formatwarning


def as_yaml(value: Any) -> str:
    """Format a default value as it is written in a config."""
    return json.dumps(to_jsonable(value), default=str)


def print_summary(summary: Any) -> None:
    """Print how a run ended, with its metrics grouped by checkpoint."""
    echo(
        f"{summary.status} after {summary.step} steps ({format_decimal(summary.epoch)} epochs) "
        f"in {summary.seconds:.1f} s, {summary.samples_per_second:,.0f} samples/s"
    )
    if summary.stopped_early:
        echo(describe_early_stop(summary.stopped_early))
    if summary.skipped_steps:
        reason = "non-finite loss or gradient"
        echo(f"  skipped steps {summary.skipped_steps}: {reason}")
    val = {n: v for n, v in summary.metrics.items() if n.startswith("val/")}
    test = {n: v for n, v in summary.metrics.items() if n.startswith("test/")}
    best = summary.best
    if best and best["step"] != summary.step:
        is_best_tested = (summary.tested_weights or "").startswith("step-")
        echo(f"best checkpoint, step {best['step']}:")
        _print_metrics({**summary.best_metrics, **(test if is_best_tested else {})})
        echo(f"last step, {summary.step}:")
        _print_metrics({**val, **({} if is_best_tested else test)})
    else:
        _print_metrics({**val, **test})
    if best:
        echo(f"  best {best['metric']} {format_value(best['value'])} at step {best['step']}")
    for notice in summary.data["notices"]:
        echo(f"note: {notice}")
    echo(f"{summary.run}  (tensorboard --logdir {Path(summary.run).parent})")


def _print_metrics(metrics: Mapping[str, float | None]) -> None:
    for name, value in metrics.items():
        echo(f"  {name:24} {format_value(value)}")


def open_closed_streams() -> None:
    """Connect closed standard streams to the null device, so that no file gets their descriptor."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def discard_unread_output() -> None:
    """Discard output whose reader is gone, which Python would fail to flush at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
