"""Verbs that train, and one that looks before."""

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
@click.option("--run-dir", type=DIRECTORY, help="Where to write; default: runs/NAME/NUMBER.")
@click.option(
    "--seeds",
    callback=lambda _context, _parameter, words: None if words is None else _seeds(words),
    metavar="0..4",
    help="Train with each of these seeds, 0..4 or 0,3,7, and show mean and deviation.",
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
    """Train what CONFIG describes, in a new run directory.

    CONFIG is a YAML file, or the name of a config that comes with dltrain, such as mnist_cnn.
    KEY=VALUE changes the config for this run: optimizer.lr=1e-3, train.epochs=2.
    """
    if seeds:
        if processes:
            raise click.UsageError("--seeds trains in this process: leave --processes out")
        experiments = [
            load_experiment(config, [*overrides, f"seed={seed}"], plugins, device) for seed in seeds
        ]
        from dltrain.commands.seeds import train_seeds

        result = train_seeds(experiments, directory=run_dir, quiet=quiet, plugins=plugins)
        show(result, as_json, lambda: print_groups(result.groups), quiet=quiet)
        return
    with _told_once():
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
    help="Refuse where versions, device or threads are not those that the run started with.",
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
    """Go on with a run that was stopped or killed, bit for bit.

    RUN is a run directory, such as runs/mnist_cnn/0001.
    """
    with _told_once():
        load_plugins(plugins)
        from dltrain.commands.resume import resume as resume_command
        from dltrain.rundir.directory import Run

        Run.open(run).experiment()
    _launch(processes)
    summary = resume_command(run, quiet=quiet, exact=exact)
    _show(summary, as_json, quiet)


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option("--run-dir", type=DIRECTORY, help="Where to write; default: runs/NAME/NUMBER.")
@click.option(
    "--exact",
    is_flag=True,
    help="Refuse where versions, device, threads or code are not those that RUN had.",
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
    """Run RUN again from its record, and compare the outcomes bit for bit.

    Exit code 0: weights and scalars are identical; 1: they differ, or it can't be told.
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
        echo(f"weights    differ, SHA-256 {now} and was {before}")
    else:
        echo(f"weights    differ by {result.weights.largest:.3g} ({result.weights.name})")
    if not result.differing:
        echo(f"scalars    {result.scalars} values, all of them identical")
    else:
        share = result.tolerance
        within = "some are in one alone" if share is None else f"relative tolerance {share:.3g}"
        echo(
            f"scalars    {result.differing} of {result.scalars} values differ, "
            f"by {result.largest:.3g} at most; {within}"
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
    """Leaves the command to so many processes, unless this is one of them."""
    from dltrain.commands.launch import is_launched, launch

    if processes is not None and processes > 1 and not is_launched():
        sys.exit(launch(processes))


@contextmanager
def _told_once() -> Iterator[None]:
    """Report to the other ranks an error before this one has joined them; see `stay_away`."""
    try:
        yield
    except DltrainError as error:
        from dltrain.commands.launch import is_launched

        if is_launched():
            from dltrain.distributed.process_group import report_absence

            report_absence(error)
        raise


def _show(summary: Any, as_json: bool, quiet: bool) -> None:
    """Of several processes, the first shows how the run ended."""
    if os.environ.get("RANK", "0") == "0":
        show(summary, as_json, lambda: print_summary(summary), quiet=quiet)


@click.command()
@with_config
@click.option(
    "--overfit",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Train on one batch for so many steps, to see whether it can be learnt.",
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
    """Check CONFIG, its data and one step, without training.

    Exit code 0: it can be trained; 2: it can't, and every mistake is shown at its line.
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
        echo(f"FLOPs        {result.flops_per_sample:,} a sample, forward")
        echo(f"memory       {result.memory_bytes / 2**20:,.1f} MiB expected for a step")
        echo(f"steps        {result.steps_per_epoch} an epoch, {result.total_steps} in all")
        echo(f"device       {result.device}, {result.precision}")
        echo(f"first loss   {result.initial_loss:.4f}")
        if result.overfit_loss is not None:
            echo(f"one batch    {result.overfit_loss:.4f} after {overfit} steps on it")
        for finding in result.findings:
            echo(f"warning: {finding.kind}: {finding.message}")
        echo("ok" if not result.findings else "it can be trained, and something looks wrong")

    show(result, as_json, table)


def _seeds(words: str) -> list[int]:
    """`0..4` or `0,3,7` to numbers."""
    try:
        if ".." in words:
            first, last = map(int, words.split(".."))
            seeds = list(range(first, last + 1))
        else:
            seeds = [int(word) for word in words.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"{words!r} is no list of seeds such as 0..4 or 0,3,7")
    return seeds
