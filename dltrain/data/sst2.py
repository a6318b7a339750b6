"""The Stanford Sentiment Treebank."""

from __future__ import annotations

from pathlib import Path

from dltrain.core.errors import DataError
from dltrain.core.option_types import PositiveInt
from dltrain.core.paths import ConfigPath, resolve_path
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.download import fetch
from dltrain.data.labelled_texts import LabelledTexts, text_data
from dltrain.data.tokenization import Tokenizer
from dltrain.data.utf8 import read_lines

FILES = {
    "train.tsv": "sha256:ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
    "dev.tsv": "sha256:eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
    "test.tsv": "sha256:831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
}
MIRROR = (
    "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/master/data/SST2/"
)


@DATA.register
def sst2(
    context: DataContext,
    /,
    *,
    root: ConfigPath | None = None,
    tokenizer: Tokenizer = "word",
    lowercase: bool | None = None,
    min_count: PositiveInt = 1,
    max_size: PositiveInt | None = None,
    max_tokens: PositiveInt | None = None,
) -> Data:
    """Stanford Sentiment Treebank, whole sentences, negative or positive: 6,920 / 872 / 1,821.

    Socher et al., "Recursive deep models for semantic compositionality over a sentiment treebank",
    2013. Files are looked for in ROOT/sst2 and ROOT, and downloaded if they are missing; `dev` is
    the validation split.

    Args:
        root: Folder of the files; the common data folder if not given.
        tokenizer: word splits at Unicode's word boundaries, character takes each character; or a
            file, tokenizer.json, of the tokenizers library, whose ids and special tokens are kept.
        lowercase: Whether text is lowercased first; true by default, but not with a tokenizer
            file, which has rules of its own.
        min_count: Tokens that are rarer in the training texts are unknown.
        max_size: The longest that the vocabulary may be.
        max_tokens: Longer texts are truncated; special tokens stay.
    """
    base = context.root if root is None else resolve_path(root, context.root)
    home = base / "sst2"
    folder = base if all((base / name).exists() for name in FILES) else home
    for name, digest in FILES.items():
        if not (folder / name).exists():
            context.warn(f"downloading SST-2's {name} to {folder}")
            fetch([MIRROR + name], folder / name, digest)
    train, validation, test = (read_sst2(folder / name) for name in FILES)
    return text_data(
        context,
        {"train": train, "validation": validation, "test": test},
        class_names=("negative", "positive"),
        tokenizer=tokenizer,
        lowercase=lowercase,
        min_count=min_count,
        max_size=max_size,
        max_tokens=max_tokens,
        source=str(folder),
        files=tuple(folder / name for name in FILES),
        columns=("sentence",),
    )


def read_sst2(path: Path) -> LabelledTexts:
    """Lines of SENTENCE<TAB>LABEL; DataError names the line that is something else."""
    texts, targets = [], []
    for number, line in enumerate(read_lines(path), 1):
        text, tab, label = line.rpartition("\t")
        if not tab or label not in ("0", "1"):
            raise DataError(f"{path}:{number}: not a sentence, a tab, and 0 or 1")
        texts.append(text)
        targets.append(int(label))
    return LabelledTexts(texts, targets)
