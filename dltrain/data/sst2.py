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
    """Stanford Sentiment Treebank: sentences, negative or positive; 6,920 / 872 / 1,821 samples.

    Socher et al., "Recursive deep models for semantic compositionality over a sentiment treebank",
    2013. The files are searched in ROOT/sst2 and ROOT, and downloaded if they are missing; `dev`
    is the validation split.

    ```yaml
    data: {name: sst2, min_count: 2}
    ```

    Args:
        root: Directory of the files (default: the common data directory).
        tokenizer: word (split at Unicode word boundaries), character, or the path of a
            tokenizer.json file of the tokenizers library, used with its special tokens.
        lowercase: Whether text is converted to lower case first (default: true, except with a
            tokenizer file).
        min_count: Minimum frequency in the training texts; rarer tokens are unknown.
        max_size: Maximum size of the vocabulary (default: unlimited).
        max_tokens: Maximum number of tokens in a text (default: unlimited); longer texts are
            truncated, special tokens stay.
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
    """Read lines of SENTENCE<TAB>LABEL.

    Raises:
        DataError: A line has another format.
    """
    texts, targets = [], []
    for number, line in enumerate(read_lines(path), 1):
        text, tab, label = line.rpartition("\t")
        if not tab or label not in ("0", "1"):
            raise DataError(f"{path}:{number}: expected a sentence, a tab, and 0 or 1")
        texts.append(text)
        targets.append(int(label))
    return LabelledTexts(texts, targets)
