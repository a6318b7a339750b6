from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dltrain.core.data_spec import (
    PADDING,
    UNKNOWN,
    Column,
    DataSpec,
    ImageInputs,
    TableInputs,
    TextInputs,
)
from dltrain.core.errors import OptionError, UsageError
from dltrain.models.text import text_cnn, text_lstm, text_transformer
from dltrain.models.text_encoders import sinusoids
from dltrain.models.text_layers import Pooling, PoolingName, reverse_valid

WORDS = ("<pad>", "<unk>", "the", "film", "was", "good", "bad", "not")
POOLINGS: tuple[PoolingName, ...] = ("last", "max", "mean", "attention")


def spec_of(max_tokens: int | None = 7) -> DataSpec:
    inputs = TextInputs("word", WORDS, max_tokens=max_tokens)
    return DataSpec((0,), 3, inputs, ("a", "b", "c"))


VARIANTS = [
    *(
        pytest.param(
            text_lstm,
            {"hidden_size": 16, "pooling": pooling, "bidirectional": both},
            id=f"text_lstm-{pooling}-{'both' if both else 'forward'}",
        )
        for pooling, both in itertools.product(POOLINGS, [False, True])
    ),
    pytest.param(text_cnn, {"channels": 8}, id="text_cnn"),
    *(
        pytest.param(text_transformer, {"width": 16, "positions": p}, id=f"text_transformer-{p}")
        for p in ("learned", "sinusoidal")
    ),
]
every_variant = pytest.mark.parametrize(("builder", "options"), VARIANTS)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tokens_of(*lengths: int, width: int | None = None) -> Tensor:
    tokens = torch.randint(UNKNOWN, len(WORDS), (len(lengths), width or max(lengths)))
    valid = torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]
    return tokens.where(valid, PADDING)


@every_variant
@pytest.mark.parametrize("inference", [False, True])
def test_padding_further_changes_nothing(builder, options, inference) -> None:
    model = builder(spec_of(), **options).eval()
    tokens = tokens_of(7, 1, 4, 2, 0)
    with torch.inference_mode(inference):  # attention has another code path without gradients
        outputs = model(tokens)
        for more in (1, 10):
            further = model(nn.functional.pad(tokens, (0, more), value=PADDING))
            torch.testing.assert_close(further, outputs, atol=1e-6, rtol=1e-6)
        for row in tokens[:4]:
            alone = model(row[row != PADDING][None])
            expected = outputs[(tokens == row).all(dim=1)]
            torch.testing.assert_close(alone, expected, atol=1e-6, rtol=1e-6)


@every_variant
def test_the_order_of_the_samples_does_not_matter(builder, options) -> None:
    model = builder(spec_of(), **options).eval()
    tokens, order = tokens_of(7, 1, 4, 2), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(tokens[order]), model(tokens)[order], atol=1e-6, rtol=1e-6)


@every_variant
@pytest.mark.parametrize("width", [0, 1, 5])
def test_texts_without_tokens_are_finite_forward_and_backward(builder, options, width) -> None:
    model = builder(spec_of(), **options)
    outputs = model(torch.full((2, width), PADDING))
    assert outputs.shape == (2, 3)
    assert outputs.isfinite().all()
    outputs.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_variant
def test_every_token_of_a_text_matters(builder, options) -> None:
    if options.get("pooling") == "max":
        options = options | {"hidden_size": 64}  # a narrow maximum may overlook a token
    model = builder(spec_of(), **options).eval()
    tokens = tokens_of(6, 6, width=7)
    outputs = model(tokens)
    for position in range(6):
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] - 1) % (len(WORDS) - 2) + 2
        assert (model(changed) != outputs).any(dim=1).all(), position


@every_variant
def test_gradients_reach_every_parameter(builder, options) -> None:
    model = builder(spec_of(), **options, dropout=0.0)
    nn.functional.cross_entropy(model(tokens_of(7, 3)), torch.tensor([0, 2])).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.count_nonzero() > 0, path
    assert model.embedding.weight.grad[PADDING].count_nonzero() == 0


@every_variant
def test_one_batch_can_be_learned_by_heart(builder, options) -> None:
    model = builder(spec_of(), **options, dropout=0.0)
    tokens, targets = tokens_of(7, 3, 1, 5, 6), torch.tensor([0, 1, 2, 0, 1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), targets).backward()
        optimizer.step()
    assert torch.equal(model(tokens).argmax(dim=1), targets)
    assert model.embedding.weight[PADDING].count_nonzero() == 0


@every_variant
def test_state_dict_restores_the_outputs(builder, options) -> None:
    model, other = (builder(spec_of(), **options).eval() for _ in range(2))
    tokens = tokens_of(7, 2)
    assert not torch.equal(model(tokens), other(tokens))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(model(tokens), other(tokens))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_equals_torchs_on_packed_sequences(layers: int, bidirectional: bool) -> None:
    model = text_lstm(spec_of(), hidden_size=5, layers=layers, bidirectional=bidirectional).eval()
    oracle = nn.LSTM(100, 5, layers, batch_first=True, bidirectional=bidirectional)
    for level in range(layers):
        directions = {"": model.forward_layers[level]}
        if bidirectional:
            directions["_reverse"] = model.backward_layers[level]
        for suffix, layer in directions.items():
            for name, weight in layer.named_parameters():
                getattr(oracle, name.replace("l0", f"l{level}{suffix}")).data.copy_(weight)
    lengths = torch.tensor([3, 7, 1, 5])
    features = torch.randn(4, 7, 100)
    packed = pack_padded_sequence(features, lengths, batch_first=True, enforce_sorted=False)
    packed_outputs, (last, _) = oracle(packed)
    expected, _ = pad_packed_sequence(packed_outputs, batch_first=True)
    valid = torch.arange(7) < lengths[:, None]
    outputs = model.encode(features, lengths)
    torch.testing.assert_close(outputs[valid], expected[valid], atol=1e-6, rtol=1e-6)
    # What the oracle ends with in its last layer, directions side by side.
    ends = torch.cat(list(last[-2 if bidirectional else -1 :]), dim=1)
    pooling = Pooling("last", outputs.shape[2], bidirectional)
    torch.testing.assert_close(pooling(outputs, valid), ends, atol=1e-6, rtol=1e-6)


def test_sequences_are_reversed_within_their_length() -> None:
    features = torch.arange(1.0, 11).reshape(2, 5, 1)
    features[0, 3:] = 0
    turned = reverse_valid(features, torch.tensor([3, 5]))
    assert turned.squeeze(2).tolist() == [[3, 2, 1, 0, 0], [10, 9, 8, 7, 6]]


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_equals_a_plain_loop(name: PoolingName) -> None:
    features, lengths = torch.randn(4, 6, 8) - 3, [6, 1, 4, 0]  # negative: a padding of 0 would win
    pooling = Pooling(name, 8, bidirectional=False)
    rows = []
    for sample, length in zip(features, lengths, strict=True):
        valid = sample[:length]
        if length == 0:
            rows.append(torch.zeros(8))
        elif name == "last":
            rows.append(valid[-1])
        elif name == "max":
            rows.append(torch.stack([max(valid[:, i]) for i in range(8)]))
        elif name == "mean":
            rows.append(sum(valid, torch.zeros(8)) / length)
        else:
            scores = [pooling.score(position).exp() for position in valid]
            rows.append(
                sum((s * v for s, v in zip(scores, valid, strict=True)), torch.zeros(8))
                / sum(scores)
            )
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    torch.testing.assert_close(pooling(features, mask), torch.stack(rows), atol=1e-6, rtol=1e-5)


def test_cnn_equals_windows_in_a_plain_loop() -> None:
    model = text_cnn(spec_of(), widths=(2, 3), channels=4, embedding_size=5).eval()
    tokens = tokens_of(6, 3, 2)
    for row, output in zip(tokens, model(tokens), strict=True):
        vectors = model.embedding(row[row != PADDING])
        vectors = torch.cat([vectors, torch.zeros(max(3 - len(vectors), 0), 5)])
        length = int((row != PADDING).sum())
        pooled = []
        for width, convolution in zip((2, 3), model.convolutions, strict=True):
            starts = range(max(length - width, 0) + 1)
            values = [
                (convolution.weight * vectors[i : i + width].T).sum((1, 2)) + convolution.bias
                for i in starts
            ]
            pooled.append(torch.stack(values).amax(dim=0).relu())
        torch.testing.assert_close(output, model.head(torch.cat(pooled)), atol=1e-5, rtol=1e-5)


def test_sinusoids_follow_the_papers_formula() -> None:
    values = sinusoids(torch.arange(4), 6)
    for position, i in itertools.product(range(4), range(3)):
        angle = torch.tensor(position / 10_000 ** (2 * i / 6))
        torch.testing.assert_close(values[position, i], angle.sin())
        torch.testing.assert_close(values[position, 3 + i], angle.cos())
    assert sinusoids(torch.arange(4), 5).shape == (4, 5)


def test_transformer_knows_the_order_of_words() -> None:
    model = text_transformer(spec_of(), width=16).eval()
    this = torch.tensor([[3, 4, 7, 5]])
    assert not torch.allclose(model(this), model(this.flip(1)), atol=1e-4)


@every_variant
def test_dropout_acts_in_training_only(builder, options) -> None:
    model = builder(spec_of(), **options, dropout=0.5)
    tokens = tokens_of(7, 2)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


VECTORS = "film 0.5 -1 2e-1\n. . . 9 9 9\nelsewhere 7 7 7\n<pad> 4 4 4\nnot 1 2 3\n"


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "glove.3d.txt"
    path.write_text(VECTORS, encoding="utf-8")
    return path


@pytest.mark.parametrize("builder", [text_lstm, text_cnn])
def test_word_vectors_are_copied_and_other_words_keep_their_start(builder, vectors: Path) -> None:
    plain = builder(spec_of(), embedding_size=3).embedding.weight
    torch.manual_seed(0)
    model = builder(spec_of(), embedding_size=3, embeddings=str(vectors))
    weight = model.embedding.weight
    assert weight[WORDS.index("film")].tolist() == pytest.approx([0.5, -1, 0.2])
    assert weight[WORDS.index("not")].tolist() == [1, 2, 3]
    assert weight[PADDING].tolist() == [0, 0, 0]
    others = [i for i, word in enumerate(WORDS) if word not in ("film", "not")]
    assert torch.equal(weight[others], plain[others])
    assert weight.requires_grad


def test_frozen_word_vectors_do_not_learn(vectors: Path) -> None:
    model = text_lstm(spec_of(), embedding_size=3, embeddings=str(vectors), freeze_embeddings=True)
    before = model.embedding.weight.clone()
    model(tokens_of(7, 3)).sum().backward()
    torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1.0).step()
    assert torch.equal(model.embedding.weight, before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("film 1 2\n", ":1: expected a word and 3 numbers, .* has 2 after"),
        ("film 1 2 3 4\n", ":1: expected a word and 3 numbers, .* has 4 after"),
        ("film 1 2 3\nnot 1\n", ":2: expected a word and 3 numbers, .* has 1 after"),
        ("film 1 2 3\n\n", ":2: expected a word and 3 numbers"),
        ("film 1 2 3\nnot 1 two 3\n", ":2: not a number: .*'two'"),
        ("film 1 nan 3\n", ":1: expected finite numbers"),
        ("cinema 1 2 3\n", ": has no word of the data's vocabulary"),
        (b"film 1 2 3\n\xff\xfe\n", ": can't be read"),
    ],
)
def test_bad_word_vectors_are_told_with_file_and_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(OptionError, match=rf"vectors\.txt{message}") as caught:
        text_lstm(spec_of(), embedding_size=3, embeddings=str(path))
    assert caught.value.option == "embeddings"


def test_a_missing_file_and_nothing_to_freeze_are_told(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nowhere"):
        text_cnn(spec_of(), embeddings=str(tmp_path / "nowhere.txt"))
    with pytest.raises(OptionError, match="needs 'embeddings'"):
        text_cnn(spec_of(), freeze_embeddings=True)


@pytest.mark.parametrize("builder", [text_lstm, text_cnn, text_transformer])
def test_other_data_is_refused_with_a_model_that_fits(builder) -> None:
    images = DataSpec((1, 4, 4), 3, ImageInputs((0.0,), (1.0,)))
    with pytest.raises(UsageError, match=f"'{builder.__name__}' expected text.*model 'cnn'"):
        builder(images)
    rows = DataSpec((2,), 3, TableInputs((Column("x"), Column("y"))))
    with pytest.raises(UsageError, match=f"'{builder.__name__}' expected text.*model 'mlp'"):
        builder(rows)


def test_options_that_do_not_fit_are_told() -> None:
    with pytest.raises(OptionError, match="expected a divisor of width, 128, got 3"):
        text_transformer(spec_of(), heads=3)
    with pytest.raises(OptionError, match="max_tokens"):
        text_transformer(spec_of(max_tokens=None), positions="learned")
    with pytest.raises(OptionError, match="at least one width"):
        text_cnn(spec_of(), widths=())
