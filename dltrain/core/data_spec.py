"""What a data source promises a model: shapes, classes, vocabulary, normalization."""

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
    """Images: (channels, height, width), float (pixel - centre) / scale, by channel.

    Attributes:
        mean: Mean of each channel, where `low` is 0 and `high` is 1.
        std: Standard deviation of each channel, where `low` is 0 and `high` is 1.
        deep: Whether pixels have more than 8 bits: they are int32 instead of uint8, and grey.
        low: 0, or the least pixel value of the training images where they are deep.
        high: 255, or the greatest pixel value of the training images where they are deep.
        background: Grey level, 0 to 255, behind the transparent parts of images of 8 bits.
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
        """The pixel value that becomes 0, of each channel."""
        return tuple(self.low + (self.high - self.low) * mean for mean in self.mean)

    @property
    def scale(self) -> tuple[float, ...]:
        """How many pixel values make 1, of each channel."""
        return tuple((self.high - self.low) * std for std in self.std)

    @property
    def dtype(self) -> torch.dtype:
        """Of pixels: int32 where they are deep, else uint8."""
        return torch.int32 if self.deep else torch.uint8


@dataclass(frozen=True)
class Column:
    """One column of a table: standardised if numeric, one-hot over its categories otherwise."""

    name: str
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many features the column becomes."""
        return len(self.categories) or 1


@dataclass(frozen=True)
class TableInputs:
    """Rows of numbers: (features,), the columns side by side.

    Attributes:
        columns: In the order of their features.
        quote: Option that the training file was read with; new files are read so as well.
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
        tokenizer: `word` splits at the word boundaries of Unicode, `character` takes each
            character, `file` asks a tokenizer of the `tokenizers` library.
        vocabulary: The tokens by id. Those of a tokenizer file have the file's own ids.
        lowercase: Whether text is lowercased first.
        max_tokens: Longer texts are truncated to this many tokens, special tokens included.
        definition: The content of the tokenizer file, JSON; empty for the others.
        padding: Id of the token that pads a sequence; a model must not see it.
        unknown: Id that stands for a token that is not in the vocabulary; None where a tokenizer
            file has none, as one of bytes.
        columns: Columns of a table that hold a text; several are joined by a space.
        quote: Option that a training table was read with; new tables are read so as well.
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
"""How raw data becomes samples."""


@dataclass(frozen=True)
class DataSpec:
    """What data tells a model, a loss and a metric; saved in every checkpoint.

    Attributes:
        input_shape: Shape of one sample, without the batch: (channels, height, width), (features,),
            (tokens,), which is (0,) where lengths differ.
        num_outputs: Width of the model's output. Data gives the number of classes or of target
            values, or of tokens for a language model; a loss that wants another width, such as one
            logit for two classes, says so.
        inputs: How raw data becomes a sample, so that new files are read as training's were.
        class_names: One name a class; empty for regression.
        class_counts: Training samples of each class, in the order of `class_names`.
        target_mean: What regression targets were standardised by; a prediction is
            `output * target_std + target_mean`.
        target_std: See `target_mean`.
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
def _json_of_spec() -> TypeAdapter[DataSpec]:
    """Made once: making it takes as long as some training steps."""
    return TypeAdapter(DataSpec)


def spec_to_json(spec: DataSpec) -> dict[str, Any]:
    """A spec as JSON holds it."""
    return _json_of_spec().dump_python(spec, mode="json")


def spec_from_json(value: Any) -> DataSpec:
    """What `spec_to_json` gave.

    Raises:
        ValueError: It is something else, or contradicts itself; the message is one line.
    """
    try:
        spec = _json_of_spec().validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = ".".join(["spec", *map(str, found["loc"])])
        raise ValueError(f"{place}: {found['msg']}") from None
    if (message := contradiction(spec)) is not None:
        raise ValueError(f"spec: {message}")
    return spec


def contradiction(spec: DataSpec) -> str | None:
    """How the parts of a spec contradict each other, in words; None where they do not."""
    return next(_contradictions(spec), None)


def _contradictions(spec: DataSpec) -> Iterator[str]:
    names, counts, shape = spec.class_names, spec.class_counts, spec.input_shape
    if spec.num_outputs < 1 or (names and len(names) != spec.num_outputs):
        yield f"num_outputs is {spec.num_outputs}, and class_names has {len(names)} names"
    if counts and len(counts) != len(names):
        yield f"class_counts has {len(counts)} numbers, and class_names has {len(names)} names"
    if any(count < 0 for count in counts):
        yield f"class_counts has {min(counts)}: expected 0 or more"
    yield from _doubles("class_names", names)
    yield from _unusable("target_mean", spec.target_mean)
    yield from _unusable("target_std", spec.target_std, above=0)
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
            yield from _unusable(f"inputs.{name}", value, above=0 if name == "std" else None)
    low, high = inputs.low, inputs.high
    if not -(2**31) <= low < high < 2**31 or (not inputs.deep and (low, high) != (0, 255)):
        wanted = "integers of 32 bits, low below high" if inputs.deep else "0 and 255"
        yield f"inputs.low is {low} and inputs.high is {high}: expected {wanted}"


def _table_contradictions(inputs: TableInputs, shape: tuple[int, ...]) -> Iterator[str]:
    width = sum(column.width for column in inputs.columns)
    if shape != (width,):
        yield f"input_shape is {list(shape)}, and inputs.columns have {width} features"
    yield from _doubles("inputs.columns", [column.name for column in inputs.columns])
    for column in inputs.columns:
        yield from _doubles(f"inputs.columns.{column.name!r}.categories", column.categories)
        yield from _unusable(f"inputs.columns.{column.name!r}.mean", column.mean)
        yield from _unusable(f"inputs.columns.{column.name!r}.std", column.std, above=0)
        yield from _unwritable("inputs.columns", (column.name, *column.categories))


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
    yield from _doubles("inputs.vocabulary", inputs.vocabulary)
    yield from _unwritable("inputs.vocabulary", inputs.vocabulary)


def _doubles(place: str, names: Sequence[str]) -> Iterator[str]:
    if len(set(names)) < len(names):
        found = next(name for name in names if names.count(name) > 1)
        yield f"{place} has {found!r} twice"


def _unusable(place: str, value: float, above: float | None = None) -> Iterator[str]:
    if not math.isfinite(value) or (above is not None and value <= above):
        bound = "" if above is None else f" above {above:g}"
        yield f"{place} is {value}: expected a finite number{bound}"


def _unwritable(place: str, texts: Iterable[str]) -> Iterator[str]:
    """Half of a surrogate pair, which no file of texts has."""
    if found := next((text for text in texts if _SURROGATE.search(text)), None):
        yield f"{place} has {found!r}, which is not UTF-8"


_SURROGATE = re.compile("[\ud800-\udfff]")
