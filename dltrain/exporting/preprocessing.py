"""Convert raw inputs, as in the data's files, to the inputs of a model, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.core.data_spec import Column, DataSpec, ImageInputs, TableInputs
from dltrain.core.errors import DataError
from dltrain.data.images import ImageTransform
from dltrain.models.language_models import Gpt
from dltrain.models.text_encoders import TextCnn


@dataclass(frozen=True)
class Port:
    """An input or output of an exported file.

    Attributes:
        name: Name of the input or output in the file.
        dtype: Name of the numpy dtype.
        shape: Sizes; a word such as `batch` for a variable size.
        meaning: Short description.
        longest: Maximum number of tokens; None for no limit.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str
    longest: int | None = None


class Preparation(Protocol):
    """Converts raw inputs to a model's inputs.

    Attributes:
        port: Description of the raw inputs.
    """

    port: Port

    def __call__(self, raw: Tensor) -> Tensor:
        """Convert raw inputs to the model's inputs, (batch, *input_shape)."""
        ...

    def raw(self, inputs: Tensor) -> Tensor:
        """Convert the model's inputs back to raw inputs."""
        ...


def preparation_of(spec: DataSpec, model: nn.Module, dtype: torch.dtype) -> Preparation:
    """Return the preparation for a model and its data.

    Args:
        spec: Spec of the data.
        model: Model, which may limit the length of text inputs.
        dtype: Dtype of floating-point inputs of the model.
    """
    if isinstance(spec.inputs, ImageInputs):
        return Pixels(spec.inputs, spec.input_shape, dtype)
    if isinstance(spec.inputs, TableInputs):
        return Rows(spec.inputs, dtype)
    width = max(model.widths) if isinstance(model, TextCnn) else 1
    longest = model.window if isinstance(model, Gpt) else None
    return Tokens(width, longest, len(spec.inputs.vocabulary), spec.inputs.padding)


class Pixels:
    """Converts pixels (batch, channels, height, width), uint8 or int32, to normalized floats."""

    def __init__(self, inputs: ImageInputs, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        colours = "grey" if shape[0] == 1 else "red, green, blue"
        meaning = f"pixels from {inputs.low} to {inputs.high}; {colours}"
        self.dtype: torch.dtype = inputs.dtype
        name = str(inputs.dtype).removeprefix("torch.")
        self.port: Port = Port("pixels", name, ("batch", *shape), meaning)
        self._normalize = ImageTransform(inputs, dtype=dtype, device=torch.device("cpu"))

    def __call__(self, raw: Tensor) -> Tensor:
        """See `Preparation`."""
        return self._normalize(raw, raw, None)  # the index is used for augmentation only

    def raw(self, inputs: Tensor) -> Tensor:
        """See `Preparation`."""
        pixels = inputs / self._normalize.scale + self._normalize.centre
        return pixels.round().to(self.dtype) + self._normalize.low


class Rows:
    """Converts raw numbers (batch, columns), float64, to standardized and one-hot features."""

    def __init__(self, inputs: TableInputs, dtype: torch.dtype) -> None:
        self.columns: tuple[Column, ...] = inputs.columns
        self.dtype = dtype
        meaning = "unscaled numbers of a row; for a category its index in the column, or -1"
        self.port: Port = Port("rows", "float64", ("batch", len(self.columns)), meaning)
        features = [(n, c) for n, column in enumerate(self.columns) for c in range(column.width)]
        sources = [self.columns[number] for number, _ in features]
        self._source = torch.tensor([number for number, _ in features])
        self._code = torch.tensor([code for _, code in features], dtype=torch.float64)
        self._mean = torch.tensor([column.mean for column in sources], dtype=torch.float64)
        self._std = torch.tensor([column.std for column in sources], dtype=torch.float64)
        self._is_category = torch.tensor([bool(column.categories) for column in sources])

    def __call__(self, raw: Tensor) -> Tensor:
        """See `Preparation`."""
        values = raw.index_select(1, self._source)
        standardized = (values - self._mean) / self._std
        one_hot = (values == self._code).to(values.dtype)
        return torch.where(self._is_category, one_hot, standardized).to(self.dtype)

    def raw(self, inputs: Tensor) -> Tensor:
        """See `Preparation`."""
        parts = inputs.double().split([column.width for column in self.columns], dim=1)
        raw = []
        for column, part in zip(self.columns, parts, strict=True):
            indices = torch.arange(1, column.width + 1, dtype=torch.float64)
            category = part @ indices[:, None] - 1  # -1 for no category
            raw.append(category if column.categories else part * column.std + column.mean)
        return torch.cat(raw, dim=1)


NO_TOKEN = 2**31 - 1
"""A token id beyond every vocabulary."""


class Tokens:
    """Pads token ids (batch, tokens), int64, to a model's minimum length.

    Args:
        width: Minimum number of tokens that the model accepts.
        longest: Maximum number of tokens; None for no limit.
        size: Size of the vocabulary.
        padding: Id of the padding token.
    """

    def __init__(self, width: int, longest: int | None, size: int, padding: int) -> None:
        self._added, self._size, self._padding = width - 1, size, padding
        ids = f"token ids from 0 to {size - 1}, indices in the vocabulary"
        meaning = f"{ids}; {padding} is padding, at the end"
        self.port: Port = Port("tokens", "int64", ("batch", "tokens"), meaning, longest)

    def __call__(self, raw: Tensor) -> Tensor:
        """See `Preparation`.

        Raises:
            DataError: There are too many tokens, or a token is not in the vocabulary. An exported
                file fails for such a token too: ONNX would count a negative id from the end of the
                vocabulary, so that ids out of range are replaced by `NO_TOKEN`.
        """
        if torch.compiler.is_exporting():
            raw = torch.where(raw < 0, NO_TOKEN, raw)
            if self.port.longest is not None:
                beyond = torch.arange(raw.shape[1]) >= self.port.longest
                raw = torch.where(beyond, NO_TOKEN, raw)
        else:
            self._check(raw)
        return F.pad(raw, (0, self._added), value=self._padding) if self._added else raw

    def _check(self, raw: Tensor) -> None:
        longest = self.port.longest
        if longest is not None and raw.shape[1] > longest:
            raise DataError(f"expected at most {longest} tokens, got {raw.shape[1]}")
        wrong = raw[(raw < 0) | (raw >= self._size)]
        if len(wrong):
            raise DataError(f"expected token ids from 0 to {self._size - 1}, got {wrong[0].item()}")

    def raw(self, inputs: Tensor) -> Tensor:
        """See `Preparation`."""
        return inputs


class Noise:
    """The noise inputs of a generator, (batch, latent)."""

    def __init__(self, latent: int, dtype: torch.dtype) -> None:
        meaning = "standard normal noise"
        self.dtype = dtype
        name = str(dtype).removeprefix("torch.")
        self.port: Port = Port("noise", name, ("batch", latent), meaning)

    def __call__(self, raw: Tensor) -> Tensor:
        """See `Preparation`."""
        return raw

    def raw(self, inputs: Tensor) -> Tensor:
        """See `Preparation`."""
        return inputs
