"""Words on the command line to a command; nothing else. Torch is imported by the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

import dltrain
from dltrain.errors import DltrainError
from dltrain.terminal import (
    as_yaml,
    drop_unread_output,
    open_closed_streams,
    print_summary,
    show,
)

DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path)

plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="Python file that registers components of your own; may be given more than once.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="Show nothing but errors.")
device_option = click.option(
    "--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps; instead of the config's."
)
checkpoint_option = click.option(
    "--checkpoint",
    metavar="NAME",
    help="best, latest, or a checkpoint's name. Default: best if there is one, else latest.",
)
TEXT_OPTIONS = {
    "prompt": "--prompt",
    "num_tokens": "--tokens",
    "temperature": "--temperature",
    "top_k": "--top-k",
}
PICTURE_OPTIONS = {"output": "--output", "interpolate": "--interpolate"}
config_arguments = [
    click.argument("config", type=FILE),
    click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
]


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the arguments CONFIG and KEY=VALUE, `--plugin` and `--device`."""
    for decorate in [device_option, plugin_option, *reversed(config_arguments)]:
        command = decorate(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dltrain.__version__, prog_name="dltrain")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train PyTorch models from one YAML file.

    \b
    dltrain train configs/mnist_cnn.yaml      train, watch, and find it all in runs/
    dltrain check configs/mnist_cnn.yaml      find mistakes before the first step
    dltrain list models                       see what a config can ask for
    """
    click.get_current_context().obj = debug


@cli.command()
@with_config
@click.option("--run-dir", type=DIRECTORY, help="Where to write; default: runs/NAME/NUMBER.")
@quiet_option
@json_option
def train(
    config: Path,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    device: str | None,
    run_dir: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train what CONFIG describes, in a new run directory.

    KEY=VALUE changes the config for this run: optimizer.lr=1e-3, train.epochs=2.
    """
    experiment = load_experiment(config, overrides, plugins, device)
    from dltrain.commands.train import train as train_command

    summary = train_command(experiment, run_dir=run_dir, quiet=quiet, plugins=plugins)
    show(summary, as_json, lambda: print_summary(summary))


@cli.command()
@click.argument("run", type=DIRECTORY)
@click.option(
    "--exact",
    is_flag=True,
    help="Refuse where versions, device or threads are not those that the run started with.",
)
@plugin_option
@quiet_option
@json_option
def resume(run: Path, exact: bool, plugins: Sequence[Path], quiet: bool, as_json: bool) -> None:
    """Go on with a run that was stopped or killed, bit for bit.

    RUN is a run directory, such as runs/mnist_cnn/0001.
    """
    load_plugins(plugins)
    from dltrain.commands.train import resume as resume_command

    summary = resume_command(run, quiet=quiet, exact=exact)
    show(summary, as_json, lambda: print_summary(summary))


@cli.command()
@click.argument("run", type=DIRECTORY)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Which samples.",
)
@checkpoint_option
@plugin_option
@device_option
@json_option
def evaluate(
    run: Path,
    split: Any,
    checkpoint: str | None,
    plugins: Sequence[Path],
    device: str | None,
    as_json: bool,
) -> None:
    """Loss and metrics of a run's model on a split."""
    load_plugins(plugins)
    from dltrain.commands.evaluate import evaluate as evaluate_command

    result = evaluate_command(run, split=split, checkpoint=checkpoint, device=device)

    def table() -> None:
        click.echo(f"{result.samples} samples of {split}, weights of {result.checkpoint}")
        for name, value in result.metrics.items():
            click.echo(f"{name:24} {value:.6g}")

    show(result, as_json, table)


@cli.command()
@click.argument("run", type=DIRECTORY)
@click.argument("inputs", nargs=-1, required=True)
@checkpoint_option
@plugin_option
@device_option
@json_option
def predict(
    run: Path,
    inputs: Sequence[str],
    checkpoint: str | None,
    plugins: Sequence[Path],
    device: str | None,
    as_json: bool,
) -> None:
    """Labels, values or texts for new data.

    INPUTS are picture files, or CSV files, of which each row is one. A model of text takes texts,
    files with a text a line, or - for standard input.
    """
    load_plugins(plugins)
    from dltrain.commands.predict import predict as predict_command

    predictions = predict_command(run, inputs, checkpoint=checkpoint, device=device)

    def table() -> None:
        for item in predictions:
            if item.text is not None:
                click.echo(f"{item.input}\t{item.text}")
            elif item.probabilities is None:
                click.echo(f"{item.input}\t{' '.join(f'{v:.6g}' for v in item.values or [])}")
            else:
                click.echo(f"{item.input}\t{item.label}\t{max(item.probabilities.values()):.4f}")

    show(predictions, as_json, table)


@cli.command()
@click.argument("run", type=DIRECTORY)
@click.option(
    "-n", "num_samples", type=click.IntRange(min=1), help="How many; default: 1 text, 64 pictures."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed, the same samples."
)
@click.option("--prompt", metavar="TEXT", help="What each text begins with.")
@click.option(
    "--tokens",
    "num_tokens",
    type=click.IntRange(min=1),
    help="Length of each text, 300 by default; what a token is, the run's data says.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    help="Lower is more predictable, higher more varied; 0.8 by default.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="Draw each token from this many most probable ones; default: all.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="PNG",
    help="Where the grid of pictures goes; default: samples.png in RUN.",
)
@click.option(
    "--interpolate", is_flag=True, default=None, help="Rows of pictures that turn into another."
)
@checkpoint_option
@plugin_option
@device_option
@json_option
def sample(run: Path, plugins: Sequence[Path], as_json: bool, **options: Any) -> None:
    """Text of a run's language model, or pictures of its generator.

    Text is shown as it is written; pictures go to a PNG file, side by side.
    """
    load_plugins(plugins)
    from dltrain.commands import sample as command

    given = {name: value for name, value in options.items() if value is not None}
    drawn = command.makes_pictures(run)
    for name in TEXT_OPTIONS if drawn else PICTURE_OPTIONS:
        if name in given:
            word = {**TEXT_OPTIONS, **PICTURE_OPTIONS}[name]
            kind = "pictures" if drawn else "text"
            raise click.UsageError(f"{word} can't be used here: {run} makes {kind}")
    if drawn:
        result = command.sample_pictures(run, **given)
        show(result, as_json, lambda: click.echo(result.path))
        return
    if as_json:
        show(command.sample(run, **given), as_json, lambda: None)
        return
    pieces = command.stream(run, **given)

    def text() -> None:
        number = -1
        for piece in pieces:
            if piece.number != number:
                separator = "" if number < 0 else "\n\n"
                click.echo(separator + given.get("prompt", ""), nl=False)
                number = piece.number
            click.echo(piece.text, nl=False)
        click.echo()

    show(None, as_json, text)


@cli.command()
@with_config
@json_option
def check(
    config: Path,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    device: str | None,
    as_json: bool,
) -> None:
    """Check CONFIG, its data and one step, without training.

    Exit code 0: it can be trained; 2: it can't, and every mistake is shown at its line.
    """
    try:
        experiment = load_experiment(config, overrides, plugins, device)
        from dltrain.commands.check import check as check_command

        result = check_command(experiment)
    except DltrainError as error:
        error.exit_code = 2
        raise

    def table() -> None:
        sizes = ", ".join(f"{n} {name}" for name, n in result.sizes.items())
        click.echo(f"data         {sizes}; from {result.source}")
        click.echo(
            f"parameters   {result.parameters:,} ({result.trainable_parameters:,} trainable)"
        )
        click.echo(f"FLOPs        {result.flops_per_sample:,} a sample, forward")
        click.echo(f"memory       {result.memory_bytes / 2**20:,.1f} MiB expected for a step")
        click.echo(f"steps        {result.steps_per_epoch} an epoch, {result.total_steps} in all")
        click.echo(f"device       {result.device}, {result.precision}")
        click.echo(f"first loss   {result.initial_loss:.4f}")
        click.echo("ok")

    show(result, as_json, table)


@cli.command("import")
@click.argument("source", type=FILE, metavar="FILE")
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="SAFETENSORS",
    help="Where the weights go; default: beside FILE, with that ending.",
)
@json_option
def import_(source: Path, output: Path | None, as_json: bool) -> None:
    """Convert the weights in FILE, made by torch.save, to safetensors.

    FILE holds a state_dict, or one under the key state_dict or model. It is read without running
    any code that may be in it; a file that can't be read so is refused.
    """
    from dltrain.commands.import_ import import_weights

    result = import_weights(source, output or source.with_suffix(".safetensors"))
    show(
        result,
        as_json,
        lambda: click.echo(f"{result.path}: {result.tensors} tensors, {result.values:,} values"),
    )


@cli.command("list")
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
                    click.secho(item.kind, bold=True)
                click.echo(f"  {item.name:20} {item.summary}")
            return
        for item in listed:
            click.echo(f"{item.kind} {item.name}: {item.summary}\n")
            for option in item.options:
                default = "required" if option.required else f"default {as_yaml(option.default)}"
                click.secho(f"  {option.name}", bold=True, nl=False)
                click.echo(f"  {option.type}, {default}\n      {option.doc}")

    show(listed, as_json, table)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of config files, for editors."""
    from dltrain.commands.schema import schema as schema_command

    click.echo(json.dumps(schema_command(), indent=2))


@cli.command()
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
    click.echo(found(cli, {}, "dltrain", "_DLTRAIN_COMPLETE").source())


# ------------------------------------------------------------------------------------- helpers


def load_plugins(plugins: Sequence[Path]) -> None:
    """Imports the user's own components."""
    if plugins:
        from dltrain.plugins import load_plugin

        for path in plugins:
            load_plugin(path)


def load_experiment(
    config: Path, overrides: Sequence[str], plugins: Sequence[Path], device: str | None
) -> Any:
    """Plug-ins first, then the config, `--device` last."""
    load_plugins(plugins)
    from dltrain.config import load

    return load(config, [*overrides, *([f"train.device={device}"] if device else [])])


def main() -> None:
    """The entry point; see the exit codes in `dltrain.errors`."""
    debug = "--debug" in sys.argv[1:]
    open_closed_streams()
    try:
        cli(standalone_mode=False, prog_name="dltrain")
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except DltrainError as error:
        if debug:
            raise
        with suppress(OSError):  # nobody takes it
            for line in (str(error), *getattr(error, "__notes__", [])):
                click.echo(line, err=True)
        sys.exit(error.exit_code)
    finally:
        drop_unread_output()
