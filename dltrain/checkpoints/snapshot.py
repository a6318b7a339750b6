"""The tensors and the state of a checkpoint in memory, and their conversion for a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dltrain.core.protocols import ProcessGroup
from dltrain.core.task import Phase
from dltrain.distributed.fsdp import shard_like

TENSOR_FILES = ("model", "averaged", "optimizer", "rng")
"""Mappings of tensors in a snapshot; each is a file of a checkpoint."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that bit-exact resume needs: tensors by name, and a JSON-serializable state.

    The tensors may be those that training changes, on any device; `to_cpu_copy` copies them.
    """

    model: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    rng: Mapping[str, Tensor]
    state: Mapping[str, Any] = field(default_factory=dict)

    def weights(self) -> dict[str, Tensor]:
        """Return the state_dict for evaluation: EMA weights replace the model's where EMA is on."""
        return {**self.model, **self.averaged}

    def to_cpu_copy(self) -> Snapshot:
        """Return a snapshot with copies of the tensors on the CPU. Device sync."""
        copies = {name: to_saveable(getattr(self, name)) for name in TENSOR_FILES}
        return Snapshot(**copies, state=self.state)


def to_saveable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies on the CPU that share no memory, as safetensors requires them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the size of all tensors in bytes; of sharded ones, the size of the whole tensor."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(to_saveable(tensors).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_on_main(process_group: ProcessGroup, read: Callable[[], Snapshot]) -> Snapshot:
    """Return on every rank the snapshot that rank 0 reads; other ranks need no access to its disk.

    Args:
        process_group: Ranks that receive the snapshot.
        read: Function that reads the snapshot; called on rank 0 only.
    """
    if process_group.world_size == 1:
        return read()
    snapshot = read() if process_group.is_main else Snapshot({}, {}, {}, {})
    tensors = {
        name: process_group.broadcast_tensors(getattr(snapshot, name)) for name in TENSOR_FILES
    }
    return Snapshot(**tensors, state=process_group.broadcast_object(lambda: snapshot.state))


def pack_optimizers(phases: Iterable[Phase]) -> dict[str, Tensor]:
    """Return the state of every optimizer as tensors named PHASE/NUMBER/PARAMETER/KEY."""
    packed = {}
    for phase in phases:
        names: dict[Tensor, str] = {p: name for name, p in phase.module.named_parameters()}
        for number, optimizer in enumerate(phase.optimizers):
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    if value is not None:  # as the momentum buffer without momentum
                        packed[f"{phase.name}/{number}/{names[parameter]}/{key}"] = value
    return packed


def unpack_optimizers(phases: Iterable[Phase], packed: Mapping[str, Tensor]) -> None:
    """Load what `pack_optimizers` returned; the hyperparameters remain those of the config."""
    for phase in phases:
        names: dict[Tensor, str] = {p: name for name, p in phase.module.named_parameters()}
        for number, optimizer in enumerate(phase.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            ordered = [p for group in optimizer.param_groups for p in group["params"]]
            for position, parameter in enumerate(ordered):
                prefix = f"{phase.name}/{number}/{names[parameter]}/"
                entry = {
                    key.removeprefix(prefix): _with_layout_of(parameter, value)
                    for key, value in packed.items()
                    if key.startswith(prefix)
                }
                if entry:
                    state[position] = entry
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _with_layout_of(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a value with the parameter's strides, which fused optimizers assume to be equal."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(shard_like(value, parameter))
