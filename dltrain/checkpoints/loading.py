"""Reading of checkpoints: verified by hash, and bounded in size before anything is read."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor
from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import UnsafeFileError, open_regular, read
from dltrain.checkpoints.snapshot import TENSOR_FILES, Snapshot
from dltrain.checkpoints.untrusted_json import KIB, MIB, Count, parse_json
from dltrain.core.errors import RunError, shorten

_MAX_SIZES = {"model": 2, "averaged": 2, "optimizer": 100, "rng": 1}
"""Maximum size of each tensor file, in sizes of the model's weights, beside `_SPARE_BYTES`."""

_MANIFEST_BYTES, _HEADER_BYTES, _STATE_BYTES, _SPARE_BYTES = 64 * KIB, 16 * MIB, 64 * MIB, 64 * MIB
_DAMAGE = (errno.EISDIR, errno.ENOTDIR, errno.EIO, errno.EFBIG)


class _ManifestFile(TypedDict):
    bytes: Count
    sha256: str


class _Manifest(TypedDict):
    step: Count
    files: dict[str, _ManifestFile]


_HEADER = dict[str, dict[str, Any]]


class DamagedCheckpointError(RunError):
    """A file of a checkpoint is missing, truncated or changed; the message names it."""


def load_checkpoint(path: Path, model_bytes: int | None = None) -> Snapshot:
    """Read and verify one checkpoint.

    Args:
        path: Directory of the checkpoint.
        model_bytes: Size of the model's weights in bytes. Files that are much larger than such a
            model can need are not read, whatever the manifest says. None sets no limit.

    Raises:
        DamagedCheckpointError: A file is missing, or differs from the manifest.
        RunError: A file is larger than a file of such a model can be.
    """
    manifest = _read_manifest(path)
    if model_bytes is not None:
        for name, times in _MAX_SIZES.items():
            max_bytes = _SPARE_BYTES + times * model_bytes
            _refuse_larger(
                path / f"{name}.safetensors", max_bytes, "the model of config.yaml needs"
            )
    contents = {name: _read_verified(path / name, file) for name, file in manifest.items()}
    tensors = {name: _to_tensors(path, f"{name}.safetensors", contents) for name in TENSOR_FILES}
    return Snapshot(**tensors, state=_to_state(path, contents["state.json"]))


def load_checkpoint_state(path: Path) -> Mapping[str, Any]:
    """Read and verify the state of a checkpoint, without its tensors.

    Raises:
        DamagedCheckpointError: See `load_checkpoint`.
    """
    expected = _read_manifest(path)["state.json"]
    return _to_state(path, _read_verified(path / "state.json", expected))


def verify_sizes(path: Path) -> None:
    """Refuse files of a checkpoint that are much larger than its manifest says; read nothing else.

    A damaged manifest is ignored; `load_checkpoint` reports it.

    Raises:
        RunError: A file is too large; the message names it.
    """
    with suppress(DamagedCheckpointError):
        for name, file in _read_manifest(path).items():
            _refuse_larger(path / name, _SPARE_BYTES + 2 * file["bytes"], "manifest.json says")


def read_checked_json(path: Path, schema: Any, max_bytes: int, levels: int) -> Any:
    """Read a JSON file of a checkpoint, or one beside the checkpoints.

    Args:
        path: The file.
        schema: Type that its content must have; see `untrusted_json.validated`.
        max_bytes: Maximum size of the file in bytes.
        levels: See `atomic_files.open_regular`.

    Raises:
        DamagedCheckpointError: The file is missing, can't be read or has another type.
    """
    return _parse(path, _read(path, max_bytes, levels), schema)


def _read_manifest(path: Path) -> dict[str, _ManifestFile]:
    """Return the files of a checkpoint."""
    place = path / "manifest.json"
    manifest: _Manifest = read_checked_json(place, _Manifest, _MANIFEST_BYTES, levels=3)
    if path.name != f"step-{manifest['step']:010d}":
        raise DamagedCheckpointError(f"{place}: belongs to step {manifest['step']}")
    known = {f"{name}.safetensors" for name in TENSOR_FILES} | {"state.json"}
    if not known - {"averaged.safetensors"} <= manifest["files"].keys() <= known:
        raise DamagedCheckpointError(f"{place}: names other files than it should")
    return manifest["files"]


def _to_state(path: Path, content: bytes) -> dict[str, Any]:
    return _parse(path / "state.json", content, dict[str, Any])


def _refuse_larger(path: Path, max_bytes: int, limit: str) -> None:
    with suppress(FileNotFoundError):
        if (size := path.lstat().st_size) > max_bytes:
            raise RunError(f"{path}: has {size:,} bytes, and {limit} at most {max_bytes:,}")


def _read_verified(path: Path, expected: _ManifestFile) -> bytes:
    """Return the content of a file that agrees with the manifest.

    Sizes, and the length of a safetensors header, are compared before the file is read, so that a
    large sparse file costs no time.
    """
    size, most = expected["bytes"], _STATE_BYTES if path.suffix == ".json" else sys.maxsize
    found, start = _read_start(path)
    header = int.from_bytes(start, "little")
    is_tensors = path.suffix == ".safetensors"
    if found == size and size > most:
        raise DamagedCheckpointError(f"{path}: has {size:,} bytes, and at most {most:,} are read")
    if found == size and is_tensors and not 2 <= header <= min(size - 8, _HEADER_BYTES):
        raise DamagedCheckpointError(f"{path}: no safetensors: its header has {header:,} bytes")
    content = _read(path, size, levels=3) if found == size else b""
    if found != size or hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DamagedCheckpointError(f"{path}: not what manifest.json says; damaged")
    return content


def _to_tensors(path: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, Tensor]:
    if name not in contents:
        return {}
    content = contents[name]
    try:
        # Safetensors accepts two tensors of one name, and does not report headers nested too deep.
        parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")], _HEADER)
        return safetensors.torch.load(content)
    except Exception as error:  # an untrusted header leads to all kinds of errors
        message = shorten(" ".join(str(error).split()), 200)
        raise DamagedCheckpointError(f"{path / name}: {message}") from error


def _parse(path: Path, content: bytes, schema: Any) -> Any:
    try:
        return parse_json(content, schema)
    except ValueError as error:
        raise DamagedCheckpointError(f"{path}: damaged: {error}") from error


def _read(path: Path, max_bytes: int, levels: int) -> bytes:
    with _damage_reported(path):
        return read(path, max_bytes, levels=levels)


def _read_start(path: Path) -> tuple[int, bytes]:
    """Return the size of a checkpoint's file in bytes, and its first eight bytes."""
    with _damage_reported(path), os.fdopen(open_regular(path, levels=3), "rb") as file:
        return os.fstat(file.fileno()).st_size, file.read(8)


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Turn errors of reading into a DamagedCheckpointError, unless the file itself may be good."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: missing") from error
    except OSError as error:
        message = f"{path}: can't be read: {error.strerror}"
        if isinstance(error, UnsafeFileError) or error.errno in _DAMAGE:
            raise DamagedCheckpointError(message) from error
        raise RunError(message) from error  # for instance too many open files
