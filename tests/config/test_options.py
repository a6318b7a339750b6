"""Every option of every component can be written in YAML, its default included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml
from pydantic_core import to_jsonable_python

from dltrain.config.options import TypedOption, typed_options
from dltrain.config.parse import parse
from dltrain.config.plugins import register_builtins
from dltrain.config.schema_text import describe
from dltrain.config.settings import (
    CheckpointSettings,
    EarlyStopSettings,
    RecordingSettings,
    TrainSettings,
)
from dltrain.core.errors import UsageError
from dltrain.core.registry import REGISTRIES

register_builtins()
BUILDERS = [c.builder for registry in REGISTRIES.values() for c in registry.values()]
BUILDERS += [TrainSettings, CheckpointSettings, EarlyStopSettings, RecordingSettings]
OPTIONS = [
    pytest.param(option, id=f"{builder.__name__}-{name}")
    for builder in BUILDERS
    for name, option in typed_options(builder).items()
]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_default_is_accepted_as_it_is_written(option: TypedOption):
    if option.option.required or (option.nullable and option.option.default is None):
        return
    written = yaml.safe_dump(to_jsonable_python(option.option.default))
    assert option.read(parse(written.removesuffix("...\n"), "x.yaml", [])) == option.option.default


@pytest.mark.parametrize("option", OPTIONS)
def test_what_is_accepted_has_words(option: TypedOption):
    words = describe(option.schema)
    assert words
    assert not set(words) & set("{}^$\\")


def takes_anything(*, model: Callable[[int], int]) -> None:
    """Something that YAML can't give."""


class Opaque:
    """Nothing that pydantic knows."""


def takes_opaque(*, thing: Opaque) -> None:
    """Something that YAML can't give."""


@pytest.mark.parametrize(
    ("builder", "option"), [(takes_anything, "model"), (takes_opaque, "thing")]
)
def test_a_type_without_a_form_in_yaml_is_named(builder, option):
    with pytest.raises(UsageError, match=rf"^option '{option}' of '{builder.__name__}': .+$"):
        typed_options(builder)
