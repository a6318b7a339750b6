"""Constrained types of options, as the signatures of components use them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Quote = Literal["auto"] | Annotated[str, Field(pattern=r"^[^\r\n]$")] | None
"""What encloses the cells of a table; None for nothing, `auto` for what its delimiter suggests."""
