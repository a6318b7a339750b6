from __future__ import annotations

import io
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from dltrain.core.data_spec import DataSpec, ImageInputs
from dltrain.core.errors import RunError, UsageError
from dltrain.models.torchvision_models import torchvision_model


def image_spec(*shape: int) -> DataSpec:
    inputs = ImageInputs(mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
    return DataSpec(shape, 7, inputs, tuple("abcdefg"))


@pytest.fixture
def weights_in_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A network whose weights lie where torch.hub would have downloaded ImageNet's."""
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5()
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(model.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return model


@pytest.mark.parametrize(
    "arch",
    [
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_y_400mf",
        "resnet18",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",
        "vit_b_32",
    ],
)
def test_families_take_the_datas_channels_and_give_its_outputs(arch: str) -> None:
    model = torchvision_model(image_spec(2, 64, 64), arch=arch)
    assert model.training
    assert model(torch.randn(2, 2, 64, 64)).shape == (2, 7)


def test_small_input_keeps_the_resolution_of_small_pictures() -> None:
    model = torchvision_model(image_spec(3, 32, 32), arch="resnet18", small_input=True)
    sizes = []
    model.get_submodule("layer1").register_forward_hook(lambda *a: sizes.append(a[2].shape[-2:]))
    model(torch.randn(2, 3, 32, 32))
    assert sizes == [(32, 32)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "resnet-18"}, r"'resnet-18'; did you mean 'resnet18'\?"),
        ({"arch": "zzz"}, r"'zzz'; see torchvision"),
        ({"arch": "vgg11"}, r"'vgg11' does not support images of 16x16"),
        ({"arch": "vit_b_32"}, r"'vit_b_32' does not support images of 16x16"),
        (
            {"arch": "alexnet", "small_input": True},
            r"'small_input: true' is for ResNets.*'alexnet'",
        ),
        (
            {"arch": "resnet18", "small_input": True, "pretrained": True},
            "small_input.*pretrained: false",
        ),
        ({"arch": "resnet18", "freeze": "backbone"}, "'freeze: backbone' needs 'pretrained: true'"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        torchvision_model(image_spec(3, 16, 16), **options)


def test_pretrained_keeps_all_weights_but_the_heads(weights_in_cache: nn.Module) -> None:
    model = torchvision_model(image_spec(3, 64, 64), arch="shufflenet_v2_x0_5", pretrained=True)
    expected = weights_in_cache.state_dict()
    for path, value in model.state_dict().items():
        if not path.startswith("fc."):
            assert torch.equal(value, expected[path]), path


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pretrained_sees_a_grey_picture_as_before(
    weights_in_cache: nn.Module, channels: int
) -> None:
    spec = image_spec(channels, 64, 64)
    model = torchvision_model(spec, arch="shufflenet_v2_x0_5", pretrained=True)
    grey = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(
        model.get_submodule("conv1.0")(grey.expand(-1, channels, -1, -1)),
        weights_in_cache.get_submodule("conv1.0")(grey.expand(-1, 3, -1, -1)),
    )


@pytest.mark.usefixtures("weights_in_cache")
def test_a_frozen_backbone_stays_as_it_is() -> None:
    spec = image_spec(3, 64, 64)
    model = torchvision_model(
        spec, arch="shufflenet_v2_x0_5", pretrained=True, freeze="backbone"
    ).train()
    before = {path: value.clone() for path, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    changed = {p for p, value in model.state_dict().items() if not torch.equal(value, before[p])}
    assert changed == {"fc.weight", "fc.bias"}
    free = torchvision_model(spec, arch="shufflenet_v2_x0_5", pretrained=True)
    assert list(free.state_dict()) == list(before)


def test_a_failed_download_says_where_the_file_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> io.BytesIO:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(RunError, match=r"'resnet18'.*no route to host.*resnet18-\w+\.pth") as info:
        torchvision_model(image_spec(3, 64, 64), arch="resnet18", pretrained=True)
    assert str(tmp_path / "checkpoints") in str(info.value)
    assert "\n" not in str(info.value)
