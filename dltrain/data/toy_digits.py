"""Synthetic sequence-to-sequence data."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dltrain.core.data_spec import DataSpec, TextInputs
from dltrain.core.errors import OptionError
from dltrain.core.option_types import PositiveInt
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.in_memory import fingerprint
from dltrain.data.length_buckets import LengthBuckets
from dltrain.data.seeding import derive_seed
from dltrain.data.splits import TEST_SEED, HoldoutSize, hold_out, split_fingerprint
from dltrain.data.tokenization import SPECIAL_TOKENS, Encoder

END = "<end>"
"""End-of-sequence token, the last of the output tokens."""


@DATA.register
def toy_digits(
    context: DataContext,
    /,
    *,
    order: Literal["reverse", "sort"] = "reverse",
    samples: PositiveInt = 20000,
    min_length: PositiveInt = 5,
    max_length: PositiveInt = 12,
    validation: HoldoutSize = 0.05,
    test: HoldoutSize = 0.1,
) -> Data:
    """Distinct sequences of digits, with the reversed or sorted sequence as the target.

    >>> from pathlib import Path
    >>> from dltrain.core.protocols import DataContext
    >>> data = toy_digits(DataContext(Path("data")), samples=100, test=0)
    >>> batch = next(data.train.batches(4))
    >>> batch.inputs.shape, batch.targets.shape  # targets are padded, and end in an end token
    (torch.Size([4, 5]), torch.Size([4, 13]))

    Args:
        order: reverse for the last digit first, sort for increasing digits.
        samples: Total number of sequences.
        min_length: Minimum number of digits.
        max_length: Maximum number of digits.
        validation: Validation sequences, taken from the training set: a number, or a fraction.
        test: Test sequences: a number, or a fraction.

    Raises:
        OptionError: The lengths contradict each other, or there are too few distinct sequences.
    """
    if max_length < min_length:
        raise OptionError(
            "max_length", f"expected at least min_length={min_length}, got {max_length}"
        )
    # At most half of all sequences, so that rejection of duplicates terminates.
    lengths = range(min_length, min(max_length, min_length + 20) + 1)  # more than enough
    possible = sum(10 ** min(length, 20) for length in lengths) // 2
    if samples > possible:
        raise OptionError(
            "samples", f"expected at most {possible} sequences of this length, got {samples}"
        )
    sources = _different_sequences(context.seed, samples, min_length, max_length)
    inputs = TextInputs("character", (*SPECIAL_TOKENS, *"0123456789"))
    class_names = (*inputs.vocabulary, END)
    encode = Encoder(inputs)
    sequences = [encode(source) for source in sources]
    end = torch.tensor([len(class_names) - 1])
    wanted = [
        torch.cat([s.flip(0) if order == "reverse" else s.sort().values, end]) for s in sequences
    ]
    targets = pad_sequence(wanted, batch_first=True, padding_value=inputs.padding)

    every = torch.zeros(samples, dtype=torch.int64)  # one class: splits are not stratified
    rest, tested = hold_out(every, test, TEST_SEED, name="test")
    kept, held = hold_out(every[rest], validation, context.seed, name="validation")

    def split(index: Tensor) -> LengthBuckets | None:
        chosen = [sequences[i] for i in index.tolist()]
        if not chosen:
            return None
        wanted = targets[index].to(context.device)
        return LengthBuckets(chosen, wanted, seed=context.seed, padding=inputs.padding)

    train = split(rest[kept])
    assert train is not None
    return Data(
        DataSpec((0,), len(class_names), inputs, class_names),
        train,
        split(rest[held]),
        split(tested),
        source=f"synthetic sequences to {order}, seed {context.seed}",
        fingerprint=fingerprint(pad_sequence(sequences, batch_first=True), targets),
        split_fingerprint=split_fingerprint(train=rest[kept], validation=rest[held], test=tested),
    )


def _different_sequences(seed: int, count: int, shortest: int, longest: int) -> list[str]:
    draw = torch.Generator().manual_seed(derive_seed(seed))
    found: dict[str, None] = {}
    while len(found) < count:
        lengths = torch.randint(shortest, longest + 1, (count,), generator=draw).tolist()
        digits = torch.randint(10, (count, longest), generator=draw).tolist()
        for length, row in zip(lengths, digits, strict=True):
            found["".join(map(str, row[:length]))] = None
    return list(found)[:count]
