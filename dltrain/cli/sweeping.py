"""The verb that searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dltrain.cli.options import (
    DIRECTORY,
    FILE,
    device_option,
    json_option,
    load_plugins,
    plugin_option,
    quiet_option,
)
from dltrain.terminal import echo, show


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
