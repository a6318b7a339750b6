"""Results on standard output, as lines or as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dltrain.errors import RunError
from dltrain.plain import as_plain


def show(result: Any, as_json: bool, table: Callable[[], None]) -> None:
    """Prints a result on standard output, for a program or for a reader.

    Raises:
        RunError: It can't be written there.
    """
    try:
        if as_json:
            click.echo(json.dumps(as_plain(result), indent=1, default=str, allow_nan=False))
        else:
            table()
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # whoever read has gone; what is on the disk is complete
    except OSError as error:
        raise RunError(f"standard output: {error.strerror}") from error


def as_yaml(value: Any) -> str:
    """A default as one would write it in a config."""
    return json.dumps(as_plain(value), default=str)


def print_summary(summary: Any) -> None:
    """How a run ended, in a few lines."""
    click.echo(
        f"{summary.status} after {summary.step} steps ({summary.epoch:.3g} epochs) "
        f"in {summary.seconds:.1f} s, {summary.samples_per_second:,.0f} samples/s"
    )
    for name, value in summary.metrics.items():
        if name.startswith(("val/", "test/")):
            click.echo(f"  {name:24} {'not finite' if value is None else f'{value:.6g}'}")
    if summary.best:
        best = summary.best
        click.echo(f"  best {best['metric']} {best['value']:.6g} at step {best['step']}")
    for notice in summary.data["notices"]:
        click.echo(f"note: {notice}")
    click.echo(f"{summary.run}  (tensorboard --logdir {Path(summary.run).parent})")


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
