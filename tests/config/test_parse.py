"""YAML's traps, and files that mean harm."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dltrain.config import ConfigError
from dltrain.config.parse import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse, read
from dltrain.config.tree import Mapping, plain


def value(text: str):
    problems = []
    result = plain(parse(text, "x.yaml", problems))
    assert problems == []
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("3E4", 30000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5e+2", -150.0),
        ("+3", 3),
        ("0", 0),
        ("-.inf", -math.inf),
        ("1e400", math.inf),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        *[(text, text) for text in ("on", "off", "yes", "no", "y", "N", "tRue")],
        *[(text, text) for text in ("010", "0o17", "0x1f", "0b1", "1_000", "12:30", "190:20:30")],
        *[(text, text) for text in ("2024-01-01", "1e", "e3", ".", "-", "=", "1.2.3")],
        ("'1'", "1"),
        ('"true"', "true"),
        ("'<<'", "<<"),
        ("99999999999999999999", "99999999999999999999"),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
    ],
)
def test_scalars_are_what_they_look_like(text, expected):
    result = value(f"key: {text}") if text != "-" else value("key: '-'")
    assert result == {"key": expected}
    assert type(result["key"]) is type(expected)


def test_not_a_number_is_a_float():
    assert math.isnan(value("a: .nan")["a"])


def test_aliases_reuse_a_value():
    assert value("a: &x [1, 2]\nb: *x\nc: {d: *x}") == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"d": [1, 2]},
    }


def test_positions_count_characters_from_one():
    tree = parse("é: {ü: 'ö', b: 7}\r\nc:\r\n  - d\r\n", "x.yaml", [])
    assert isinstance(tree, Mapping)
    inner = tree.values["é"]
    assert isinstance(inner, Mapping)
    assert (inner.keys["b"].line, inner.keys["b"].column, inner.keys["b"].width) == (1, 13, 1)
    assert inner.values["ü"].position.width == 3  # quotes included
    assert tree.keys["c"].line == 2
    assert tree.keys["c"].text == "c:"


def test_a_byte_order_mark_at_the_start_is_no_part_of_the_text(write):
    tree = read(write("a: 1\nb: 2\n".encode("utf-8-sig")), [])
    assert plain(tree) == {"a": 1, "b": 2}
    assert [(at.line, at.column) for at in tree.keys.values()] == [(1, 1), (2, 1)]


def test_every_duplicate_is_told(write):
    problems = []
    tree = read(write("a: 1\nb: {c: 1, c: 2}\na: 3\n1: x\n? [k]\n: y\n"), problems)
    assert [str(problem).splitlines()[0] for problem in problems] == [
        "config.yaml:2:11: duplicate key 'c', first on line 2",
        "config.yaml:3:1: duplicate key 'a', first on line 1",
        "config.yaml:4:1: a key must be text; put it in quotes",
        "config.yaml:5:3: a key must be text; put it in quotes",
    ]
    assert plain(tree) == {"a": 1, "b": {"c": 1}}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
DEEP_BY_ALIAS = "a0: &a0 1\n" + "".join(
    f"a{i}: &a{i} {'[' * 20}*a{i - 1}{']' * 20}\n" for i in range(1, 20)
)
HOSTILE = {
    "python tag": ("a: !!python/object/apply:os.system ['true']", "tag '!!python/object/apply:os"),
    "python name": ("a: !!python/name:os.system", "is not allowed"),
    "own tag": ("a: !x 1", "tag '!x' is not allowed"),
    "standard tag": ("a: !!str 1", "tag '!!str' is not allowed"),
    "tagged root": ("!!map {a: 1}", "tag '!!map' is not allowed"),
    "tagged key": ("!!str a: 1", "tag '!!str' is not allowed"),
    "alias bomb": (BOMB, "more than 10,000"),
    "deep by aliases": (DEEP_BY_ALIAS, "nested deeper than 32"),
    "merge bomb": ("a: &a {x: 1}\nb: {<<: [*a, *a, *a]}", "merge keys are not allowed; use `ext"),
    "deep flow": ("a: " + "[" * 3000 + "]" * 3000, "nested deeper than 32"),
    "deep flow mapping": ("{a: " * 3000 + "1" + "}" * 3000, "nested deeper than 32"),
    "deep block": ("".join(" " * i + "a:\n" for i in range(500)), "nested deeper than 32"),
    "deep dashes": ("- " * 3000 + "1", "nested deeper than 32"),
    "self-reference": ("a: &a [*a]", "alias '*a' contains itself"),
    "self-reference in a key": ("&a {*a : 1}", "alias '*a' contains itself"),
    "unknown alias": ("a: *b", "alias '*b' has no anchor"),
    "over 1 MB": ("a: " + "x" * 1_100_000, "larger than 256 KiB"),
    "many nodes": ("a: [" + "1," * MAX_NODES + "]", "more than 10,000"),
    "two documents": ("a: 1\n---\nb: 2", "a second document"),
    "empty": ("", "the file is empty"),
    "comments only": ("# nothing\n", "the file is empty"),
    "empty document": ("---\n...\n", "the file is empty"),
    "a list": ("[1, 2]", "expected `key: value` lines"),
    "a word": ("hello", "expected `key: value` lines"),
    "NUL": ("a: \0", "'\\x00' is not allowed"),
    "escaped NUL": (r'a: "\0"', "escapes for NUL"),
    "escape sequence": ("a: \x1b[31m", "'\\x1b' is not allowed"),
    "surrogate": (r'a: "\ud800"', "surrogates"),
    "no character": (r'a: "\UFFFFFFFF"', "out of range"),
    "long version": (f"%YAML 1.{'1' * 5000}\n---\na: 1", "out of range"),
    "UTF-16": ("a: 1".encode("utf-16"), "UTF-16; save it as UTF-8"),
    "UTF-16 without mark": ("a: 1".encode("utf-16-le"), "'\\x00' is not allowed"),
    "byte order mark within": ("a: 1\n\ufeffb: [1", "not YAML: "),
    "Latin-1": ("ok: 1\na: é".encode("latin-1"), "byte 0xe9 is not UTF-8"),
    "tab": ("a:\n\tb: 1", "not YAML: "),
    "open list": ("a: [1", "not YAML: expected ',' or ']'"),
    "bad indent": ("a: 1\n b: 2", "not YAML: mapping values are not allowed here"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_one_problem(text, message, write):
    problems = []
    with pytest.raises(ConfigError) as caught:
        read(write(text), problems)
    assert problems == []
    assert len(caught.value.problems) == 1
    first, *others = str(caught.value).splitlines()
    assert first.startswith("config.yaml")
    assert message in first
    assert len(others) in (0, 2)
    assert all(line.isprintable() or "\t" in line for line in [first, *others])
    assert all(len(line) < 130 for line in others)


def test_what_is_just_within_the_limits_is_read(write):
    levels = MAX_DEPTH - 2
    assert read(write("a: " + "[" * levels + "1" + "]" * levels), [])
    assert read(write("a: [" + "1," * (MAX_NODES - 3) + "]"), [])
    comment = "#" * (MAX_BYTES - 5)
    assert plain(read(write(f"a: 1\n{comment}"), [])) == {"a": 1}


@pytest.mark.parametrize("path", ["absent.yaml", "."])
def test_files_that_cannot_be_read_are_for_the_caller(path, write):
    write("a: 1")
    with pytest.raises(OSError, match=r"No such file|Is a directory|Permission denied"):
        read(Path(path), [])
