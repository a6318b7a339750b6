"""Rows of numbered trials, which the test suite and `scripts/torture.py` share."""

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
        name: Short description of the injected fault.
        promise: Required behavior.
        trial: Function that injects the fault once, in an empty folder, and raises AssertionError
            if the promise is broken. It depends only on the number of the trial.
        pr: Number of trials in the test suite.
        release: Number of trials of `scripts/torture.py`.
        cases: Number of cases per trial.
    """

    name: str
    promise: str
    trial: Callable[[int, Path], None]
    pr: int
    release: int
    cases: int = 1


def assert_within(seconds: float, limit: float) -> None:
    """Assert that a trial took less than `limit` seconds, if DLTRAIN_TIMED is set.

    `scripts/torture.py` sets it on an idle machine. The suite may share its machine, where a delay
    would not be a broken promise.
    """
    if os.environ.get("DLTRAIN_TIMED"):
        assert seconds < limit, f"expected less than {limit:g} s, got {seconds:.1f} s"


def with_model(name: str, builder: Callable[..., nn.Module]) -> Callable[..., Callable]:
    """Register a model during a trial only, so that other tests do not find it."""

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
