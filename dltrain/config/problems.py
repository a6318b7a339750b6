"""Problems of a config with their positions and suggestions, formatted like compiler errors."""

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
        source: File as given by the user, or `command line: key=value`.
        line: Line, from 1; 0 on the command line.
        column: Column in characters, from 1.
        width: Number of characters to underline; 0 shows no source line.
        text: Source line.
    """

    source: str
    line: int = 0
    column: int = 0
    width: int = 0
    text: str = ""

    def __str__(self) -> str:
        """Return `file:line:column`."""
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    def snippet(self) -> str:
        """Return the source line with its number and carets below; long lines are truncated."""
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
    """One problem of a config.

    Attributes:
        path: Dotted path of the key; empty for the whole file.
        message: What is wrong and what is accepted.
        position: Position of the key or the value.
    """

    path: str
    message: str
    position: Position

    def __str__(self) -> str:
        """Return `file:line:column: key.path: message`, followed by the source line."""
        parts = [str(self.position), truncate(self.path), truncate(self.message, 1000)]
        return _printable(": ".join(filter(None, parts))) + self.position.snippet()


class ConfigError(UsageError):
    """A config is invalid.

    Attributes:
        problems: One or more problems, those of files first, sorted by line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Args: problems: problems in any order; duplicates are removed."""

        def sort_key(problem: Problem) -> tuple[bool, str, int, int]:
            at = problem.position
            return (at.line == 0, at.source, at.line, at.column)

        self.problems: list[Problem] = sorted(dict.fromkeys(problems), key=sort_key)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """Return the problems, at most `SHOWN_PROBLEMS`."""
        lines = [str(problem) for problem in self.problems[:SHOWN_PROBLEMS]]
        if len(self.problems) > SHOWN_PROBLEMS:
            lines.append(f"and {len(self.problems) - SHOWN_PROBLEMS} more problems")
        return "\n".join(lines)


def _printable(text: str) -> str:
    """Replace unprintable characters, which a terminal may interpret."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def truncate(text: str, limit: int = 80) -> str:
    """Truncate a text to at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def suggestions(word: str, candidates: Iterable[str]) -> list[str]:
    """Return the candidates equal but for case, else those within one edit, else the closest."""
    if len(word) > LONGEST_WORD:
        return []
    word = word.casefold()
    folded = {candidate: candidate.casefold() for candidate in candidates}
    same = [candidate for candidate in folded if folded[candidate] == word]
    near = [candidate for candidate in folded if _within_one_edit(word, folded[candidate])]
    return same or near or difflib.get_close_matches(word, folded, n=1)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or an empty text if no candidate is similar."""
    near = suggestions(word, candidates)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _within_one_edit(a: str, b: str) -> bool:
    """Return whether a deletion, insertion, substitution or transposition turns `a` into `b`."""
    common = list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    a, b = a[len(common) :], b[len(common) :]
    swapped = a[:2] == b[:2][::-1] and a[2:] == b[2:]
    return swapped or a[1:] == b[1:] or a[1:] == b or a == b[1:]
