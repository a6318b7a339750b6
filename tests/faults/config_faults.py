"""Hostile and mutated configs."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from processes import ChildProcess
from rows import Row, assert_within
from small_data import write_images, write_text

from dltrain.config import ConfigError, Experiment, Problem, load, plugins
from dltrain.config.experiment import COMPONENTS, KEYS
from dltrain.config.options import TypedOption, typed_options
from dltrain.config.parse import read
from dltrain.config.settings import (
    CheckpointSettings,
    EarlyStopSettings,
    RecordingSettings,
    TrainSettings,
)
from dltrain.config.tree import plain
from dltrain.core.errors import DltrainError, UsageError
from dltrain.core.registry import METRICS, REGISTRIES, TASKS, Registry
from dltrain.core.task import task_class

plugins.register_builtins()
CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.rglob("*.yaml"))

VALID = """\
model: mlp
data: toy_spirals
loss: cross_entropy
optimizer: adamw
train: {epochs: 1}
"""
SECONDS, MEGABYTES, LINES = 2, 100, 61  # 20 problems of three lines, and the number of others


def _with(**changed: str) -> str:
    """Return the valid config with other values, as YAML."""
    lines = dict(line.split(": ", 1) for line in VALID.splitlines()) | changed
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


def _aliases(first: str, item: str, levels: int) -> str:
    """Return nested aliases, each built from the one below; `#` stands for its alias."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {item.replace('#', f'*a{n - 1}')}" for n in range(1, levels)]
    return "\n".join(lines)


def _many(number: int, text: str) -> str:
    """Repeat a text; `#` stands for the number of the repetition."""
    return "".join(text.replace("#", str(n)) for n in range(number))


HOSTILE: dict[str, str | bytes] = {
    # constructing, importing or calling something
    "python object": _with(model="!!python/object:canary.Thing {}"),
    "python call": _with(model="!!python/object/apply:canary.call [1]"),
    "python call of the system": "!!python/object/apply:os.system ['touch harmed']",
    "python new": _with(model="!!python/object/new:canary.Thing []"),
    "python name": _with(model="!!python/name:canary.Thing ''"),
    "python module": _with(model="!!python/module:canary ''"),
    "python tuple": _with(model="{name: mlp, hidden: !!python/tuple [1, 2]}"),
    "python tag of a key": "? !!python/name:canary.Thing ''\n: 1\n" + VALID,
    "python tag behind a handle": "%TAG !p! tag:yaml.org,2002:python/\n---\n"
    + _with(model="!p!name:canary.Thing ''"),
    "python tag spelt out": _with(model="!<tag:yaml.org,2002:python/name:canary.Thing> ''"),
    "python tag in an alias": "x: &x !!python/module:canary ''\n" + _with(model="*x"),
    "own tag": _with(model="!mlp {}"),
    "no tag": _with(model="! mlp"),
    "binary": _with(model="!!binary bWxw"),
    "set": _with(metrics="!!set {accuracy}"),
    "include": _with(model="!include /etc/passwd"),
    "environment": _with(model="${oc.env:HOME}"),
    "_target_": _with(model="{_target_: canary.Thing}"),
    "_target_ beside a name": _with(model="{name: mlp, _target_: canary.Thing}"),
    "_target_ at the top": "_target_: canary.Thing\n" + VALID,
    "_target_ of an option": _with(model="{name: mlp, hidden: {_target_: canary.call}}"),
    "_partial_": _with(optimizer="{_target_: canary.call, _partial_: true}"),
    "class_path": _with(model="{class_path: canary.Thing, init_args: {x: 1}}"),
    "class_path of a loss": _with(loss="{class_path: canary.Thing}"),
    "jsonargparse": _with(model="{__path__: canary.py, class_path: canary.Thing}"),
    "dotted model": _with(model="canary.Thing"),
    "dotted data": _with(data="canary.Thing"),
    "dotted loss": _with(loss="canary.Thing"),
    "dotted optimizer": _with(optimizer="{name: canary.Thing, lr: 1}"),
    "dotted schedule": _with(schedule="canary.Thing"),
    "dotted metric": _with(metrics="[canary.Thing]"),
    "dotted task": _with(task="canary:Thing"),
    "dotted optimizer of a phase": _with(phases="{main: {optimizer: canary.Thing}}"),
    "own module": _with(model="dltrain.models.mlp"),
    "attribute of a registry": _with(model="__class__"),
    "format string": _with(model="'{0.__class__.__init__.__globals__}'"),
    "template": _with(model="'{{ 7 * 7 }}'"),
    "file as a model": _with(model="./canary.py"),
    "plugins": "plugins: [canary.py]\n" + VALID,
    # growing when loaded
    "alias bomb": _aliases("[x, x, x, x, x, x, x, x, x]", "[#, #, #, #, #, #, #, #, #]", 9),
    "alias bomb of mappings": _aliases("{x: 1}", "{a: #, b: #, c: #, d: #, e: #}", 12),
    "alias bomb below an option": _aliases("[1, 1, 1, 1]", "[#, #, #, #, #, #, #, #]", 9)
    + "\n"
    + _with(model="{name: mlp, hidden: *a8}"),
    "alias bomb of phases": f"{VALID}x: &x [{'1,' * 90}]\nphases: {{{_many(200, 'p#: *x, ')}}}",
    "quadratic aliases": f"a: &a [{'1,' * 5000}]\nb: [{'*a,' * 4000}]",
    "many anchors": VALID + _many(4900, "k#: &a# 1\n"),
    "one anchor, many times": VALID + _many(4900, "k#: &a 1\n"),
    "merge bomb": "a: &a {x: 1}\n" + _many(50, "b#: &b# {<<: [*a, *a, *a, *a]}\n"),
    "merge key": "a: &a {name: mlp}\n" + _with(model="{<<: *a}"),
    "flow lists, 3,000 deep": "a: " + "[" * 3000 + "]" * 3000,
    "flow mappings, 3,000 deep": "{a: " * 3000 + "1" + "}" * 3000,
    "flow mixed, 100,000 deep": "[{" * 100_000,
    "block mappings, 700 deep": "".join(" " * n + "a:\n" for n in range(700)),
    "dashes, 3,000 deep": "- " * 3000 + "1",
    "complex keys, 3,000 deep": "? " * 3000 + "1",
    "deep in an option": _with(model="{name: mlp, hidden: " + "[" * 3000 + "]" * 3000 + "}"),
    "deep by aliases": _aliases("1", "[" * 20 + "#" + "]" * 20, 20),
    "self-reference": "a: &a [*a]\n" + VALID,
    "self-reference in a mapping": "a: &a {b: {c: *a}}\n" + VALID,
    "self-reference in a key": "&a {*a : 1}",
    "two that hold each other": "a: &a [*b]\nb: &b [*a]\n" + VALID,
    "over 1 MB": VALID + "name: " + "x" * 1_100_000,
    "over 1 MB of comments": VALID + "# nothing\n" * 110_000,
    "over 10 MB of brackets": "[" * 10_000_000,
    "many values": _with(model="{name: mlp, hidden: [" + "1," * 50_000 + "]}"),
    "many wrong values": _with(model="{name: mlp, hidden: [" + "x," * 9000 + "]}"),
    "many unknown keys": VALID + _many(4900, "a_key_that_nobody_knows_#: 1\n"),
    "many unknown options": _with(
        optimizer="{name: adamw, " + _many(4900, "learning_rate#: 1,") + "}"
    ),
    "many phases": _with(phases="{" + _many(3000, "generator#: {},") + "}"),
    "many metrics": _with(metrics="[" + "accurracy," * 9000 + "]"),
    "many duplicates": VALID + "seed: 1\n" * 4900,
    "many bases": VALID + "extends: [" + "absent.yaml," * 9000 + "]",
    "extends itself": VALID + "extends: hostile.yaml",
    "extends itself, many times": VALID + "extends: [" + "hostile.yaml," * 9000 + "]",
    "extends a folder": VALID + "extends: .",
    "extends an endless file": VALID + "extends: /dev/zero",
    "extends a pipe": VALID + "extends: pipe",
    "extends a long name": VALID + "extends: " + "x" * 5000,
    "extends no text": VALID + "extends: {a: 1}",
    "huge whole number": VALID + "seed: " + "9" * 250_000,
    "huge number": VALID + "seed: 1." + "9" * 250_000,
    "huge exponent": _with(optimizer="{name: adamw, lr: 1e999999999}"),
    "huge length": _with(train="{epochs: 1, evaluate: " + "9" * 5000 + " steps}"),
    "huge device": _with(train="{epochs: 1, device: 'cuda:" + "9" * 5000 + "'}"),
    "huge key": VALID + "k" * 250_000 + ": 1",
    "huge complex key": VALID + "? " + "k" * 250_000 + "\n: 1",
    "huge value": VALID + "name: '" + "x" * 250_000 + "'",
    "huge block": VALID + "name: |\n" + " a\n" * 80_000,
    "huge anchor": "a: &" + "a" * 250_000,
    "huge tag": VALID + "a: !" + "a" * 250_000,
    "huge escapes": VALID + 'name: "' + "\\x41" * 60_000 + '"',
    "many directives": "%FOO bar\n" * 25_000 + "---\na: 1",
    "many tag handles": _many(8000, "%TAG !a#! tag:x#:\n") + "---\na: 1",
    "long version": f"%YAML 1.{'1' * 5000}\n---\n{VALID}",
    # not text, or not a single config
    "NUL": VALID + "name: a\0b",
    "NUL alone": b"\0" * 1000,
    "escaped NUL": VALID + r'name: "a\0b"',
    "escape sequence": VALID + "name: \x1b]0;harmed\x07",
    "escaped escape sequence": VALID + r'name: "\e]0;harmed\a"',
    "escape sequence in a key": VALID + r'"\e[31mname": 1',
    "surrogate": VALID + r'name: "\ud800"',
    "no character": VALID + r'name: "\UFFFFFFFF"',
    "UTF-16": VALID.encode("utf-16"),
    "UTF-16, the other way": b"\xfe\xff" + VALID.encode("utf-16-be"),
    "UTF-16 without mark": VALID.encode("utf-16-le"),
    "UTF-32": VALID.encode("utf-32"),
    "Latin-1": VALID.encode() + "# naïve".encode("latin-1"),
    "overlong UTF-8": VALID.encode() + b"name: \xc0\xaf",
    "two marks": b"\xef\xbb\xbf" * 2 + VALID.encode() + b"a: [",
    "random bytes": bytes(n * 167 % 256 for n in range(100_000)),
    "a compressed file": b"\x1f\x8b\x08\x00" + bytes(range(256)),
    "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n(S'touch harmed'\ntR.",
    "duplicate keys": VALID + "model: linear\n",
    "duplicate options": _with(optimizer="{name: adamw, lr: 1, lr: 2}"),
    "duplicates by quotes": VALID + "'model': linear\n",
    "keys that are not text": VALID + "1: 2\ntrue: 3\nnull: 4\n? [a]\n: 5\n? {b: c}\n: 6\n",
    "two documents": VALID + "---\n" + VALID,
    "two documents, CRLF": (VALID + "---\n" + VALID).replace("\n", "\r\n"),
    "many documents": "---\n" * 60_000,
    "tabs": "model:\n\tname: mlp\n",
    "many tabs": VALID + "a:\t" * 80_000,
    "only CR": VALID.replace("\n", "\r") + "a: [",
    "line separators": "model: mlp\u2028data: toy_spirals\u2029a: [",
    "empty": "",
    "blanks": " \n" * 100_000,
    "a list": "[1, 2]",
    "a word": "hello",
    "a number": "1",
    "JSON, cut": '{"model": "mlp", "data": ',
    "an alias alone": "*a",
    "question marks": "? " * 100_000,
    "colons": ":" * 200_000,
    "exclamation marks": "!" * 200_000,
    "open quote": VALID + "name: '" + "x\n" * 100_000,
    "right to left": VALID + "name: \u202eabc\u202c",
}


def hostile(number: int, folder: Path) -> None:
    """Load a hostile file with `load` and the command line, in a process that audits itself."""
    content = list(HOSTILE.values())[number]
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "hostile.yaml").write_bytes(data)
    (folder / "wrong.yaml").write_text(f"{VALID}wrong: 1")
    (folder / "canary.py").write_text(
        "open('harmed', 'w').close()\ndef call(*_): ...\nThing = call"
    )
    os.mkfifo(folder / "pipe")  # without a writer: reading it would block forever
    before = {path.name for path in folder.iterdir()}
    process = ChildProcess("audited", folder, load_and_train_audited)
    try:
        code = process.wait()
    finally:
        process.end()
    assert code == 0, process.err
    report = json.loads(process.out)
    assert report["load"]["error"] == "ConfigError", report
    assert report["train"]["code"] == 2, report
    assert report["train"]["out"] == "", report
    for way, text in (("load", report["load"]["text"]), ("train", report["train"]["err"])):
        lines = text.splitlines()
        assert 1 <= len(lines) <= LINES, (way, text)
        assert "Traceback" not in text, (way, text)
        assert all(len(line) < 1300 for line in lines), (way, text)
        assert all(c.isprintable() or c in "\t\n" for c in text), (way, text)
        assert_within(report[way]["seconds"], SECONDS)
        assert report[way]["megabytes"] < MEGABYTES, report
        assert report[way]["effects"] == [], report
    assert {path.name for path in folder.iterdir()} - before == {"audited.out", "audited.err"}


def load_and_train_audited() -> None:
    """Load and train hostile.yaml; print its cost and side effects as JSON."""
    from dltrain.cli import main

    sys.path.insert(0, "")
    effects: list[str] = []
    watching = False

    def hook(event: str, arguments: tuple) -> None:
        if watching and event in _AUDITED_EVENTS:
            effects.append(f"{event} {arguments!r:.200}")
        if watching and event == "open" and set(str(arguments[1] or "r")) & set("wax+"):
            effects.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)

    def measured(run) -> dict:  # in CPU time, independent of other processes
        nonlocal watching
        used, started = _megabytes(), time.process_time()
        watching = True
        try:
            result = run()
        finally:
            watching = False
        seconds = time.process_time() - started
        result |= {"seconds": seconds, "megabytes": _megabytes() - used, "effects": list(effects)}
        effects.clear()
        return result

    def loaded(path: str) -> dict:
        try:
            load(path)
        except BaseException as error:  # any error is reported
            return {"error": type(error).__name__, "text": str(error)}
        return {"error": None, "text": ""}

    def trained(path: str) -> dict:
        sys.argv = ["dltrain", "train", path]
        code: object = None
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            try:
                main()
            except SystemExit as error:
                code = error.code
            except BaseException as error:  # any error is reported
                code = repr(error)
        return {"code": code, "out": out.getvalue(), "err": err.getvalue()}

    for warm_up in (loaded, trained):  # afterwards all imports of a valid config are done
        warm_up("wrong.yaml")
    # The command comes first: memory is a maximum over the lifetime of the process.
    report = {
        "train": measured(lambda: trained("hostile.yaml")),
        "load": measured(lambda: loaded("hostile.yaml")),
    }
    print(json.dumps(report))


_AUDITED_EVENTS = {
    "import",
    "exec",
    "compile",
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.chmod",
    "shutil.rmtree",
    "ctypes.dlopen",
}


def _megabytes() -> float:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------------------- mutated configs


@dataclass(frozen=True)
class Mutated:
    """A mutated config and command-line overrides."""

    content: bytes
    overrides: tuple[str, ...] = ()


def mutated(number: int, folder: Path) -> None:
    """Load a hundred mutated configs; even trials mutate trees, odd ones bytes."""
    shutil.copytree(CONFIGS, folder / "configs")
    strategy = mutated_trees() if number % 2 == 0 else mutated_bytes()

    def case(config: Mutated) -> None:
        path = folder / "configs" / "tiny" / "mutated.yaml"
        path.write_bytes(config.content)
        experiment = loaded_or_refused(path, config.overrides)
        if experiment is not None:
            again = folder / "again.yaml"
            again.write_text(experiment.to_yaml(), encoding="utf-8")
            assert load(again).to_dict() == experiment.to_dict()

    try_cases(case, strategy, number, 100)


def try_cases(case: Callable[[Any], None], strategy: Any, number: int, count: int) -> None:
    """Try `count` examples, determined by the number; report the smallest that fails."""
    run = hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )(hypothesis.given(strategy)(case))
    hypothesis.seed(number)(run)()


def loaded_or_refused(path: Path, overrides: tuple[str, ...]) -> Experiment | None:
    """Load a config; return None if it is refused with problems that have key and position."""
    started, refusal = time.process_time(), None
    try:
        experiment = load(path, overrides)
    except UsageError as error:
        experiment, refusal = None, error
    assert_within(time.process_time() - started, 5)
    if refusal is not None:
        assert refusal.exit_code == 2
        assert isinstance(refusal, ConfigError), refusal
        assert refusal.problems
        for problem in refusal.problems:
            assert_good_message(problem)
    return experiment


def assert_good_message(problem: Problem) -> None:
    """Assert that a problem names a key or a fault of the text, on an existing line."""
    at, text = problem.position, str(problem)
    assert len(text.splitlines()) in (1, 3), text
    assert all(c.isprintable() or c in "\t\n" for c in text), text
    assert problem.path or problem.message.startswith(TEXT_PROBLEMS), text
    if at.source.startswith("command line: ") or problem.message.startswith(FILE_PROBLEMS):
        return
    assert at.line >= 1, text
    assert at.column >= 1, text
    content = Path(at.source).read_bytes().decode("utf-8-sig", "replace")
    assert at.line <= len(re.split("\r\n|[\r\n\x85\u2028\u2029]", content)), text
    assert at.text in content, text


FILE_PROBLEMS = ("the file is larger", "the file is UTF-16", "not YAML: a number is out")
TEXT_PROBLEMS = (
    *FILE_PROBLEMS,
    "a key must be text",
    "a second document",
    "alias ",
    "byte 0x",
    "character ",
    "escapes for",
    "expected `key: value` lines",
    "expected key=value",
    "duplicate key ",
    "merge keys",
    "more than 10,000",
    "nested deeper",
    "not YAML: ",
    "tag ",
    "the file is empty",
)


def mutated_bytes() -> Any:
    """Return a strategy of shipped configs with bytes changed, deleted, inserted or moved."""
    files = [path.read_bytes() for path in SHIPPED]

    @st.composite
    def strategy(draw: Any) -> Mutated:
        data = bytearray(draw(st.sampled_from(files)))
        for _ in range(draw(st.integers(1, 6))):
            at = draw(st.integers(0, len(data)))
            how = draw(st.sampled_from(["flip", "delete", "insert", "truncate", "splice", "move"]))
            length = draw(st.integers(1, 20))
            if how == "flip" and at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            elif how == "delete":
                del data[at : at + length]
            elif how == "insert":
                data[at:at] = draw(st.sampled_from(PIECES) | st.binary(max_size=10))
            elif how == "truncate" and draw(st.booleans()):
                del data[at:]
            elif how == "splice":
                other = draw(st.sampled_from(files))
                start = draw(st.integers(0, len(other)))
                data[at:at] = other[start : start + 10 * length]
            else:
                piece = data[at : at + length]
                del data[at : at + length]
                to = draw(st.integers(0, len(data)))
                data[to:to] = piece
        return Mutated(bytes(data))

    return strategy()


PIECES = [
    *(
        character.encode()
        for character in "{}[],:&*#?|-<>=!%@`'\"\\~ \t\n\r\0\x85\u2028\ufeff\u00e9"
    ),
    *(b": ", b"- ", b"? ", b"\n\n", b"\r\n", b"---\n", b"...\n", b"&a ", b"*a", b"!!str ", b"<<: "),
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"1e999", b".nan", b"null", b"true", b"1" * 30),
    *(b"extends: mutated.yaml\n", b"phases: {main: {optimizer: sgd}}\n", b'"\\ud800"'),
]


def mutated_trees() -> Any:
    """Return a strategy of shipped configs with keys and values changed, deleted or swapped."""
    trees = [plain(read(path, [])) for path in SHIPPED]
    names = [name for registry in REGISTRIES.values() for name in registry]
    options = sorted(
        {
            option.name
            for registry in REGISTRIES.values()
            for component in registry.values()
            for option in component.options
        }
        | {f.name for f in (*fields(TrainSettings), *fields(CheckpointSettings))}
    )
    keys = st.sampled_from([*KEYS, "extends", "name", *options]) | st.sampled_from(
        ["main", "generator", "discriminator", "monitor", "", "<<", "lr ", "LR", 1, None, True]
    )
    words = st.sampled_from(
        [*names, *options, "1 epoch", "2 steps", "0 steps", "val/loss", "val/accuracy", "", " "]
    )
    files = st.sampled_from(
        ["../toy_text.yaml", "toy_text.yaml", "mutated.yaml", "../tiny", "absent.yaml", ".", "\t"]
    )
    numbers = st.sampled_from([0, 1, -1, 2, 3, 0.5, 1e-3, 1.0, -0.0, 1e300, 2**63, 2**64, 10**18])
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        numbers,
        st.integers(),
        st.floats(),
        words,
        st.sampled_from(TEXTS),
        st.text(max_size=8),
    )
    subtrees = st.sampled_from([value for tree in trees for _, _, value in walk(tree)])
    subtrees = subtrees.map(deepcopy)  # mutations would change them
    values = st.recursive(
        scalars | subtrees,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(keys | st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=5,
    )
    phases = st.dictionaries(
        st.sampled_from(["main", "generator", "discriminator", "", "x"]),
        st.dictionaries(
            st.sampled_from(["optimizer", "schedule", "clip_norm", "lr"]), values, max_size=3
        )
        | values,
        max_size=2,
    )

    meaningful = meaningful_trees()

    @st.composite
    def strategy(draw: Any) -> Mutated:
        tree, max_mutations = deepcopy(draw(st.sampled_from(trees))), 4
        if draw(st.booleans()):  # a tree that is likely to load
            tree, max_mutations = draw(meaningful), 1
        for _ in range(draw(st.integers(0, max_mutations))):
            how = draw(
                st.sampled_from(["replace", "delete", "add", "swap", "rename", "phases", "extends"])
            )
            found = list(walk(tree))
            if how == "phases":
                tree["phases"] = draw(phases)
            elif how == "extends":
                tree["extends"] = draw(files | st.lists(files, max_size=3) | values)
            elif how == "add":
                within = [tree, *(v for _, _, v in found if isinstance(v, dict))]
                draw(st.sampled_from(within))[draw(keys)] = draw(values)
            elif found:
                holder, key, value = draw(st.sampled_from(found))
                other, other_key, other_value = draw(st.sampled_from(found))
                if how == "replace":
                    holder[key] = draw(values)
                elif how == "swap":
                    holder[key], other[other_key] = deepcopy((other_value, value))
                else:
                    del holder[key]
                    if how == "rename" and isinstance(holder, dict):
                        holder[draw(keys)] = value
        paths = st.lists(
            st.sampled_from([*KEYS, *options, "main", "0", "1"]), min_size=1, max_size=3
        )
        override = st.builds(lambda path, value: f"{'.'.join(path)}={flow(value)}", paths, values)
        words = draw(st.lists(override | st.text(max_size=10), max_size=2))
        text = "".join(f"{flow(key)}: {flow(value)}\n" for key, value in tree.items())
        return Mutated(text.encode(), tuple(words))

    return strategy()


def walk(tree: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield container, key or index, and value of each value of a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key, value
        if isinstance(value, dict | list):
            yield from walk(value)


def flow(value: Any) -> str:
    """Format a tree as YAML on one line; text is quoted."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
    # Escapes, except where they would be surrogates.
    return json.dumps(value, ensure_ascii=max(str(value), default="") < "\U00010000")


# ----------------------------------------------------------------------- configs that load


def checked(number: int, folder: Path) -> None:
    """Check twenty configs that are mutated within the types of their options."""
    from dltrain.commands.check import check
    from dltrain.training.device import make_deterministic

    write_images(folder / "images", train=120, test=30, side=28, classes=3)
    write_text(folder / "text.txt", lines=100)
    path = folder / "config.yaml"

    def case(tree: dict[str, Any]) -> None:
        path.write_text("".join(f"{key}: {flow(value)}\n" for key, value in tree.items()))
        experiment = loaded_or_refused(path, ())
        if experiment is not None:
            with suppress(DltrainError):
                check(experiment)

    try:
        with redirect_stderr(StringIO()):
            try_cases(case, meaningful_trees(), number, 20)
    finally:
        make_deterministic(False)


def meaningful_trees() -> Any:
    """Return a strategy of resolved tiny configs with other options and components."""
    trees = [load(CONFIGS / "tiny" / f"{name}.yaml").to_dict() for name in TINY_CONFIGS]
    for tree in trees:
        tree["train"] |= {"epochs": None, "steps": 2, "device": "cpu"}
        if tree["data"]["name"] == "shakespeare":
            tree["data"] |= {"name": "text_file", "path": "text.txt"}
            tree["data"].pop("root")
        elif tree["data"]["name"] not in SYNTHETIC_DATA:
            tree["data"] = {"name": "idx", "root": "images", "validation": 20}
        if tree["task"]["name"] == "gan":
            tree["metrics"], tree["task"]["judge"] = [], None

    @st.composite
    def strategy(draw: Any) -> dict[str, Any]:
        tree = deepcopy(draw(st.sampled_from(trees)))
        for _ in range(draw(st.integers(1, 4))):
            kind = draw(st.sampled_from([*COMPONENTS, *COMPONENTS, *SECTIONS, "metrics", "phases"]))
            if kind == "metrics":
                tree["metrics"] = draw(st.lists(component("metrics", METRICS), max_size=3))
            elif kind == "phases":
                names = task_class(TASKS[tree["task"]["name"]].builder).phase_names
                settings = {
                    "optimizer": component("optimizer", COMPONENTS["optimizer"]),
                    "schedule": component("schedule", COMPONENTS["schedule"]),
                    "clip_norm": st.sampled_from([None, 1e-9, 1]),
                }
                tree["phases"] = {draw(st.sampled_from(names)): draw(some_of(settings))}
            elif kind in SECTIONS:
                options = typed_options(SECTIONS[kind])
                tree[kind] = (tree[kind] or {}) | draw(option(kind, options))
            elif draw(st.booleans()):
                options = typed_options(COMPONENTS[kind][tree[kind]["name"]].builder)
                if options:
                    tree[kind] |= draw(option(kind, options))
            else:
                tree[kind] = draw(component(kind, COMPONENTS[kind]))
        return tree

    return strategy()


TINY_CONFIGS = (
    *("linear_regression", "mnist_autoencoder", "mnist_cnn", "mnist_gan", "mnist_vae"),
    *("seq2seq_reverse", "shakespeare_gpt", "shakespeare_lstm", "spirals_mlp"),
    *("toy_regression", "toy_text"),
)
SYNTHETIC_DATA = (
    *("idx", "text_file", "toy_blobs", "toy_digits", "toy_line", "toy_sine", "toy_spirals"),
    "toy_text",
)
SECTIONS: dict[str, Any] = {
    "train": TrainSettings,
    "checkpoint": CheckpointSettings,
    "early_stop": EarlyStopSettings,
    "recording": RecordingSettings,
}
SMALL = st.sampled_from([1, 2, 3, 4, 5, 8, 16, 31, 64, 200])
OPTION_VALUES: dict[tuple[str, str], Any] = {
    ("data", "root"): st.sampled_from(["images", "absent"]),
    ("data", "path"): st.sampled_from(["text.txt", "text.txt", "absent.txt"]),
    ("model", "arch"): st.sampled_from(["resnet18", "squeezenet1_1", "absent"]),
    ("model", "pretrained"): st.just(False),  # no download
    ("train", "compile"): st.just(False),  # takes minutes
    ("train", "device"): st.just("cpu"),
    ("train", "evaluate"): st.sampled_from(["1 epoch", "3 steps"]),
    ("checkpoint", "every"): st.sampled_from(["1 epoch", "3 steps"]),
    ("checkpoint", "best"): st.sampled_from(
        ["val/loss", "val/loss", "val/accuracy", "train/loss", "x", "a\x85b", " x\n"]
    ),
    ("early_stop", "monitor"): st.sampled_from(["val/loss", "val/accuracy", "train/loss", "x"]),
}


def component(kind: str, registry: Registry) -> Any:
    """Return a strategy of components with options; sizes are always set, as defaults are large."""
    names = SYNTHETIC_DATA if kind == "data" else tuple(registry)

    def options_of(name: str) -> Any:
        strategies = {
            key: OPTION_VALUES.get((kind, key), of_schema(typed.schema))
            for key, typed in typed_options(registry[name].builder).items()
        }
        sizes = {
            key: strategy
            for key, strategy in strategies.items()
            if key in SIZES or typed_options(registry[name].builder)[key].option.required
        }
        others = {key: strategies[key] for key in strategies.keys() - sizes}
        chosen = st.tuples(st.fixed_dictionaries(sizes), some_of(dict(sorted(others.items()))))
        return chosen.map(lambda pair: {"name": name, **pair[0], **pair[1]})

    return st.sampled_from(names).flatmap(options_of)


SIZES = ("samples", "max_length", "channels", "hidden", "hidden_size", "layers", "width", "heads")


def option(kind: str, options: dict[str, TypedOption]) -> Any:
    """Return a strategy of mappings from one option to a value that its type allows."""
    return st.sampled_from(list(options)).flatmap(
        lambda name: OPTION_VALUES.get((kind, name), of_schema(options[name].schema)).map(
            lambda value: {name: value}
        )
    )


def some_of(strategies: dict[str, Any]) -> Any:
    """Return a strategy of mappings with a subset of the keys."""
    return st.fixed_dictionaries({}, optional=strategies)


def of_schema(schema: dict[str, Any]) -> Any:
    """Return a strategy of small values that a JSON Schema allows."""
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return st.one_of(*map(of_schema, schema["anyOf"]))
    if "prefixItems" in schema:
        return st.tuples(*map(of_schema, schema["prefixItems"])).map(list)
    return {
        "array": lambda: st.lists(of_schema(schema["items"]), max_size=3),
        "boolean": st.booleans,
        "integer": lambda: SMALL if "exclusiveMinimum" in schema else SMALL | st.just(0),
        "null": st.none,
        "number": lambda: st.sampled_from([n for n in NUMBERS if _allowed(n, schema)]),
        "object": lambda: some_of(
            {key: of_schema(part) for key, part in schema["properties"].items()}
        ),
        "string": lambda: st.sampled_from(TEXTS),
    }[schema["type"]]()


def _allowed(number: float, schema: dict[str, Any]) -> bool:
    above, minimum = schema.get("exclusiveMinimum", -1), schema.get("minimum", -1)
    below, maximum = schema.get("exclusiveMaximum", 1e99), schema.get("maximum", 1e99)
    return above < number < below and minimum <= number <= maximum


TEXTS = (
    *("", " ", "x", "x.json", "a\x85b", "a\nb ", " x\n", "\ufeff", "null", "1e3", "é\u2028", "- a"),
    *(
        "a: b",
        "#",
        "'",
        '"',
        "\t",
        "*a",
        "{",
        "on",
        "=",
        "<<",
        "~",
        "\x7f",
        "\U0001f600",
        "x " * 99,
    ),
)
NUMBERS = (0, 1e-45, 1e-8, 0.1, 0.25, 0.5, 0.9, 0.999999, 1.0, 2, 3.5, 1e3, 1e30)

ROWS = [
    Row(
        "hostile YAML",
        "refused in a few lines with exit code 2, within 2 s and 100 MB; nothing imported or "
        "written",
        hostile,
        pr=len(HOSTILE),
        release=len(HOSTILE),
    ),
    Row(
        "configs, mutated",
        "loads, and the resolved config loads to the same experiment; or is refused with key and "
        "line",
        mutated,
        pr=5,
        release=100,
        cases=100,
    ),
    Row(
        "configs that load",
        "`check` returns, or reports why the config cannot be trained",
        checked,
        pr=3,
        release=50,
        cases=20,
    ),
]
