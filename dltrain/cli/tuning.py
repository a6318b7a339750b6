"""Verbs that measure speed and memory, and search for better values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dltrain.cli.options import (
    DIRECTORY,
    FILE,
    device_option,
    json_option,
    load_experiment,
    load_plugins,
    plugin_option,
    quiet_option,
    with_config,
)
from dltrain.cli.terminal import echo, show
from dltrain.core.jsonable import format_decimal


@click.command()
@with_config
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Number of steps to measure, twice.",
)
@click.option(
    "--trace",
    type=FILE,
    default=Path("trace.json"),
    show_default=True,
    help="Output file of the trace, for ui.perfetto.dev.",
)
@json_option
def profile(
    config: Path,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    device: str | None,
    steps: int,
    trace: Path,
    as_json: bool,
) -> None:
    """Profile the time of a training step."""
    experiment = load_experiment(config, overrides, plugins, device)
    from dltrain.commands.profile import profile as profile_command

    result = profile_command(experiment, trace, steps=steps)

    def table() -> None:
        total = sum(result.parts.values())
        echo(f"{result.samples_per_second:,.0f} samples/s on {result.device}")
        echo(f"{total * 1e3:.2f} ms per step, over {result.steps} steps:")
        for name, seconds in result.parts.items():
            echo(f"  {name:10} {seconds * 1e3:8.2f} ms  {seconds / total:6.1%}")
        echo("operators, self time:")
        for operator in result.operators:
            milliseconds = operator.seconds / result.steps * 1e3
            echo(
                f"  {operator.name:44.44} {operator.calls:6} calls {milliseconds:8.2f} ms per step "
                f"{operator.share:6.1%}"
            )
        echo(result.advice)
        echo(f"{result.trace}: trace for ui.perfetto.dev")

    show(result, as_json, table)


@click.command("tune-lr")
@with_config
@click.option(
    "--steps",
    type=click.IntRange(min=20),
    default=200,
    show_default=True,
    help="Number of steps, from the smallest learning rate to the largest.",
)
@click.option(
    "--picture",
    "page",
    type=FILE,
    default=Path("learning-rate.html"),
    show_default=True,
    help="Output file of the page with the curve.",
)
@json_option
def tune_lr(
    config: Path,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    device: str | None,
    steps: int,
    page: Path,
    as_json: bool,
) -> None:
    """Find a learning rate by a range test: train while it grows."""
    experiment = load_experiment(config, overrides, plugins, device)
    from dltrain.commands.tune_lr import tune_lr as tune

    result = tune(experiment, page, steps=steps)

    def table() -> None:
        echo(f"lowest loss at {result.lowest_at:.2g}; configured: {result.configured:g}")
        echo(f"suggested: optimizer.lr={result.suggestion:g}")
        echo(f"{result.picture}: loss by learning rate")

    show(result, as_json, table)


@click.command("tune-batch")
@with_config
@click.option(
    "--micro-batch",
    is_flag=True,
    help="Find the largest train.micro_batch for the configured batch.",
)
@click.option(
    "--memory",
    "memory_bytes",
    callback=lambda _context, _parameter, text: None if text is None else _bytes(text),
    metavar="4GiB",
    help="Memory to use (default: the GPU's memory; half of the available memory on a CPU).",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of steps to measure per size.",
)
@json_option
def tune_batch(
    config: Path,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    device: str | None,
    micro_batch: bool,
    memory_bytes: int | None,
    steps: int,
    as_json: bool,
) -> None:
    """Find the largest batch that fits into memory."""
    experiment = load_experiment(config, overrides, plugins, device)
    from dltrain.commands.tune_batch import tune_batch as tune

    def report(trial: Any) -> None:
        memory = "does not fit" if not trial.fits else f"{trial.memory_bytes / 2**20:,.0f} MiB"
        echo(f"tried {trial.size}: {memory}", err=True)

    result = tune(
        experiment,
        micro_batch=micro_batch,
        memory_bytes=memory_bytes,
        steps=steps,
        plugins=plugins,
        on_trial=report,
    )
    show(result, as_json, lambda: _print_batch_size(result, config))


def _print_batch_size(result: Any, config: Path) -> None:
    key = result.setting.removeprefix("train.")
    echo(f"{key:>11}  {'memory':>12}  {'samples/s':>10}")
    for trial in result.trials:
        if trial.fits:
            memory = f"{trial.memory_bytes / 2**20:,.0f} MiB"
            echo(f"{trial.size:>11}  {memory:>12}  {trial.samples_per_second:>10,.0f}")
        else:
            echo(f"{trial.size:>11}  {'does not fit':>12}  {'-':>10}")
    limit = result.memory_bytes
    budget = f"the memory of {result.device}"
    if limit is not None:
        budget = f"{limit / 2**20:,.0f} MiB, keeping 1/16 in reserve"
    if result.limited_by == "memory":
        echo(f"{result.suggestion} is the largest size that fits into {budget}")
    elif result.limited_by == "samples":
        echo(
            f"{result.suggestion} is the size of the training split and fits into {budget}: memory "
            "is not the limit"
        )
    if result.fast_from < result.suggestion:
        echo(f"sizes from {result.fast_from} reach at least 95% of the best speed")
    if result.limited_by == "batch_size":
        echo("the full batch fits: micro_batch is not needed")
        return
    echo(f"in the config:  train: {{{key}: {result.suggestion}}}")
    factor = result.suggestion / result.configured
    if key == "batch_size" and factor != 1:
        echo(
            f"a batch {format_decimal(factor)} times the configured {result.configured} may need "
            f"another learning rate: dltrain tune-lr {config} train.batch_size={result.suggestion}"
        )
    if factor < 1 and key == "batch_size":
        echo(
            f"or keep the batch size of {result.configured} and its results: "
            f"train: {{micro_batch: {result.suggestion}}}"
        )


def _bytes(text: str) -> int:
    """Parse `4GiB`, `512 MiB` or `8GB`; a number without unit is in bytes."""
    units = {"": 1} | {
        f"{letter}{kind}": base**power
        for power, letter in enumerate("KMGT", start=1)
        for kind, base in (("iB", 1024), ("B", 1000))
    }
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text.strip())
    if match is None or match[2] not in units or not float(match[1]):
        raise click.BadParameter(f"expected a memory size such as 4GiB or 512MiB, got {text!r}")
    return int(float(match[1]) * units[match[2]])


@click.command()
@click.argument("config", type=FILE)
@click.argument("space", type=FILE, metavar="SWEEP.yaml")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run-dir", type=DIRECTORY, help="Output directory (default: runs/NAME/sweep-FILE).")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of processes that train trials; they divide the threads and the GPUs.",
)
@plugin_option
@device_option
@click.option("--worker", is_flag=True, hidden=True)
@quiet_option
@json_option
def sweep(
    config: Path,
    space: Path,
    overrides: Sequence[str],
    run_dir: Path | None,
    jobs: int,
    plugins: Sequence[Path],
    device: str | None,
    worker: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Search for the config values with the best metric.

    SWEEP.yaml lists the values to try. The same command resumes an interrupted sweep.
    """
    load_plugins(plugins)
    from dltrain.commands import sweep as command

    overrides = [*overrides, *([f"train.device={device}"] if device else [])]
    if worker and run_dir is not None:
        command.work(config, space, overrides, run_dir=run_dir, plugins=plugins, quiet=quiet)
        return
    result = command.sweep(
        config, space, overrides, run_dir=run_dir, jobs=jobs, plugins=plugins, quiet=quiet
    )

    def table() -> None:
        states = dict.fromkeys(trial.state for trial in result.trials)
        counts = ", ".join(f"{result.count(state)} {state}" for state in states)
        echo(f"{len(result.trials)} trials: {counts}")
        echo(f"best: trial {result.best.number}, {result.metric} {result.best.value:.6g}")
        width = max(map(len, result.best.values))
        for key, value in result.best.values.items():
            importance = result.importance.get(key)
            note = "" if importance is None else f"  importance {importance:.0%}"
            echo(f"  {key:{width}}  {value!s:24}{note}".rstrip())
        echo(f"{result.config}: config of the best trial, for dltrain train")
        echo(f"{result.report}: report on all trials")

    show(result, as_json, table, quiet=quiet)
