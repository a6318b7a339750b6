"""Words on the command line to a command; nothing else. Torch is imported by the commands."""

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
    drop_unread_output,
    escape_pythons_own,
    open_closed_streams,
    usage_error_text,
    write,
)
from dltrain.commands.launch import is_launched
from dltrain.core.errors import DltrainError, describe_error, user_code_line
from dltrain.training.threads import wait_briefly


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dltrain")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train PyTorch models from one YAML file.

    \b
    dltrain init my_images     write a config for your own data
    dltrain train mnist_cnn    train, watch, and find it all in runs/
    dltrain check mnist_cnn    find mistakes before the first step
    dltrain list models        see what a config can ask for
    """
    click.get_current_context().obj = debug


for _command in (
    data.init,
    *(
        training.train,
        training.resume,
        training.reproduce,
        inference.evaluate,
        inference.predict,
        inference.sample,
        deployment.serve,
        deployment.export,
    ),
    *(inspection.runs, inspection.rm, inspection.compare, inspection.report),
    *(tuning.profile, tuning.tune_lr, tuning.tune_batch, tuning.sweep),
    *(
        training.check,
        deployment.import_,
        inspection.list_,
        inspection.schema,
        inspection.completion,
    ),
):
    cli.add_command(_command)


def main() -> None:
    """The entry point; see the exit codes in `dltrain.core.errors`."""
    try:
        _main()
    except SystemExit as ended:
        if not is_launched():
            raise
        import multiprocessing

        # Threads of torch.distributed may outlive the interpreter's end, and crash in it.
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def _main() -> None:
    debug = "--debug" in sys.argv[1:]
    open_closed_streams()
    escape_pythons_own()
    wait_briefly()
    try:
        cli(standalone_mode=False, prog_name="dltrain")
        sys.exit(0)
    except click.ClickException as error:
        with suppress(OSError):  # the reader has closed the stream
            write(usage_error_text(error), err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except DltrainError as error:
        if debug:
            raise
        with suppress(OSError):  # the reader has closed the stream
            for line in (str(error), *getattr(error, "__notes__", [])):
                write(f"{line}\n", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        # An error of a user's component is the user's to mend; any other is a bug.
        if debug or user_code_line(error) is None:
            raise
        with suppress(OSError):
            text = describe_error(error).partition("\n")[0]
            write(f"{text} (dltrain --debug shows the traceback)\n", err=True)
        sys.exit(DltrainError.exit_code)
    finally:
        drop_unread_output()
