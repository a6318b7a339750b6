"""What a fault test and the release-sized torture have in common: numbered trials of a promise."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

from torch import nn

from dltrain.config.plugins import register_builtins
from dltrain.core.registry import MODELS


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


def in_time(seconds: float, limit: float) -> None:
    """Holds a trial to a promised time where the machine is its own, as `scripts/torture.py` says.

    On a shared one, as the suite's may be, a slow moment would break a promise that holds.
    """
    if os.environ.get("DLTRAIN_TIMED"):
        assert seconds < limit, f"{seconds:.1f} s, and {limit:g} s are promised"


def with_model(name: str, builder: Callable[..., nn.Module]) -> Callable[..., Callable]:
    """Registers a model while a trial runs; other tests are not to see it."""

    def decorate(trial: Callable[[int, Path], None]) -> Callable[[int, Path], None]:
        @wraps(trial)
        def run(number: int, folder: Path) -> None:
            register_builtins()
            before = dict(MODELS)
            MODELS.register(name)(builder)
            try:
                trial(number, folder)
            finally:
                MODELS._components = before

        return run

    return decorate
