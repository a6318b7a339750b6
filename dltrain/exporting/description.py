"""What a file says of itself: enough to use it without dltrain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dltrain._version import __version__
from dltrain.core.data_spec import DataSpec, ImageInputs, TableInputs, TextInputs
from dltrain.data.tokenization import WORD
from dltrain.exporting.interface import Interface

MOST_NAMES = 20
"""That are listed in a text; a file's own description has all of them."""


def description(interface: Interface, spec: DataSpec, trained: dict[str, Any]) -> dict[str, Any]:
    """As JSON holds it.

    Args:
        interface: Inputs and outputs.
        spec: Of the data.
        trained: What else to say: the run, the model's options.
    """
    about: dict[str, Any] = {"dltrain": __version__, **trained}
    about |= {"inputs": asdict(interface.inputs), "outputs": asdict(interface.outputs)}
    if spec.class_names:
        about["class_names"] = list(spec.class_names)
    if isinstance(spec.inputs, ImageInputs):
        about["background"] = spec.inputs.background
    if isinstance(spec.inputs, TableInputs):
        about["columns"] = [
            {"name": column.name, "categories": list(column.categories)}
            for column in spec.inputs.columns
        ]
    if isinstance(spec.inputs, TextInputs):
        about["vocabulary"] = list(spec.inputs.vocabulary)
        about["tokenizer"] = {
            "kind": spec.inputs.tokenizer,
            "pattern": WORD if spec.inputs.tokenizer == "word" else None,
            "lowercase": spec.inputs.lowercase,
            "max_tokens": spec.inputs.max_tokens,
            "padding": spec.inputs.padding,
            "unknown": spec.inputs.unknown,
            "definition": spec.inputs.definition,
        }
    return about


def listed(names: Sequence[object]) -> str:
    """Names in a line of text: the first ones, and how many more there are."""
    shown = ", ".join(str(name).replace("\n", "\\n") for name in names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"
