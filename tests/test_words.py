"""Retired words stay retired: identifiers, and phrases in prose, that have a standard term now."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
AREAS = ("dltrain", "scripts", "tests", "docs", "configs", "README.md", "CONTRIBUTING.md")
SUFFIXES = {".py", ".md", ".yaml", ".html", ".js", ".css"}

IDENTIFIERS = {
    "Bucketed": "LengthBuckets",
    "Checkpoints": "CheckpointStore",
    "FiniteGuard": "NonFiniteGuard",
    "FollowedError": "PeerFailureError",
    "HeldOut": "HoldoutSize",
    "Machine": "Runtime",
    "MakePhase": "PhaseFactory",
    "Numerics": "Precision",
    "OptimizerCopy": "OptimizerBackup",
    "PictureHeader": "ImageHeader",
    "Recorder": "Logger",
    "Resident": "InMemory",
    "Saving": "CheckpointManager",
    "Share": "RankSlice",
    "StepNumbers": "StepScalars",
    "StoppedError": "InterruptedRunError",
    "Streamed": "Streaming",
    "TaskParts": "TaskContext",
    "Undo": "StepRollback",
    "WHOLE": "FULL_BATCH",
    "WeightAverage": "ExponentialMovingAverage",
    "World": "ProcessGroup",
    "_keep_account": "_update_best_and_early_stopping",
    "_told": "describe_error",
    "as_plain": "to_jsonable",
    "begin_again": "mark_resumed",
    "begun_by": "find_existing",
    "brief": "shorten",
    "build_machine": "build_runtime",
    "code_now": "current_code",
    "copy_from_main": "broadcast_",
    "count_on_device": "make_optimizers_capturable",
    "decode_picture": "decode_image_bytes",
    "each_key_once": "reject_duplicate_keys",
    "early_stop_text": "describe_early_stop",
    "first_on_machine": "local_rank_zero_first",
    "from_main": "broadcast_object",
    "give_up_unsaved": "discard_unsaved",
    "in_words": "describe",
    "keep_large_blocks": "retain_freed_memory",
    "learns": "adapt_spec",
    "lone_sample_error": "single_sample_error",
    "misfit": "incompatible_checkpoint",
    "obstacle": "cuda_graph_blocker",
    "over_all_ranks": "convert_batch_norm",
    "picture": "image",
    "pictures": "images",
    "put_back": "restore",
    "put_back_where": "restore_where",
    "read_by_main": "read_on_main",
    "refuse_lone_samples": "single_sample_error",
    "resident_data": "in_memory_data",
    "resident_images": "in_memory_images",
    "resolve_numerics": "resolve_precision",
    "say": "warn, log_message or report",
    "settle": "drain",
    "settled": "drained",
    "spread_as": "shard_like",
    "start_over": "reset",
    "stay_away": "report_absence",
    "tensors_from_main": "broadcast_tensors",
    "told": "message, output or reported",
    "told_by": "describe_error",
    "undirected": "undirected_scalars",
    "value_text": "format_value",
}
"""Retired identifier to its replacement."""

PHRASES = {
    r"a name, it seems": "looks like an identifier",
    r"as (it is|they are)(?=[.,:;)])": "unchanged",
    r"as you like|as one likes": "at any time",
    r"apart from the gradient": "decoupled",
    r"to bear|can('t)? bear": "tolerate, or a maximum number",
    r"begin(s|ning)? again|begun again|start(s|ed)? over": "restart",
    r"bit for bit": "bitwise identical",
    r"exact to resume": "bit-exact resume",
    r"floors and rooms": "layers and modules",
    r"(go|goes|going|gone|went) on": "resume or continue",
    r"how the weights begin": "weight initialization",
    r"how to ask from a program": "API documentation",
    r"in the middle one": "median",
    r"in which numbers": "precision",
    r"is there already": "already exists",
    r"less a sixteenth": "keeping 1/16 in reserve",
    r"made sentences": "synthetic sentences",
    r"the memory is full|full memory": "out of memory",
    r"pictures?": "image",
    r"something looks wrong": "valid, with warnings",
    r"(samples|steps|tokens|requests|batches|images|values|ms|MiB|FLOPs|FLOP) an? "
    r"(second|step|epoch|sample|optimizer step|batch|request)": "... per ...",
    r"told": "reported or shown",
    r"to come again": "status 503",
    r"what became of": "the results",
    r"what is made small": "loss function to minimize",
    r"who hears|hears of": "receives",
    r"whoever": "the caller, the reader, ...",
    r"will stand here": "appears here",
}
"""Retired phrase, a regular expression of whole words in any case, to its replacement."""

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("docs/export.md", "pictures"): "the name of an output in exported files",
    ("dltrain/exporting/interface.py", "pictures"): "the name of an output in exported files",
    ("dltrain/cli/tuning.py", "picture"): "a key of the JSON output",
    ("dltrain/commands/tune_lr.py", "picture"): "a key of the JSON output",
    ("tests/commands/test_tune_lr.py", "picture"): "a key of the JSON output",
    ("tests/core/test_paths.py", "picture"): "a key of the JSON output",
}
"""Path and retired word to the reason why it stays there."""

PENDING = ()
"""Files and folders that still have retired words. Remove an entry to check it."""


def _pattern(phrase: str) -> re.Pattern[str]:
    """Compile a phrase: whole words, in any case, over line breaks too."""
    words = phrase.replace(" ", r"\s+")
    return re.compile(rf"(?<![\w-])(?:{words})(?![\w-])", re.IGNORECASE)


_PATTERNS = {_pattern(phrase): new for phrase, new in PHRASES.items()}
_ANY = _pattern("|".join(PHRASES))


def identifiers(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each identifier of a Python module, those in f-strings included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant):
            continue
        for _, field in ast.iter_fields(node):
            for value in field if isinstance(field, list) else [field]:
                if isinstance(value, str):
                    yield from ((getattr(node, "lineno", 0), name) for name in value.split("."))


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each string literal of a Python module, docstrings included."""
    formatted: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            formatted |= set(node.values)
            parts = [part.value if isinstance(part, ast.Constant) else "" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in formatted:
            yield node.lineno, node.value


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield first line and text of each block of comments of a Python module."""
    block: list[str] = []
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] == first + len(block):
                block.append(token.string.lstrip("# "))
                continue
            yield first, "\n".join(block)
            first, block = token.start[0], [token.string.lstrip("# ")]
    yield first, "\n".join(block)


def retired(source: str, *, python: bool) -> list[tuple[int, str, str]]:
    """Return line, text and replacement of each retired word of a file."""
    found = []
    texts = [(1, source)]
    if python:
        texts = [*strings(source), *comments(source)]
        for line, name in identifiers(source):
            if name in IDENTIFIERS:
                found.append((line, name, IDENTIFIERS[name]))
    for start, text in texts:
        for match in _ANY.finditer(text):
            at = match.start()
            new = next(new for pattern, new in _PATTERNS.items() if pattern.match(text, at))
            words = " ".join(match[0].split())
            found.append((start + text.count("\n", 0, at), words, new))
    return sorted(found)


def files(area: str) -> list[Path]:
    """Return the files of an area that are checked, pending ones excluded."""
    place = ROOT / area
    paths = [place] if place.is_file() else sorted(place.rglob("*"))
    return [
        path
        for path in paths
        if path.suffix in SUFFIXES
        and path != Path(__file__)
        and not any(path.is_relative_to(ROOT / pending) for pending in PENDING)
    ]


@pytest.mark.parametrize("area", AREAS)
def test_no_retired_word_comes_back(area):
    lines = []
    for path in files(area):
        name = path.relative_to(ROOT).as_posix()
        found = retired(path.read_text(encoding="utf-8"), python=path.suffix == ".py")
        lines += [
            f"{name}:{line}: {word!r} is retired, write {new!r}"
            for line, word, new in found
            if (name, word.lower()) not in EXCEPTIONS
        ]
    assert not lines, "\n".join(["", *lines])


def test_each_exception_is_needed():
    for (name, word), reason in EXCEPTIONS.items():
        source = (ROOT / name).read_text(encoding="utf-8")
        found = retired(source, python=name.endswith(".py"))
        assert word in {text.lower() for _, text, _ in found}, f"{name}: {word!r} ({reason})"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(World): ...", [(1, "World")]),
        ("x = f'{a.learns!r}'", [(1, "learns")]),
        ("from a.misfit import b as brief", [(1, "brief"), (1, "misfit")]),
        ('def f():\n    """Run.\n\n    It goes\n    on.\n    """', [(4, "goes on")]),
        ("x = 1\n# Runs that are equal bit\n# for bit.", [(2, "bit for bit")]),
        ("x = f'{n} samples a ' f'second'", [(1, "samples a second")]),
        ("x = f'a {kind} of pictures'", [(1, "pictures")]),
        ("World = 'ongoing'  # foretold", [(1, "World")]),
        ("x = 'World', 'ongoing'  # foretold, --picture", []),
    ],
)
def test_retired_words_are_found(source, expected):
    assert [(line, word) for line, word, _ in retired(source, python=True)] == expected


def test_retired_words_of_a_page_are_found():
    found = retired("# Title\n\nIt can be\ngone on with.", python=False)
    assert found == [(4, "gone on", "resume or continue")]
