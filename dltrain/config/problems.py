"""What is wrong with a config, where, and which word was meant; printed as a compiler does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from dltrain.core.errors import UsageError

SHOWN_PROBLEMS = 20
SHOWN_COLUMNS = 100
LONGEST_WORD = 60


@dataclass(frozen=True)
class Position:
    """A place in a config.

    Attributes:
        source: The file as the user names it, or `command line: key=value`.
        line: From 1; 0 on the command line, which has no lines.
        column: From 1, in characters.
        width: Characters to underline; 0 shows no source line.
        text: The source line.
    """

    source: str
    line: int = 0
    column: int = 0
    width: int = 0
    text: str = ""

    def __str__(self) -> str:
        """`file:line:column`."""
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    def snippet(self) -> str:
        """The source line with its number, and carets under what is meant; long lines are cut."""
        if not self.width:
            return ""
        cut = max(0, self.column - SHOWN_COLUMNS // 2) if len(self.text) > SHOWN_COLUMNS else 0
        shown = _printable(self.text)[cut : cut + SHOWN_COLUMNS]
        before = shown[: self.column - 1 - cut]
        carets = "^" * max(1, min(self.width, len(shown) - len(before)))
        indent = "".join("\t" if letter == "\t" else " " for letter in before)
        return f"\n{self.line:5} | {shown}\n{'':5} | {indent}{carets}"


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Attributes:
        path: The dotted path of its key; empty if the whole file is meant.
        message: What is wrong, and what would be accepted.
        position: Where.
    """

    path: str
    message: str
    position: Position

    def __str__(self) -> str:
        """`file:line:column: key.path: message`, then the source line."""
        parts = [str(self.position), shortened(self.path), shortened(self.message, 1000)]
        return _printable(": ".join(filter(None, parts))) + self.position.snippet()


class ConfigError(UsageError):
    """Everything that is wrong with a config, files first, in the order of their lines.

    Attributes:
        problems: One or more.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Args: problems: in any order; each is told once."""

        def order(problem: Problem) -> tuple[bool, str, int, int]:
            at = problem.position
            return (at.line == 0, at.source, at.line, at.column)

        self.problems: list[Problem] = sorted(dict.fromkeys(problems), key=order)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """The problems, a few lines each."""
        lines = [str(problem) for problem in self.problems[:SHOWN_PROBLEMS]]
        if len(self.problems) > SHOWN_PROBLEMS:
            lines.append(f"and {len(self.problems) - SHOWN_PROBLEMS} more problems")
        return "\n".join(lines)


def _printable(text: str) -> str:
    """The text without what could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def shortened(text: str, limit: int = 80) -> str:
    """At most so many letters of a text."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def suggestions(word: str, candidates: Iterable[str]) -> list[str]:
    """The candidate that differs in case alone, else those within one edit, else the closest."""
    if len(word) > LONGEST_WORD:
        return []
    word = word.casefold()
    folded = {candidate: candidate.casefold() for candidate in candidates}
    same = [candidate for candidate in folded if folded[candidate] == word]
    near = [candidate for candidate in folded if _within_one_edit(word, folded[candidate])]
    return same or near or difflib.get_close_matches(word, folded, n=1)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing if no candidate is close."""
    near = suggestions(word, candidates)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _within_one_edit(a: str, b: str) -> bool:
    """Whether one letter dropped, added or replaced, or two neighbours swapped, turns a into b."""
    alike = list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    a, b = a[len(alike) :], b[len(alike) :]
    swapped = a[:2] == b[:2][::-1] and a[2:] == b[2:]
    return swapped or a[1:] == b[1:] or a[1:] == b or a == b[1:]
