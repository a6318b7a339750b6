"""Verbs that train for a few steps to find something out."""

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
    help="How many to measure, twice.",
)
@click.option(
    "--trace",
    type=FILE,
    default=Path("trace.json"),
    show_default=True,
    help="Where to write the trace, for ui.perfetto.dev.",
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
    """Show where the time of a training step goes."""
    experiment = load_experiment(config, overrides, plugins, device)
    from dltrain.commands.profile import profile as profile_command

    result = profile_command(experiment, trace, steps=steps)

    def table() -> None:
        total = sum(result.parts.values())
        echo(f"{result.samples_per_second:,.0f} samples/s on {result.device}")
        echo(f"{total * 1e3:.2f} ms a step, over {result.steps} steps:")
        for name, seconds in result.parts.items():
            echo(f"  {name:10} {seconds * 1e3:8.2f} ms  {seconds / total:6.1%}")
        echo("operators, less what they call:")
        for operator in result.operators:
            each = operator.seconds / result.steps * 1e3
            echo(
                f"  {operator.name:44.44} {operator.calls:6} calls {each:8.2f} ms a step "
                f"{operator.share:6.1%}"
            )
        echo(result.advice)
        echo(f"{result.trace}: for ui.perfetto.dev")

    show(result, as_json, table)


@click.command("tune-lr")
@with_config
@click.option(
    "--steps",
    type=click.IntRange(min=20),
    default=200,
    show_default=True,
    help="How many to take, from the smallest rate to the largest.",
)
@click.option(
    "--picture",
    type=FILE,
    default=Path("learning-rate.html"),
    show_default=True,
    help="Where to write the page with the curve.",
)
@json_option
def tune_lr(
    config: Path,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    device: str | None,
    steps: int,
    picture: Path,
    as_json: bool,
) -> None:
    """Find a learning rate: train while it grows, and see where the loss falls."""
    experiment = load_experiment(config, overrides, plugins, device)
    from dltrain.commands.tune_lr import tune_lr as tune

    result = tune(experiment, picture, steps=steps)

    def table() -> None:
        echo(f"the loss is lowest at {result.lowest_at:.2g}; the config has {result.configured:g}")
        echo(f"suggested: optimizer.lr={result.suggestion:g}")
        echo(f"{result.picture}: the curve")

    show(result, as_json, table)


@click.command("tune-batch")
@with_config
@click.option(
    "--micro-batch",
    is_flag=True,
    help="Look for train.micro_batch, the slices of the configured batch.",
)
@click.option(
    "--memory",
    "memory_bytes",
    callback=lambda _context, _parameter, words: None if words is None else _bytes(words),
    metavar="4GiB",
    help="What may be used; default: the GPU's memory, or half of what is available to a CPU.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How many to measure of each size.",
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
    """Find the largest batch that fits into the memory, by training a few steps."""
    experiment = load_experiment(config, overrides, plugins, device)
    from dltrain.commands.tune_batch import tune_batch as tune

    def say(trial: Any) -> None:
        memory = "does not fit" if not trial.fits else f"{trial.memory_bytes / 2**20:,.0f} MiB"
        echo(f"tried {trial.size}: {memory}", err=True)

    result = tune(
        experiment,
        micro_batch=micro_batch,
        memory_bytes=memory_bytes,
        steps=steps,
        plugins=plugins,
        on_trial=say,
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
        budget = f"{limit / 2**20:,.0f} MiB, less a sixteenth for the rest of a run"
    if result.limited_by == "memory":
        echo(f"{result.suggestion} is the largest that fits into {budget}")
    elif result.limited_by == "samples":
        echo(
            f"{result.suggestion} is the whole training split, and fits into {budget}: the data is "
            "the limit, not the memory"
        )
    if result.fast_from < result.suggestion:
        echo(f"from {result.fast_from} on it is no more than 5% below the best speed")
    if result.limited_by == "batch_size":
        echo("the whole batch fits: no micro_batch is needed")
        return
    echo(f"in the config:  train: {{{key}: {result.suggestion}}}")
    times = result.suggestion / result.configured
    if key == "batch_size" and times != 1:
        echo(
            f"a batch {format_decimal(times)} times the config's {result.configured} may want "
            f"another learning rate: dltrain tune-lr {config} train.batch_size={result.suggestion}"
        )
    if times < 1 and key == "batch_size":
        echo(
            f"or keep batches of {result.configured}, and everything else: "
            f"train: {{micro_batch: {result.suggestion}}}"
        )


def _bytes(words: str) -> int:
    """`4GiB`, `512 MiB` or `8GB` to bytes; a plain number is bytes."""
    units = {"": 1} | {
        f"{letter}{kind}": base**power
        for power, letter in enumerate("KMGT", start=1)
        for kind, base in (("iB", 1024), ("B", 1000))
    }
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", words.strip())
    if found is None or found[2] not in units or not float(found[1]):
        raise click.BadParameter(f"{words!r} is no amount of memory such as 4GiB or 512MiB")
    return int(float(found[1]) * units[found[2]])


@click.command()
@click.argument("config", type=FILE)
@click.argument("space", type=FILE, metavar="SWEEP.yaml")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run-dir", type=DIRECTORY, help="Where; default: runs/NAME/sweep-FILE.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Train trials in N processes, which share the threads, or have a GPU each.",
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
    """Search over values of CONFIG, as SWEEP.yaml says, for the best metric.

    The same command goes on where a sweep was stopped or killed.
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
            share = f"  importance {result.importance[key]:.0%}" if key in result.importance else ""
            echo(f"  {key:{width}}  {value!s:24}{share}".rstrip())
        echo(f"{result.config}: for dltrain train")
        echo(f"{result.report}: all trials")

    show(result, as_json, table, quiet=quiet)
