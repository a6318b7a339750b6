"""The command line: parse arguments, call a command, print its result.

The commands import torch, not this package.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from dltrain._version import __version__
from dltrain.cli import (
    data,
    deployment,
    inference,
    inspection,
    training,
    tuning,
)
from dltrain.cli.terminal import (
    discard_unread_output,
    escape_python_output,
    open_closed_streams,
    usage_error_text,
    write,
)
from dltrain.commands.launch import is_launched
from dltrain.core.errors import DltrainError, describe_error, user_code_line
from dltrain.training.threads import wait_briefly


class _GroupedCommands(click.Group):
    """Lists its commands under a title for each group of verbs."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with the first lines of their help, group by group."""
        width = max(map(len, self.commands))
        for title, commands in COMMANDS.items():
            rows = [
                (f"{command.name:{width}}", command.get_short_help_str(formatter.width - width - 6))
                for command in commands
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


COMMANDS: dict[str, tuple[click.Command, ...]] = {
    "Training": (training.train, training.resume, training.reproduce, training.check),
    "Inference": (inference.evaluate, inference.predict, inference.sample),
    "Inspection": (
        *(inspection.runs, inspection.compare, inspection.report, inspection.rm),
        *(inspection.list_, inspection.schema, inspection.completion),
    ),
    "Tuning": (tuning.profile, tuning.tune_lr, tuning.tune_batch, tuning.sweep),
    "Deployment": (deployment.export, deployment.serve, deployment.import_),
    "Data": (data.init,),
}
"""Commands by the title under which the help lists them."""


@click.group(cls=_GroupedCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dltrain")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train PyTorch models from a YAML config.

    \b
    dltrain init my_images     write a config for your own data
    dltrain check mnist_cnn    find mistakes before training
    dltrain train mnist_cnn    train in a new directory under runs/
    dltrain list models        list the models that a config can name
    """
    click.get_current_context().obj = debug


for _commands in COMMANDS.values():
    for _command in _commands:
        cli.add_command(_command)


def main() -> None:
    """Run the command line; `dltrain.core.errors` lists the exit codes."""
    try:
        _main()
    except SystemExit as ended:
        if not is_launched():
            raise
        import multiprocessing

        # Threads of torch.distributed may run on during interpreter shutdown, and crash there.
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def _main() -> None:
    debug = "--debug" in sys.argv[1:]
    open_closed_streams()
    escape_python_output()
    wait_briefly()
    try:
        cli(standalone_mode=False, prog_name="dltrain")
        sys.exit(0)
    except click.ClickException as error:
        with suppress(OSError):  # the stream's reader has closed it
            write(usage_error_text(error), err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except DltrainError as error:
        if debug:
            raise
        with suppress(OSError):  # the stream's reader has closed it
            for line in (str(error), *getattr(error, "__notes__", [])):
                write(f"{line}\n", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        # An error in a user's component is theirs to fix; any other error is a bug.
        if debug or user_code_line(error) is None:
            raise
        with suppress(OSError):
            text = describe_error(error).partition("\n")[0]
            write(f"{text} (dltrain --debug shows the traceback)\n", err=True)
        sys.exit(DltrainError.exit_code)
    finally:
        discard_unread_output()
