"""Labeled texts: vocabularies, length buckets and files."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import torch

from dltrain.core.data_spec import PADDING, UNKNOWN, TextInputs
from dltrain.core.errors import DataError, OptionError
from dltrain.core.protocols import DataContext
from dltrain.data.input_readers import read_texts
from dltrain.data.length_buckets import LengthBuckets
from dltrain.data.tokenization import Encoder, build_vocabulary, split_text
from dltrain.data.toy_text import toy_text


def sequences(count, longest=30):
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest, (count,), generator=random).tolist()
    # The first token identifies the sample, the others are filler.
    return [torch.tensor([i + 2] + [1] * (n - 1)) for i, n in enumerate(lengths)]


def split(count=503, seed=0):
    return LengthBuckets(sequences(count), torch.arange(count), seed=seed)


def test_texts_are_split_into_words_or_characters():
    assert split_text("It's don't-care, 4.5 stars!", TextInputs("word", (), lowercase=True)) == [
        *("it's", "don't", "-", "care", ",", "4.5", "stars", "!")
    ]
    assert split_text("does n't", TextInputs("word", ())) == ["does", "n't"]
    assert split_text("Ab c", TextInputs("character", ())) == ["A", "b", " ", "c"]


@pytest.mark.parametrize(
    "words",
    [
        "हिन्दी में क्षत्रिय",
        "தமிழ் மொழி",
        "بِسْمِ اللَّهِ",
        "שָׁלוֹם עולם",
        "cafe\u0301 nai\u0308ve Å\u0323",
        "ที่ มี น้ำ ภาษาไทย ພາສາລາວ ភាសាខ្មែរ",
        "👨‍👩‍👧‍👦 👍🏽 🇩🇪 1️⃣ ❤️ 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "👩🏽‍💻 ⚕️ #️⃣",
        "don't can\u2019t l'eau 3.14 1,000,000 snake_case word2vec",
        "Ёлка straße 漢 カタカナ 한국어",
    ],
)
def test_a_word_is_one_token(words):
    """UAX #29: marks, emoji sequences, apostrophes and digit separators do not end a word."""
    assert split_text(words, TextInputs("word", ())) == words.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("🇩🇪🇫🇷🇮🇹", ["🇩🇪", "🇫🇷", "🇮🇹"]),
        ("👍🏽👍", ["👍🏽", "👍"]),
        ("(“good”), 'bad'.", ["(", "“", "good", "”", ")", ",", "'", "bad", "'", "."]),
        ("3. 14 a.b a. b", ["3", ".", "14", "a.b", "a", ".", "b"]),
        ("日本語", ["日", "本", "語"]),
        ("aภาษาไทย1", ["a", "ภาษาไทย", "1"]),
        ("a\u2028b\x85c\rd\x0be\x0cf\u00a0g\u3000h", [*"abcdefgh"]),
        (" \t\r\n", []),
        (" \u0301x", ["\u0301", "x"]),
    ],
)
def test_words_end_at_unicode_word_boundaries(text, expected):
    assert split_text(text, TextInputs("word", ())) == expected


def test_the_vocabulary_is_sorted_by_frequency_then_alphabetically():
    tokens = [["b", "d", "c"], ["c", "b", "a", "c"]]
    assert build_vocabulary(tokens) == ("<pad>", "<unk>", "c", "b", "a", "d")
    assert build_vocabulary(tokens, min_count=2) == ("<pad>", "<unk>", "c", "b")
    assert build_vocabulary(tokens, max_size=3) == ("<pad>", "<unk>", "c")


def test_unknown_words_and_empty_texts_have_an_id():
    encode = Encoder(TextInputs("word", ("<pad>", "<unk>", "good"), lowercase=True, max_tokens=3))
    assert encode("Good bad good good").tolist() == [2, UNKNOWN, 2]
    assert encode("  ").tolist() == [UNKNOWN]


@pytest.mark.parametrize("epoch", [None, 0, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_every_sample_occurs_once_with_its_target(epoch, batch_size):
    batches = list(split().batches(batch_size, epoch=epoch))
    assert len(batches) == -(-503 // batch_size)
    assert sum(len(b) < batch_size for b in batches) <= 1
    index = torch.cat([b.index for b in batches])
    assert index.sort().values.tolist() == list(range(503))
    assert torch.equal(torch.cat([b.targets for b in batches]), index)
    assert torch.equal(torch.cat([b.inputs[:, 0] for b in batches]), index + 2)


def test_a_batch_is_as_long_as_its_longest_text():
    whole = sequences(503)
    for batch in split().batches(16, epoch=1):
        lengths = [len(whole[i]) for i in batch.index.tolist()]
        assert batch.inputs.shape[1] == max(lengths)
        assert (batch.inputs != PADDING).sum(1).tolist() == lengths


def test_the_order_depends_only_on_seed_and_epoch():
    def order(seed, epoch):
        return [b.index.tolist() for b in split(seed=seed).batches(16, epoch=epoch)]

    assert order(0, 2) == order(0, 2)
    assert order(0, 2) != order(0, 3)
    members = [{frozenset(index) for index in order(seed, 2)} for seed in (0, 1)]
    assert members[0] != members[1]


def test_batches_are_not_sorted_by_length():
    longest = [b.inputs.shape[1] for b in split().batches(16, epoch=2)]
    assert longest != sorted(longest)


@pytest.mark.parametrize("offset", [1, 5, 31])
def test_an_offset_skips_batches(offset):
    whole = [b.index.tolist() for b in split().batches(16, epoch=2)]
    rest = [b.index.tolist() for b in split().batches(16, epoch=2, offset=offset)]
    assert rest == whole[offset:]


def test_padding_of_sst2_is_below_10_percent(sst2_root, build):
    data = build("sst2", root=str(sst2_root))
    assert [len(s) for s in (data.train, data.validation, data.test)] == [6920, 872, 1821]
    tokens = padding = 0
    for batch in data.train.batches(64, epoch=0):
        tokens += batch.inputs.numel()
        padding += int((batch.inputs == PADDING).sum())
    assert padding / tokens < 0.10
    assert data.spec.class_counts == (3310, 3610)


def test_the_vocabulary_is_built_from_training_texts_only(build, tmp_path):
    rows = [f"w{i} common,{'yes' if i % 2 else 'no'}" for i in range(40)]
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(rows))
    data = build("text_csv", path=str(tmp_path / "t.csv"), text=("text",), label="label")
    known = set(data.spec.inputs.vocabulary)
    assert len(known) == 2 + 1 + len(data.train)
    (held,) = data.validation.batches(100)
    assert (held.inputs == UNKNOWN).any(1).all()


def test_csv_tsv_and_jsonl_give_the_same_data(build, tmp_path):
    rows = [(f"good film {i}", "really", "pos" if i % 3 else "neg") for i in range(30)]
    head = ("title", "body", "label")
    for suffix, tab in ((".csv", ","), (".tsv", "\t")):
        lines = [tab.join(row) for row in (head, *rows)]
        (tmp_path / f"t{suffix}").write_text("\n".join(lines))
    lines = [json.dumps(dict(zip(head, row, strict=True))) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    results = [
        build("text_csv", path=str(tmp_path / f"t{s}"), text=("title", "body"), label="label")
        for s in (".csv", ".tsv", ".jsonl")
    ]
    first = results[0]
    assert first.spec.class_names == ("neg", "pos")
    assert "really" in first.spec.inputs.vocabulary
    for other in results[1:]:
        assert other.spec == first.spec
        assert other.fingerprint == first.fingerprint
        assert torch.equal(other.train.tokens, first.train.tokens)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "text,label\na,b,c\n", "3 cells, the header has 2"),
        ("t.csv", "text,other\na,b\n", "no column 'label'"),
        ("t.jsonl", '{"text": "a", "label": "x"}\nnot json\n', r"t\.jsonl:2: not a JSON"),
        ("t.jsonl", '{"text": "a"}\n', r"t\.jsonl:1: has no 'label'"),
        ("t.jsonl", "", "has no lines"),
        ("t.csv", "text,label\na,x\nb,x\n", "expected two or more classes"),
        ("t.csv", "text,label\na,x\n ,y\n", r"t\.csv:3: 'text' is empty"),
        ("t.jsonl", '{"text": "", "label": "x"}\n', r"t\.jsonl:1: 'text' is empty"),
        (
            "t.jsonl",
            '{"text": null, "label": "x"}\n',
            r"t\.jsonl:1: expected a text or a number in 'text', got null",
        ),
        (
            "t.jsonl",
            '{"text": "a", "label": {}}\n',
            r"t\.jsonl:1: expected a text or a number in 'label', got {}",
        ),
    ],
)
def test_errors_name_file_and_line(build, tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        build("text_csv", path=str(tmp_path / name), text=("text",), label="label")


def test_text_columns_are_required(build, tmp_path):
    with pytest.raises(OptionError, match="at least one"):
        build("text_csv", path=str(tmp_path / "t.csv"), text=(), label="label")


def test_a_damaged_line_of_sst2_is_named(build, tmp_path):
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        (tmp_path / name).write_text("fine\t1\nbad line\n")
    with pytest.raises(DataError, match=r"train\.tsv:2: expected a sentence"):
        build("sst2", root=str(tmp_path))


def test_a_quote_in_tsv_merges_no_texts(build, tmp_path):
    texts = [f"film {n}" for n in range(30)]
    texts[6], texts[10] = '"film 6', 'film 10"'
    rows = [f"{text}\t{n % 2}" for n, text in enumerate(texts)]
    (tmp_path / "t.tsv").write_text("\n".join(["text\tlabel", *rows]))
    data = build("text_csv", path=str(tmp_path / "t.tsv"), text=("text",), label="label")
    assert len(data.train) + len(data.validation) + len(data.test) == 30
    csv_rows = [row.replace("\t", ",") for row in rows]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *csv_rows]))
    with pytest.raises(DataError, match=r"t\.csv:8: the quoted cell contains whole rows.*null"):
        build("text_csv", path=str(tmp_path / "t.csv"), text=("text",), label="label")
    same = build(
        "text_csv", path=str(tmp_path / "t.csv"), text=("text",), label="label", quote=None
    )
    assert same.fingerprint == data.fingerprint
    assert same.spec.inputs.quote is None


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_any_word_may_be_a_text_and_other_columns_may_be_empty(build, tmp_path, suffix):
    rows = [(("null", "?", "inf", "good")[i // 2 % 4], "pn"[i % 2]) for i in range(40)]
    lines = ["text,label,note", *(f"{text},{label}," for text, label in rows)]
    if suffix == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    file = tmp_path / f"t{suffix}"
    file.write_text("\n".join(lines), encoding="utf-8-sig")  # with the byte order mark of Excel
    data = build("text_csv", path=str(file), text=("text",), label="label")
    assert set(data.spec.inputs.vocabulary[2:]) == {"null", "?", "inf", "good"}
    assert data.spec.class_names == ("n", "p")


def test_a_bag_of_words_cannot_classify_the_synthetic_sentences(tmp_path):
    data = toy_text(DataContext(root=tmp_path), samples=4000, validation=0, test=0.1)
    (batch,) = data.train.batches(4000)
    vocabulary = data.spec.inputs.vocabulary
    words = torch.zeros(len(batch), len(vocabulary)).scatter_(1, batch.inputs, 1.0)
    words[:, PADDING] = 0
    # Number of texts with both of two words, and its difference between the classes.
    together = words.T @ words
    difference = words.T @ ((2.0 * batch.targets - 1)[:, None] * words)
    assert (difference.abs() <= 5 * together.sqrt()).all()
    animals = {"ape", "bear", "cat", "dog", "eel", "fox", "goat", "hen"}
    for tokens, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        first, second = (w for t in tokens if (w := vocabulary[t]) in animals)
        assert target == (first > second)


def test_texts_are_read_verbatim_and_files_line_by_line(tmp_path):
    inputs = TextInputs("word", ("<pad>", "<unk>", "good"))
    given = ["so//so ./", "\N{CJK UNIFIED IDEOGRAPH-597D}" * 200, "good / " * 2000]
    tokens, texts = read_texts(inputs, given)
    assert texts == given
    assert (tokens == 2).sum(1).tolist() == [0, 0, 2000]
    (tmp_path / "t.txt").write_text("good\n\nbad good\n", encoding="utf-8-sig")
    for file in (tmp_path / "t.txt", str(tmp_path / "t.txt")):
        tokens, texts = read_texts(inputs, [file])
        assert texts == ["good", "", "bad good"]
        assert tokens.tolist() == [[2, PADDING], [UNKNOWN, PADDING], [UNKNOWN, 2]]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (("9007199254740992", "9007199254740993"), False),
        (("1", "1.0"), True),
        (("1000", "1e3"), True),
        (("2", "10"), False),
        (("1.5", "10"), False),
    ],
)
def test_labels_keep_their_spelling(build, tmp_path, suffix, names, warned):
    """Unquoted labels of JSON too."""
    rows = [(f"film {n}", names[n % 2]) for n in range(40)]
    if suffix == ".jsonl":
        lines = [f'{{"text": "{text}", "label": {label}}}' for text, label in rows]
    else:
        lines = [
            ("," if suffix == ".csv" else "\t").join(row) for row in [("text", "label"), *rows]
        ]
    (tmp_path / f"t{suffix}").write_text("\n".join(lines))
    options = {"path": str(tmp_path / f"t{suffix}"), "text": ("text",), "label": "label"}
    data = build("text_csv", validation=0, test=0, **options)
    assert data.spec.class_names == names
    assert data.spec.class_counts == (20, 20)
    number = 2 if suffix == ".jsonl" else 3
    assert (
        any(f"t{suffix}:{number}: 'label' is {names[1]!r}" in line for line in build.warnings)
        == warned
    )


def test_json_booleans_keep_their_json_spelling(build, tmp_path):
    lines = [f'{{"text": "film {n}", "label": {("true", "false")[n % 2]}}}' for n in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    data = build("text_csv", path=str(tmp_path / "t.jsonl"), text=("text",), label="label")
    assert data.spec.class_names == ("false", "true")


def test_json_numbers_may_be_texts(build, tmp_path):
    lines = [f'{{"text": {n}.50, "label": "{n % 2}"}}' for n in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    data = build(
        "text_csv",
        path=str(tmp_path / "t.jsonl"),
        text=("text",),
        label="label",
        tokenizer="character",
        validation=0,
        test=0,
    )
    assert "0" in data.spec.inputs.vocabulary
    assert [len(row[row != PADDING]) for row in data.train.tokens] == [4] * 10 + [5] * 30


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\na\n\n \n", ["", "a", "", " "]),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\rg\x1ch\n".encode(), None),
    ],
)
def test_only_line_feeds_end_a_text(content, texts, tmp_path, monkeypatch):
    """A line feed alone or after a carriage return ends a text."""
    texts = texts or [content.decode().removesuffix("\n")]
    inputs = TextInputs("word", ("<pad>", "<unk>"))
    (tmp_path / "t.txt").write_bytes(content)
    assert read_texts(inputs, [tmp_path / "t.txt"])[1] == texts
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_texts(inputs, ["-"])[1] == texts


NEW = 'id,other,body,title\n1,neg,"good, ""film""",a\n2,pos,,\n3,,null,b\n'


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv", ".jsonl"])
def test_a_table_is_read_by_the_columns_of_the_training_data(tmp_path, suffix):
    """Column order, additional columns and delimiters have no effect; texts may be empty."""
    inputs = TextInputs("word", ("<pad>", "<unk>"), columns=("title", "body"))
    file = tmp_path / f"new{suffix}"
    rows = list(csv.DictReader(io.StringIO(NEW)))
    if suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        tabs = "\n".join("\t".join(row) for row in ([*rows[0]], *(row.values() for row in rows)))
        file.write_text(tabs if suffix == ".tsv" else NEW)
    assert read_texts(inputs, [str(file)])[1] == ['a good, "film"', " ", "b null"]


def test_a_table_without_the_columns_is_refused(tmp_path):
    inputs = TextInputs("word", ("<pad>", "<unk>"), columns=("title", "body"))
    (tmp_path / "new.csv").write_text("text,label\ngood,pos\n")
    with pytest.raises(DataError, match="has no column 'title'; it has text, label"):
        read_texts(inputs, [tmp_path / "new.csv"])


@pytest.mark.parametrize(
    "given",
    [
        *("missing.txt", "missing file.csv", "some/where", "./there", "/no where", "~/nothing"),
        *(".", "folder", Path("missing")),
    ],
)
def test_a_path_is_never_read_as_a_text(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"no such file|a directory"):
        read_texts(TextInputs("word", ("<pad>", "<unk>")), [given])


@pytest.mark.parametrize(
    "given", ["", " ", "good", "so / so", "and/or, says he", "a.b", "3.5 stars"]
)
def test_a_text_is_never_read_as_a_path(given):
    assert read_texts(TextInputs("word", ("<pad>", "<unk>")), [given])[1] == [given]
