"""Batch normalization over several ranks (threads here) equals torch's over all samples."""

import threading
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dltrain.core.batch import RankSlice
from dltrain.core.protocols import ProcessGroup
from dltrain.distributed.batch_norm import GroupBatchNorm, convert_batch_norm
from dltrain.models.torchvision_models import _freeze


class ThreadRank(ProcessGroup):
    """A rank that is a thread of this process."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, sums: dict) -> None:
        self.rank_slice, self.barrier, self.sums = RankSlice(rank, size), barrier, sums

    def all_reduce_sum(self, tensor):
        self.sums[self.rank_slice.rank] = tensor.detach()
        self.barrier.wait(60)
        total = torch.stack([self.sums[rank] for rank in range(self.world_size)]).sum(0)
        self.barrier.wait(60)
        return total


def on_ranks(model: nn.Module, parts: list[tuple[torch.Tensor, bool]]) -> list[dict]:
    """Run forward and backward on the samples of each rank, which may be placeholders."""
    barrier, sums, found = threading.Barrier(len(parts)), {}, [{} for _ in parts]

    def work(rank: int) -> None:
        own = convert_batch_norm(deepcopy(model), ThreadRank(rank, len(parts), barrier, sums))
        samples, counts = parts[rank]
        samples = samples.clone().requires_grad_()
        for layer in own.modules():
            if isinstance(layer, GroupBatchNorm):
                layer.counts = counts
        outputs = own(samples)
        (
            outputs.square().flatten(1).sum(1)
            * torch.arange(1.0, len(samples) + 1, dtype=torch.float64)
        ).sum().mul(float(counts)).backward()
        found[rank] = {
            "outputs": outputs.detach(),
            "inputs": samples.grad,
            "gradients": [p.grad for p in own.parameters()],
            "buffers": dict(own.named_buffers()),
            "names": sorted(own.state_dict()),
        }

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


KINDS = {
    "rows": (lambda: nn.BatchNorm1d(3), (3,)),
    "sequences": (lambda: nn.BatchNorm1d(3, momentum=None), (3, 5)),
    "images": (lambda: nn.BatchNorm2d(3, affine=False), (3, 4, 5)),
    "volumes": (lambda: nn.BatchNorm3d(3, eps=0.1, track_running_stats=False), (3, 2, 2, 2)),
}


@pytest.mark.parametrize("placeholders", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_and_gradients_equal_those_of_all_real_samples(kind, placeholders):
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), make()).double()
    samples = torch.randn(5, *shape, dtype=torch.float64) * 3 + 100
    parts = [(samples[:3], True), (samples[3:], True)]
    parts += [(torch.full((1, *shape), 1e9, dtype=torch.float64), False)] * placeholders
    found = on_ranks(model, parts)

    inputs = samples.clone().requires_grad_()
    outputs = model(inputs)
    weights = torch.tensor([1.0, 2, 3, 1, 2], dtype=torch.float64)
    (outputs.square().flatten(1).sum(1) * weights).sum().backward()
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(torch.cat([f["outputs"] for f in found[:2]]), outputs, **close)
    torch.testing.assert_close(torch.cat([f["inputs"] for f in found[:2]]), inputs.grad, **close)
    for rank in found:
        assert rank["names"] == sorted(model.state_dict())
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(rank["buffers"][name], buffer, **close)
    for number, parameter in enumerate(model.parameters()):
        total = sum(rank["gradients"][number] for rank in found)
        torch.testing.assert_close(total, parameter.grad, **close)


def test_evaluation_equals_torchs():
    model = nn.BatchNorm2d(3)
    model(torch.randn(4, 3, 5, 5))
    found = convert_batch_norm(deepcopy(model), ProcessGroup()).eval()
    inputs = torch.randn(2, 3, 5, 5)
    assert torch.equal(found(inputs), model.eval()(inputs))


def test_half_precision_is_accumulated_in_float32():
    inputs = torch.randn(600, 3).half() + 60
    found = convert_batch_norm(nn.BatchNorm1d(3), ProcessGroup())
    outputs = found(inputs)
    assert outputs.dtype == torch.float16
    torch.testing.assert_close(found.running_mean, 0.1 * inputs.float().mean(0))


def test_frozen_statistics_stay_frozen():
    """Batch norm in evaluation mode, as with `freeze: backbone`."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    _freeze(model)
    converted = convert_batch_norm(model, ProcessGroup()).train()
    before = {name: buffer.clone() for name, buffer in converted.named_buffers()}
    converted(torch.randn(4, 3, 8, 8))
    assert all(torch.equal(buffer, before[name]) for name, buffer in converted.named_buffers())
    assert not any(layer.training for layer in converted if isinstance(layer, _BatchNorm))


def test_shared_layers_stay_shared_and_subclasses_stay_unchanged():
    class Custom(nn.BatchNorm1d):
        def forward(self, inputs):
            return super().forward(inputs).relu()

    shared = nn.BatchNorm1d(3)
    model = convert_batch_norm(
        nn.Sequential(shared, nn.Sequential(shared), Custom(3)), ProcessGroup()
    )
    assert isinstance(model[0], GroupBatchNorm)
    assert model[0] is model[1][0]
    assert isinstance(model[2], Custom)
