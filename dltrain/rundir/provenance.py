"""What a run was started with: versions, device, data and commit; and what differs now."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy
import torch
from pydantic import Field
from typing_extensions import TypedDict

from dltrain._version import __version__
from dltrain.checkpoints.untrusted_json import Count, typed_dict_of
from dltrain.core.errors import shorten
from dltrain.core.paths import data_folder
from dltrain.core.protocols import Data
from dltrain.distributed.process_group import launch
from dltrain.rundir.git import git_state


class DataRecord(TypedDict):
    """Name, source, notices, sizes of the splits and fingerprint of the data."""

    name: str
    source: str
    notices: list[str]
    sizes: dict[str, Count]
    fingerprint: str


class DeviceRecord(TypedDict):
    """Device, precision and processes of a run; earlier versions did not record the processes."""

    type: str
    name: str
    precision: str
    threads: Count
    processes: NotRequired[Count]


class Timings(TypedDict):
    """Seconds that reading the data and building the model took."""

    data_seconds: float
    build_seconds: float


class GitRecord(TypedDict):
    """See `git_state`."""

    commit: Annotated[
        str, Field(pattern="^[0-9a-f]{7,64}$")
    ]  # nothing that git takes for an option
    diff: str | None


class LaunchRecord(TypedDict):
    """See `process_group.launch`."""

    id: str | None
    launcher: list[str | int]


def plugin_paths(record: Mapping[str, Any]) -> list[Path]:
    """Return the paths of the user's own components that a record names."""
    return [Path(record["directory"]) / file for file in record["plugins"]]


def versions() -> dict[str, str | None]:
    """Return the versions of everything that affects results."""
    return {**_package_versions(), "platform": platform.platform()}


def facts_of_rank(config: Mapping[str, Any], code: Mapping[str, str]) -> dict[str, str]:
    """Return by name what must be the same on all ranks: config, packages, the user's own code.

    Args:
        config: Values by dotted key.
        code: Hashes; see `user_code.code_of`. Files are compared by name, in any folder.
    """
    packages = {name: str(version) for name, version in _package_versions().items()}
    for name in ("pillow", "tokenizers", "torchvision"):
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {
        **{f"version of {name}": version for name, version in packages.items()},
        **{key: repr(value) for key, value in config.items()},
        **{f"code of {Path(path).name}": sha256[:12] for path, sha256 in code.items()},
    }


def unlike_ranks(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Return how ranks differ, one line per difference.

    Args:
        facts: What `facts_of_rank` returned on each rank.
    """
    lines = []
    for name in dict.fromkeys(name for own in facts for name in own):
        ranks: dict[str, list[str]] = {}
        for rank, own in enumerate(facts):
            ranks.setdefault(own.get(name, "not set"), []).append(str(rank))
        if len(ranks) > 1:
            values = " and ".join(
                f"{shorten(value)} in rank {', '.join(members)}" for value, members in ranks.items()
            )
            lines.append(f"{name} is {values}")
    return lines


def _package_versions() -> dict[str, str | None]:
    """Return the versions that affect results bitwise."""
    return {
        "dltrain": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }


def device_record(device: torch.device, precision: str, processes: int = 1) -> dict[str, Any]:
    """Return the name of the device, precision, number of torch threads and of processes."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "type": str(device),
        "name": name,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "processes": processes,
    }


def cpu_name() -> str:
    """Return the processor's model, if the system reports it."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    match = re.search(r"^model name\s*: (.+)$", info, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def differences(record: dict[str, Any], device: dict[str, Any]) -> list[str]:
    """Return what affects results bitwise and differs from the start of the run, a line each.

    Args:
        record: What `Run.record` returns.
        device: What `device_record` returns now.
    """
    # Earlier versions trained in one process and did not record it.
    before = {f"device {k}": value for k, value in {"processes": 1, **record["device"]}.items()}
    now = {f"device {key}": value for key, value in device.items()}
    before |= record["versions"]
    now |= _package_versions()
    return [
        f"{name} was {before.get(name)} and is {now[name]}"
        for name in now
        if before.get(name) != now[name]
    ]


def data_record(name: str, data: Data, notices: Sequence[str]) -> dict[str, Any]:
    """Return name, source, notices, sizes of the splits and fingerprint of the data."""
    source = Path(data.source)
    return {
        "name": name,
        "source": str(source.absolute()) if data.files and source.exists() else data.source,
        "notices": list(notices),
        "sizes": _sizes(data),
        "fingerprint": fingerprint(data),
    }


def fingerprint(data: Data) -> str:
    """Return a SHA-256, in hexadecimal, of the samples and of their assignment to splits."""
    parts = [data.fingerprint, data.split_fingerprint, _sizes(data)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _sizes(data: Data) -> dict[str, int]:
    splits = {"train": data.train, "val": data.validation, "test": data.test}
    return {split: len(samples) for split, samples in splits.items() if samples is not None}


@dataclass(frozen=True)
class Record:
    """What a run was started with; the content of `record.json`.

    Attributes:
        config: The resolved config, as `Experiment.to_dict` returns it.
        code: Hashes of the user's own code, as `code_of` returns them: at the start, and each time
            the run was resumed with other code.
        data: Name, source, sizes and fingerprint of the data.
        device: Name of the device, precision, number of torch threads and of processes.
        plugins: Files of the user's own components.
        timings: Seconds that reading the data and building the model took; `summary.json` has
            those of training.
        versions: Versions of everything that affects results.
        command: Words of the command line.
        directory: The working directory.
        data_folder: The common data folder.
        git: Commit and uncommitted changes; None outside a repository.
        started: Time of the start, in ISO 8601.
        launch: The launcher, as `process_group.launch` describes it; None without one.
    """

    config: dict[str, Any]
    code: list[dict[str, str]]
    data: dict[str, Any]
    device: dict[str, Any]
    plugins: list[str]
    timings: dict[str, float]
    versions: dict[str, str | None] = field(default_factory=versions)
    command: list[str] = field(default_factory=lambda: list(sys.argv))
    directory: str = field(default_factory=lambda: str(Path.cwd()))
    data_folder: str = field(default_factory=lambda: str(data_folder()))
    git: dict[str, Any] | None = field(default_factory=git_state)
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    launch: dict[str, Any] | None = field(default_factory=launch)


RECORD_FILE = typed_dict_of(
    Record,
    ("launch", "data_folder"),  # earlier versions wrote neither
    data=DataRecord,
    device=DeviceRecord,
    timings=Timings,
    git=GitRecord | None,
    launch=LaunchRecord | None,
)
"""The types of `record.json`."""
