"""Read the config's `phases`: options of single phases of a task."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from typing import Any

from dltrain.config.compose import merge
from dltrain.config.options import TypedOption, typed_options
from dltrain.config.problems import Problem
from dltrain.config.settings import TrainSettings
from dltrain.config.tree import Mapping, Node, Scalar
from dltrain.config.validate import Validator, shown
from dltrain.core.registry import OPTIMIZERS, SCHEDULES, Choice, Registry

REGISTRIES: dict[str, Registry] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
KEYS = (*REGISTRIES, "clip_norm")


@dataclass(frozen=True)
class PhaseChoices:
    """Optimizer, schedule and gradient clipping of one phase."""

    optimizer: Choice
    schedule: Choice
    clip_norm: float | None


def clip_norm_option() -> TypedOption:
    """Return the option `train.clip_norm`, which a phase can override."""
    return typed_options(TrainSettings)["clip_norm"]


def read_phases(
    node: Node, values: MappingOf[str, Any], whole: Mapping, validator: Validator
) -> dict[str, PhaseChoices]:
    """Merge the options of each phase over those of the whole config.

    Args:
        node: Value of `phases`; null, for example on the command line, discards those of the file.
        values: Values of the top-level keys; None for those with a problem, already reported.
        whole: Tree of the config over the defaults.
        validator: Validator that collects the problems.
    """
    if isinstance(node, Scalar) and node.value is None:
        return {}
    if not isinstance(node, Mapping):
        validator.add("phases", f"expected a mapping, got {shown(node)}", node.position)
        return {}
    from dltrain.core.task import task_class  # imports torch

    task, phases = values.get("task"), {}
    task_type = task_class(task.component.builder) if task else None
    if task and task_type:  # the phases of a function's task are checked once it has been built
        validator.unknown_keys(
            node, task_type.phase_names, "phases", f"phase of task {task.name!r}"
        )
    for name, own in node.values.items():
        path = f"phases.{name}"
        if not isinstance(own, Mapping):
            validator.add(path, f"expected a mapping, got {shown(own)}", own.position)
            continue
        validator.unknown_keys(own, KEYS, path, "option of a phase")
        chosen: dict[str, Any] = {key: values.get(key) for key in REGISTRIES}
        for key, registry in REGISTRIES.items():
            if key in own.values and chosen[key] is not None:
                merged = merge(whole.values[key], own.values[key])
                problems: list[Problem] = []
                chosen[key] = Validator(problems).choice(merged, registry, f"{path}.{key}")
                # Problems of the component that it is merged over are already reported.
                known = {(problem.message, problem.position) for problem in validator.problems}
                validator.problems += [p for p in problems if (p.message, p.position) not in known]
        train = values.get("train")
        chosen["clip_norm"] = train and train.clip_norm
        if "clip_norm" in own.values:
            chosen["clip_norm"] = validator.value(
                own.values["clip_norm"],
                clip_norm_option(),
                f"{path}.clip_norm",
                own.keys["clip_norm"],
            )
        phases[name] = PhaseChoices(**chosen)
    return phases
