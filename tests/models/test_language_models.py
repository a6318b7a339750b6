"""Language models: what they may see, and what they share."""

import pytest
import safetensors.torch
import torch
from torch import nn

from dltrain.core import registry
from dltrain.core.data_spec import Column, DataSpec, TableInputs, TextInputs
from dltrain.core.errors import OptionError, UsageError
from dltrain.models.language_models import Gpt, TextGenerator
from dltrain.models.layers import Dropout, StackedLstm

VOCABULARY = ("<pad>", "<unk>", *"abcdefghijk")
SPEC = DataSpec((12,), 13, TextInputs("character", VOCABULARY), VOCABULARY)
MODELS = [
    pytest.param(
        lambda **o: TextGenerator(SPEC, hidden_size=8, layers=2, **o), id="text_generator"
    ),
    pytest.param(lambda **o: Gpt(SPEC, layers=2, heads=2, width=8, **o), id="gpt"),
]
every_model = pytest.mark.parametrize("build", MODELS)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(2, 13, (batch, length))


@every_model
def test_a_later_token_never_changes_an_earlier_output(build):
    model = build().double().eval()
    before = tokens(3, 12)
    outputs = model(before)
    for place in range(12):
        changed = before.clone()
        changed[:, place] = (changed[:, place] - 1) % 11 + 2
        moved = (model(changed) - outputs).abs().amax(dim=(0, 2)) > 1e-12
        assert not moved[:place].any()
        assert moved[place:].all()


@every_model
@pytest.mark.parametrize("tied", [True, False])
def test_shapes_and_gradients(build, tied):
    model = build(tied=tied, dropout=0.1)
    for length in (1, 12):
        assert model(tokens(2, length)).shape == (2, length, 13)
    torch.nn.functional.cross_entropy(model(tokens(4, 12)).flatten(0, 1), tokens(4, 12).flatten())
    model(tokens(4, 12)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.count_nonzero() > 0, name


@every_model
def test_tied_weights_are_one_matrix(build, tmp_path):
    tied, apart = build(tied=True).eval(), build(tied=False)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (tied, apart)]
    assert sizes[1] - sizes[0] == 13 * 8
    with torch.no_grad():
        tied.embedding.weight[5] = 0.0
    assert (tied(tokens(2, 6))[..., 5] == tied.output.bias[5]).all(), "the output uses it too"

    safetensors.torch.save_file(tied.state_dict(), tmp_path / "model.safetensors")
    again = build(tied=True).eval()
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    given = tokens(2, 6)
    assert torch.equal(again(given), tied(given))


@every_model
def test_the_first_loss_is_that_of_a_guess(build):
    for tied in (True, False):
        outputs = build(tied=tied).eval()(tokens(64, 12)).flatten(0, 1)
        loss = nn.functional.cross_entropy(outputs, tokens(64, 12).flatten())
        assert loss.item() == pytest.approx(torch.tensor(13.0).log().item(), abs=0.4)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_stacked_lstm_is_torchs_with_dropout_between_the_layers(share):
    torch.manual_seed(1)
    ours = StackedLstm(3, 4, 3, share)
    torch.manual_seed(1)
    theirs = nn.LSTM(3, 4, 3, batch_first=True)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    inputs, state = torch.randn(2, 5, 3), (torch.randn(3, 2, 4), torch.randn(3, 2, 4))
    ours.eval()
    for begin in (None, state):
        (outputs, ends), (wanted, wanted_ends) = ours(inputs, begin), theirs(inputs, begin)
        assert torch.allclose(outputs, wanted, atol=1e-6)
        for end, wanted_end in zip(ends, wanted_ends, strict=True):
            assert torch.allclose(end, wanted_end, atol=1e-6)

    ours.train()
    torch.manual_seed(2)
    outputs, _ = ours(inputs)
    torch.manual_seed(2)
    wanted, dropout = inputs, Dropout(share)
    for number in range(3):
        layer = nn.LSTM(4 if number else 3, 4, batch_first=True, device="meta").to_empty(
            device="cpu"
        )
        layer.load_state_dict(
            {f"{n[:-1]}0": w for n, w in theirs.state_dict().items() if n.endswith(str(number))}
        )
        wanted, _ = layer(dropout(wanted) if number else wanted)
    assert torch.allclose(outputs, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("text_generator", {"layers": 3}),
        ("text_lstm", {"layers": 2, "bidirectional": True}),
        ("seq2seq_lstm", {}),
    ],
)
def test_no_recurrent_layer_uses_a_dropout_whose_state_no_checkpoint_holds(name, options):
    # cuDNN's has a state of its own on a GPU, which is in no generator.
    model = registry.MODELS[name].builder(SPEC, dropout=0.5, **options)
    layers = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    assert layers
    assert all(layer.dropout == 0 for layer in layers)


@pytest.mark.parametrize("model", [TextGenerator, Gpt])
def test_only_text(model):
    with pytest.raises(UsageError, match="expected text, and this data has table inputs"):
        model(DataSpec((2,), 1, TableInputs((Column("a"), Column("b")))))


def test_what_gpt_cannot_be():
    with pytest.raises(OptionError, match="expected a multiple of 4 heads, got 10"):
        Gpt(SPEC, width=10)
    with pytest.raises(UsageError, match="fixed length"):
        Gpt(DataSpec((0,), 13, SPEC.inputs, VOCABULARY))
