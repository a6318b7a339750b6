"""Each word of each config, misspelt by one edit, is found at its place and set right."""

from __future__ import annotations

import random
import shutil
import string
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from dltrain.config import ConfigError, Experiment, load
from dltrain.config.parse import read
from dltrain.config.plugins import register_builtins
from dltrain.config.problems import Position, suggestions
from dltrain.config.tree import List, Mapping, Node, Scalar
from dltrain.core.registry import REGISTRIES, Choice, Component, Option, options_of

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(
    path.relative_to(CONFIGS) for place in ("*.yaml", "tiny/*.yaml") for path in CONFIGS.glob(place)
)
TOP_LEVEL = {option.name: option for option in options_of(Experiment) if option.name != "tree"}


def drop(word: str, at: int) -> str:
    return word[:at] + word[at + 1 :]


def double(word: str, at: int) -> str:
    return word[: at + 1] + word[at:]


def swap(word: str, at: int) -> str:
    return word[:at] + word[at : at + 2][::-1] + word[at + 2 :]


def replace(word: str, at: int, letter: str = "q") -> str:
    return word[:at] + letter + word[at + 1 :]


EDITS: tuple[Callable[[str, int], str], ...] = (drop, double, swap, replace)


@dataclass(frozen=True)
class Word:
    """A key or a value of a file, and what may stand in its place."""

    text: str
    position: Position
    allowed: Collection[str]


def literals(annotation: Any) -> set[Any]:
    """The values that `Literal` gives, anywhere in a type."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {value for inner in get_args(annotation) for value in literals(inner)}


def words_in_value(node: Node, option: Option) -> Iterator[Word]:
    types = (option.annotation, *get_args(option.annotation))
    settings = next(filter(is_dataclass, types), None)
    if isinstance(node, Mapping) and settings is not None:
        yield from words_in_mapping(node, {inner.name: inner for inner in options_of(settings)})
    elif isinstance(node, List):
        for item in node.items:
            yield from words_in_value(item, option)
    elif isinstance(node, Scalar) and node.value in literals(option.annotation):
        yield Word(node.text, node.position, literals(option.annotation))


def words_in_mapping(
    node: Mapping, options: dict[str, Option], besides: tuple[str, ...] = ()
) -> Iterator[Word]:
    for key, value in node.values.items():
        yield Word(key, node.keys[key], {*options, *besides})
        if key in options:
            yield from words_in_value(value, options[key])


def words_in_component(node: Node, component: Component) -> Iterator[Word]:
    name = node.values.get("name") if isinstance(node, Mapping) else node
    if isinstance(name, Scalar):
        registry = next(r for r in REGISTRIES.values() if r.kind == component.kind)
        yield Word(name.text, name.position, set(registry))
    if isinstance(node, Mapping):
        options = {option.name: option for option in component.options}
        yield from words_in_mapping(node, options, besides=("name",))


def words_in_file(tree: Mapping, experiment: Experiment) -> Iterator[Word]:
    for key, node in tree.values.items():
        yield Word(key, tree.keys[key], {*TOP_LEVEL, "extends"})
        value = getattr(experiment, key, None)
        if isinstance(value, Choice):
            yield from words_in_component(node, value.component)
        elif key == "metrics" and isinstance(node, List):
            for item, choice in zip(node.items, experiment.metrics, strict=True):
                yield from words_in_component(item, choice.component)
        elif key in TOP_LEVEL:
            yield from words_in_value(node, TOP_LEVEL[key])


def with_word(text: str, word: Word, misspelt: str) -> str:
    lines = text.splitlines(keepends=True)
    line = lines[word.position.line - 1]
    start = line.index(word.text, word.position.column - 1)
    lines[word.position.line - 1] = line[:start] + misspelt + line[start + len(word.text) :]
    return "".join(lines)


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """The working directory is a copy of the configs."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    monkeypatch.chdir(tmp_path / "configs")


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_word_misspelt_by_one_edit_is_set_right(path):
    text = path.read_text(encoding="utf-8")
    experiment = load(path)
    words = list(words_in_file(read(path, []), experiment))
    assert set(read(path, []).values) - {"extends"} <= {word.text for word in words}
    draw = random.Random(str(path))
    for word in words:
        for edit in EDITS:
            misspelt = edit(word.text, draw.randrange(max(1, len(word.text) - (edit is swap))))
            if misspelt in word.allowed or not misspelt:
                continue  # another word, or the same if two equal letters were swapped, or none
            path.write_text(with_word(text, word, misspelt), encoding="utf-8")
            with pytest.raises(ConfigError) as caught:
                load(path)
            place = (str(path), word.position.line, word.position.column)
            hints = [
                problem.message.partition("did you mean ")[2]
                for problem in caught.value.problems
                if (problem.position.source, problem.position.line, problem.position.column)
                == place
            ]
            assert len(hints) == 1, f"{misspelt} for {word.text}: {caught.value}"
            assert repr(word.text) in hints[0], f"{misspelt} for {word.text}: {caught.value}"


def test_keys_components_and_literals_are_all_looked_at(write):
    text = (
        "model: {name: cnn, activation: gelu, channels: [8]}\n"
        "data: {name: mnist, augment: {shift: 1}}\n"
        "loss: cross_entropy\noptimizer: {name: sgd, lr: 1}\nmetrics: [accuracy, {name: f1}]\n"
        "train: {epochs: 1, precision: fp32}\n"
    )
    path = write(text)
    found = " ".join(word.text for word in words_in_file(read(path, []), load(path)))
    assert found == (
        "model cnn name activation gelu channels data mnist name augment shift loss cross_entropy "
        "optimizer sgd name lr metrics accuracy f1 name train epochs precision fp32"
    )


def vocabularies() -> Iterator[set[str]]:
    """Sets of words of which one is asked for."""
    register_builtins()
    yield {*TOP_LEVEL, "extends"}
    for registry in REGISTRIES.values():
        yield set(registry)
        for component in registry.values():
            yield {"name", *(option.name for option in component.options)}
            yield from (literals(option.annotation) for option in component.options)
    for option in TOP_LEVEL.values():
        settings = next(
            filter(is_dataclass, (option.annotation, *get_args(option.annotation))), None
        )
        if settings is not None and settings is not Choice:
            yield {inner.name for inner in options_of(settings)}


def one_edit_away(word: str) -> Iterator[str]:
    for at in range(len(word)):
        yield from (drop(word, at), double(word, at), swap(word, at))
        yield from (replace(word, at, letter) for letter in string.ascii_lowercase + "-_ 0")


def test_every_edit_of_every_word_is_set_right():
    vocabulary_sets = {
        frozenset(w for w in words if isinstance(w, str)) for words in vocabularies()
    }
    assert len(vocabulary_sets) > 20
    for words in vocabulary_sets:
        for word in words:
            for misspelt in set(one_edit_away(word)) - words:
                assert word in suggestions(misspelt, words)
