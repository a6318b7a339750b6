"""The checkpoints of a run: written atomically, verified by hash, and free of pickle.

    checkpoints/step-0000000469/
        model.safetensors       state_dict of the plain model
        averaged.safetensors    EMA of the parameters, where EMA is on
        optimizer.safetensors   PHASE/NUMBER/PARAMETER/KEY
        rng.safetensors         states of the global random generators
        state.json              counters, positions of the loggers, data spec
        manifest.json           size and SHA-256 of every other file; written last
    checkpoints/latest.json, best.json

A checkpoint is written to a temporary directory, every file is flushed to the disk, and the
directory is renamed. Older checkpoints are removed afterwards, so that there is always a complete
one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

import safetensors.torch
from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import (
    clear_leftovers,
    make_directory,
    remove,
    sync,
    temporary_name,
    write,
    write_atomically,
)
from dltrain.checkpoints.loading import (
    DamagedCheckpointError,
    load_checkpoint,
    read_checked_json,
    verify_sizes,
)
from dltrain.checkpoints.snapshot import TENSOR_FILES, Snapshot
from dltrain.checkpoints.untrusted_json import KIB, Count
from dltrain.core.errors import RunError

NAME = re.compile(r"step-[0-9]{10,19}")

_POINTER_BYTES = 16 * KIB


class MarkedCheckpoint(TypedDict):
    """Content of best.json, which names the best checkpoint.

    Attributes:
        step: Step of the checkpoint.
        directory: Name of the checkpoint.
        metric: Scalar that selected the checkpoint.
        value: Value of the scalar.
        higher_is_better: Whether a higher value is better; None or missing in files of an earlier
            version.
    """

    step: Count
    directory: str
    metric: str
    value: float
    higher_is_better: NotRequired[bool | None]


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: Directory of the checkpoints, created when the first one is saved.
        keep: Number of the newest checkpoints to keep; the best one is always kept.
    """

    def __init__(self, directory: Path, keep: int = 3) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, step: int, snapshot: Snapshot) -> Path:
        """Write a checkpoint, then remove older ones.

        Args:
            step: Step after which the snapshot was taken.
            snapshot: Result of `Snapshot.to_cpu_copy`.

        Returns:
            Directory of the checkpoint.
        """
        make_directory(self.directory)
        final = self.directory / f"step-{step:010d}"
        part = self.directory / temporary_name(final.name)
        try:
            part.mkdir()
            files = {
                f"{name}.safetensors": safetensors.torch.save(dict(tensors))
                for name in TENSOR_FILES
                if (tensors := getattr(snapshot, name)) or name != "averaged"
            }
            files["state.json"] = _json_bytes(snapshot.state)
            manifest = {
                name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in files.items()
            }
            for name, content in files.items():
                write(part / name, content)
            write(part / "manifest.json", _json_bytes({"step": step, "files": manifest}))
            sync(part)
            replaced = self.directory / f".{final.name}.replaced"
            if final.exists():  # damaged: the run was resumed from an older one
                remove(replaced)
                final.rename(replaced)
            part.rename(final)
            sync(self.directory)
            remove(replaced)
            self._point("latest", {"step": step, "directory": final.name})
        except BaseException:
            self.recover()
            raise
        self._prune()
        return final

    def mark_best(self, step: int, metric: str, value: float, higher: bool | None = None) -> None:
        """Record that the checkpoint of this step is the best so far.

        Args:
            step: Step of the checkpoint.
            metric: Scalar that selected the checkpoint.
            value: Value of the scalar.
            higher: Whether a higher value is better, for comparisons of runs.
        """
        self._point(
            "best",
            {
                "step": step,
                "directory": f"step-{step:010d}",
                "metric": metric,
                "value": value,
                "higher_is_better": higher,
            },
        )

    def best(self) -> Path | None:
        """Return the best checkpoint, or None if none is marked or it does not exist.

        Raises:
            DamagedCheckpointError: best.json is damaged.
        """
        if (marked := self.marked_best()) is None:
            return None
        path = self.directory / marked["directory"]
        return path if path.exists() else None

    def marked_best(self) -> MarkedCheckpoint | None:
        """Return the content of best.json, or None if no checkpoint is marked.

        Raises:
            DamagedCheckpointError: best.json is damaged.
        """
        pointer = self.directory / "best.json"
        if not os.path.lexists(pointer):
            return None
        marked = read_checked_json(pointer, MarkedCheckpoint, _POINTER_BYTES, levels=2)
        name, step = marked["directory"], marked["step"]
        if not NAME.fullmatch(name) or int(name.removeprefix("step-")) != step:
            raise DamagedCheckpointError(f"{pointer}: names no checkpoint; damaged")
        return marked

    def all(self) -> list[Path]:
        """Return the complete checkpoints, newest step first."""
        if not self.directory.is_dir():
            return []
        named = [p for p in self.directory.iterdir() if NAME.fullmatch(p.name)]
        return sorted(named, key=lambda p: int(p.name[5:]), reverse=True)

    def find(self, name: str | None) -> Path:
        """Return a checkpoint by its name.

        Args:
            name: Name of a checkpoint, `best` or `latest`; None is the best if one is marked, else
                the latest.

        Raises:
            RunError: There is no such checkpoint.
        """
        saved = {path.name: path for path in self.all()}
        if not saved:
            raise RunError(f"{self.directory} holds no checkpoint yet")
        latest = next(iter(saved.values()))
        match name:
            case None:
                return self.best() or latest
            case "latest":
                return latest
            case "best":
                if (best := self.best()) is None:
                    raise RunError(
                        f"{self.directory} has no best checkpoint: checkpoint.best is not set"
                    )
                return best
        if name not in saved:
            raise RunError(f"no checkpoint {name!r}; there are: best, latest, {', '.join(saved)}")
        return saved[name]

    def describe(self) -> str:
        """Return a phrase that names the checkpoint from which the run can be resumed."""
        saved = self.all()
        return f"the last good checkpoint is {saved[0].name}" if saved else "nothing was saved yet"

    def newest(self, model_bytes: int | None = None) -> tuple[Path, Snapshot, list[str]]:
        """Return the newest undamaged checkpoint, its content, and errors of damaged newer ones.

        Args:
            model_bytes: See `load_checkpoint`.

        Raises:
            DamagedCheckpointError: All checkpoints are damaged.
            RunError: A file is larger than a file of such a model can be.
        """
        self.recover()
        errors = []
        for path in self.all():
            try:
                return path, load_checkpoint(path, model_bytes), errors
            except DamagedCheckpointError as error:
                errors.append(str(error))
        detail = "".join(f"\n{line}" for line in errors)
        message = f"{self.directory} holds no good checkpoint to resume from{detail}"
        raise DamagedCheckpointError(message)

    def verify_sizes(self) -> None:
        """Refuse files that are much larger than their manifest says."""
        for path in self.all():
            verify_sizes(path)

    def recover(self) -> None:
        """Restore a checkpoint whose replacement was interrupted, and remove temporary files.

        Call this only in the process that owns the run directory: it also removes checkpoints that
        another process is writing.
        """
        if not self.directory.is_dir():
            return
        for path in self.directory.glob(".step-*.replaced"):
            place = path.with_name(path.name[1:].removesuffix(".replaced"))
            if place.exists():
                remove(path)
            else:
                path.rename(place)
        for path in self.directory.glob(".step-*.part"):
            remove(path)
        clear_leftovers(self.directory)

    def _point(self, name: str, content: Mapping[str, Any]) -> None:
        path = self.directory / f"{name}.json"
        write_atomically(path, _json_bytes(content))

    def _prune(self) -> None:
        try:
            best = self.best()
        except DamagedCheckpointError:
            return  # any of them may be the best
        for path in self.all()[self.keep :]:
            if path != best:
                remove(path)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
