"""Running text for a language model: windows of tokens, each with the token that follows it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dltrain.core.batch import FULL_BATCH, Batch, RankSlice
from dltrain.core.data_spec import PADDING, DataSpec
from dltrain.core.errors import DataError, OptionError
from dltrain.core.option_types import PositiveInt
from dltrain.core.paths import ConfigPath, resolve_path
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.download import fetch
from dltrain.data.in_memory import to_device
from dltrain.data.seeding import derive_seed, epoch_order
from dltrain.data.splits import HoldoutSize
from dltrain.data.tokenization import (
    Encoder,
    Tokenizer,
    fit_vocabulary,
    split_text,
    text_inputs,
    tokenizer_files,
)
from dltrain.data.utf8 import normalize_line_ends, read_utf8

SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_DIGEST = "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@DATA.register
def text_file(
    context: DataContext,
    /,
    *,
    path: ConfigPath,
    tokenizer: Tokenizer = "character",
    window: PositiveInt = 128,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0,
) -> Data:
    """Your own text: a UTF-8 file for next-token prediction.

    The file consists of the training, the validation and the test part, in this order. The
    vocabulary is that of the training part, or of a tokenizer file.

    >>> import tempfile
    >>> from dltrain.core.protocols import DataContext
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "novel.txt")
    ...     _ = path.write_text("It was a dark and stormy night. " * 20)
    ...     data = text_file(DataContext(Path(directory)), path=str(path), window=16)
    >>> batch = next(data.train.batches(2))
    >>> batch.inputs.shape, batch.targets.shape
    (torch.Size([2, 16]), torch.Size([2, 16]))

    Args:
        path: The file, relative to the working directory or else to the common data directory.
        tokenizer: character, word (words and punctuation marks), or the path of a tokenizer.json
            file of the tokenizers library.
        window: Number of tokens in a training sample.
        validation: Validation tokens, after the training part: a number, or a fraction.
        test: Test tokens, at the end: a number, or a fraction.
    """
    file = resolve_path(path, context.root)
    return corpus_data(
        context, _read(file), str(file), tokenizer, window, validation, test, files=(file,)
    )


@DATA.register
def shakespeare(
    context: DataContext,
    /,
    *,
    root: ConfigPath | None = None,
    tokenizer: Tokenizer = "character",
    window: PositiveInt = 128,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0,
) -> Data:
    """Scenes from Shakespeare's plays: 1.1 million characters, 65 distinct.

    ROOT/tinyshakespeare.txt, as collected by Karpathy for "The unreasonable effectiveness of
    recurrent neural networks" (2015); downloaded if it is missing.

    ```yaml
    data: {name: shakespeare, window: 256}
    ```

    Args:
        root: Directory of the file (default: the common data directory).
        tokenizer: character, word (words and punctuation marks), or the path of a tokenizer.json
            file of the tokenizers library.
        window: Number of tokens in a training sample.
        validation: Validation tokens, after the training part: a number, or a fraction.
        test: Test tokens, at the end: a number, or a fraction.
    """
    file = (
        context.root if root is None else resolve_path(root, context.root)
    ) / "tinyshakespeare.txt"
    if not file.exists():
        context.warn(f"downloading Shakespeare's plays to {file}")
        fetch([SHAKESPEARE_URL], file, SHAKESPEARE_DIGEST)
    return corpus_data(
        context, _read(file), str(file), tokenizer, window, validation, test, files=(file,)
    )


@DATA.register
def python_docs(
    context: DataContext,
    /,
    *,
    tokenizer: Tokenizer = "character",
    window: PositiveInt = 128,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0,
) -> Data:
    """The topics of Python's `help()`, about half a million characters; needs no download.

    The text depends on the Python version: compare only runs with the same one.

    >>> from dltrain.core.protocols import DataContext
    >>> data = python_docs(DataContext(Path("data")), window=64)
    >>> batch = next(data.train.batches(8, epoch=0))
    >>> batch.inputs.shape, batch.inputs.dtype
    (torch.Size([8, 64]), torch.int64)

    Args:
        tokenizer: character, word (words and punctuation marks), or the path of a tokenizer.json
            file of the tokenizers library.
        window: Number of tokens in a training sample.
        validation: Validation tokens, after the training part: a number, or a fraction.
        test: Test tokens, at the end: a number, or a fraction.
    """
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return corpus_data(context, text, "pydoc_data.topics", tokenizer, window, validation, test)


def corpus_data(
    context: DataContext,
    text: str,
    source: str,
    tokenizer: Tokenizer,
    window: int,
    validation: float,
    test: float,
    *,
    files: tuple[Path, ...] = (),
) -> Data:
    """Cut a text into consecutive training, validation and test parts.

    Raises:
        DataError: The text is too short.
        OptionError: A part would be empty or the whole text, or training shorter than two windows.
    """
    inputs = text_inputs(context, tokenizer, lowercase=False)
    tokens = split_text(text, inputs)
    total = len(tokens)
    if not total:
        raise DataError(f"{source}: contains no text")
    sizes = {
        name: amount if isinstance(amount, int) else round(amount * total)
        for name, amount in (("validation", validation), ("test", test))
    }
    for name, amount in (("validation", validation), ("test", test)):
        if not 0 <= sizes[name] < total or (amount and not sizes[name]):
            raise OptionError(
                name,
                f"{amount} of {total} tokens is {sizes[name]}; "
                "give a number of tokens, a fraction in between, or 0 for none",
            )
    train_end = total - sizes["validation"] - sizes["test"]
    longest = train_end // 2
    if longest < 1:
        raise DataError(f"{source}: {total} tokens are too few for training and validation")
    if window > longest:
        raise OptionError(
            "window",
            f"expected at most {longest}, half of the {train_end} training tokens of {source}, "
            f"got {window}",
        )

    inputs = fit_vocabulary(inputs, [tokens[:train_end]])
    vocabulary = inputs.vocabulary
    spec = DataSpec((window,), len(vocabulary), inputs, class_names=vocabulary)
    # Token ids in the smallest sufficient dtype: the whole text stays on the device.
    dtype = torch.uint8 if len(vocabulary) <= 256 else torch.int32
    numbers = torch.tensor(Encoder(inputs).encode_untruncated(text), dtype=dtype).to(context.device)

    def part(start: int, stop: int, training: bool = False) -> Windows:
        return Windows(
            numbers,
            start,
            stop,
            window,
            seed=context.seed,
            training=training,
            padding=inputs.padding,
        )

    test_start = total - sizes["test"]
    return Data(
        spec,
        part(0, train_end, training=True),
        part(train_end, test_start) if train_end < test_start else None,
        part(test_start, total) if test_start < total else None,
        source,
        hashlib.sha256(text.encode()).hexdigest(),
        (*files, *tokenizer_files(context, tokenizer)),
        f"{train_end} {test_start} {total}",
    )


class Windows:
    """A part of a text as windows of tokens; see `dltrain.core.protocols.Split`.

    A training epoch reads the part once, in non-overlapping windows. They start at an offset below
    the window length, so that the boundaries differ between epochs; offset and order are functions
    of seed and epoch. The remaining tokens at both ends, less than a window each, are skipped.

    In evaluation, each token of the part is a target exactly once; the first is predicted from the
    token before the part. The very first token of a text has no predecessor and is not a target.
    The last window is padded.

    Args:
        numbers: Token ids of the whole text, (tokens,), on the device.
        start: Index of the part's first token.
        stop: Index after the part's last token.
        window: Number of tokens in a window.
        seed: Seed of offsets and orders.
        training: Whether `len` counts the windows of a training epoch or of an evaluation.
        padding: Id of the token that pads the last window.
    """

    def __init__(
        self,
        numbers: Tensor,
        start: int,
        stop: int,
        window: int,
        *,
        seed: int,
        training: bool,
        padding: int = PADDING,
    ) -> None:
        self.padding = padding
        self.numbers = numbers
        self.window = window
        self.seed = seed
        self.training = training
        self.first: int = max(start, 1) - 1
        self.stop = stop
        num_targets = stop - 1 - self.first
        # As many as fit after any offset, so that every epoch has the same number of steps.
        self.num_training_windows: int = (num_targets + 1 - window) // window
        self.num_windows: int = math.ceil(num_targets / window)

    def __len__(self) -> int:
        """Return the number of windows in a training epoch or in an evaluation."""
        return self.num_training_windows if self.training else self.num_windows

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int | None = None,
        offset: int = 0,
        rank_slice: RankSlice = FULL_BATCH,
    ) -> Iterator[Batch]:
        """See `Split.batches`."""
        device = self.numbers.device
        if epoch is None:
            first, order = self.first, torch.arange(self.num_windows)
        else:
            first = self.first + derive_seed(self.seed, epoch, self.window) % self.window
            order = epoch_order(self.num_training_windows, self.seed, epoch)
        places = torch.arange(self.window, device=device)
        for whole in to_device(order, device).split(batch_size)[offset:]:
            index = whole[rank_slice.bounds(len(whole))]
            at = first + index[:, None] * self.window + places
            inside = at + 1 < self.stop
            last = self.stop - 1
            inputs = self.numbers[at.clamp(max=last)].long()
            targets = self.numbers[(at + 1).clamp(max=last)].long()
            yield rank_slice.make_batch(
                inputs.masked_fill(~inside, self.padding),
                targets.masked_fill(~inside, self.padding),
                index,
                len(whole),
            )


def _read(file: Path) -> str:
    return normalize_line_ends(read_utf8(file))
