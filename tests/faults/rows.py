"""What a fault test and the release-sized torture have in common: numbered trials of a promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A row of docs/reliability.md.

    Attributes:
        name: In a few words, what is injected.
        promise: What must hold.
        trial: Injects the fault once, in an empty folder, and raises AssertionError where the
            promise is broken. What it does is a function of its number alone.
        pr: Trials in the test suite.
        release: Trials of `scripts/torture.py`.
        cases: How many cases one trial tries.
    """

    name: str
    promise: str
    trial: Callable[[int, Path], None]
    pr: int
    release: int
    cases: int = 1
