"""What several verbs have in common on the command line."""

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
    help="Python file that registers components of your own; may be given more than once.",
)
json_option: _Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)
quiet_option: _Decorator = click.option(
    "--quiet", is_flag=True, help="Print errors only (and the result with --json)."
)
device_option: _Decorator = click.option(
    "--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps; instead of the config's."
)
processes_option: _Decorator = click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train in N processes on this machine, with a GPU each where there are GPUs.",
)
checkpoint_option: _Decorator = click.option(
    "--checkpoint",
    metavar="NAME",
    help="best, latest, or a checkpoint's name. Default: best if there is one, else latest.",
)
config_arguments: list[_Decorator] = [
    click.argument("config", type=FILE),
    click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
]


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the arguments CONFIG and KEY=VALUE, `--plugin` and `--device`."""
    for decorate in [device_option, plugin_option, *reversed(config_arguments)]:
        command = decorate(command)
    return command


def load_plugins(plugins: Sequence[Path]) -> None:
    """Imports the user's own components."""
    if plugins:
        from dltrain.config.plugins import load_plugin

        for path in plugins:
            load_plugin(path)


def load_experiment(
    config: Path, overrides: Sequence[str], plugins: Sequence[Path], device: str | None
) -> Any:
    """Plug-ins first, then the config, `--device` last."""
    load_plugins(plugins)
    from dltrain.config import load

    return load(config, [*overrides, *([f"train.device={device}"] if device else [])])
