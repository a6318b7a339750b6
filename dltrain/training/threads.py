"""Settings of OpenMP threads, which must be made before torch is imported."""

from __future__ import annotations

import os

SPINS = "10000"
"""Spins of a waiting thread: 0.5 ms on an AMD EPYC, where the default of 300,000 takes 10 ms."""


def wait_briefly() -> None:
    """Let idle OpenMP threads sleep soon, instead of keeping a core busy for milliseconds.

    Worker processes that load data need these cores. Without workers the next operation usually
    starts before a thread sleeps, so nothing is lost. The setting applies to libgomp, which torch
    uses on Linux and which reads it when it is loaded. `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY` in the
    environment takes precedence. Results do not depend on it.

    Source: the manual of GNU libgomp, "Environment Variables".
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
