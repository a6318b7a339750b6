"""Bitwise comparison of the outcomes of an interrupted and an uninterrupted run."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.store import CheckpointStore

Scalar = tuple[str, int, bytes]
"""Name, step and the bits of the value."""


def outcome(run: Path) -> dict[str, Any]:
    """Return all results of a run that are reproducible: without time and throughput."""
    snapshot = load_checkpoint(CheckpointStore(run / "checkpoints").all()[0])
    digest = hashlib.sha256()
    for kind in ("model", "averaged", "optimizer", "rng"):
        for name, tensor in sorted(getattr(snapshot, kind).items()):
            digest.update(f"{kind}/{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(-1).numpy().tobytes())
    state = {k: v for k, v in snapshot.state["trainer"].items() if k not in ("seconds", "last")}
    return {
        "sha256": digest.hexdigest(),
        "state": state,
        "metrics": read_scalars(run),
        "tensorboard": read_tensorboard_scalars(run),
        "status": json.loads((run / "summary.json").read_text())["status"],
    }


def read_scalars(run: Path) -> list[Scalar]:
    """Return the scalars of metrics.jsonl in their order."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        (f"{line['split']}/{line['name']}", line["step"], _bits(line["value"]))
        for line in lines
        if line["split"] != "system"
    ]


def read_tensorboard_scalars(run: Path) -> list[Scalar]:
    """Return the sorted scalars that TensorBoard's own reader finds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not (run / "tensorboard").is_dir():
        return []
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return sorted(
        (tag, event.step, _bits(event.value))
        for tag in events.Tags()["scalars"]
        if not tag.endswith(("/samples_per_second", "/peak_memory_bytes"))
        for event in events.Scalars(tag)
    )


def differences(run: Path, expected: dict[str, Any]) -> list[str]:
    """Return the parts in which a run differs from the outcome of an uninterrupted one."""
    actual = outcome(run)
    return [key for key in expected if actual[key] != expected[key]]


def _bits(value: float | None) -> bytes:
    return b"none" if value is None else struct.pack("<d", value)
