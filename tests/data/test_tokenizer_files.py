"""Tokenizer files give the tokens of the `tokenizers` library, and are stored in the run."""

import builtins
import json
from dataclasses import replace

import pytest
import torch
import yaml
from small_data import write_text

import dltrain
from dltrain.build import load_trained
from dltrain.commands.sample import sample
from dltrain.config import ConfigError
from dltrain.core.errors import DataError, OptionError
from dltrain.core.protocols import DataContext
from dltrain.core.registry import MODELS
from dltrain.data import tokenization
from dltrain.data.input_readers import read_texts

tokenizers = pytest.importorskip("tokenizers")
TEXT = "To be, or not to be: what art thou, king?\n"


def byte_pairs(path):
    """Write a tokenizer like GPT-2's: byte pairs, a space belongs to the following word."""
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
    """Write a tokenizer like BERT's: lowercase, `##` continues a word, special tokens."""
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
    return tokenization.split_text(
        text, tokenization.text_inputs(DataContext(path.parent), str(path))
    )


def test_tokens_equal_the_librarys_without_special_tokens(tmp_path):
    bytes_, pieces = tmp_path / "bytes.json", tmp_path / "pieces.json"
    plain = byte_pairs(bytes_)
    plain.no_padding()
    plain.no_truncation()
    assert split(bytes_, TEXT) == plain.encode(TEXT).tokens
    assert len(split(bytes_, TEXT)) > 4
    word_pieces(pieces)
    assert split(pieces, "To be, Kings") == ["to", "be", ",", "k", "##ing", "##s"]


def inputs_of(path, **options):
    return tokenization.text_inputs(DataContext(path.parent), str(path), **options)


def padded_pieces(path):
    """Write a tokenizer like `word_pieces` with a gap in the ids and a padding token."""
    tokenizer = word_pieces(path)
    saved = json.loads(path.read_text())
    saved["model"]["vocab"]["late"] = 20
    path.write_text(json.dumps(saved))
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.add_tokens(["extra"])
    tokenizer.save(str(path))
    return tokenizer


@pytest.mark.parametrize("make", [byte_pairs, word_pieces, padded_pieces])
@pytest.mark.parametrize("text", [TEXT, "Kings art late extra", "", "κ 👍"])
def test_ids_equal_the_librarys_with_special_tokens(tmp_path, make, text):
    tokenizer = make(tmp_path / "t.json")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    inputs = inputs_of(tmp_path / "t.json")
    expected = tokenizer.encode(text).ids
    assert tokenization.Encoder(inputs)(text).tolist() == (expected or [inputs.padding])
    vocabulary = tokenizer.get_vocab()
    assert {token: inputs.vocabulary[number] for token, number in vocabulary.items()} == {
        token: token for token in vocabulary
    }


def test_padding_and_unknown_ids_come_from_the_file(tmp_path):
    """Padding is appended to the vocabulary if the file has none; byte pairs need no unknown id."""
    path = tmp_path / "t.json"
    padded_pieces(path)
    inputs = inputs_of(path)
    assert (inputs.vocabulary[inputs.padding], inputs.vocabulary[inputs.unknown]) == (
        *("[PAD]", "[UNK]"),
    )
    assert (
        len(inputs.vocabulary)
        == max(tokenizers.Tokenizer.from_file(str(path)).get_vocab().values()) + 1
    )
    ids, _ = read_texts(inputs, ["to be", "to"])
    assert ids.tolist() == [[1, 3, 4, 2], [1, 3, 2, inputs.padding]]
    tokenizer = word_pieces(path)
    tokenizer.enable_padding(pad_id=2, pad_token="[SEP]")
    tokenizer.save(str(path))
    assert inputs_of(path).padding == 2
    size = byte_pairs(path).get_vocab_size()
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.save(str(path))
    inputs = inputs_of(path)
    assert (inputs.padding, inputs.unknown, len(inputs.vocabulary)) == (size, None, size + 1)


def test_a_long_text_keeps_its_special_tokens(tmp_path):
    tokenizer = word_pieces(tmp_path / "t.json")
    tokenizer.enable_truncation(5)
    expected = tokenizer.encode("to be to be to be").ids
    encode = tokenization.Encoder(inputs_of(tmp_path / "t.json", max_tokens=5))
    assert encode("to be to be to be").tolist() == expected == [1, 3, 4, 3, 2]
    with pytest.raises(OptionError, match=r"2; .* adds 2 special tokens"):
        inputs_of(tmp_path / "t.json", max_tokens=2)


@pytest.mark.parametrize("make", [byte_pairs, word_pieces])
def test_decoding_token_by_token_equals_decoding_at_once(tmp_path, make):
    """Characters may consist of several tokens."""
    tokenizer = make(tmp_path / "t.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    inputs = inputs_of(tmp_path / "t.json")
    text = "to be kings, to art é👍 be" if make is byte_pairs else "to be kings, to art be"
    ids = tokenization.Encoder(inputs).encode_untruncated(text)
    written = [*tokenization.decode_stream(inputs, ids[:1], ids[1:])]
    assert len(written) == len(ids) - 1
    first = tokenization.decode(inputs, ids[:1])
    assert first + "".join(written) == tokenization.decode(inputs, ids) == tokenizer.decode(ids)
    assert tokenization.decode(inputs, [*ids, inputs.padding]) == tokenizer.decode(ids)


def test_a_text_that_the_tokenizer_cannot_encode_is_named(tmp_path):
    from tokenizers import models

    tokenizers.Tokenizer(models.WordLevel({"to": 0}, unk_token="[UNK]")).save(
        str(tmp_path / "t.json")
    )
    with pytest.raises(DataError, match="can't encode 'be'"):
        tokenization.Encoder(inputs_of(tmp_path / "t.json"))("be")


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


def test_a_run_stores_its_tokenizer(folder):
    """The checkpoint contains the tokenizer, so the file is not needed."""
    dltrain.train(load(folder, "data.tokenizer=pieces.json"), run_dir=folder / "run", quiet=True)
    (folder / "pieces.json").unlink()
    spec = load_trained(folder / "run").spec
    assert spec.inputs.tokenizer == "file"
    assert spec.inputs.vocabulary == (
        *("[UNK]", "[CLS]", "[SEP]", "to", "be", "k", "##ing", ",", "art", "##s", "<pad>"),
    )
    numbers, _ = read_texts(spec.inputs, ["Kings art", "to"])
    assert numbers.tolist() == [[1, 5, 6, 9, 8, 2], [1, 3, 2, 10, 10, 10]]
    (prediction,) = dltrain.predict(folder / "run", ["to be Kings art"])
    assert prediction.probabilities is not None


def test_a_language_model_generates_with_a_tokenizer_file(folder):
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
    assert one.text
    assert "Ġ" not in one.text


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "can't be read"), ("{}", "is no tokenizer"), ("[1", "is no tokenizer")],
)
def test_an_invalid_tokenizer_file_is_reported_at_its_line(folder, content, message):
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

    tokenization._load_tokenizer.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'dltrain\[tokenizers\]'"):
        dltrain.train(load(folder, "data.tokenizer=pieces.json"), run_dir=folder / "run")


def test_an_unknown_tokenizer_name_is_refused(folder):
    with pytest.raises(ConfigError, match=r"expected one of word, character or a tokenizer.json"):
        load(folder, "data.tokenizer=sentencepiece")
    assert json.loads((folder / "pieces.json").read_text())["model"]["type"] == "WordPiece"


@pytest.mark.parametrize("option", ["min_count=2", "max_size=5"])
def test_the_vocabulary_of_a_file_cannot_be_limited(folder, option):
    with pytest.raises(ConfigError, match=r"a tokenizer file has a vocabulary of its own"):
        dltrain.train(load(folder, "data.tokenizer=pieces.json", f"data.{option}"))


def test_the_tokenizer_file_decides_about_case(folder):
    """The word tokenizer lowercases texts by default."""
    for tokenizer, lowercase in (("pieces.json", False), ("word", True)):
        data = load(folder, f"data.tokenizer={tokenizer}").data.build(DataContext(folder))
        assert data.spec.inputs.lowercase == lowercase


@pytest.mark.parametrize("model", ["text_lstm", "text_cnn", "text_transformer"])
def test_models_ignore_the_padding_of_the_file(folder, model):
    padded_pieces(folder / "pieces.json")
    spec = load(folder, "data.tokenizer=pieces.json").data.build(DataContext(folder)).spec
    network = MODELS[model].builder(spec, dropout=0.0)
    network.eval()
    alone, _ = read_texts(spec.inputs, ["to be"])
    beside, _ = read_texts(spec.inputs, ["to be", "to be kings, to art be to be"])
    torch.testing.assert_close(network(beside)[:1], network(alone))
    unknown_first = alone.where(alone != 1, 0)  # id 0 is an ordinary token
    assert not torch.allclose(network(unknown_first), network(alone))


def test_ids_that_exceed_the_maximum_are_refused(tmp_path):
    from tokenizers import models

    path = tmp_path / "far.json"
    model = models.WordLevel({"[UNK]": 0, "far": 1}, unk_token="[UNK]")
    written = json.loads(tokenizers.Tokenizer(model).to_str())
    written["model"]["vocab"]["far"] = 4_000_000_000  # saving it would iterate over all ids
    path.write_text(json.dumps(written))
    with pytest.raises(OptionError, match="has a token with the id 4,000,000,000; at most"):
        inputs_of(path)


def test_an_inconsistent_padding_id_is_replaced_by_that_of_its_token(tmp_path):
    path = tmp_path / "pieces.json"
    tokenizer = word_pieces(path)
    tokenizer.enable_padding(pad_id=99, pad_token="##s")
    tokenizer.save(str(path))
    assert inputs_of(path).padding == tokenizer.token_to_id("##s")


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("definition", lambda _: "{}", "definition is no tokenizer: "),
        ("vocabulary", lambda own: (*own[:-2], own[-1], own[-2]), "vocabulary is not that of"),
        ("vocabulary", lambda own: (*own, "more"), "vocabulary is not that of"),
        ("padding", lambda own: own - 1, "padding is not that of inputs.definition"),
        ("unknown", lambda own: own + 1, "unknown is not that of inputs.definition"),
    ],
)
def test_inputs_that_disagree_with_the_tokenizer_are_refused(folder, key, change, message):
    inputs = load(folder, "data.tokenizer=pieces.json").data.build(DataContext(folder)).spec.inputs
    tokenization.verify_tokenizer(inputs)
    changed = replace(inputs, **{key: change(getattr(inputs, key))})
    with pytest.raises(ValueError, match=rf"^inputs\.{message}"):
        tokenization.verify_tokenizer(changed)
