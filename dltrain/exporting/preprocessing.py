"""Raw inputs, as the data's files hold them, to the inputs of a model; and back."""

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
        name: What the file calls it.
        dtype: As numpy spells it.
        shape: A word where the size is free, such as `batch`.
        meaning: In a few words.
        longest: The most tokens; None where there is no limit.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str
    longest: int | None = None


class Preparation(Protocol):
    """Makes raw inputs into a model's.

    Attributes:
        port: What is raw about them.
    """

    port: Port

    def __call__(self, raw: Tensor) -> Tensor:
        """Raw inputs to the model's, (batch, *input_shape)."""
        ...

    def raw(self, inputs: Tensor) -> Tensor:
        """The model's inputs to the raw ones that they were made from."""
        ...


def preparation_of(spec: DataSpec, model: nn.Module, dtype: torch.dtype) -> Preparation:
    """For a model of this data.

    Args:
        spec: Of the data.
        model: Whose text inputs may have a least or a greatest length.
        dtype: Of the model's inputs, where they are floats.
    """
    if isinstance(spec.inputs, ImageInputs):
        return Pixels(spec.inputs, spec.input_shape, dtype)
    if isinstance(spec.inputs, TableInputs):
        return Rows(spec.inputs, dtype)
    width = max(model.widths) if isinstance(model, TextCnn) else 1
    longest = model.window if isinstance(model, Gpt) else None
    return Tokens(width, longest, len(spec.inputs.vocabulary), spec.inputs.padding)


class Pixels:
    """Pixels (batch, channels, height, width), uint8 or int32, to normalised floats."""

    def __init__(self, inputs: ImageInputs, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        colours = "grey" if shape[0] == 1 else "red, green, blue"
        meaning = f"pixels from {inputs.low} to {inputs.high}; {colours}"
        self.dtype: torch.dtype = inputs.dtype
        name = str(inputs.dtype).removeprefix("torch.")
        self.port: Port = Port("pixels", name, ("batch", *shape), meaning)
        self._normalise = ImageTransform(inputs, dtype=dtype, device=torch.device("cpu"))

    def __call__(self, raw: Tensor) -> Tensor:
        """See `Preparation`."""
        return self._normalise(raw, raw, None)  # without an epoch the index does not matter

    def raw(self, inputs: Tensor) -> Tensor:
        """See `Preparation`."""
        pixels = inputs / self._normalise.scale + self._normalise.centre
        return pixels.round().to(self.dtype) + self._normalise.low


class Rows:
    """Raw numbers (batch, columns) float64 to standardised and one-hot features."""

    def __init__(self, inputs: TableInputs, dtype: torch.dtype) -> None:
        self.columns: tuple[Column, ...] = inputs.columns
        self.dtype = dtype
        meaning = "a row's numbers, unscaled; of a category its place among its column's, or -1"
        self.port: Port = Port("rows", "float64", ("batch", len(self.columns)), meaning)
        wide = [(n, c) for n, column in enumerate(self.columns) for c in range(column.width)]
        of_features = [self.columns[number] for number, _ in wide]
        self._source = torch.tensor([number for number, _ in wide])
        self._code = torch.tensor([code for _, code in wide], dtype=torch.float64)
        self._mean = torch.tensor([c.mean for c in of_features], dtype=torch.float64)
        self._std = torch.tensor([c.std for c in of_features], dtype=torch.float64)
        self._is_category = torch.tensor([bool(c.categories) for c in of_features])

    def __call__(self, raw: Tensor) -> Tensor:
        """See `Preparation`."""
        values = raw.index_select(1, self._source)
        standardised = (values - self._mean) / self._std
        one_hot = (values == self._code).to(values.dtype)
        return torch.where(self._is_category, one_hot, standardised).to(self.dtype)

    def raw(self, inputs: Tensor) -> Tensor:
        """See `Preparation`."""
        parts = inputs.double().split([column.width for column in self.columns], dim=1)
        raw = []
        for column, part in zip(self.columns, parts, strict=True):
            places = torch.arange(1, column.width + 1, dtype=torch.float64)
            category = part @ places[:, None] - 1  # -1 where there is none
            raw.append(category if column.categories else part * column.std + column.mean)
        return torch.cat(raw, dim=1)


NO_TOKEN = 2**31 - 1
"""A token id beyond every vocabulary."""


class Tokens:
    """Numbers of tokens (batch, tokens) int64, with padding added.

    Args:
        width: The tokens that a model sees at once: no text is shorter after this.
        longest: See `Port`.
        size: Of the vocabulary.
        padding: Id of the token that pads a text.
    """

    def __init__(self, width: int, longest: int | None, size: int, padding: int) -> None:
        self._added, self._size, self._padding = width - 1, size, padding
        ids = f"token ids from 0 to {size - 1}, each token's place in the vocabulary"
        meaning = f"{ids}; {padding} pads at the end"
        self.port: Port = Port("tokens", "int64", ("batch", "tokens"), meaning, longest)

    def __call__(self, raw: Tensor) -> Tensor:
        """See `Preparation`.

        Raises:
            DataError: There are more tokens than the model can take, or one is not in the
                vocabulary. An exported file fails at such a token, too: ONNX would count a negative
                one from the end of the vocabulary, so both become one that is not in it.
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
            raise DataError(f"{raw.shape[1]} tokens; the context of the model has {longest}")
        wrong = raw[(raw < 0) | (raw >= self._size)]
        if len(wrong):
            raise DataError(f"token id {wrong[0].item()}; expected 0 to {self._size - 1}")

    def raw(self, inputs: Tensor) -> Tensor:
        """See `Preparation`."""
        return inputs


class Noise:
    """What a generator starts from, (batch, latent)."""

    def __init__(self, latent: int, dtype: torch.dtype) -> None:
        meaning = "drawn from a normal distribution of mean 0 and deviation 1"
        self.dtype = dtype
        name = str(dtype).removeprefix("torch.")
        self.port: Port = Port("noise", name, ("batch", latent), meaning)

    def __call__(self, raw: Tensor) -> Tensor:
        """See `Preparation`."""
        return raw

    def raw(self, inputs: Tensor) -> Tensor:
        """See `Preparation`."""
        return inputs
