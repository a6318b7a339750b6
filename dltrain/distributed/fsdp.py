"""Parameters sharded over ranks with FSDP2, for models that do not fit on one device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

MIN_UNIT_FRACTION = 0.01
"""Minimum fraction of a module's parameters for a layer to become its own FSDP unit."""


def apply_fsdp(module: nn.Module, device: torch.device) -> None:
    """Shard the parameters of a module over all ranks, in place, with FSDP2.

    Each large layer of a `ModuleList` or `Sequential` is its own unit: its parameters are gathered
    when it is called and freed afterwards. All other parameters, and those that layers share, are
    gathered when the module is called.
    """
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (get_world_size(),))
    uses = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    smallest = max(1, MIN_UNIT_FRACTION * sum(p.numel() for p in module.parameters()))
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    layers = {id(layer) for layers in lists for layer in layers}
    units = [module]
    for part in list(module.modules())[1:]:
        sizes = [parameter.numel() for parameter in part.parameters()]
        alone = all(uses[id(parameter)] == 1 for parameter in part.parameters())
        called = not isinstance(part, nn.ModuleList | nn.ModuleDict)
        if id(part) in layers and sum(sizes) >= smallest and alone and called:
            units.append(part)
    for unit in reversed(units):  # inner units first
        fully_shard(unit, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Return whether `apply_fsdp` has sharded a module."""
    return hasattr(module, "set_requires_gradient_sync")


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm of all gradients, bitwise identical to torch's `get_total_norm`.

    Torch's function groups tensors by device and dtype first, which takes longer than computing
    the norms of a small network.
    """
    if not gradients or len({(type(g), g.device, g.dtype) for g in gradients}) > 1:
        return get_total_norm(gradients)
    if type(gradients[0]) is not Tensor:
        return get_total_norm(gradients)
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    return torch.linalg.vector_norm(torch.stack(norms))


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole tensor of a sharded one, on every rank; any other tensor unchanged."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def gather_to_main(tensors: Mapping[str, Tensor], main: bool) -> Mapping[str, Tensor]:
    """Return whole tensors by name on rank 0; those that were sharded are moved to the CPU.

    All ranks must call this. Tensors are gathered one at a time, and other ranks discard them.

    Args:
        tensors: Tensors, whole or sharded.
        main: Whether this is rank 0.
    """
    kept = {}
    for name, tensor in tensors.items():
        whole = full_tensor(tensor)
        if main:
            kept[name] = tensor if whole is tensor else whole.cpu()
    return kept


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this rank's shard of a whole tensor if `like` is sharded; else the tensor."""
    if not hasattr(like, "full_tensor") or hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    # Every rank has the whole tensor, so nothing is sent.
    return distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def load_full_state_dict(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a state_dict of whole tensors into a module that may be sharded."""
    own = module.state_dict()
    module.load_state_dict(
        {n: shard_like(t, own[n]) if n in own else t for n, t in tensors.items()}
    )
