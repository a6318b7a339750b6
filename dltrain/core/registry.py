"""Registries of components: builders by name, with the options that YAML may set.

The YAML options of a component are the keyword-only parameters of its builder; positional-only
parameters come from code. Types, defaults and documentation are declared in that signature only.

    @MODELS.register
    def mlp(spec: DataSpec, /, *, hidden: tuple[PositiveInt, ...] = (128,)) -> nn.Module:
        '''Multi-layer perceptron: (batch, *input_shape) -> (batch, num_outputs).

        Args:
            hidden: Widths of the hidden layers.
        '''
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial, update_wrapper
from typing import Any, TypeVar, overload

B = TypeVar("B", bound=Callable[..., Any])

REQUIRED: Any = inspect.Parameter.empty
"""Default value of an option without a default."""


@dataclass(frozen=True)
class Option:
    """A keyword-only parameter: name, type, default (`REQUIRED` if none) and documentation."""

    name: str
    annotation: Any
    default: Any
    doc: str

    @property
    def required(self) -> bool:
        """Whether a config must set the option."""
        return self.default is REQUIRED


def options_of(builder: Callable[..., Any]) -> tuple[Option, ...]:
    """Return the keyword-only parameters of a function or a class, with their documentation.

    Raises:
        TypeError: A keyword-only parameter has no type annotation.
    """
    docs = _documented_parameters(inspect.getdoc(builder) or "")
    options = []
    for parameter in inspect.signature(builder, eval_str=True).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.annotation is inspect.Parameter.empty:
            name = getattr(builder, "__name__", builder)
            raise TypeError(f"option {parameter.name!r} of {name!r} has no type annotation")
        doc = docs.get(parameter.name, "")
        options.append(Option(parameter.name, parameter.annotation, parameter.default, doc))
    return tuple(options)


def _documented_parameters(doc: str) -> dict[str, str]:
    """Return the texts of the `Args:` section of a docstring, by parameter."""
    section = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^ {4}(\w+):[ \t]*", section[1], flags=re.MULTILINE)[1:]
    return {n: " ".join(text.split()) for n, text in zip(entries[::2], entries[1::2], strict=True)}


@dataclass(frozen=True)
class Limits:
    """What a component does not support, with the reason; a config that needs it is refused.

    Attributes:
        fsdp: Why the component does not support sharded parameters, `train.distributed: fsdp`.
        distributed: Why it does not support more than one process.
        fp16: Why it does not support `train.precision: fp16`.

    Example:
        >>> from dltrain import Limits, OPTIMIZERS
        >>> @OPTIMIZERS.register(limits=Limits(fsdp="it reads each parameter as a whole"))
        ... def row_norm_sgd(module, /, *, lr: float = 0.1):
        ...     ...
    """

    fsdp: str | None = None
    distributed: str | None = None
    fp16: str | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Component:
    """A registered builder."""

    kind: str
    name: str
    builder: Callable[..., Any]
    builds: bool = True
    limits: Limits = NO_LIMITS

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """Options that YAML may set."""
        return options_of(self.builder)

    @property
    def doc(self) -> str:
        """The docstring of the builder, dedented."""
        return inspect.getdoc(self.builder) or ""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]


@dataclass(frozen=True)
class Choice:
    """A component with the validated options of a config."""

    component: Component
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the component."""
        return self.component.name

    def build(self, *positional: Any) -> Any:
        """Call the builder with positional arguments from code and options from YAML."""
        if not self.component.builds:  # a plain function is the component itself
            function = self.component.builder
            return update_wrapper(partial(function, **self.options), function)
        return self.component.builder(*positional, **self.options)


class Registry(Mapping[str, Component]):
    """The components of one kind, by name, in registration order."""

    def __init__(self, kind: str, argument: str | None = "spec", *, plain: bool = False) -> None:
        """Create an empty registry.

        Args:
            kind: Kind of the components, in the singular, for error messages.
            argument: Name of the positional argument of every builder; None for builders without.
            plain: Whether a function of two positional arguments, such as predictions and targets,
                may be registered itself, without a builder that returns it.
        """
        self.kind = kind
        self.argument = argument
        self.plain = plain
        self._components: dict[str, Component] = {}

    @overload
    def register(self, target: B, /, *, limits: Limits = ...) -> B: ...
    @overload
    def register(
        self, target: str | None = None, /, *, limits: Limits = ...
    ) -> Callable[[B], B]: ...
    def register(self, target: Any = None, /, *, limits: Limits = NO_LIMITS) -> Any:
        """Register a function or class: `@R.register`, or `@R.register("name", limits=...)`.

        Args:
            target: The builder, which is registered under its own name, or another name for it.
            limits: What the component does not support.

        Raises:
            ValueError: The name is taken.
            TypeError: An option has no type annotation or is not keyword-only, or the positional
                arguments are not those of a builder of this kind.
        """
        if target is None or isinstance(target, str):
            return lambda builder: self._add(target or builder.__name__, builder, limits)
        return self._add(target.__name__, target, limits)

    def _add(self, name: str, builder: B, limits: Limits) -> B:
        if name in self._components:
            raise ValueError(f"there is a {self.kind} named {name!r} already")
        builds = self._check_signature(name, builder)
        component = Component(self.kind, name, builder, builds, limits)
        _ = component.options  # raises an error for a missing annotation at import
        self._components[name] = component
        return builder

    def _check_signature(self, name: str, builder: Callable[..., Any]) -> bool:
        """Return whether calling the builder gives the component, rather than being what it does.

        Raises:
            TypeError: See `register`.
        """
        positional = []
        for parameter in inspect.signature(builder).parameters.values():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                return True
            if parameter.kind not in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            ):
                continue
            if parameter.default is not REQUIRED:
                raise TypeError(
                    f"option {parameter.name!r} of {name!r} is not keyword-only: write '*' before "
                    f"the first option, {self._example(name)}"
                )
            positional.append(parameter.name)
        if self.plain and len(positional) == 2 and not inspect.isclass(builder):
            return False
        if len(positional) != (self.argument is not None):
            raise TypeError(
                f"{self.kind} {name!r} has {len(positional)} positional arguments "
                f"({', '.join(positional) or 'none'}): its builder is called as "
                f"{self._example(name)}"
            )
        return True

    def _example(self, name: str) -> str:
        given = "" if self.argument is None else f"{self.argument}, /, "
        return f"{name}({given}*, option: TYPE = DEFAULT)"

    def __getitem__(self, name: str) -> Component:
        """Return the component of a name; KeyError if there is none."""
        return self._components[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in registration order."""
        return iter(self._components)

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self._components)


MODELS = Registry("model")
DATA = Registry("data", "context")
LOSSES = Registry("loss", plain=True)
OPTIMIZERS = Registry("optimizer", "module")
SCHEDULES = Registry("schedule", None)
METRICS = Registry("metric", plain=True)
TASKS = Registry("task", "context")

REGISTRIES: dict[str, Registry] = {
    "models": MODELS,
    "data": DATA,
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "metrics": METRICS,
    "tasks": TASKS,
}
