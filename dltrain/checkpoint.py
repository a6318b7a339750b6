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
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dltrain.errors import RunError
from dltrain.files import make_directory, remove, sync, write, write_atomically
from dltrain.shards import spread_as
from dltrain.spec import World
from dltrain.task import Phase

TENSOR_FILES = ("model", "averaged", "optimizer", "rng")
NAME = re.compile(r"step-[0-9]{10,}")


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

    def copied(self) -> Snapshot:
        """The same now and later: its tensors are copies, on the CPU."""
        copies = {name: plain(getattr(self, name)) for name in TENSOR_FILES}
        return Snapshot(**copies, state=self.state)


class Checkpoints:
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
        part = self.directory / f".{final.name}.part"
        try:
            remove(part)
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
            self._recover()
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
        pointer = self.directory / "best.json"
        if not pointer.exists():
            return None
        marked = _parse(pointer, _read(pointer))
        name = marked.get("directory") if isinstance(marked, dict) else None
        if (
            not isinstance(name, str)
            or not NAME.fullmatch(name)
            or int(name.removeprefix("step-")) != marked.get("step")
        ):
            raise DamagedCheckpointError(f"{pointer}: names no checkpoint; damaged")
        path = self.directory / name
        return path if path.exists() else None

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

    def newest(self) -> tuple[Path, Snapshot, list[str]]:
        """The newest good checkpoint, and a line for each damaged one that was passed over.

        Raises:
            RunError: There is none.
        """
        self._recover()
        passed_over = []
        for path in self.all():
            try:
                return path, load(path), passed_over
            except DamagedCheckpointError as error:
                passed_over.append(str(error))
        detail = "".join(f"\n{line}" for line in passed_over)
        raise RunError(f"{self.directory} holds no good checkpoint to go on from{detail}")

    def _recover(self) -> None:
        """Puts back a checkpoint whose replacement never arrived; clears away other leftovers."""
        for path in self.directory.glob(".step-*.replaced"):
            place = path.with_name(path.name[1:].removesuffix(".replaced"))
            if place.exists():
                shutil.rmtree(path)
            else:
                path.rename(place)
        for path in self.directory.glob(".step-*.part"):
            shutil.rmtree(path)
        for name in ("latest.json", "best.json"):
            if (self.directory / name).is_dir():  # no file could take its place
                shutil.rmtree(self.directory / name)

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
                shutil.rmtree(path)


def load(path: Path) -> Snapshot:
    """Reads and verifies one checkpoint.

    Raises:
        DamagedCheckpointError: A file is missing, or not what the manifest says.
    """
    manifest = _parse(path / "manifest.json", _read(path / "manifest.json"))
    try:
        step, expected = manifest["step"], dict(manifest["files"])
        sizes = {name: (entry["bytes"], entry["sha256"]) for name, entry in expected.items()}
        belongs = path.name == f"step-{step:010d}"
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(f"{path / 'manifest.json'}: not a manifest") from error
    if not belongs:
        raise DamagedCheckpointError(f"{path / 'manifest.json'}: belongs to step {step}")
    known = {f"{name}.safetensors" for name in TENSOR_FILES} | {"state.json"}
    if not known - {"averaged.safetensors"} <= sizes.keys() <= known:
        raise DamagedCheckpointError(f"{path / 'manifest.json'}: names other files than it should")
    contents = {}
    for name, (size, sha256) in sizes.items():
        content = _read(path / name)
        if len(content) != size or hashlib.sha256(content).hexdigest() != sha256:
            raise DamagedCheckpointError(f"{path / name}: not what manifest.json says; damaged")
        contents[name] = content
    tensors = {name: _tensors(path, f"{name}.safetensors", contents) for name in TENSOR_FILES}
    return Snapshot(**tensors, state=_parse(path / "state.json", contents["state.json"]))


def _tensors(path: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, Tensor]:
    if name not in contents:
        return {}
    content = contents[name]
    try:
        tensors = safetensors.torch.load(content)
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        json.loads(header, object_pairs_hook=_each_name_once)  # of two, safetensors takes one
        return tensors
    except Exception as error:  # a stranger's header leads to all kinds of them
        raise DamagedCheckpointError(f"{path / name}: {error}") from error


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(entries := dict(pairs)) < len(pairs):
        raise ValueError("a name is given twice")
    return entries


def read_by_main(world: World, read: Callable[[], Snapshot]) -> Snapshot:
    """What the first process reads, in every process: the others need not see its disk."""
    if world.size == 1:
        return read()
    snapshot = read() if world.main else Snapshot({}, {}, {}, {})
    tensors = {name: world.tensors_from_main(getattr(snapshot, name)) for name in TENSOR_FILES}
    return Snapshot(**tensors, state=world.from_main(lambda: snapshot.state))


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(plain(tensors).items()):
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
    return torch.empty_like(parameter, dtype=value.dtype).copy_(spread_as(value, parameter))


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, sharing no memory, as safetensors wants them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _parse(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: not JSON; damaged") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: missing") from error
    except OSError as error:
        message = f"{path}: can't be read: {error.strerror}"
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EIO):
            raise DamagedCheckpointError(message) from error
        raise RunError(message) from error  # too many open files, say: the file may be good
