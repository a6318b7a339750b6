"""What is wrong with a request, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST_TOLD = 20
"""Problems that one answer lists."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        message: What, and where.
        item: The number of the picture, row or text, from 0; None where it is the whole request.
    """

    message: str
    item: int | None = None


class RequestError(Exception):
    """A request that can't be answered.

    Args:
        status: The HTTP status.
        problems: What is wrong with it.
        headers: What the answer has to say beside.
    """

    def __init__(
        self,
        status: int,
        problems: Sequence[Problem] | str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.problems = [Problem(problems)] if isinstance(problems, str) else [*problems]
        super().__init__(self.problems[0].message)
        self.status, self.headers = status, dict(headers or {})
