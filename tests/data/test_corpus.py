"""Windows of running text: content, coverage and order."""

import pytest
import torch

from dltrain.core.data_spec import PADDING, UNKNOWN, TextInputs
from dltrain.core.errors import DataError, OptionError
from dltrain.core.protocols import DataContext
from dltrain.data import corpus
from dltrain.data.corpus import python_docs, shakespeare, text_file
from dltrain.data.tokenization import Encoder, decode_stream

TEXT = "".join(chr(97 + (i * i + i // 7) % 26) for i in range(997))


@pytest.fixture
def context(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return DataContext(root=tmp_path, seed=5)


def decode(spec, numbers: torch.Tensor) -> str:
    return "".join(spec.inputs.vocabulary[i] for i in numbers.tolist())


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("window", [7, 10])
def test_every_token_of_a_split_is_an_evaluation_target_once(context, window, size):
    data = text_file(context, path="text.txt", window=window, validation=100, test=55)
    for split, start, stop in (
        (data.train, 1, 842),  # the first token has no predecessor
        (data.validation, 842, 942),
        (data.test, 942, 997),
    ):
        batches = list(split.batches(size))
        targets = torch.cat([b.targets for b in batches]).flatten()
        inputs = torch.cat([b.inputs for b in batches]).flatten()
        counts = targets != PADDING
        assert decode(data.spec, targets[counts]) == TEXT[start:stop]
        assert decode(data.spec, inputs[counts]) == TEXT[start - 1 : stop - 1]
        assert (inputs[~counts] == PADDING).all()
        assert len(counts) - counts.sum() < window


def test_a_training_epoch_covers_the_split_once_without_overlap(context):
    data = text_file(context, path="text.txt", window=10, validation=97)
    assert len(data.train) == 89
    offsets = set()
    for epoch in range(12):
        batches = list(data.train.batches(16, epoch=epoch))
        assert sum(map(len, batches)) == len(data.train)
        index = torch.cat([b.index for b in batches])
        assert not torch.equal(index, index.sort().values)
        rows = torch.cat([b.inputs for b in batches])[index.argsort()]
        following = torch.cat([b.targets for b in batches])[index.argsort()]
        text = decode(data.spec, rows.flatten())
        assert len(text) == 890
        offset = TEXT.index(text)
        assert decode(data.spec, following.flatten()) == TEXT[offset + 1 : offset + 891]
        assert 0 <= offset < 10
        offsets.add(offset)
    assert len(offsets) > 3


def test_windows_depend_only_on_seed_and_epoch(context, tmp_path):
    def inputs(seed, epoch, offset=0):
        chosen = DataContext(root=tmp_path, seed=seed)
        train = text_file(chosen, path="text.txt", window=10).train
        return torch.cat([b.inputs for b in train.batches(8, epoch=epoch, offset=offset)])

    assert torch.equal(inputs(1, 2), inputs(1, 2))
    assert not torch.equal(inputs(1, 2), inputs(1, 3))
    assert not torch.equal(inputs(1, 2), inputs(2, 2))
    assert torch.equal(inputs(1, 2)[3 * 8 :], inputs(1, 2, offset=3))


def test_the_vocabulary_is_built_from_the_training_split(context, tmp_path):
    (tmp_path / "late.txt").write_text("abab" * 50 + "z" * 20, encoding="utf-8")
    data = text_file(context, path="late.txt", window=4, validation=20)
    assert data.spec.class_names == ("<pad>", "<unk>", "a", "b")
    assert data.spec.num_outputs == 4
    assert data.spec.input_shape == (4,)
    targets = torch.cat([b.targets for b in data.validation.batches(3)])
    assert (targets == UNKNOWN).all()


def test_words_and_punctuation_are_separate_tokens(context, tmp_path):
    (tmp_path / "words.txt").write_text("To be, or not\nto be. " * 9, encoding="utf-8")
    spec = text_file(context, path="words.txt", tokenizer="word", window=5).spec
    assert sorted(spec.class_names[2:]) == [",", ".", "To", "be", "not", "or", "to"]
    numbers = Encoder(spec.inputs).encode_untruncated("to  be,king")
    assert [spec.class_names[n] for n in numbers] == ["to", "be", ",", "<unk>"]
    assert "".join(decode_stream(spec.inputs, [5], numbers[:3])) == " to be ,"


def test_decoding_restores_characters():
    inputs = TextInputs("character", ("<pad>", "<unk>", "\n", " ", "é"))
    ids = Encoder(inputs).encode_untruncated("é \n é")
    assert "".join(decode_stream(inputs, [2], ids)) == "é \n é"


def test_a_large_vocabulary_is_not_truncated(context, tmp_path):
    text = "".join(chr(0x4E00 + i) for i in range(600)) * 2
    (tmp_path / "many.txt").write_text(text, encoding="utf-8")
    data = text_file(context, path="many.txt", window=8, validation=300)
    targets = torch.cat([b.targets for b in data.validation.batches(64)]).flatten()
    assert decode(data.spec, targets[targets != PADDING]) == text[-300:]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"window": 449},
            OptionError,
            "expected at most 448, half of the 897 training tokens of .*text.txt, got 449",
        ),
        ({"validation": 900, "test": 97}, DataError, "text.txt: 997 tokens are too few"),
        ({"validation": 997}, OptionError, "997 of 997 tokens"),
        ({"test": 0.0001}, OptionError, "0.0001 of 997 tokens is 0"),
        ({"path": "absent.txt"}, DataError, "absent.txt: can't be read: No such file"),
        ({"path": "latin1.txt"}, DataError, "latin1.txt:1: is not UTF-8: .* at byte 1"),
    ],
)
def test_errors_say_what_is_wrong(context, tmp_path, options, error, message):
    (tmp_path / "latin1.txt").write_bytes(b"a\xe9b" * 500)
    with pytest.raises(error, match=message):
        text_file(context, **{"path": "text.txt"} | options)


def test_shakespeare_is_read_or_downloaded(context, tmp_path, monkeypatch):
    requests = []

    def fetch(urls, destination, digest):
        requests.append((destination.name, digest))
        destination.write_text(TEXT, encoding="utf-8")

    monkeypatch.setattr(corpus, "fetch", fetch)
    for _ in range(2):
        assert len(shakespeare(context, window=16).validation) == -(-100 // 16)
    assert requests == [("tinyshakespeare.txt", corpus.SHAKESPEARE_DIGEST)]


def test_shakespeare_has_the_known_vocabulary_and_size(shakespeare_root):
    data = shakespeare(DataContext(root=shakespeare_root))
    assert len(data.spec.class_names) == 67
    targets = torch.cat([b.targets for b in data.validation.batches(256)])
    assert (targets != PADDING).sum() == 111_539


def test_python_documentation_needs_no_file(tmp_path):
    data = python_docs(DataContext(root=tmp_path), tokenizer="word", window=32)
    assert len(data.train) > 1000
    assert {"def", "class", "yield"} <= set(data.spec.class_names)
