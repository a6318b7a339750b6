"""Describe an exported file in its metadata, so that it can be used without dltrain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dltrain._version import __version__
from dltrain.core.data_spec import DataSpec, ImageInputs, TableInputs, TextInputs
from dltrain.data.tokenization import WORD
from dltrain.exporting.interface import Interface

MAX_NAMES = 20
"""Maximum number of names in a text; the file's metadata has all of them."""


def description(interface: Interface, spec: DataSpec, trained: dict[str, Any]) -> dict[str, Any]:
    """Return the description of an exported file, JSON-compatible.

    Args:
        interface: Interface with the inputs and outputs.
        spec: Spec of the data.
        trained: Further entries: the run, the model's options.
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


def join_names(names: Sequence[object]) -> str:
    """Join at most `MAX_NAMES` names, followed by the number of further ones."""
    joined = ", ".join(str(name).replace("\n", "\\n") for name in names[:MAX_NAMES])
    return joined if len(names) <= MAX_NAMES else f"{joined} and {len(names) - MAX_NAMES} more"
