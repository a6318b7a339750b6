"""How torch's threads wait for each other; decided before torch is loaded."""

from __future__ import annotations

import os

SPINS = "10000"
"""Looks of a waiting thread: half a millisecond on an AMD EPYC, where libgomp's default of 300,000
takes ten."""


def wait_briefly() -> None:
    """Has a thread without work sleep soon, instead of keeping a core busy for milliseconds.

    Where batches come from other processes, those need the core. In a loop without them the next
    operation comes long before, so nothing is lost. It is libgomp's setting, which torch computes
    with on Linux, and it reads it once, as it is loaded; `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY` in
    the environment goes before. No result depends on it.

    Source: the manual of GNU libgomp, "Environment Variables".
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
