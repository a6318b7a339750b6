"""Errors of a request, as the JSON that a client receives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi.responses import JSONResponse
from pydantic import Field

MAX_PROBLEMS = 20
"""Maximum number of problems in a response."""

RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True)
class Problem:
    """One reason for which a request was refused."""

    message: Annotated[str, Field(description="What is wrong, and where.")]
    item: Annotated[
        int | None,
        Field(
            description="Index of the image, row or text; null where the whole request is meant."
        ),
    ]


@dataclass(frozen=True)
class Errors:
    """Body of the response to a refused request."""

    errors: list[Problem]


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status of the response.
        problems: Reasons for which the request is refused.
        headers: Further headers of the response.
    """

    def __init__(
        self,
        status: int,
        problems: Sequence[Problem] | str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.problems: list[Problem] = (
            [Problem(problems, None)] if isinstance(problems, str) else [*problems]
        )
        super().__init__(self.problems[0].message)
        self.status = status
        self.headers: dict[str, str] = dict(headers or {})

    def response(self) -> AsciiJSONResponse:
        """Return the response to the request."""
        return AsciiJSONResponse(asdict(Errors(self.problems)), self.status, self.headers)


class AsciiJSONResponse(JSONResponse):
    """JSON with escaped non-ASCII characters: names of files and classes need not be UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def overloaded(message: str) -> RequestError:
    """Return the error of a request that the client may repeat soon."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return RequestError(503, f"{message}; retry later", headers)
