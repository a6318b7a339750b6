"""Data from texts with a class each, whatever they were read from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dltrain.core.data_spec import DataSpec
from dltrain.core.option_types import Quote
from dltrain.core.protocols import Data, DataContext
from dltrain.data.in_memory import class_counts
from dltrain.data.length_buckets import LengthBuckets
from dltrain.data.splits import TEST_SEED, hold_out
from dltrain.data.tokenization import (
    Encoder,
    Tokenizer,
    fit_vocabulary,
    split_text,
    text_inputs,
    tokenizer_files,
)


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and the class index of each."""

    texts: list[str]
    targets: list[int]

    def take(self, index: Sequence[int]) -> LabelledTexts:
        """Return the texts at these indices."""
        return LabelledTexts([self.texts[i] for i in index], [self.targets[i] for i in index])


def split_texts(
    context: DataContext, whole: LabelledTexts, validation: float, test: float
) -> dict[str, LabelledTexts]:
    """Split off a test set that does not depend on the seed, then a validation set."""
    targets = torch.tensor(whole.targets)
    rest, tested = hold_out(targets, test, TEST_SEED, name="test")
    kept, held = hold_out(targets[rest], validation, context.seed, name="validation")
    return {
        "train": whole.take(rest[kept].tolist()),
        "validation": whole.take(rest[held].tolist()),
        "test": whole.take(tested.tolist()),
    }


def text_data(
    context: DataContext,
    parts: dict[str, LabelledTexts],
    *,
    class_names: tuple[str, ...],
    source: str,
    files: tuple[Path, ...] = (),
    columns: tuple[str, ...] = ("text",),
    tokenizer: Tokenizer = "word",
    lowercase: bool | None = None,
    min_count: int = 1,
    max_size: int | None = None,
    max_tokens: int | None = None,
    quote: Quote = "auto",
) -> Data:
    """Tokenize the texts of each split with the vocabulary of the training texts."""
    inputs = text_inputs(
        context, tokenizer, lowercase=lowercase, max_tokens=max_tokens, columns=columns
    )
    tokens = (split_text(text, inputs) for text in parts["train"].texts)
    inputs = replace(fit_vocabulary(inputs, tokens, min_count, max_size), quote=quote)
    encode = Encoder(inputs)
    digest = hashlib.sha256(json.dumps(class_names).encode())
    splits: dict[str, LengthBuckets] = {}
    for name, part in parts.items():
        digest.update(json.dumps([name, part.texts, part.targets]).encode())
        if part.texts:
            targets = torch.tensor(part.targets).to(context.device)
            digests = [_text_digest(text, inputs.lowercase) for text in part.texts]
            sequences = [encode(text) for text in part.texts]
            splits[name] = LengthBuckets(
                sequences,
                targets,
                seed=context.seed,
                digests=digests,
                padding=inputs.padding,
            )
    spec = DataSpec(
        input_shape=(0,),
        num_outputs=len(class_names),
        inputs=inputs,
        class_names=class_names,
        class_counts=class_counts(torch.tensor(parts["train"].targets), len(class_names)),
    )
    return Data(
        spec,
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        source=source,
        fingerprint=digest.hexdigest(),
        files=(*files, *tokenizer_files(context, tokenizer)),
    )


def _text_digest(text: str, lowercase: bool) -> bytes:
    """Return a digest of a text's words, equal for texts that differ in white space only."""
    words = (text.lower() if lowercase else text).split()
    return hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
