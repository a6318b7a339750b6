"""Parameters that are spread over the processes, for models beyond one device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

SMALLEST_GROUP = 0.01
"""A layer with at least this share of a module's parameters is gathered on its own."""


def apply_fsdp(module: nn.Module, device: torch.device) -> None:
    """Spreads a module's parameters over all processes, in place, with FSDP2.

    Each large layer of a list or a sequence is gathered when it is called, and let go after; all
    else is gathered when the module is called, and so is what layers share.
    """
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (get_world_size(),))
    uses = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    smallest = max(1, SMALLEST_GROUP * sum(p.numel() for p in module.parameters()))
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    layers = {id(layer) for layers in lists for layer in layers}
    groups = [module]
    for part in list(module.modules())[1:]:
        sizes = [parameter.numel() for parameter in part.parameters()]
        alone = all(uses[id(parameter)] == 1 for parameter in part.parameters())
        called = not isinstance(part, nn.ModuleList | nn.ModuleDict)
        if id(part) in layers and sum(sizes) >= smallest and alone and called:
            groups.append(part)
    for group in reversed(groups):  # from inside to outside
        fully_shard(group, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 has it."""
    return hasattr(module, "set_requires_gradient_sync")


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all of them as of one vector: `torch.nn.utils.get_total_norm`, to the bit.

    That sorts them by device and by dtype first, which takes longer than the norms of a small
    network do.
    """
    if not gradients or len({(type(g), g.device, g.dtype) for g in gradients}) > 1:
        return get_total_norm(gradients)
    if type(gradients[0]) is not Tensor:
        return get_total_norm(gradients)
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    return torch.linalg.vector_norm(torch.stack(norms))


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor put together from its shards, on every process; any other as it is."""
    together: Any = getattr(tensor, "full_tensor", None)
    return tensor if together is None else together()


def gather_to_main(tensors: Mapping[str, Tensor], main: bool) -> Mapping[str, Tensor]:
    """Whole tensors by name, for the first process; those that had shards come to the CPU.

    Every process puts them together, one at a time, and only the first keeps them.
    """
    kept = {}
    for name, tensor in tensors.items():
        together = full_tensor(tensor)
        if main:
            kept[name] = tensor if together is tensor else together.cpu()
    return kept


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's shard of a whole tensor, where `like` is one; else the tensor."""
    if not hasattr(like, "full_tensor") or hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    # Every process has the whole tensor already: nothing is sent.
    return distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def load_full_state_dict(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors."""
    own = module.state_dict()
    module.load_state_dict(
        {n: shard_like(t, own[n]) if n in own else t for n, t in tensors.items()}
    )
