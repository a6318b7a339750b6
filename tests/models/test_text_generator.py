"""Language models: what they may see, and what they share."""

import pytest
import safetensors.torch
import torch
from torch import nn

from dltrain.errors import OptionError, UsageError
from dltrain.models.text_generator import Gpt, TextGenerator
from dltrain.spec import Column, DataSpec, TableInputs, TextInputs

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


@pytest.mark.parametrize("model", [TextGenerator, Gpt])
def test_only_text(model):
    with pytest.raises(UsageError, match="is for text, and this data has table inputs"):
        model(DataSpec((2,), 1, TableInputs((Column("a"), Column("b")))))


def test_what_gpt_cannot_be():
    with pytest.raises(OptionError, match="10 is no multiple of 4 heads"):
        Gpt(SPEC, width=10)
    with pytest.raises(UsageError, match="fixed length"):
        Gpt(DataSpec((0,), 13, SPEC.inputs, VOCABULARY))
