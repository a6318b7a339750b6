"""Checkpoints: whole or absent, verified by hash, and free of pickle.

    checkpoints/step-0000000469/
        model.safetensors       the plain model's state_dict
        averaged.safetensors    averaged parameters, where EMA is on
        optimizer.safetensors   PHASE/NUMBER/PARAMETER/KEY
        rng.safetensors         states of the global random generators
        state.json              counters, positions, the data's spec
        manifest.json           size and SHA-256 of each of the above; written last
    checkpoints/latest.json, best.json

A checkpoint is written beside its place, every file flushed to the disk, and then renamed; older
ones go only after that. So at any moment the newest complete one can be read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import (
    UnsafeFileError,
    clear_leftovers,
    make_directory,
    open_regular,
    read,
    remove,
    sync,
    temporary_name,
    write,
    write_atomically,
)
from dltrain.checkpoints.untrusted_files import KIB, MIB, Count, parse_json
from dltrain.core.errors import RunError, shorten
from dltrain.core.protocols import ProcessGroup
from dltrain.core.task import Phase
from dltrain.distributed.fsdp import shard_like

TENSOR_FILES = {"model": 2, "averaged": 2, "optimizer": 100, "rng": 1}
"""Each with how many times as large as the model's weights it can be, beside `_SPARE_BYTES`."""

NAME = re.compile(r"step-[0-9]{10,19}")

_POINTER_BYTES, _MANIFEST_BYTES = 16 * KIB, 64 * KIB
_HEADER_BYTES, _STATE_BYTES, _SPARE_BYTES = 16 * MIB, 64 * MIB, 64 * MIB
_DAMAGE = (errno.EISDIR, errno.ENOTDIR, errno.EIO, errno.EFBIG)


class MarkedCheckpoint(TypedDict):
    """The best checkpoint; best.json.

    Attributes:
        step: Its step.
        directory: Its name.
        metric: What chose it.
        value: Of the metric.
        higher_is_better: Of the metric; None or missing where an earlier version wrote it.
    """

    step: Count
    directory: str
    metric: str
    value: float
    higher_is_better: NotRequired[bool | None]


class _ManifestFile(TypedDict):
    bytes: Count
    sha256: str


class _Manifest(TypedDict):
    step: Count
    files: dict[str, _ManifestFile]


_HEADER = dict[str, dict[str, Any]]


class DamagedCheckpointError(RunError):
    """A checkpoint's file is missing, cut short or changed; the message names it."""


@dataclass(frozen=True)
class Snapshot:
    """What a run needs to go on exactly: tensors by name, and a JSON-able state.

    Its tensors may be those that training changes, and be anywhere; `copied` gives one to keep.
    """

    model: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    rng: Mapping[str, Tensor]
    state: Mapping[str, Any] = field(default_factory=dict)

    def weights(self) -> dict[str, Tensor]:
        """The state_dict that is evaluated: averaged parameters where there are any."""
        return {**self.model, **self.averaged}

    def to_cpu_copy(self) -> Snapshot:
        """The same now and later: its tensors are copies, on the CPU."""
        copies = {name: to_saveable(getattr(self, name)) for name in TENSOR_FILES}
        return Snapshot(**copies, state=self.state)


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: Their folder; made when the first is saved.
        keep: How many of the newest to keep; the best is kept as well.
    """

    def __init__(self, directory: Path, keep: int = 3) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, step: int, snapshot: Snapshot) -> Path:
        """Writes a checkpoint, of a snapshot that was `copied`, then prunes older ones."""
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
            if final.exists():  # a damaged one that the run came past again
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
        """Records that the checkpoint of this step is the best so far.

        Args:
            step: Of the checkpoint.
            metric: What chose it.
            value: Of the metric.
            higher: Whether a higher value is better, for those who compare runs.
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
        """The best checkpoint, or None where none is marked or it is gone.

        Raises:
            DamagedCheckpointError: best.json does not say which one it is.
        """
        if (marked := self.marked_best()) is None:
            return None
        path = self.directory / marked["directory"]
        return path if path.exists() else None

    def marked_best(self) -> MarkedCheckpoint | None:
        """What best.json says; None where no checkpoint is marked.

        Raises:
            DamagedCheckpointError: It does not say which checkpoint it is.
        """
        pointer = self.directory / "best.json"
        if not os.path.lexists(pointer):
            return None
        marked = _parse(pointer, _read(pointer, _POINTER_BYTES, levels=2), MarkedCheckpoint)
        name, step = marked["directory"], marked["step"]
        if not NAME.fullmatch(name) or int(name.removeprefix("step-")) != step:
            raise DamagedCheckpointError(f"{pointer}: names no checkpoint; damaged")
        return marked

    def all(self) -> list[Path]:
        """Complete checkpoints, newest step first."""
        if not self.directory.is_dir():
            return []
        named = [p for p in self.directory.iterdir() if NAME.fullmatch(p.name)]
        return sorted(named, key=lambda p: int(p.name[5:]), reverse=True)

    def find(self, name: str | None) -> Path:
        """A checkpoint by name, `best` or `latest`; None is the best where one is marked.

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
        """Which checkpoint there is to go back to, in words."""
        saved = self.all()
        return f"the last good checkpoint is {saved[0].name}" if saved else "nothing was saved yet"

    def newest(self, model_bytes: int | None = None) -> tuple[Path, Snapshot, list[str]]:
        """The newest good checkpoint, and a line for each damaged one that was passed over.

        Args:
            model_bytes: See `load`.

        Raises:
            DamagedCheckpointError: There is none.
            RunError: A file is larger than one of such a model can be.
        """
        self.recover()
        passed_over = []
        for path in self.all():
            try:
                return path, load_checkpoint(path, model_bytes), passed_over
            except DamagedCheckpointError as error:
                passed_over.append(str(error))
        detail = "".join(f"\n{line}" for line in passed_over)
        message = f"{self.directory} holds no good checkpoint to go on from{detail}"
        raise DamagedCheckpointError(message)

    def verify_sizes(self) -> None:
        """Refuses files that are much larger than their manifest says; reads nothing else.

        Raises:
            RunError: There is one; the message names it.
        """
        for path in self.all():
            with suppress(DamagedCheckpointError):  # which `load` tells of
                for name, file in _manifest(path).items():
                    most = _SPARE_BYTES + 2 * file["bytes"]
                    _refuse_larger(path / name, most, "manifest.json says")

    def recover(self) -> None:
        """Puts back a checkpoint whose replacement never arrived; clears away other leftovers.

        Only for the process that works in the directory: another's part of a checkpoint goes too.
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
            return  # it could be any of them
        for path in self.all()[self.keep :]:
            if path != best:
                remove(path)


def load_checkpoint(path: Path, model_bytes: int | None = None) -> Snapshot:
    """Reads and verifies one checkpoint.

    Args:
        path: Its directory.
        model_bytes: Size of the model's weights. Files that are much larger than such a model can
            need are not read, whatever the manifest says. None sets no limit.

    Raises:
        DamagedCheckpointError: A file is missing, or not what the manifest says.
        RunError: A file is larger than one of such a model can be.
    """
    manifest = _manifest(path)
    if model_bytes is not None:
        for name, times in TENSOR_FILES.items():
            most = _SPARE_BYTES + times * model_bytes
            _refuse_larger(path / f"{name}.safetensors", most, "the model of config.yaml needs")
    contents = {name: _verified(path / name, file) for name, file in manifest.items()}
    tensors = {name: _tensors(path, f"{name}.safetensors", contents) for name in TENSOR_FILES}
    return Snapshot(**tensors, state=_state(path, contents["state.json"]))


def load_checkpoint_state(path: Path) -> Mapping[str, Any]:
    """Reads and verifies the state in a checkpoint, and nothing else of it.

    Raises:
        DamagedCheckpointError: See `load`.
    """
    return _state(path, _verified(path / "state.json", _manifest(path)["state.json"]))


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Of all of them, whole; the `model_bytes` of `load`, where it is a model's state_dict."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _manifest(path: Path) -> dict[str, _ManifestFile]:
    """The files of a checkpoint."""
    place = path / "manifest.json"
    manifest: _Manifest = _parse(place, _read(place, _MANIFEST_BYTES), _Manifest)
    if path.name != f"step-{manifest['step']:010d}":
        raise DamagedCheckpointError(f"{place}: belongs to step {manifest['step']}")
    known = {f"{name}.safetensors" for name in TENSOR_FILES} | {"state.json"}
    if not known - {"averaged.safetensors"} <= manifest["files"].keys() <= known:
        raise DamagedCheckpointError(f"{place}: names other files than it should")
    return manifest["files"]


def _state(path: Path, content: bytes) -> dict[str, Any]:
    return _parse(path / "state.json", content, dict[str, Any])


def _refuse_larger(path: Path, most_bytes: int, needs: str) -> None:
    with suppress(FileNotFoundError):
        if (size := path.lstat().st_size) > most_bytes:
            raise RunError(f"{path}: has {size:,} bytes, and {needs} at most {most_bytes:,}")


def _verified(path: Path, expected: _ManifestFile) -> bytes:
    """The content of a file that is what the manifest says; the size is compared before it is read.

    A header's length is looked at as well, so that a large hole costs no time.
    """
    size, most = expected["bytes"], _STATE_BYTES if path.suffix == ".json" else sys.maxsize
    found, start = _begun(path)
    header = int.from_bytes(start, "little")
    is_tensors = path.suffix == ".safetensors"
    if found == size and size > most:
        raise DamagedCheckpointError(f"{path}: has {size:,} bytes, and at most {most:,} are read")
    if found == size and is_tensors and not 2 <= header <= min(size - 8, _HEADER_BYTES):
        raise DamagedCheckpointError(f"{path}: no safetensors: its header has {header:,} bytes")
    content = _read(path, size) if found == size else b""
    if found != size or hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DamagedCheckpointError(f"{path}: not what manifest.json says; damaged")
    return content


def _tensors(path: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, Tensor]:
    if name not in contents:
        return {}
    content = contents[name]
    try:
        # Of two tensors of one name, safetensors takes one; of entries too deep, it tells nothing.
        parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")], _HEADER)
        return safetensors.torch.load(content)
    except Exception as error:  # a stranger's header leads to all kinds of them
        told = shorten(" ".join(str(error).split()), 200)
        raise DamagedCheckpointError(f"{path / name}: {told}") from error


def read_on_main(process_group: ProcessGroup, read: Callable[[], Snapshot]) -> Snapshot:
    """What the first process reads, in every process: the others need not see its disk."""
    if process_group.world_size == 1:
        return read()
    snapshot = read() if process_group.is_main else Snapshot({}, {}, {}, {})
    tensors = {
        name: process_group.broadcast_tensors(getattr(snapshot, name)) for name in TENSOR_FILES
    }
    return Snapshot(**tensors, state=process_group.broadcast_object(lambda: snapshot.state))


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(to_saveable(tensors).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def pack_optimizers(phases: Iterable[Phase]) -> dict[str, Tensor]:
    """Every optimizer's state, by PHASE/NUMBER/PARAMETER/KEY."""
    packed = {}
    for phase in phases:
        names: dict[Tensor, str] = {p: name for name, p in phase.module.named_parameters()}
        for number, optimizer in enumerate(phase.optimizers):
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    if value is not None:  # momentum that is off
                        packed[f"{phase.name}/{number}/{names[parameter]}/{key}"] = value
    return packed


def unpack_optimizers(phases: Iterable[Phase], packed: Mapping[str, Tensor]) -> None:
    """Puts back what `pack_optimizers` gave; hyper-parameters stay the config's."""
    for phase in phases:
        names: dict[Tensor, str] = {p: name for name, p in phase.module.named_parameters()}
        for number, optimizer in enumerate(phase.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            ordered = [p for group in optimizer.param_groups for p in group["params"]]
            for position, parameter in enumerate(ordered):
                prefix = f"{phase.name}/{number}/{names[parameter]}/"
                entry = {
                    key.removeprefix(prefix): _laid_out_as(parameter, value)
                    for key, value in packed.items()
                    if key.startswith(prefix)
                }
                if entry:
                    state[position] = entry
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """With the parameter's strides: fused optimizers walk both through memory side by side."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(shard_like(value, parameter))


def to_saveable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, sharing no memory, as safetensors wants them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _parse(path: Path, content: bytes, schema: Any) -> Any:
    try:
        return parse_json(content, schema)
    except ValueError as error:
        raise DamagedCheckpointError(f"{path}: damaged: {error}") from error


def _read(path: Path, most_bytes: int, levels: int = 3) -> bytes:
    """A file of a checkpoint, or beside them; none of the run's folders on the way is a link."""
    with _damage(path):
        return read(path, most_bytes, levels=levels)


def _begun(path: Path) -> tuple[int, bytes]:
    """The size of a checkpoint's file, and its first eight bytes."""
    with _damage(path), os.fdopen(open_regular(path, levels=3), "rb") as file:
        return os.fstat(file.fileno()).st_size, file.read(8)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What can't be read here is damaged, unless the fault may lie elsewhere."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: missing") from error
    except OSError as error:
        message = f"{path}: can't be read: {error.strerror}"
        if isinstance(error, UnsafeFileError) or error.errno in _DAMAGE:
            raise DamagedCheckpointError(message) from error
        raise RunError(message) from error  # too many open files, say: the file may be good
