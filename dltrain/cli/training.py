"""Verbs that train a config, resume or reproduce a run, or check a config."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dltrain.cli.inspection import print_groups
from dltrain.cli.options import (
    DIRECTORY,
    json_option,
    load_experiment,
    load_plugins,
    plugin_option,
    processes_option,
    quiet_option,
    with_config,
)
from dltrain.cli.terminal import echo, print_summary, show
from dltrain.core.errors import DltrainError


@click.command()
@with_config
@click.option("--run-dir", type=DIRECTORY, help="Output directory (default: runs/NAME/NUMBER).")
@click.option(
    "--seeds",
    callback=lambda _context, _parameter, text: None if text is None else _seeds(text),
    metavar="0..4",
    help="Train once per seed, such as 0..4 or 0,3,7; print mean and standard deviation.",
)
@processes_option
@quiet_option
@json_option
def train(
    config: Path,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    device: str | None,
    run_dir: Path | None,
    seeds: Sequence[int] | None,
    processes: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a model in a new run directory.

    CONFIG is a YAML file, or the name of a config that comes with dltrain, such as mnist_cnn.
    KEY=VALUE overrides values of the config, such as optimizer.lr=1e-3 or train.epochs=2.
    """
    if seeds:
        if processes:
            raise click.UsageError("--seeds and --processes exclude each other")
        experiments = [
            load_experiment(config, [*overrides, f"seed={seed}"], plugins, device) for seed in seeds
        ]
        from dltrain.commands.seeds import train_seeds

        result = train_seeds(experiments, directory=run_dir, quiet=quiet, plugins=plugins)
        show(result, as_json, lambda: print_groups(result.groups), quiet=quiet)
        return
    with _reported_once():
        experiment = load_experiment(config, overrides, plugins, device)
    _launch(processes)
    from dltrain.commands.train import train as train_command

    summary = train_command(experiment, run_dir=run_dir, quiet=quiet, plugins=plugins)
    _show(summary, as_json, quiet)


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option(
    "--exact",
    is_flag=True,
    help="Refuse to resume if versions, device or threads have changed.",
)
@plugin_option
@processes_option
@quiet_option
@json_option
def resume(
    run: Path,
    exact: bool,
    plugins: Sequence[Path],
    processes: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Resume a run, with results identical to an uninterrupted one.

    RUN is a run directory, such as runs/mnist_cnn/0001.
    """
    with _reported_once():
        load_plugins(plugins)
        from dltrain.commands.resume import resume as resume_command
        from dltrain.rundir.directory import Run

        Run.open(run).experiment()
    _launch(processes)
    summary = resume_command(run, quiet=quiet, exact=exact)
    _show(summary, as_json, quiet)


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option("--run-dir", type=DIRECTORY, help="Output directory (default: runs/NAME/NUMBER).")
@click.option(
    "--exact",
    is_flag=True,
    help="Refuse to train if versions, device, threads or code differ from those of RUN.",
)
@plugin_option
@quiet_option
@json_option
def reproduce(
    run: Path,
    run_dir: Path | None,
    exact: bool,
    plugins: Sequence[Path],
    quiet: bool,
    as_json: bool,
) -> None:
    """Repeat a run from its record and compare the results.

    Exit code 0: weights and scalars are bitwise identical; 1: they differ or can't be compared.
    """
    load_plugins(plugins)
    from dltrain.commands.reproduce import reproduce as reproduce_command

    result = reproduce_command(run, run_dir=run_dir, exact=exact, quiet=quiet, plugins=plugins)
    show(result, as_json, lambda: _print_reproduction(result), quiet=quiet)
    if not result.identical:
        if quiet and not as_json:
            echo(_verdict(result), err=True)
        sys.exit(1)


def _print_reproduction(result: Any) -> None:
    before, now = result.weights_sha256
    if before == now:
        echo(f"weights    identical, SHA-256 {now}")
    elif result.weights is None or result.weights.largest is None:
        echo(f"weights    differ, SHA-256 {now}, was {before}")
    else:
        echo(f"weights    differ by {result.weights.largest:.3g} ({result.weights.name})")
    if not result.differing:
        echo(f"scalars    {result.scalars} values, all identical")
    else:
        tolerance = result.tolerance
        reason = "some are missing" if tolerance is None else f"relative tolerance {tolerance:.3g}"
        echo(
            f"scalars    {result.differing} of {result.scalars} values differ, "
            f"maximum difference {result.largest:.3g}; {reason}"
        )
        first = result.first
        echo(f"first      {first.name} at step {first.step}: {first.now}, was {first.before}")
    for line in result.changes:
        echo(f"changed    {line}")
    for line in result.notes:
        echo(f"note       {line}")
    echo(_verdict(result))


def _verdict(result: Any) -> str:
    verdict = "is identical to" if result.identical else "differs from"
    return f"{result.run} {verdict} {result.original}"


def _launch(processes: int | None) -> None:
    """Run the command in several processes, unless this is one of them."""
    from dltrain.commands.launch import is_launched, launch

    if processes is not None and processes > 1 and not is_launched():
        sys.exit(launch(processes))


@contextmanager
def _reported_once() -> Iterator[None]:
    """Report an error that occurs before this rank has joined the process group, once."""
    try:
        yield
    except DltrainError as error:
        from dltrain.commands.launch import is_launched

        if is_launched():
            from dltrain.distributed.process_group import report_absence

            report_absence(error)
        raise


def _show(summary: Any, as_json: bool, quiet: bool) -> None:
    """Print the summary of a run, on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        show(summary, as_json, lambda: print_summary(summary), quiet=quiet)


@click.command()
@with_config
@click.option(
    "--overfit",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Train on one batch for STEPS steps, to see whether the model can fit it.",
)
@json_option
def check(
    config: Path,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    device: str | None,
    overfit: int | None,
    as_json: bool,
) -> None:
    """Check a config, its data and one training step.

    Exit code 0: CONFIG can be trained; 2: it can't, and each mistake is shown with its line.
    """
    try:
        experiment = load_experiment(config, overrides, plugins, device)
        from dltrain.commands.check import check as check_command

        result = check_command(experiment, overfit=overfit)
    except DltrainError as error:
        error.exit_code = 2
        raise

    def table() -> None:
        sizes = ", ".join(f"{n} {name}" for name, n in result.sizes.items())
        echo(f"data         {sizes}; from {result.source}")
        echo(f"parameters   {result.parameters:,} ({result.trainable_parameters:,} trainable)")
        echo(f"FLOPs        {result.flops_per_sample:,} per sample, forward")
        echo(f"memory       {result.memory_bytes / 2**20:,.1f} MiB expected per step")
        echo(f"steps        {result.steps_per_epoch} per epoch, {result.total_steps} in total")
        echo(f"device       {result.device}, {result.precision}")
        echo(f"first loss   {result.initial_loss:.4f}")
        if result.overfit_loss is not None:
            echo(f"one batch    loss {result.overfit_loss:.4f} after {overfit} steps")
        for finding in result.findings:
            echo(f"warning: {finding.kind}: {finding.message}")
        echo("ok" if not result.findings else "valid, with warnings")

    show(result, as_json, table)


def _seeds(text: str) -> list[int]:
    """Parse `0..4` or `0,3,7`."""
    try:
        if ".." in text:
            first, last = map(int, text.split(".."))
            seeds = list(range(first, last + 1))
        else:
            seeds = [int(number) for number in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"expected distinct seeds such as 0..4 or 0,3,7, got {text!r}")
    return seeds
