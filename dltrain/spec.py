"""What the rooms promise each other: the data's shape, a batch, a split, a loss, a metric."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Quote = Literal["auto"] | Annotated[str, Field(pattern=r"^[^\r\n]$")] | None
"""What encloses the cells of a table; None for nothing, `auto` for what its delimiter suggests."""


# ---------------------------------------------------------------- what data promises a model


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


@dataclass(frozen=True)
class Share:
    """Which part of each batch is whose, where several processes train together.

    The parts lie one behind the other, in the order of the processes, and differ by one sample at
    most. Where there are fewer samples than processes, one sample stands in for each empty part: it
    goes through the model, so that all processes do the same, and counts nothing.

    Attributes:
        rank: This process's number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def of(self, samples: int) -> slice:
        """This process's part of a batch of so many samples; never empty."""
        start, stop = self._start(samples, self.rank), self._start(samples, self.rank + 1)
        return slice(start, stop) if start < stop else slice(samples - 1, samples)

    def largest(self, samples: int) -> int:
        """Samples in the largest part."""
        return self._start(samples, 1)

    def batch(self, inputs: Tensor, targets: Tensor, index: Tensor, samples: int) -> Batch:
        """What `of` has cut out of a batch of so many samples."""
        counts = self._start(samples, self.rank) < self._start(samples, self.rank + 1)
        return Batch(inputs, targets, index, samples=samples, counts=counts)

    def _start(self, samples: int, rank: int) -> int:
        return -(-samples * rank // self.size)


WHOLE = Share()
"""Of one process that trains alone."""


@dataclass(slots=True)
class Batch:
    """Samples, side by side, on the device.

    Attributes:
        inputs: (batch, *input_shape), float; (batch, tokens) int64 for text.
        targets: (batch,) int64 classes, (batch, values) float, or (batch, tokens) int64.
        index: (batch,) int64, each sample's number in its split.
        step: The training step that the batch is for, from 0, in a graph of steps an int64 scalar
            on the device; None in evaluation. What a task draws at random is to depend on it and on
            `index`, so that no draw depends on how a batch is cut, or on where a run was stopped.
        samples: In the batch over all processes, of which these are one's share; None where there
            is one process.
        counts: False where the first sample only stands in for a share, or a slice, that is empty.
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor
    step: int | Tensor | None = None
    samples: int | None = None
    counts: bool = True

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.index)

    def split(self, size: int | None) -> Iterator[Batch]:
        """Slices of at most `size` samples, in order; the batch itself where it needs no cut."""
        if size is None or size >= len(self):
            yield self
            return
        columns = [column.split(size) for column in (self.inputs, self.targets, self.index)]
        for parts in zip(*columns, strict=True):
            yield Batch(*parts, step=self.step, samples=self.samples)

    def stand_in(self) -> Batch:
        """The first sample, which counts nothing."""
        columns = (self.inputs[:1], self.targets[:1], self.index[:1])
        return Batch(*columns, step=self.step, samples=self.samples, counts=False)


class Split(Protocol):
    """The samples of one split, as batches."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int | None = None,
        offset: int = 0,
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        """Batches of `batch_size` samples, the last one smaller.

        Args:
            batch_size: Samples a batch.
            epoch: The training epoch, which decides order and augmentation; None reads the samples
                in their own order, without augmentation.
            offset: How many batches to leave out at the start, at no cost.
            share: Which part of each batch to read; a batch is padded and drawn as a whole.
        """
        ...


@dataclass(frozen=True)
class DataContext:
    """What a data source gets from code.

    Attributes:
        root: Where files live when `data.root` does not say.
        seed: Decides the validation cut, the order and the augmentation.
        device: Where batches are wanted.
        dtype: The floating type of inputs and of regression targets.
        say: Prints a line that the user must not miss.
    """

    root: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Data:
    """Splits and what they promise.

    Attributes:
        spec: What the model is built from.
        train: The training split, less the validation part.
        validation: Cut from the training split; chooses the best checkpoint. None if not wanted.
        test: Never chooses; read once, at the end. None where the source has none.
        source: Where the samples came from: a folder, a package's sample, a formula.
        fingerprint: SHA-256 over the decoded samples.
        files: Every file that was read, or will be; empty where a source does not name them.
        split_fingerprint: Identifies which of the samples each split has; empty where
            `fingerprint` covers that, or a source does not say.
    """

    spec: DataSpec
    train: Split
    validation: Split | None
    test: Split | None
    source: str
    fingerprint: str
    files: tuple[Path, ...] = ()
    split_fingerprint: str = ""


# ------------------------------------------------------- what processes that train together share


class World:
    """One process alone: it has nothing to exchange, and pays nothing for it; else see `world.py`.

    Attributes:
        share: This process's number, from 0, and how many there are.
        local_rank: Its number on its machine, which is also its GPU's.
    """

    share: Share = WHOLE
    local_rank = 0

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.share.size

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.share.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each."""
        return tensor

    def largest(self, number: int) -> int:
        """The largest number that a process gives; no GPU is waited for."""
        return number

    def gather(self, batch: Batch, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Rows of all shares of a batch, in its order, in every process; less those that stand in.

        Args:
            batch: This process's share.
            *tensors: (rows, ...) each; between processes, the number of rows may differ.
        """
        return tensors

    def collect(self, value: Any) -> list[Any]:
        """The value of every process, in each of them."""
        return [value]

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, a value that is small, in every process."""
        return make()

    def tensors_from_main(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The first process's tensors, in every process; what the others give does not matter."""
        return tensors

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with the first process's."""

    @contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """One process of each machine goes through this context before the others."""
        yield

    def lost(self, error: Exception) -> bool:
        """Whether an error says that another process is gone, or does not answer."""
        return False

    def failure(self, error: Exception) -> Exception:
        """What an error is called; that of another process, where this one only follows from it."""
        return error


# ---------------------------------------------------------------- what a loss and a metric are


class Loss(nn.Module):
    """A loss and the link function that belongs to it.

    Attributes:
        num_outputs: Width that the model's output must have.
    """

    num_outputs: int

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, (batch,), already multiplied by the sample's weight."""
        raise NotImplementedError

    def weight(self, targets: Tensor) -> Tensor | int:
        """What the batch's summed loss is divided by: the samples, or the sum of their weights."""
        return len(targets)

    def predict(self, outputs: Tensor) -> Tensor:
        """Outputs to probabilities (batch, classes), or to values (batch, values) in own units."""
        return outputs

    def targets(self, targets: Tensor) -> Tensor:
        """Targets as metrics compare them with predictions: classes, or values in own units."""
        return targets


class Metric(Protocol):
    """Sums over samples, kept on the device; the value does not depend on how they were batched."""

    @property
    def scalars(self) -> Mapping[str, bool | None]:
        """Name of each scalar that `compute` gives, and whether higher is better.

        None where that is unknown; the scalar then can't choose a checkpoint.
        """
        ...

    def reset(self) -> None:
        """Forgets every sample."""
        ...

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Adds a batch.

        Args:
            predictions: (batch, classes) probabilities, or (batch, values).
            targets: (batch,) int64, or (batch, values).
        """
        ...

    def compute(self) -> dict[str, float]:
        """The scalars over all samples since `reset`; NaN where they are undefined."""
        ...
