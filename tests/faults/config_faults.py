"""Configs that mean harm, and configs that were mutated."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from processes import Started
from rows import Row

VALID = """\
model: mlp
data: toy_spirals
loss: cross_entropy
optimizer: adamw
train: {epochs: 1}
"""
SECONDS, MEGABYTES, LINES = 2, 100, 61  # 20 problems of three lines, and how many more there are


def _with(**changed: str) -> str:
    """The valid config with other values, as YAML."""
    lines = dict(line.split(": ", 1) for line in VALID.splitlines()) | changed
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


def _aliases(first: str, item: str, levels: int) -> str:
    """Each level is made of the one below; `#` stands for its alias."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {item.replace('#', f'*a{n - 1}')}" for n in range(1, levels)]
    return "\n".join(lines)


def _many(number: int, text: str) -> str:
    """Repeated; `#` stands for the number."""
    return "".join(text.replace("#", str(n)) for n in range(number))


HOSTILE: dict[str, str | bytes] = {
    # what constructs, imports or calls something
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
    # what grows
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
    # what is no text, or not one config
    "NUL": VALID + "name: a\0b",
    "NUL alone": b"\0" * 1000,
    "escaped NUL": VALID + r'name: "a\0b"',
    "escape sequence": VALID + "name: \x1b]0;harmed\x07",
    "escaped escape sequence": VALID + r'name: "\e]0;harmed\a"',
    "escape sequence in a key": VALID + r'"\e[31mname": 1',
    "half a character": VALID + r'name: "\ud800"',
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
    """One file, read by `load` and by the command line, in a process that watches itself."""
    content = list(HOSTILE.values())[number]
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "hostile.yaml").write_bytes(data)
    (folder / "wrong.yaml").write_text(f"{VALID}wrong: 1")
    (folder / "canary.py").write_text(
        "open('harmed', 'w').close()\ndef call(*_): ...\nThing = call"
    )
    os.mkfifo(folder / "pipe")  # that nobody writes to; who reads it waits for ever
    before = {path.name for path in folder.iterdir()}
    watched = Started("watched", folder, watch)
    try:
        code = watched.wait()
    finally:
        watched.end()
    assert code == 0, watched.err
    told = json.loads(watched.out)
    assert told["load"]["error"] == "ConfigError", told
    assert told["train"]["code"] == 2, told
    assert told["train"]["out"] == "", told
    for way, text in (("load", told["load"]["text"]), ("train", told["train"]["err"])):
        lines = text.splitlines()
        assert 1 <= len(lines) <= LINES, (way, text)
        assert "Traceback" not in text, (way, text)
        assert all(len(line) < 1300 for line in lines), (way, text)
        assert all(c.isprintable() or c in "\t\n" for c in text), (way, text)
        assert told[way]["seconds"] < SECONDS, told
        assert told[way]["megabytes"] < MEGABYTES, told
        assert told[way]["did"] == [], told
    assert {path.name for path in folder.iterdir()} - before == {"watched.out", "watched.err"}


def watch() -> None:
    """Loads and trains hostile.yaml; prints what that cost and what it did, as JSON."""
    from dltrain.cli import main
    from dltrain.config import load

    sys.path.insert(0, "")
    did: list[str] = []
    watching = False

    def hook(event: str, arguments: tuple) -> None:
        if watching and event in _DEEDS:
            did.append(f"{event} {arguments!r:.200}")
        if watching and event == "open" and set(str(arguments[1] or "r")) & set("wax+"):
            did.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)

    def measured(run) -> dict:  # in the processor's time, which others do not take away
        nonlocal watching
        used, started = _megabytes(), time.process_time()
        watching = True
        try:
            result = run()
        finally:
            watching = False
        seconds = time.process_time() - started
        result |= {"seconds": seconds, "megabytes": _megabytes() - used, "did": list(did)}
        did.clear()
        return result

    def loaded(path: str) -> dict:
        try:
            load(path)
        except BaseException as error:  # whatever it is, it is told
            return {"error": type(error).__name__, "text": str(error)}
        return {"error": None, "text": ""}

    def trained(path: str) -> dict:
        sys.argv = ["dltrain", "train", path]
        code: object = None
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            try:
                main()
            except SystemExit as ended:
                code = ended.code
            except BaseException as error:  # as above
                code = repr(error)
        return {"code": code, "out": out.getvalue(), "err": err.getvalue()}

    for warm_up in (loaded, trained):  # what every config imports has been imported after these
        warm_up("wrong.yaml")
    # The command first: what it took counts no more after it.
    told = {
        "train": measured(lambda: trained("hostile.yaml")),
        "load": measured(lambda: loaded("hostile.yaml")),
    }
    print(json.dumps(told))


_DEEDS = {
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
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


ROWS = [
    Row(
        "hostile YAML",
        "refused in a few lines with exit code 2, in 2 s and 100 MB; nothing imported or written",
        hostile,
        pr=len(HOSTILE),
        release=len(HOSTILE),
    ),
]
