"""Processes that are killed, or asked to stop, at any moment."""

from __future__ import annotations

ROWS: list = []
