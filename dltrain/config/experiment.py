"""An experiment, read from YAML and checked; written back with nothing left to default."""

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
    """Everything that a config says, and everything that it leaves to default.

    Attributes:
        name: Names the directory of its runs; the config's file name by default.
        seed: Decides the weights, the validation cut, the order and the augmentation.
        task: What one step computes.
        model: What is trained.
        data: What it is trained on.
        loss: What is made small.
        optimizer: How a gradient changes the weights.
        schedule: The learning rate over the training, as a share of the optimizer's.
        phases: What a phase of the task, such as a GAN's generator, has of its own: optimizer,
            schedule, clip_norm.
        metrics: What evaluation measures beside the loss.
        train: How long and how to train.
        checkpoint: What is kept.
        early_stop: When to stop before the end; null never does.
        recording: What is written while training.
        tree: Where each key stands in its file.
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
        """Every component that the config names, by its dotted path."""
        found: dict[str, Choice] = {key: getattr(self, key) for key in COMPONENTS}
        found |= {f"metrics.{number}": metric for number, metric in enumerate(self.metrics)}
        for name, phase in self.phases.items():
            found[f"phases.{name}.optimizer"] = phase.optimizer
            found[f"phases.{name}.schedule"] = phase.schedule
        return found

    @property
    def components(self) -> list[Component]:
        """Every component that the config names."""
        return [choice.component for choice in self.choices.values()]

    def phase(self, name: str) -> PhaseChoices:
        """What a phase of the task is trained with."""
        common = PhaseChoices(self.optimizer, self.schedule, self.train.clip_norm)
        return self.phases.get(name, common)

    def problem(self, path: str, message: str) -> ConfigError:
        """An error at the key `a.b`, or at the nearest one around it that a file holds."""
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
        """The resolved config as plain data: each component a mapping with its `name`."""
        values = {key: getattr(self, key) for key in KEYS}
        for key in COMPONENTS:
            values[key] = _spelled_out(values[key])
        values["metrics"] = [_spelled_out(metric) for metric in self.metrics]
        values["phases"] = {
            name: {
                "optimizer": _spelled_out(phase.optimizer),
                "schedule": _spelled_out(phase.schedule),
                "clip_norm": phase.clip_norm,
            }
            for name, phase in self.phases.items()
        }
        return to_jsonable_python(values)

    def to_yaml(self) -> str:
        """The resolved config; loading it gives an equal experiment."""
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
    """The experiment of a file, with `key=value` overrides.

    Args:
        path: A file, whose suffix `.yaml` may be left out, or the name of a config that comes with
            dltrain, such as `mnist_cnn`; a file comes first.
        overrides: Laid over it.
        changes: A tree laid over both; what is wrong with it is told where it says it stands.

    Raises:
        UsageError: The file can't be read.
        ConfigError: It is wrong; holds every problem.
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
    """The value of every key, or None where there is a problem."""
    _unknown_keys(tree, validator)
    meant = {near for key in tree.values.keys() - KEYS for near in suggestions(key, KEYS)}
    whole = _over_defaults(tree, path)
    values: dict[str, Any] = {}
    for key in KEYS:
        node = whole.values.get(key)
        if key == "phases":
            continue  # read last, over the others
        if node is not None:
            values[key] = _value(key, node, whole.keys[key], validator)
        elif key not in meant:  # a misspelt key is one mistake, not two
            expected = one_of(COMPONENTS[key]) if key in COMPONENTS else "`epochs` or `steps`"
            validator.add(key, f"missing; expected {expected}", tree.position)
    values["phases"] = read_phases(whole.values["phases"], values, whole, validator)
    return values


def _unknown_keys(tree: Mapping, validator: Validator) -> None:
    """Adds a problem for each key that is not known; an option of a section tells its section."""
    options: dict[str, Callable[..., Any]] = {
        key: option.settings for key, option in OPTIONS.items() if option.settings
    }
    for key, registry in COMPONENTS.items():
        node = tree.values.get(key)
        name = node.values.get("name") if isinstance(node, Mapping) else node
        if isinstance(name, Scalar) and name.value in registry:
            options[key] = registry[name.text].builder
    for word in tree.values.keys() - KEYS - {"extends"}:
        places = [key for key, builder in options.items() if word in typed_options(builder)]
        if len(places) == 1:
            value, at = tree.values[word], tree.keys[word]
            meant = f"{places[0]}.{word}"
            if isinstance(value, Scalar) and not at.line:  # on the command line
                meant += f"={value.text}"
            validator.add(word, f"unknown key; did you mean {meant!r}?", at)
            tree = replace(tree, values={k: v for k, v in tree.values.items() if k != word})
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
            validator.add(path, f"{choice.name!r} is in the list already", item.position)
        elif choice is not None:
            chosen[choice.name] = choice
    return tuple(chosen.values())


def _spelled_out(choice: Choice) -> dict[str, Any]:
    return {"name": choice.name, **choice.options}
