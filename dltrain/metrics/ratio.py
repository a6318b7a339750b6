"""Quotients that may be undefined."""

NAN = float("nan")


def ratio(above: float, below: float) -> float:
    """A quotient; NaN where there is nothing to divide by."""
    return above / below if below else NAN
