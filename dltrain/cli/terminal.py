"""Results on standard output, as lines or as JSON.

Every command prints through `echo` or `write`, so that no text of a file or a run can steer a
terminal.
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
    """Prints a result on standard output, for a program or for a reader.

    Args:
        result: What JSON shows.
        as_json: Whether to print JSON.
        table: Prints the result for a reader.
        quiet: Whether a reader wants to see errors only.

    Raises:
        RunError: It can't be written there.
    """
    try:
        if as_json:
            write(f"{as_json_text(result)}\n")
        elif not quiet:
            table()
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # whoever read has gone; what is on the disk is complete
    except OSError as error:
        raise RunError(f"standard output: {error.strerror}") from error


def echo(text: str = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Prints one line; what a file or a run has put in it stays on it, and steers no terminal.

    Args:
        text: The line.
        err: Whether to print on standard error.
        nl: Whether the line ends here.
        **style: See `click.style`.
    """
    click.secho(escape_control_characters(text).replace("\n", "\\n"), err=err, nl=nl, **style)


def write(text: str, *, err: bool = False) -> None:
    """Prints text with lines of its own, and nothing behind it; like `echo`, it steers no terminal.

    Args:
        text: The text.
        err: Whether to print on standard error.
    """
    click.echo(escape_control_characters(text), err=err, nl=False)


def as_json_text(result: Any) -> str:
    """A result as JSON in ASCII, without any control character but for line breaks."""
    text = json.dumps(to_jsonable(result), indent=1, default=str, allow_nan=False)
    return text.replace("\x7f", "\\u007f")  # the one that `json` leaves as it is


def usage_error_text(error: click.ClickException) -> str:
    """What click prints of an error, the user's words included."""
    shown = io.StringIO()
    shown.isatty = lambda: True  # else click removes escape sequences, where they are to be seen
    error.show(shown)
    return shown.getvalue()


def escape_pythons_own() -> None:
    """Escapes what Python itself prints: tracebacks, warnings and logs may quote anything."""

    def print_traceback(*failure: Any) -> None:
        write("".join(traceback.format_exception(*failure)), err=True)

    sys.excepthook = print_traceback
    warnings.formatwarning = lambda *warning, **more: escape_control_characters(
        _FORMAT_WARNING(*warning, **more)
    )
    if logging.lastResort is not None:  # of loggers that have no handler, such as the server's
        logging.lastResort.setFormatter(_VisibleFormatter())


class _VisibleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escape_control_characters(super().format(record))


_FORMAT_WARNING = warnings.formatwarning


def as_yaml(value: Any) -> str:
    """A default as one would write it in a config."""
    return json.dumps(to_jsonable(value), default=str)


def print_summary(summary: Any) -> None:
    """How a run ended, in a few lines; metrics of one checkpoint stand together."""
    echo(
        f"{summary.status} after {summary.step} steps ({format_decimal(summary.epoch)} epochs) "
        f"in {summary.seconds:.1f} s, {summary.samples_per_second:,.0f} samples/s"
    )
    if summary.stopped_early:
        echo(describe_early_stop(summary.stopped_early))
    if summary.skipped_steps:
        reason = "the loss or its gradient was not finite"
        echo(f"  skipped steps {summary.skipped_steps}: {reason}")
    last = {n: v for n, v in summary.metrics.items() if n.startswith("val/")}
    test = {n: v for n, v in summary.metrics.items() if n.startswith("test/")}
    best = summary.best
    if best and best["step"] != summary.step:
        of_best = (summary.tested_weights or "").startswith("step-")
        echo(f"best checkpoint, step {best['step']}:")
        _print_metrics({**summary.best_metrics, **(test if of_best else {})})
        echo(f"last step, {summary.step}:")
        _print_metrics({**last, **({} if of_best else test)})
    else:
        _print_metrics({**last, **test})
    if best:
        echo(f"  best {best['metric']} {format_value(best['value'])} at step {best['step']}")
    for notice in summary.data["notices"]:
        echo(f"note: {notice}")
    echo(f"{summary.run}  (tensorboard --logdir {Path(summary.run).parent})")


def _print_metrics(metrics: Mapping[str, float | None]) -> None:
    for name, value in metrics.items():
        echo(f"  {name:24} {format_value(value)}")


def open_closed_streams() -> None:
    """Where a standard stream was closed, nothing goes in or out; and no file takes its number."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def drop_unread_output() -> None:
    """Lets go of output that nobody takes, which Python would fail to flush as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
