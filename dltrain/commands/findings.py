"""A finding: something that looks wrong before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "initial loss",
    "unused parameters",
    "dead parameters",
    "constant inputs",
    "duplicate inputs",
    "leakage",
    "labels",
    "unknown tokens",
    "class imbalance",
    "loss and output",
    "does not overfit",
    "disk space",
    "save and load",
]


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong, although it can be trained.

    Attributes:
        kind: Kind of the finding.
        message: What was observed, why it matters and what to do.
    """

    kind: Kind
    message: str
