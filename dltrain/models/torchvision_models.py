"""Classification models of torchvision, adapted to the data."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dltrain.core.data_spec import DataSpec
from dltrain.core.errors import RunError, UsageError
from dltrain.core.registry import MODELS

IMAGENET_CHANNELS = 3


@MODELS.register("torchvision")
def torchvision_model(
    spec: DataSpec,
    /,
    *,
    arch: str,
    pretrained: bool = False,
    freeze: Literal["none", "backbone"] = "none",
    small_input: bool = False,
) -> nn.Module:
    """Any classification model of torchvision: (batch, *input_shape) -> (batch, num_outputs).

    The first convolution and the last layer are replaced to match the channels and the outputs.

    Args:
        arch: Name of the model in torchvision, such as resnet18.
        pretrained: Start from ImageNet weights, downloaded once, except for the last layer.
        freeze: backbone trains only the last layer, and freezes the statistics of batch
            normalization.
        small_input: For images of about 32x32, begin a ResNet with a 3x3 convolution of stride 1
            and no pooling (He et al., 2016, section 4.2).

    Raises:
        UsageError: The options exclude each other, or the model does not support the image size.
        RunError: The pretrained weights can't be downloaded or read.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, ImageInputs
        >>> spec = DataSpec((1, 32, 32), 10, ImageInputs((0.5,), (0.5,)))
        >>> torchvision_model(spec, arch="squeezenet1_1")(torch.zeros(5, 1, 32, 32)).shape
        torch.Size([5, 10])
    """
    if freeze == "backbone" and not pretrained:
        raise UsageError("'freeze: backbone' needs 'pretrained: true'")
    if small_input and pretrained:
        raise UsageError("'small_input: true' replaces a layer, and needs 'pretrained: false'")
    if len(spec.input_shape) != 3:
        raise UsageError(
            f"model 'torchvision' expected images (channels, height, width), got samples of shape "
            f"{spec.input_shape}: model 'mlp' takes any shape"
        )
    model = _build(arch, pretrained, spec)
    if small_input:
        _replace_stem(model, arch)
    if spec.input_shape[0] != IMAGENET_CHANNELS:
        _replace_first_convolution(model, spec.input_shape[0], pretrained)
    if freeze == "backbone":
        _freeze(model)
    _replace_head(model, spec.num_outputs)
    _check_forward(model, arch, spec)
    return model


def _build(arch: str, pretrained: bool, spec: DataSpec) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    if arch not in names:
        close = difflib.get_close_matches(arch, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see torchvision.models.list_models()"
        raise UsageError(f"torchvision has no classification model {arch!r}; {hint}")
    options = {}
    if arch in ("googlenet", "inception_v3"):
        options["aux_logits"] = False  # with them, forward returns a tuple
        if not pretrained:
            options["init_weights"] = True
    if arch.startswith("vit_") and not pretrained:
        options["image_size"] = spec.input_shape[-1]
    if not pretrained:
        with _size_errors(arch, spec):
            return models.get_model(arch, weights=None, **options)
    weights = models.get_model_weights(arch)["DEFAULT"]
    try:
        return models.get_model(arch, weights=weights, **options)
    except (OSError, RuntimeError) as error:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        reason = str(error).partition("\n")[0]
        raise RunError(
            f"the pretrained weights of {arch!r} could not be loaded ({reason}); "
            f"download {weights.url} to {file}, or set 'pretrained: false'"
        ) from error


def _replace_stem(model: nn.Module, arch: str) -> None:
    from torchvision.models import ResNet

    if not isinstance(model, ResNet):
        raise UsageError(f"'small_input: true' is for ResNets only, and arch is {arch!r}")
    model.conv1 = nn.Conv2d(IMAGENET_CHANNELS, model.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule("maxpool", nn.Identity())


def _replace_first_convolution(model: nn.Module, channels: int, pretrained: bool) -> None:
    from torchvision import models

    name, old = next(
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)
    )
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # pyright: ignore[reportArgumentType]
        old.stride,  # pyright: ignore[reportArgumentType]
        old.padding,  # pyright: ignore[reportArgumentType]
        bias=old.bias is not None,
    )
    if pretrained:
        # Scaled so that outputs stay the same for a grey image.
        mean = old.weight.detach().mean(dim=1, keepdim=True)
        new.weight.data.copy_((mean * IMAGENET_CHANNELS / channels).expand_as(new.weight))
        if old.bias is not None and new.bias is not None:
            new.bias.data.copy_(old.bias)
    model.set_submodule(name, new)
    if isinstance(model, models.GoogLeNet | models.Inception3):
        model.transform_input = False  # it rescales the three channels of ImageNet one by one


def _replace_head(model: nn.Module, num_outputs: int) -> None:
    layers = list(model.named_modules())
    # SqueezeNet classifies with a 1x1 convolution and has no linear layer.
    heads = [(name, layer) for name, layer in layers if isinstance(layer, nn.Linear)] or [
        (name, layer) for name, layer in layers if isinstance(layer, nn.Conv2d)
    ]
    name, old = heads[-1]
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_outputs, bias=old.bias is not None)
    else:
        new = nn.Conv2d(old.in_channels, num_outputs, kernel_size=1)
    model.set_submodule(name, new)


class _FrozenBatchNorm(nn.BatchNorm2d):
    """Batch normalization that uses its running statistics in training too."""

    def train(self, mode: bool = True) -> _FrozenBatchNorm:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


def _freeze(model: nn.Module) -> None:
    """Freeze all parameters and statistics; the head is replaced afterwards."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            frozen = _FrozenBatchNorm(layer.num_features, layer.eps, layer.momentum)
            frozen.load_state_dict(layer.state_dict())
            model.set_submodule(name, frozen.train())
    model.requires_grad_(False)


def _check_forward(model: nn.Module, arch: str, spec: DataSpec) -> None:
    """Run the model on one empty image, to report an unsupported size before training."""
    model.eval()
    with torch.no_grad(), _size_errors(arch, spec):
        model(torch.zeros(1, *spec.input_shape))
    model.train()


@contextmanager
def _size_errors(arch: str, spec: DataSpec) -> Iterator[None]:
    """Raise a UsageError for what torchvision raises for an unsupported image size."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        height, width = spec.input_shape[1:]
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"arch {arch!r} does not support images of {height}x{width} ({reason}); "
            "use larger images, or choose another"
        ) from error
