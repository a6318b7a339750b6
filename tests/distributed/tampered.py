"""Function of each rank that restores tampered checkpoints of a sharded model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rank_training import trained
from torch import Tensor

import dltrain
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.snapshot import read_on_main
from dltrain.distributed.process_group import join_process_group


def tampered(packed: dict[str, Tensor], key: str) -> dict[str, dict[str, Tensor]]:
    """Return optimizer states that differ in one tensor, by kind of change."""
    tensor = packed[key]
    return {
        "another shape": {**packed, key: tensor[1:].clone()},
        "a shard": {**packed, key: tensor[: len(tensor) // 2].clone()},
        "empty": {**packed, key: tensor.new_zeros(0)},
        "another dtype": {**packed, key: tensor.int()},
        "missing": {name: value for name, value in packed.items() if name != key},
        "additional": {**packed, f"{key}_sq_sq": tensor.clone()},
    }


def main(config: Path, out: Path) -> None:
    """Restore each tampered checkpoint; rank 0 writes the errors of all ranks to a file."""
    with join_process_group(300.0) as process_group:
        folder = out.parent / "checkpoints"
        trainer, _ = trained(dltrain.load(config), folder, process_group, None)
        saved = read_on_main(
            process_group, lambda: load_checkpoint(sorted(folder.glob("step-*"))[0])
        )
        key = next(name for name in saved.optimizer if name.endswith("weight/exp_avg"))
        before = trainer.snapshot().to_cpu_copy()
        found: dict[str, Any] = {"key": key}
        for name, optimizer in tampered(dict(saved.optimizer), key).items():
            snapshot = dataclasses.replace(saved, optimizer=optimizer)
            found[name] = process_group.all_gather_object(
                restore_error(lambda s=snapshot: trainer.restore(s))
            )
        after = trainer.snapshot().to_cpu_copy()
        for kind in ("model", "averaged", "optimizer"):
            old, new = getattr(before, kind), getattr(after, kind)
            assert old.keys() == new.keys()
            assert all(torch.equal(old[name], new[name]) for name in old), kind
        trainer.restore(saved)
        if process_group.is_main:
            out.write_text(json.dumps(found))


def restore_error(restore: Callable[[], None]) -> str:
    try:
        restore()
    except ValueError as error:
        return str(error)
    return "no error"
