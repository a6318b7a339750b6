"""What each of several processes does: is given tampered checkpoints of a model that is sharded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trials import trained

import dltrain
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.snapshot import read_on_main
from dltrain.distributed.process_group import join_process_group


def tampered(packed: dict[str, Tensor], key: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of an optimizer, with one of them other than it should be."""
    tensor = packed[key]
    return {
        "another shape": {**packed, key: tensor[1:].clone()},
        "a shard": {**packed, key: tensor[: len(tensor) // 2].clone()},
        "empty": {**packed, key: tensor.new_zeros(0)},
        "another dtype": {**packed, key: tensor.int()},
        "missing": {name: value for name, value in packed.items() if name != key},
        "one more": {**packed, f"{key}_sq_sq": tensor.clone()},
    }


def main(config: Path, out: Path) -> None:
    """Rank 0 writes the reported errors to a file, in each process, by the name of the case."""
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
                error_of(lambda s=snapshot: trainer.restore(s))
            )
        after = trainer.snapshot().to_cpu_copy()
        for kind in ("model", "averaged", "optimizer"):
            mine, theirs = getattr(before, kind), getattr(after, kind)
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], theirs[name]) for name in mine), kind
        trainer.restore(saved)
        if process_group.is_main:
            out.write_text(json.dumps(found))


def error_of(restore: Callable[[], None]) -> str:
    try:
        restore()
    except ValueError as error:
        return str(error)
    return "nothing"
