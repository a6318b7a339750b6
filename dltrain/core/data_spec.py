"""Specification of data: shapes, classes, vocabulary and normalization."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError

from dltrain.core.option_types import Quote


@dataclass(frozen=True)
class ImageInputs:
    """Images: (channels, height, width) float, (pixel - centre) / scale per channel.

    Attributes:
        mean: Mean of each channel, where `low` is 0 and `high` is 1.
        std: Standard deviation of each channel, where `low` is 0 and `high` is 1.
        deep: Whether images are grayscale with more than 8 bits per pixel; their pixels are int32
            instead of uint8.
        low: 0; for deep images the minimum pixel value of the training images.
        high: 255; for deep images the maximum pixel value of the training images.
        background: Gray level, 0 to 255, behind transparent parts of 8-bit images.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Literal["image"] = "image"
    deep: bool = False
    low: int = 0
    high: int = 255
    background: Annotated[int, Field(ge=0, le=255)] = 255

    @property
    def centre(self) -> tuple[float, ...]:
        """Pixel value that becomes 0, per channel."""
        return tuple(self.low + (self.high - self.low) * mean for mean in self.mean)

    @property
    def scale(self) -> tuple[float, ...]:
        """Difference of pixel values that becomes 1, per channel."""
        return tuple((self.high - self.low) * std for std in self.std)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of pixels: int32 for deep images, else uint8."""
        return torch.int32 if self.deep else torch.uint8


@dataclass(frozen=True)
class Column:
    """A column of a table: standardized if numeric, else one-hot encoded over its categories."""

    name: str
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Number of features of the column."""
        return len(self.categories) or 1


@dataclass(frozen=True)
class TableInputs:
    """Rows of a table: (features,), the features of all columns concatenated.

    Attributes:
        columns: Columns in feature order.
        quote: Quote character of the training file, with which new files are read too.
    """

    columns: tuple[Column, ...]
    quote: Quote = "auto"
    kind: Literal["table"] = "table"


PADDING = 0
"""Id of the padding in a vocabulary that dltrain builds; see `TextInputs.padding`."""

UNKNOWN = 1
"""Id of unknown tokens in a vocabulary that dltrain builds; see `TextInputs.unknown`."""


@dataclass(frozen=True)
class TextInputs:
    """Sequences of token ids: (tokens,) int64, shorter ones padded at the end with `padding`.

    Attributes:
        tokenizer: `word` splits at Unicode word boundaries, `character` into characters, `file`
            uses a tokenizer file of the `tokenizers` library.
        vocabulary: Tokens by id. The ids are those of the tokenizer file if there is one.
        lowercase: Whether text is lowercased first.
        max_tokens: Maximum number of tokens, special tokens included; longer texts are truncated.
        definition: Content of the tokenizer file, JSON; empty without one.
        padding: Id of the padding token, which a model must mask.
        unknown: Id for tokens that are not in the vocabulary; None if the tokenizer file has none,
            as with byte-level tokenizers.
        columns: Text columns of a table; several are joined by a space.
        quote: Quote character of the training table, with which new tables are read too.
    """

    tokenizer: Literal["word", "character", "file"]
    vocabulary: tuple[str, ...]
    lowercase: bool = False
    max_tokens: int | None = None
    definition: str = ""
    padding: int = PADDING
    unknown: int | None = UNKNOWN
    columns: tuple[str, ...] = ("text",)
    quote: Quote = "auto"
    kind: Literal["text"] = "text"


Inputs = ImageInputs | TableInputs | TextInputs
"""Conversion of raw data into samples."""


@dataclass(frozen=True)
class DataSpec:
    """Specification of data for models, losses and metrics; saved in every checkpoint.

    Attributes:
        input_shape: Shape of one sample, without the batch dimension: (channels, height, width),
            (features,), or (tokens,), which is (0,) for texts of different lengths.
        num_outputs: Width of the model's output: the number of classes, of target values, or of
            tokens for a language model, unless the loss requires another width, such as one logit
            for two classes.
        inputs: Conversion of raw data into samples, which is applied to new files too.
        class_names: Names of the classes; empty for regression.
        class_counts: Number of training samples per class, parallel to `class_names`.
        target_mean: Mean by which regression targets are standardized; a prediction is
            `output * target_std + target_mean`.
        target_std: Standard deviation by which regression targets are standardized.
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    inputs: Annotated[Inputs, Field(discriminator="kind")]
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    target_mean: float = 0.0
    target_std: float = 1.0

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return len(self.class_names)


@cache
def _spec_adapter() -> TypeAdapter[DataSpec]:
    """Return the validator of specs. Building it takes as long as some training steps."""
    return TypeAdapter(DataSpec)


def spec_to_json(spec: DataSpec) -> dict[str, Any]:
    """Return a spec as JSON-serializable values."""
    return _spec_adapter().dump_python(spec, mode="json")


def spec_from_json(value: Any) -> DataSpec:
    """Return the spec that `spec_to_json` was called with.

    Raises:
        ValueError: The value is no spec, or is inconsistent; the message is one line.
    """
    try:
        spec = _spec_adapter().validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = ".".join(["spec", *map(str, found["loc"])])
        raise ValueError(f"{place}: {found['msg']}") from None
    if (message := contradiction(spec)) is not None:
        raise ValueError(f"spec: {message}")
    return spec


def contradiction(spec: DataSpec) -> str | None:
    """Return an inconsistency between the parts of a spec; None if there is none."""
    return next(_contradictions(spec), None)


def _contradictions(spec: DataSpec) -> Iterator[str]:
    names, counts, shape = spec.class_names, spec.class_counts, spec.input_shape
    if spec.num_outputs < 1 or (names and len(names) != spec.num_outputs):
        yield f"num_outputs is {spec.num_outputs}, and class_names has {len(names)} names"
    if counts and len(counts) != len(names):
        yield f"class_counts has {len(counts)} numbers, and class_names has {len(names)} names"
    if any(count < 0 for count in counts):
        yield f"class_counts has {min(counts)}: expected 0 or more"
    yield from _duplicates("class_names", names)
    yield from _invalid_number("target_mean", spec.target_mean)
    yield from _invalid_number("target_std", spec.target_std, above=0)
    match spec.inputs:
        case ImageInputs():
            yield from _image_contradictions(spec.inputs, shape)
        case TableInputs():
            yield from _table_contradictions(spec.inputs, shape)
        case TextInputs():
            yield from _text_contradictions(spec.inputs, shape)


def _image_contradictions(inputs: ImageInputs, shape: tuple[int, ...]) -> Iterator[str]:
    if len(shape) != 3 or min(shape) < 1:
        yield f"input_shape is {list(shape)}: images have channels, height and width, 1 or more"
    for name, values in (("mean", inputs.mean), ("std", inputs.std)):
        if len(values) != shape[0]:
            yield f"inputs.{name} has {len(values)} numbers, and input_shape {shape[0]} channels"
        for value in values:
            yield from _invalid_number(f"inputs.{name}", value, above=0 if name == "std" else None)
    low, high = inputs.low, inputs.high
    if not -(2**31) <= low < high < 2**31 or (not inputs.deep and (low, high) != (0, 255)):
        wanted = "integers of 32 bits, low below high" if inputs.deep else "0 and 255"
        yield f"inputs.low is {low} and inputs.high is {high}: expected {wanted}"


def _table_contradictions(inputs: TableInputs, shape: tuple[int, ...]) -> Iterator[str]:
    width = sum(column.width for column in inputs.columns)
    if shape != (width,):
        yield f"input_shape is {list(shape)}, and inputs.columns have {width} features"
    yield from _duplicates("inputs.columns", [column.name for column in inputs.columns])
    for column in inputs.columns:
        yield from _duplicates(f"inputs.columns.{column.name!r}.categories", column.categories)
        yield from _invalid_number(f"inputs.columns.{column.name!r}.mean", column.mean)
        yield from _invalid_number(f"inputs.columns.{column.name!r}.std", column.std, above=0)
        yield from _invalid_text("inputs.columns", (column.name, *column.categories))


def _text_contradictions(inputs: TextInputs, shape: tuple[int, ...]) -> Iterator[str]:
    tokens, has_file = len(inputs.vocabulary), inputs.tokenizer == "file"
    if len(shape) != 1 or shape[0] < 0:
        yield f"input_shape is {list(shape)}: texts have one number of tokens, 0 or more"
    for name, number in (("padding", inputs.padding), ("unknown", inputs.unknown)):
        if number is not None and not 0 <= number < tokens:
            yield f"inputs.{name} is {number}, and inputs.vocabulary has {tokens} tokens"
    if not has_file and inputs.unknown in (None, inputs.padding):
        yield f"inputs.unknown is {inputs.unknown}: expected a token other than the padding"
    if has_file != bool(inputs.definition):
        yield f"inputs.tokenizer is {inputs.tokenizer!r}: only 'file' has, and needs, a definition"
    if inputs.max_tokens is not None and inputs.max_tokens < 1:
        yield f"inputs.max_tokens is {inputs.max_tokens}: expected 1 or more"
    if not inputs.columns:
        yield "inputs.columns is empty: expected the names of the columns that hold a text"
    yield from _duplicates("inputs.vocabulary", inputs.vocabulary)
    yield from _invalid_text("inputs.vocabulary", inputs.vocabulary)


def _duplicates(place: str, names: Sequence[str]) -> Iterator[str]:
    if len(set(names)) < len(names):
        found = next(name for name in names if names.count(name) > 1)
        yield f"{place} has {found!r} twice"


def _invalid_number(place: str, value: float, above: float | None = None) -> Iterator[str]:
    if not math.isfinite(value) or (above is not None and value <= above):
        bound = "" if above is None else f" above {above:g}"
        yield f"{place} is {value}: expected a finite number{bound}"


def _invalid_text(place: str, texts: Iterable[str]) -> Iterator[str]:
    """Yield an error for text with half of a surrogate pair, which UTF-8 can't encode."""
    if found := next((text for text in texts if _SURROGATE.search(text)), None):
        yield f"{place} has {found!r}, which is not UTF-8"


_SURROGATE = re.compile("[\ud800-\udfff]")
