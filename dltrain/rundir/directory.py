"""The run directory: its files, how it is created and found, and the state of its run."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dltrain.checkpoints.atomic_files import (
    clear_leftovers,
    make_directory,
    read,
    regular,
    sync,
    write_atomically,
)
from dltrain.checkpoints.store import CheckpointStore
from dltrain.checkpoints.untrusted_files import FILES, verify
from dltrain.checkpoints.untrusted_json import read_json
from dltrain.config import ConfigError, Experiment, load
from dltrain.config.parse import tree_of
from dltrain.config.problems import Problem
from dltrain.config.tree import plain
from dltrain.core.errors import RunError, shorten
from dltrain.core.paths import relocate, to_directory_name
from dltrain.core.registry import Choice
from dltrain.rundir import input_files
from dltrain.rundir.lock import is_locked, locked
from dltrain.rundir.provenance import RECORD_FILE, Record, plugin_paths
from dltrain.rundir.summary import SUMMARY_FILE, Summary

State = Literal["running", "done", "stopped", "pruned", "failed", "killed"]


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        directory: Path of the directory.
    """

    directory: Path

    @property
    def config_path(self) -> Path:
        """Path of the resolved config."""
        return self.directory / "config.yaml"

    @property
    def record_path(self) -> Path:
        """Path of the record: what the run was started with."""
        return self.directory / "record.json"

    @property
    def metrics_path(self) -> Path:
        """Path of the file of all scalars."""
        return self.directory / "metrics.jsonl"

    @property
    def summary_path(self) -> Path:
        """Path of the summary: how the run ended."""
        return self.directory / "summary.json"

    @property
    def log_path(self) -> Path:
        """Path of the log, which has the lines that the terminal shows."""
        return self.directory / "log.txt"

    @property
    def tensorboard_path(self) -> Path:
        """Directory of the event files."""
        return self.directory / "tensorboard"

    @classmethod
    def create(cls, experiment: Experiment, directory: Path | None = None) -> Run:
        """Create a run directory.

        Args:
            experiment: What the run trains.
            directory: Path of the directory (default: the next free number under `runs/NAME/`).

        Raises:
            RunError: The directory holds a run already, or can't be created.
        """
        try:
            if directory is None:
                directory = next_directory(run_folder(experiment.name))
            make_directory(directory)
            verify(directory)
            run = cls(directory)
            run.config_path.touch(exist_ok=False)  # of two at once, one creates the run
            run._prepare(experiment)
        except FileExistsError as error:
            held = cls(directory or Path())
            if error.filename != str(held.config_path):
                raise RunError(f"{error.filename}: is in the way of the run directory") from error
            hint = f"resume with: dltrain resume {directory}"
            if not held.checkpoints().all():
                hint = f"nothing is saved of it; if it does not run: dltrain rm {directory}"
            raise RunError(f"{directory} holds a run already; {hint}") from error
        except OSError as error:
            raise RunError(
                f"{directory or 'runs'}: can't make the run directory: {error}"
            ) from error
        return run

    def _prepare(self, experiment: Experiment) -> None:
        """Write the config, and create the other files and folders, so that errors come early."""
        try:
            for folder in (self.checkpoints().directory, self.tensorboard_path):
                folder.mkdir(exist_ok=True)
            for file in (self.log_path, self.metrics_path):
                open(file, "ab", opener=regular).close()
            self.write_config(experiment)
        except OSError:
            with suppress(OSError):
                self.config_path.unlink()  # there is no run: the directory can be used again
            raise

    def write_config(self, experiment: Experiment) -> None:
        """Write the resolved config."""
        write_atomically(self.config_path, experiment.to_yaml().encode())

    @classmethod
    def open(cls, directory: str | Path) -> Run:
        """Return an existing run.

        Raises:
            RunError: The directory holds no run, or a file that no run has; see
                `untrusted_files.verify`.
        """
        run = cls(Path(directory))
        if not os.path.lexists(run.config_path):
            is_folder = run.directory.is_dir()
            hint = " (runs are numbered: name one of its folders)" if is_folder else ""
            raise RunError(f"{directory} is not a run directory: it has no config.yaml{hint}")
        run.verify()
        return run

    def verify(self) -> None:
        """Check the files' kinds and sizes.

        See `untrusted_files.verify`, and `CheckpointStore.verify_sizes`.
        """
        verify(self.directory)
        self.checkpoints().verify_sizes()

    def discard_unsaved(self) -> None:
        """Make the directory available for a new run, if this run has no checkpoint.

        A directory with a checkpoint, or without a run, is left unchanged.

        Raises:
            RunError: Another process works on it.
        """
        started = self.metrics_path.is_file() and self.config_path.is_file()
        if not started or self.checkpoints().all():
            return
        with self.locked():
            self.reset()
            self.config_path.unlink()

    def mark_resumed(self) -> None:
        """Remove the summary: the run continues, and may be killed this time."""
        self.summary_path.unlink(missing_ok=True)

    def reset(self) -> None:
        """Remove what was recorded before the first checkpoint."""
        for path in (self.metrics_path, self.summary_path, self.directory / input_files.NAME):
            path.unlink(missing_ok=True)
        for path in self.tensorboard_path.glob("events.out.tfevents.*"):
            path.unlink()

    def experiment(self, overrides: Sequence[str] = ()) -> Experiment:
        """Load the experiment that the run trains.

        Args:
            overrides: KEY=VALUE to apply to its config.

        Raises:
            ConfigError: The config is no longer valid, or its components are not available.
        """
        try:
            experiment = load(self.config_path, overrides)
            parts = {key: getattr(experiment, key) for key in ("data", "model", "task")}
            return replace(experiment, **{key: self._relocate(part) for key, part in parts.items()})
        except ConfigError as error:
            if options := self.plugin_options():
                error.add_note(f"the run was started with {options}")
            raise

    def _relocate(self, part: Choice) -> Choice:
        """Adapt a component's paths to a working directory that has moved."""
        directory = None
        with suppress(RunError):
            directory = self.record()["directory"]
        options = {name: relocate(value, directory) for name, value in part.options.items()}
        return replace(part, options=options)

    def config(self) -> dict[str, Any]:
        """Return the resolved config as a plain dict; needs none of the components it names.

        Raises:
            RunError: It can't be read.
        """
        problems: list[Problem] = []
        try:
            tree = plain(tree_of(self._config_bytes(), str(self.config_path), problems))
            if problems:
                raise ConfigError(problems)
        except ConfigError as error:
            reason = error.problems[0].message
            raise RunError(f"{self.config_path}: is not a config: {reason}") from error
        seed = tree.get("seed", 0)
        if type(seed) is not int:
            value = shorten(repr(seed), 40)
            raise RunError(f"{self.config_path}: is not a config: seed: {value} is no whole number")
        return tree

    def config_text(self) -> str:
        """Return the resolved config as YAML.

        Raises:
            RunError: It can't be read.
        """
        return self._config_bytes().decode(errors="replace")

    def _config_bytes(self) -> bytes:
        try:
            return read(self.config_path, FILES["config.yaml"])
        except OSError as error:
            raise RunError(f"{self.config_path}: can't be read: {error.strerror}") from error

    def plugin_options(self) -> str:
        """Return the command-line options that load the run's plug-ins; empty without any."""
        try:
            record = self.record()
        except RunError:
            return ""
        return " ".join(f"--plugin {shlex.quote(str(path))}" for path in plugin_paths(record))

    def checkpoints(self, keep: int = 3) -> CheckpointStore:
        """Return the store of the run's checkpoints."""
        return CheckpointStore(self.directory / "checkpoints", keep)

    def summary(self) -> Summary | None:
        """Return how the run ended; None if it has not ended.

        Raises:
            RunError: `summary.json` is damaged.
        """
        try:
            content = read_json(self.summary_path, SUMMARY_FILE, FILES["summary.json"])
        except FileNotFoundError:
            return None
        return Summary(**content)

    def record(self) -> dict[str, Any]:
        """Return what the run was started with: the fields of `Record`.

        Raises:
            RunError: `record.json` is missing or damaged.
        """
        try:
            most = FILES["record.json"]
            content = read_json(self.record_path, RECORD_FILE, most, infinite=True)
        except FileNotFoundError as error:
            raise RunError(f"{self.record_path}: can't be read: there is none") from error
        content.setdefault("launch", None)  # earlier versions wrote neither
        content.setdefault("data_folder", None)
        content["device"].setdefault("processes", 1)
        return content

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for this process; a process that has died holds no lock.

        Partial files that a killed process has left are removed.

        Raises:
            RunError: Another process holds the lock; the message names it. Or the directory has a
                file that no run has; see `untrusted_files.verify`.
        """
        self.verify()
        with locked(self.directory):
            clear_leftovers(self.directory)
            if (exports := self.directory / "exports").is_dir():
                clear_leftovers(exports)
            self.checkpoints().recover()
            yield

    @property
    def in_use(self) -> bool:
        """Whether a process works in the directory."""
        return is_locked(self.directory)

    @property
    def state(self) -> State:
        """`running`, or how the run ended; without a summary its process was killed."""
        if self.in_use:
            return "running"
        ended = self.summary()
        return "killed" if ended is None else ended.status

    def write_summary(self, summary: Summary) -> None:
        """Write how the run ended."""
        write_atomically(self.summary_path, summary.to_json().encode())

    def add_code(self, record: Mapping[str, Any], code: dict[str, str]) -> None:
        """Record that the run is resumed with other code than it was started with.

        Args:
            record: The current record.
            code: Hashes of the code; see `changes.current_code`.
        """
        changed = {**record, "code": [*record["code"], code]}
        write_atomically(self.record_path, json.dumps(changed, indent=1).encode())

    def write_record(self, record: Record) -> None:
        """Write what the run was started with."""
        write_atomically(self.record_path, json.dumps(asdict(record), indent=1).encode())


def run_folder(name: str) -> Path:
    """Return the directory that holds the numbered runs of experiments with this name."""
    return Path("runs") / to_directory_name(name)


def next_directory(parent: Path) -> Path:
    """Create the directory with the next free number, so that no other process takes it."""
    make_directory(parent)
    taken = [int(p.name) for p in parent.iterdir() if re.fullmatch(r"\d+", p.name)]
    number = max(taken, default=0) + 1
    while True:
        directory = parent / f"{number:04d}"
        try:
            directory.mkdir()
        except FileExistsError:
            number += 1
        else:
            sync(parent)
            return directory
