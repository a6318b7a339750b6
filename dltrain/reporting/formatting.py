"""Numbers and sizes as text for a reader."""

from __future__ import annotations


def format_number(value: float, digits: int = 5) -> str:
    """Round to significant digits, without an exponent for numbers below a billion.

    >>> format_number(396891.4), format_number(0.1227, 3), format_number(2.28e-11)
    ('396,891', '0.123', '2.28e-11')
    """
    return f"{value:,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e9 else f"{value:.{digits}g}"


def format_bytes(count: int) -> str:
    """Convert a number of bytes to a binary unit.

    >>> format_bytes(1_600_000), format_bytes(512)
    ('1.5 MiB', '512 bytes')
    """
    for exponent, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**exponent:
            return f"{count / 1024**exponent:,.1f} {unit}"
    return f"{count} bytes"
