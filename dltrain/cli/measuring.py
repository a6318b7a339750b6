"""Verbs that train for a few steps to find something out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dltrain.cli.options import FILE, json_option, load_experiment, with_config
from dltrain.terminal import show


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
        click.echo(f"{result.samples_per_second:,.0f} samples/s on {result.device}")
        click.echo(f"{total * 1e3:.2f} ms a step, over {result.steps} steps:")
        for name, seconds in result.parts.items():
            click.echo(f"  {name:10} {seconds * 1e3:8.2f} ms  {seconds / total:6.1%}")
        click.echo("operators, less what they call:")
        for operator in result.operators:
            each = operator.seconds / result.steps * 1e3
            click.echo(
                f"  {operator.name:44.44} {operator.calls:6} calls {each:8.2f} ms a step "
                f"{operator.share:6.1%}"
            )
        click.echo(result.advice)
        click.echo(f"{result.trace}: for ui.perfetto.dev")

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
        click.echo(
            f"the loss is lowest at {result.lowest_at:.2g}; the config has {result.configured:g}"
        )
        click.echo(f"suggested: optimizer.lr={result.suggestion:g}")
        click.echo(f"{result.picture}: the curve")

    show(result, as_json, table)
