"""`extends`, then the file, then the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from dltrain.config import ConfigError
from dltrain.config.compose import MAX_FILES, compose
from dltrain.config.tree import List, Mapping, plain
from dltrain.core.errors import UsageError


def composed(path: Path, *overrides: str):
    tree, problems = compose(path, overrides)
    assert problems == []
    return plain(tree)


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        pytest.param("a: {b: 1, c: 2}", "a: {c: 3, d: 4}", {"b": 1, "c": 3, "d": 4}, id="deep"),
        pytest.param("a: [1, 2]", "a: [3]", [3], id="lists are replaced"),
        pytest.param("a: {b: {c: 1}}", "a: {b: {d: 2}}", {"b": {"c": 1, "d": 2}}, id="deeper"),
        pytest.param(
            "a: {name: x, b: 1}",
            "a: {name: x, c: 2}",
            {"name": "x", "b": 1, "c": 2},
            id="same name",
        ),
        pytest.param(
            "a: {name: x, b: 1}", "a: {name: y, c: 2}", {"name": "y", "c": 2}, id="other name"
        ),
        pytest.param("a: {name: x, b: 1}", "a: {b: 2}", {"name": "x", "b": 2}, id="no name"),
        pytest.param("a: {b: 1}", "a: {name: y}", {"b": 1, "name": "y"}, id="a name at last"),
        pytest.param("a: {name: x, b: 1}", "a: y", "y", id="bare name over mapping"),
        pytest.param("a: {name: x, b: 1}", "a: x", "x", id="same bare name over mapping"),
        pytest.param("a: x", "a: {b: 1}", {"name": "x", "b": 1}, id="options over bare name"),
        pytest.param("a: x", "a: {name: y, b: 1}", {"name": "y", "b": 1}, id="mapping over name"),
        pytest.param("a: null", "a: {b: 1}", {"b": 1}, id="mapping over null"),
        pytest.param("a: {b: 1}", "a: null", None, id="null over mapping"),
    ],
)
def test_merging(below, above, expected, write):
    write(below, "below.yaml")
    assert composed(write(f"extends: below.yaml\n{above}")) == {"a": expected}
    changes = [f"a={yaml.safe_dump(yaml.safe_load(above)['a'], default_flow_style=True)}"]
    assert composed(write(below), *changes) == {"a": expected}


def test_the_name_of_the_experiment_is_no_component(write):
    write("name: below\na: 1", "below.yaml")
    assert composed(write("extends: below.yaml\nname: above")) == {"name": "above", "a": 1}


def test_later_files_of_a_list_win_and_paths_are_relative_to_the_file(write):
    write("a: 1\nb: 1\nc: 1", "shared/one.yaml")
    write("extends: one.yaml\nb: 2", "shared/two.yaml")
    write("b: 3\nd: 3", "three.yaml")
    path = write("extends: [../shared/two.yaml, ../three.yaml]\nd: 4", "configs/top.yaml")
    assert composed(path) == {"a": 1, "b": 3, "c": 1, "d": 4}


def test_nodes_keep_their_own_file(write):
    write("a: {b: 1}", "below.yaml")
    tree, _ = compose(write("extends: below.yaml\na: {c: 2}"), ["a.d=3", "e.0=x"])
    inner = tree.values["a"]
    assert isinstance(inner, Mapping)
    sources = {key: position.source for key, position in inner.keys.items()}
    assert sources == {"b": "below.yaml", "c": "config.yaml", "d": "command line: a.d=3"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["a.b=1e-3"], {"a": {"b": 0.001}}),
        (["a.b.c=[1, x]"], {"a": {"b": {"c": [1, "x"]}}}),
        (["a=1", "a=2"], {"a": 2}),
        (["a.b=1", "a.c=2"], {"a": {"b": 1, "c": 2}}),
        (["a=null"], {"a": None}),
        (["a=x=y"], {"a": "x=y"}),
        (["a=''"], {"a": ""}),
    ],
)
def test_overrides(overrides, expected, write):
    assert composed(write("{}"), *overrides) == expected


def test_a_number_replaces_an_item_of_a_list(write):
    path = write("m: [f1, {name: x, k: 1}]")
    assert composed(path, "m.0=f2", "m.1.k=2") == {"m": ["f2", {"name": "x", "k": 2}]}
    assert composed(path, "m.0.average=micro")["m"][0] == {"name": "f1", "average": "micro"}
    tree, _ = compose(path, ["m.0=f2"])
    items = tree.values["m"]
    assert isinstance(items, List)
    assert [item.position.source for item in items.items] == ["command line: m.0=f2", "config.yaml"]


def test_the_order_of_a_name_and_its_options_does_not_matter(write):
    path = write("a: {name: x, old: 1}")
    expected = {"a": {"name": "y", "new": 1}}
    assert composed(path, "a.name=y", "a.new=1") == expected
    assert composed(path, "a.new=1", "a.name=y") == expected


@pytest.mark.parametrize("override", ["foo", "a=", "=1", "a..b=1", ".a=1", "a.=1", ""])
def test_malformed_overrides(override, write):
    _, problems = compose(write("a: 1"), [override])
    (problem,) = problems
    assert str(problem) == f"command line: {override}: expected key=value, such as train.epochs=3"


@pytest.mark.parametrize(
    "override", ["a=[1", "a=!!python/name:os.system", "a=*x", "extends=b.yaml"]
)
def test_refused_overrides(override, write):
    with pytest.raises(ConfigError, match=r"^command line: (a|extends)="):
        compose(write("a: 1"), [override])


def test_a_loop_is_refused(write):
    write("extends: config.yaml", "other.yaml")
    with pytest.raises(ConfigError) as caught:
        compose(write("a: 1\nextends: other.yaml"), [])
    assert str(caught.value) == (
        "other.yaml:1:10: extends: config.yaml extends this file in turn\n"
        "    1 | extends: config.yaml\n"
        "      |          ^^^^^^^^^^^"
    )


def test_a_fan_of_files_is_refused_soon(write):
    for level in range(MAX_FILES):
        write(f"extends: [{', '.join([f'{level + 1}.yaml'] * 50)}]", f"{level}.yaml")
    write("a: 1", f"{MAX_FILES}.yaml")
    with pytest.raises(ConfigError, match="more than 8 files"):
        compose(Path("0.yaml"), [])


def test_everything_that_is_refused_is_told_at_once(write):
    write("a: !x 1", "one.yaml")
    write("b: [", "two.yaml")
    path = write("extends: [one.yaml, two.yaml, absent.yaml, 3]\nc: 1\nc: 2")
    with pytest.raises(ConfigError) as caught:
        compose(path, ["d=*x"])
    firsts = [str(problem).splitlines()[0] for problem in caught.value.problems]
    assert firsts == [
        "config.yaml:1:31: extends: can't read absent.yaml: No such file or directory",
        "config.yaml:1:44: extends: expected a file or a list of files",
        "config.yaml:3:1: duplicate key 'c', first on line 2",
        "one.yaml:1:4: tag '!x' is not allowed; expected a plain value",
        firsts[4],
        "command line: d=*x: alias '*x' has no anchor above it",
    ]
    assert firsts[4].startswith("two.yaml:1:")


@pytest.mark.parametrize(
    ("name", "reason"), [("absent.yaml", "No such file or directory"), (".", "Is a directory")]
)
def test_the_file_itself_cannot_be_read(name, reason, write):
    write("a: 1")
    with pytest.raises(UsageError) as caught:
        compose(Path(name), [])
    assert str(caught.value) == f"can't read {name}: {reason}"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(write):
    path = write("a: 1")
    path.chmod(0)
    with pytest.raises(UsageError, match="Permission denied"):
        compose(path, [])
