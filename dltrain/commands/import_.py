"""Convert weights from a PyTorch file, a pickle, to safetensors, which can't run code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dltrain.checkpoints.atomic_files import open_named, write_atomically
from dltrain.checkpoints.snapshot import to_saveable
from dltrain.core.errors import RunError, UsageError, shorten

KEYS = ("state_dict", "model")
"""Keys under which a file may hold its weights among other things."""


@dataclass(frozen=True)
class Imported:
    """Result of an import.

    Attributes:
        path: The safetensors file.
        tensors: Number of tensors.
        values: Number of values in all tensors.
        bytes: Size of the file.
    """

    path: str
    tensors: int
    values: int
    bytes: int


def import_weights(source: str | Path, output: str | Path) -> Imported:
    """Read a state_dict, by `torch.load(weights_only=True)` only, and write it as safetensors.

    Args:
        source: File of `torch.save`: a state_dict, or a dict that has one under `state_dict` or
            `model`.
        output: The safetensors file to write; an existing file is replaced.

    Raises:
        RunError: The file can't be read, or holds something else, or `output` can't be written.
        UsageError: `output` is no `.safetensors` file.
    """
    source, output = Path(source), Path(output)
    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: weights are written to a .safetensors file")
    tensors = _tensors(source, _loaded(source))
    try:
        content = safetensors.torch.save(to_saveable(tensors))
    except Exception as error:  # sparse, quantized, of a kind that safetensors lacks
        raise RunError(f"{source}: can't be written as safetensors: {_describe(error)}") from error
    try:
        write_atomically(output, content)
    except OSError as error:
        raise RunError(f"{output}: can't be written: {error.strerror or error}") from error
    values = sum(tensor.numel() for tensor in tensors.values())
    return Imported(str(output), len(tensors), values, len(content))


def _loaded(source: Path) -> Any:
    try:
        with warnings.catch_warnings(), open_named(source) as file:
            warnings.simplefilter("ignore")  # about old and scripted files
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RunError(f"{source}: can't be read: {error.strerror or error}") from error
    except Exception as error:  # bytes of an unknown file may raise anything
        raise RunError(f"{source}: no file of tensors alone: {_describe(error)}") from error


def _tensors(source: Path, loaded: Any) -> dict[str, Tensor]:
    for key in KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise RunError(f"{source}: holds no state_dict, but {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            entry = f"{shorten(repr(name))} is {type(value).__name__}"
            raise RunError(f"{source}: holds no state_dict: {entry}, not a tensor")
    return dict(loaded)


def _describe(error: Exception) -> str:
    """Return the first sentence; those that follow explain how to read the file less safely."""
    line = str(error).partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {shorten(line)}" if line else type(error).__name__
