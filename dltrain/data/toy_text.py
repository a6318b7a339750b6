"""Synthetic sentences in which only the word order tells the class."""

from __future__ import annotations

import itertools

import torch

from dltrain.core.option_types import PositiveInt
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.labelled_texts import LabelledTexts, split_texts, text_data
from dltrain.data.seeding import derive_seed
from dltrain.data.splits import HoldoutSize

_NAMES = ("ape", "bear", "cat", "dog", "eel", "fox", "goat", "hen")
_VERBS = ("chased", "saw", "met", "followed")
_FILLERS = ("", "today", "again and again", "once more", "in the old garden behind the house")


@DATA.register
def toy_text(
    context: DataContext,
    /,
    *,
    samples: PositiveInt = 3000,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0.2,
) -> Data:
    """Synthetic sentences, `the cat chased the dog`: the order of the two names is the class.

    Only word order determines the class: the words are drawn independently of it. Up to 5,600
    samples, all sentences are distinct.

    >>> from pathlib import Path
    >>> from dltrain.core.protocols import DataContext
    >>> data = toy_text(DataContext(Path("data")), samples=100)
    >>> data.spec.class_names, len(data.train), len(data.validation), len(data.test)
    (('in order', 'swapped'), 72, 8, 20)

    Args:
        samples: Total number of samples.
        validation: Validation texts, taken from the training set: a number, or a fraction.
        test: Test texts: a number, or a fraction.
    """
    names = itertools.combinations(_NAMES, 2)
    contents = list(itertools.product(names, _VERBS, _FILLERS, _FILLERS))
    draw = torch.Generator().manual_seed(derive_seed(context.seed))
    orders = [torch.randperm(len(contents), generator=draw).tolist() for _ in range(2)]
    texts, targets = [], []
    for number in range(samples):
        swapped = number % 2
        place = orders[swapped][number // 2 % len(contents)]
        pair, verb, before, after = contents[place]
        first, second = reversed(pair) if swapped else pair
        texts.append(f"{before} the {first} {verb} the {second} {after}".strip())
        targets.append(swapped)
    return text_data(
        context,
        split_texts(context, LabelledTexts(texts, targets), validation, test),
        class_names=("in order", "swapped"),
        source=f"synthetic sentences, seed {context.seed}",
    )
