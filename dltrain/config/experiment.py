"""Load an experiment from YAML and validate it; write it back with every default filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import to_jsonable_python

from dltrain.config import plugins
from dltrain.config.compose import compose, merge_keys
from dltrain.config.dump import dump
from dltrain.config.options import TypedOption, typed_options
from dltrain.config.parse import parse
from dltrain.config.phases import PhaseChoices, read_phases
from dltrain.config.problems import ConfigError, Position, Problem, suggestions
from dltrain.config.settings import (
    CheckpointSettings,
    EarlyStopSettings,
    RecordingSettings,
    TrainSettings,
)
from dltrain.config.shipped import find_config
from dltrain.config.tree import List, Mapping, Node, Scalar
from dltrain.config.validate import Validator, one_of, shown
from dltrain.core.paths import to_directory_name
from dltrain.core.registry import (
    DATA,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    TASKS,
    Choice,
    Component,
    Registry,
    options_of,
)

COMPONENTS: dict[str, Registry] = {
    "task": TASKS,
    "model": MODELS,
    "data": DATA,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
DEFAULTS = """
seed: 0
task: supervised
schedule: constant
phases: {}
metrics: []
checkpoint: {}
early_stop: null
recording: {}
"""

_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""Characters that end a line, move the cursor or change the direction of text."""

RunName = Annotated[
    str,
    Field(
        pattern=rf"^[^\s{_CONTROLS}]([^{_CONTROLS}]*[^\s{_CONTROLS}])?$",
        max_length=1000,
        description="text of one line, at most 1000 characters, without control characters",
    ),
]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A validated config with every default filled in.

    Attributes:
        name: Directory name of the runs (default: the config's file name).
        seed: Random seed of weights, validation split, sample order and augmentation.
        task: What one training step computes.
        model: Model to train.
        data: Data source to train on.
        loss: Loss function to minimize.
        optimizer: Optimizer that updates the weights.
        schedule: Learning rate over the course of training, as a factor of the optimizer's.
        phases: Optimizer, schedule and clip_norm of single phases of the task, such as a GAN's
            generator.
        metrics: Metrics that an evaluation computes in addition to the loss.
        train: Duration and method of training.
        checkpoint: Which checkpoints are saved and kept.
        early_stop: When to stop early; null disables it.
        recording: What is logged during training.
        tree: Position of each key in its file.
    """

    name: RunName
    seed: Seed
    task: Choice
    model: Choice
    data: Choice
    loss: Choice
    optimizer: Choice
    schedule: Choice
    phases: MappingOf[str, PhaseChoices]
    metrics: tuple[Choice, ...]
    train: TrainSettings
    checkpoint: CheckpointSettings
    early_stop: EarlyStopSettings | None
    recording: RecordingSettings
    tree: Mapping = field(compare=False, repr=False)

    @property
    def choices(self) -> dict[str, Choice]:
        """Return every component with its options, by dotted key."""
        choices: dict[str, Choice] = {key: getattr(self, key) for key in COMPONENTS}
        choices |= {f"metrics.{number}": metric for number, metric in enumerate(self.metrics)}
        for name, phase in self.phases.items():
            choices[f"phases.{name}.optimizer"] = phase.optimizer
            choices[f"phases.{name}.schedule"] = phase.schedule
        return choices

    @property
    def components(self) -> list[Component]:
        """Return every component that the config names."""
        return [choice.component for choice in self.choices.values()]

    def phase(self, name: str) -> PhaseChoices:
        """Return the optimizer, schedule and clipping of a phase of the task."""
        common = PhaseChoices(self.optimizer, self.schedule, self.train.clip_norm)
        return self.phases.get(name, common)

    def problem(self, path: str, message: str) -> ConfigError:
        """Return an error at the key `a.b`, or at its nearest ancestor in the file."""
        node: Node = self.tree
        position = node.position
        for step in path.split("."):
            if isinstance(node, Mapping) and step in node.values:
                position, node = node.keys[step], node.values[step]
            elif isinstance(node, List) and step.isdecimal() and int(step) < len(node.items):
                node = node.items[int(step)]
                position = node.position
            else:
                break
        at = node.position if isinstance(node, Scalar) else position
        return ConfigError([Problem(path, message, at)])

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved config as plain data, each component as a mapping with its `name`."""
        values = {key: getattr(self, key) for key in KEYS}
        for key in COMPONENTS:
            values[key] = _with_name(values[key])
        values["metrics"] = [_with_name(metric) for metric in self.metrics]
        values["phases"] = {
            name: {
                "optimizer": _with_name(phase.optimizer),
                "schedule": _with_name(phase.schedule),
                "clip_norm": phase.clip_norm,
            }
            for name, phase in self.phases.items()
        }
        return to_jsonable_python(values)

    def to_yaml(self) -> str:
        """Return the resolved config as YAML; loading it gives an equal experiment."""
        return dump(self.to_dict())


KEYS = tuple(f.name for f in fields(Experiment) if f.name != "tree")
OPTIONS = {
    option.name: TypedOption(option)
    for option in options_of(Experiment)
    if option.name in set(KEYS) - {*COMPONENTS, "metrics", "phases"}
}


def load(
    path: str | Path, overrides: Iterable[str] = (), changes: Mapping | None = None
) -> Experiment:
    """Load and validate an experiment.

    Args:
        path: A file, with or without the suffix `.yaml`, or the name of a config that comes with
            dltrain, such as `mnist_cnn`. A file takes precedence.
        overrides: Texts `key=value` that override values of the file.
        changes: Tree that overrides both; problems are reported at its own positions.

    Raises:
        UsageError: The file can't be read.
        ConfigError: The config is invalid; holds every problem.
    """
    plugins.register_builtins()
    plugins.load_entry_points()
    path = find_config(path)
    tree, problems = compose(path, overrides)
    if changes is not None:
        tree = merge_keys(tree, changes)
    tree = replace(tree, position=Position(str(path), 1, 1))
    values = _checked(tree, path, Validator(problems))
    if problems:
        raise ConfigError(problems)
    return Experiment(**values, tree=tree)


def _checked(tree: Mapping, path: Path, validator: Validator) -> dict[str, Any]:
    """Return the value of every key, None for a key with a problem."""
    _unknown_keys(tree, validator)
    meant = {near for key in tree.values.keys() - KEYS for near in suggestions(key, KEYS)}
    whole = _over_defaults(tree, path)
    values: dict[str, Any] = {}
    for key in KEYS:
        node = whole.values.get(key)
        if key == "phases":
            continue  # read last, since phases are merged over the other keys
        if node is not None:
            values[key] = _value(key, node, whole.keys[key], validator)
        elif key not in meant:  # a misspelt key is one mistake, not two
            expected = one_of(COMPONENTS[key]) if key in COMPONENTS else "`epochs` or `steps`"
            validator.add(key, f"missing; expected {expected}", tree.position)
    values["phases"] = read_phases(whole.values["phases"], values, whole, validator)
    return values


def _unknown_keys(tree: Mapping, validator: Validator) -> None:
    """Add a problem for each unknown key, with the section if it is an option of exactly one."""
    options: dict[str, Callable[..., Any]] = {
        key: option.settings for key, option in OPTIONS.items() if option.settings
    }
    for key, registry in COMPONENTS.items():
        node = tree.values.get(key)
        name = node.values.get("name") if isinstance(node, Mapping) else node
        if isinstance(name, Scalar) and name.value in registry:
            options[key] = registry[name.text].builder
    for key in tree.values.keys() - KEYS - {"extends"}:
        sections = [name for name, builder in options.items() if key in typed_options(builder)]
        if len(sections) == 1:
            value, at = tree.values[key], tree.keys[key]
            meant = f"{sections[0]}.{key}"
            if isinstance(value, Scalar) and not at.line:  # on the command line
                meant += f"={value.text}"
            validator.add(key, f"unknown key; did you mean {meant!r}?", at)
            tree = replace(tree, values={k: v for k, v in tree.values.items() if k != key})
    validator.unknown_keys(tree, (*KEYS, "extends"), "", "key")


def _over_defaults(tree: Mapping, path: Path) -> Mapping:
    defaults = parse(DEFAULTS, str(path), [], numbered=False)
    assert isinstance(defaults, Mapping)
    name = to_directory_name(path.stem)
    defaults.values["name"] = Scalar(name, name, defaults.position)
    defaults.keys["name"] = defaults.position
    return merge_keys(defaults, tree)


def _value(key: str, node: Node, at: Position, validator: Validator) -> Any:
    if key in COMPONENTS:
        return validator.choice(node, COMPONENTS[key], key)
    if key == "metrics":
        return _metrics(node, validator)
    value = validator.value(node, OPTIONS[key], key, at)
    if isinstance(value, TrainSettings):
        if value.epochs is None and value.steps is None:
            validator.add(key, "missing; expected `epochs` or `steps`", at)
        if value.epochs is not None and value.steps is not None:
            validator.add(key, "`epochs` and `steps` exclude each other; set one to null", at)
    return value


def _metrics(node: Node, validator: Validator) -> tuple[Choice, ...]:
    if not isinstance(node, List):
        message = f"expected a list, each {one_of(METRICS)}, got {shown(node)}"
        validator.add("metrics", message, node.position)
        return ()
    chosen: dict[str, Choice] = {}
    for index, item in enumerate(node.items):
        path = f"metrics.{index}"
        choice = validator.choice(item, METRICS, path)
        if choice is not None and choice.name in chosen:
            validator.add(path, f"duplicate metric {choice.name!r}", item.position)
        elif choice is not None:
            chosen[choice.name] = choice
    return tuple(chosen.values())


def _with_name(choice: Choice) -> dict[str, Any]:
    return {"name": choice.name, **choice.options}
