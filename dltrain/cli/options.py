"""Arguments and options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path)

plugin_option: _Decorator = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="Python file that registers your own components. Can be repeated.",
)
json_option: _Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)
quiet_option: _Decorator = click.option(
    "--quiet", is_flag=True, help="Print only errors (and the result with --json)."
)
device_option: _Decorator = click.option(
    "--device",
    metavar="DEVICE",
    help="auto, cpu, cuda, cuda:N or mps (default: train.device).",
)
processes_option: _Decorator = click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of processes on this machine, one GPU each where available (default: 1).",
)
checkpoint_option: _Decorator = click.option(
    "--checkpoint",
    metavar="NAME",
    help="Checkpoint: best, latest or a name (default: best if there is one, else latest).",
)
config_arguments: list[_Decorator] = [
    click.argument("config", type=FILE),
    click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
]


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments CONFIG and KEY=VALUE, `--plugin` and `--device` to a command."""
    for decorate in [device_option, plugin_option, *reversed(config_arguments)]:
        command = decorate(command)
    return command


def load_plugins(plugins: Sequence[Path]) -> None:
    """Import files that register the user's own components."""
    if plugins:
        from dltrain.config.plugins import load_plugin

        for path in plugins:
            load_plugin(path)


def load_experiment(
    config: Path, overrides: Sequence[str], plugins: Sequence[Path], device: str | None
) -> Any:
    """Load the plug-ins, then the config with its overrides, of which `--device` is the last."""
    load_plugins(plugins)
    from dltrain.config import load

    return load(config, [*overrides, *([f"train.device={device}"] if device else [])])
