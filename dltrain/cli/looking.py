"""Verbs that say what a config can ask for, to readers, editors and shells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dltrain.cli.options import json_option, load_plugins, plugin_option
from dltrain.terminal import as_yaml, echo, show, write


@click.command("list")
@click.argument("kind", required=False)
@click.argument("name", required=False)
@plugin_option
@json_option
def list_(kind: str | None, name: str | None, plugins: Sequence[Path], as_json: bool) -> None:
    """What a config can ask for: components, or one component's options.

    KIND is models, data, losses, optimizers, schedules, metrics, tasks, or sections: the
    parts of a config that are no components, such as train.
    """
    load_plugins(plugins)
    from dltrain.commands.list import list_components

    listed = list_components(kind, name)

    def table() -> None:
        if name is None:
            for previous, item in zip([None, *listed], listed, strict=False):
                if previous is None or previous.kind != item.kind:
                    echo(item.kind, bold=True)
                echo(f"  {item.name:20} {item.summary}")
            return
        for item in listed:
            echo(f"{item.kind} {item.name}: {item.summary}")
            echo()
            _print_options(item.options, "")

    show(listed, as_json, table)


def _print_options(options: Sequence[Any], prefix: str) -> None:
    """Options, and the keys of those that are mappings by their dotted names."""
    for option in options:
        default = "required" if option.required else f"default {as_yaml(option.default)}"
        echo(f"  {prefix}{option.name}", bold=True, nl=False)
        echo(f"  {option.type}, {default}")
        echo(f"      {option.doc}")
        _print_options(option.options, f"{prefix}{option.name}.")


@click.command()
def schema() -> None:
    """Print the JSON Schema of config files, for editors."""
    from dltrain.commands.schema import schema as schema_command

    write(json.dumps(schema_command(), indent=2) + "\n")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   eval "$(dltrain completion bash)"     in ~/.bashrc
    zsh    eval "$(dltrain completion zsh)"      in ~/.zshrc
    fish   dltrain completion fish | source      in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    root = click.get_current_context().find_root().command
    write(found(root, {}, "dltrain", "_DLTRAIN_COMPLETE").source() + "\n")
