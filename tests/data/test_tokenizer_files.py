"""A tokenizer of the `tokenizers` library splits as the library does, and travels with the run."""

import builtins
import json

import pytest
import yaml
from small_data import write_text

import dltrain
from dltrain.build import load_trained
from dltrain.commands.sample import sample
from dltrain.config import ConfigError
from dltrain.data import tokens
from dltrain.data.corpus import decode, encode
from dltrain.data.readers import read_texts
from dltrain.spec import DataContext, TextInputs

tokenizers = pytest.importorskip("tokenizers")
TEXT = "To be, or not to be: what art thou, king?\n"


def byte_pairs(path):
    """As GPT-2's: bytes, a space belongs to the word after it."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(path))
    return tokenizer


def word_pieces(path):
    """As BERT's: lowercased, `##` continues a word, special tokens around each text."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = ["[UNK]", "[CLS]", "[SEP]", "to", "be", "k", "##ing", ",", "art", "##s"]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(path))
    return tokenizer


def split(path, text):
    return tokens.split_text(text, tokens.text_inputs(DataContext(path.parent), str(path)))


def test_tokens_are_the_librarys_whole_and_without_special_ones(tmp_path):
    bytes_, pieces = tmp_path / "bytes.json", tmp_path / "pieces.json"
    plain = byte_pairs(bytes_)
    plain.no_padding()
    plain.no_truncation()
    assert split(bytes_, TEXT) == plain.encode(TEXT).tokens
    assert len(split(bytes_, TEXT)) > 4
    word_pieces(pieces)
    assert split(pieces, "To be, Kings") == ["to", "be", ",", "k", "##ing", "##s"]


@pytest.mark.parametrize("make", [byte_pairs, word_pieces])
def test_a_text_written_token_by_token_is_the_decoded_one(tmp_path, make):
    path = tmp_path / "tokenizer.json"
    make(path)
    found = split(path, "to be kings, to art")
    inputs = tokens.text_inputs(DataContext(tmp_path), str(path))
    inputs = TextInputs(**{**vars(inputs), "vocabulary": tokens.build_vocabulary([found])})
    numbers = encode(inputs, "to be kings, to art")
    first = tokens.joined(inputs, [inputs.vocabulary[numbers[0]]])
    written = first + "".join(decode(inputs, number) for number in numbers[1:])
    assert written == tokens.joined(inputs, found)
    if make is byte_pairs:
        assert written == "to be kings, to art"


CONFIG = {
    "model": {"name": "text_lstm", "hidden_size": 8},
    "data": {"name": "text_csv", "path": "reviews.tsv", "text": ["text"], "label": "label"},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "metrics": ["accuracy"],
    "train": {"steps": 4, "batch_size": 16, "device": "cpu"},
    "recording": {"tensorboard": False},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"to be kings {'art' if i % 2 else ','} {i}\t{i % 2}" for i in range(80)]
    (tmp_path / "reviews.tsv").write_text("\n".join(["text\tlabel", *rows]))
    word_pieces(tmp_path / "pieces.json")
    return tmp_path


def load(folder, *overrides, **changes):
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | changes))
    return dltrain.load(folder / "config.yaml", overrides)


def test_a_run_keeps_its_tokenizer(folder):
    """The file may go: what the checkpoint holds splits new texts."""
    dltrain.train(load(folder, "data.tokenizer=pieces.json"), run_dir=folder / "run", quiet=True)
    (folder / "pieces.json").unlink()
    spec = load_trained(folder / "run").spec
    assert spec.inputs.tokenizer == "file"
    # The rarest, a number that is unknown to the tokenizer, and the vocabulary of training alone.
    assert set(spec.inputs.vocabulary) == {
        *("<pad>", "<unk>", "to", "be", "k", "##ing", "##s", ",", "art", "[UNK]")
    }
    numbers, _ = read_texts(spec.inputs, ["Kings art"])
    assert [spec.inputs.vocabulary[n] for n in numbers[0]] == ["k", "##ing", "##s", "art"]
    (prediction,) = dltrain.predict(folder / "run", ["to be Kings art"])
    assert prediction.probabilities is not None


def test_a_language_model_writes_with_it(folder):
    byte_pairs(folder / "bytes.json")
    write_text(folder / "text.txt", 60)
    changes = {
        "task": "language_model",
        "model": {"name": "text_generator", "hidden_size": 8},
        "data": {"name": "text_file", "path": "text.txt", "tokenizer": "bytes.json", "window": 9},
        "metrics": [],
    }
    dltrain.train(load(folder, **changes), run_dir=folder / "run", quiet=True)
    (one,) = sample(folder / "run", "to be", num_tokens=20)
    assert one.prompt == "to be"
    assert len(one.text) >= 20
    assert "Ġ" not in one.text


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "can't be read"), ("{}", "is no tokenizer"), ("[1", "is no tokenizer")],
)
def test_a_file_that_is_none_is_told_at_its_line(folder, content, message):
    if content is not None:
        (folder / "other.json").write_text(content)
    chosen = load(folder, "data.tokenizer=other.json")
    with pytest.raises(ConfigError, match=rf"data.tokenizer: other.json: {message}"):
        dltrain.train(chosen, run_dir=folder / "run", quiet=True)
    assert not (folder / "run").exists()


def test_without_the_library_the_error_says_what_to_install(folder, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *rest)

    tokens._parsed.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'dltrain\[tokenizers\]'"):
        dltrain.train(load(folder, "data.tokenizer=pieces.json"), run_dir=folder / "run")


def test_another_word_is_no_tokenizer(folder):
    with pytest.raises(ConfigError, match=r"expected one of word, character or a tokenizer.json"):
        load(folder, "data.tokenizer=sentencepiece")
    assert json.loads((folder / "pieces.json").read_text())["model"]["type"] == "WordPiece"
