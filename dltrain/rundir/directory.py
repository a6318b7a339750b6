"""The run directory: its place, its lock, its files, how it ended."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import (
    clear_leftovers,
    make_directory,
    read,
    regular,
    sync,
    write_atomically,
)
from dltrain.checkpoints.store import CheckpointStore
from dltrain.checkpoints.untrusted_files import FILES, Count, read_json, typed_dict_of, verify
from dltrain.config import ConfigError, Experiment, load
from dltrain.config.parse import tree_of
from dltrain.config.problems import Problem
from dltrain.config.tree import plain
from dltrain.core.errors import RunError, shorten
from dltrain.core.paths import relocate, to_directory_name
from dltrain.core.registry import Choice
from dltrain.rundir import input_files
from dltrain.rundir.provenance import RECORD_FILE, DataRecord, Record, plugin_paths

State = Literal["running", "done", "stopped", "pruned", "failed", "killed"]
Status = Literal["done", "stopped", "pruned", "failed"]

_HELD: set[Path] = set()
"""Run directories that this process has locked."""


class Best(TypedDict):
    """The best checkpoint: what chose it, its value and its step."""

    metric: str
    value: float
    step: Count


class StoppedEarly(TypedDict):
    """Where and why early stopping ended the training; values that were not finite are None."""

    step: Count
    metric: str
    value: float | None
    best: float | None
    patience: Count
    min_delta: float


@dataclass(frozen=True)
class Summary:
    """How a run ended; `summary.json`, whose keys are stable.

    Attributes:
        run: The run directory.
        status: `done`, `stopped` by a signal, `pruned` by a sweep, or `failed`.
        step: Steps taken.
        epoch: Passes over the training split.
        seconds: Spent training, over all processes that worked on the run.
        samples_per_second: Over all of it, evaluation and checkpoints included.
        peak_memory_bytes: Of the process, or of the GPU's allocator.
        metrics: The last value of each scalar; None where it was not finite.
        best: `metric`, `value` and `step` of the best checkpoint, if one is chosen.
        best_metrics: The validation metrics of the best checkpoint; `metrics` has the last ones.
        tested_weights: Which weights the test split saw: a checkpoint's name, `averaged`, `final`.
        skipped_steps: Steps skipped because a loss or gradient was not finite.
        stopped_early: `step`, `metric`, `value`, `best`, `patience` and `min_delta` where early
            stopping ended the training; `value` is that of the last evaluation.
        data: `name`, `source`, sizes of the splits, `fingerprint`, and `notices` of the source.
        weights_sha256: Over the final weights' names, dtypes, shapes and bytes.
        error: Why it failed.
    """

    run: str
    status: Status
    step: int
    epoch: float
    seconds: float
    samples_per_second: float
    peak_memory_bytes: int
    metrics: dict[str, float | None]
    best: dict[str, Any] | None
    best_metrics: dict[str, float | None]
    tested_weights: str | None
    skipped_steps: int
    stopped_early: dict[str, Any] | None
    data: dict[str, Any]
    weights_sha256: str
    error: str | None = None

    def to_json(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


SUMMARY_FILE = typed_dict_of(
    Summary,
    best=Best | None,
    stopped_early=StoppedEarly | None,
    data=DataRecord,
)
"""The types of `summary.json`."""


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        directory: Its place.
    """

    directory: Path

    @property
    def config_path(self) -> Path:
        """The resolved config."""
        return self.directory / "config.yaml"

    @property
    def record_path(self) -> Path:
        """What the run was started with."""
        return self.directory / "record.json"

    @property
    def metrics_path(self) -> Path:
        """Every scalar."""
        return self.directory / "metrics.jsonl"

    @property
    def summary_path(self) -> Path:
        """How the run ended."""
        return self.directory / "summary.json"

    @property
    def log_path(self) -> Path:
        """What the terminal showed."""
        return self.directory / "log.txt"

    @property
    def tensorboard_path(self) -> Path:
        """Folder of the event files."""
        return self.directory / "tensorboard"

    @classmethod
    def create(cls, experiment: Experiment, directory: Path | None = None) -> Run:
        """Makes a new run directory: the one given, or the next under `runs/NAME/`.

        Raises:
            RunError: It holds a run already, or can't be made.
        """
        try:
            if directory is None:
                directory = next_directory(run_folder(experiment.name))
            make_directory(directory)
            verify(directory)
            run = cls(directory)
            run.config_path.touch(exist_ok=False)  # of two at once, one makes the run
            run._prepare(experiment)
        except FileExistsError as error:
            held = cls(directory or Path())
            if error.filename != str(held.config_path):
                raise RunError(f"{error.filename}: is in the way of the run directory") from error
            way_on = f"resume with: dltrain resume {directory}"
            if not held.checkpoints().all():
                way_on = f"nothing is saved of it; if it does not run: dltrain rm {directory}"
            raise RunError(f"{directory} holds a run already; {way_on}") from error
        except OSError as error:
            raise RunError(
                f"{directory or 'runs'}: can't make the run directory: {error}"
            ) from error
        return run

    def _prepare(self, experiment: Experiment) -> None:
        """Writes the config, and tries what else the run will write, so that errors come early."""
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
        """Keeps the resolved config."""
        write_atomically(self.config_path, experiment.to_yaml().encode())

    @classmethod
    def open(cls, directory: str | Path) -> Run:
        """An existing run directory.

        Raises:
            RunError: It holds no run, or something that no run has; see `run_files.verify`.
        """
        run = cls(Path(directory))
        if not os.path.lexists(run.config_path):
            is_folder = run.directory.is_dir()
            hint = " (runs are numbered: name one of its folders)" if is_folder else ""
            raise RunError(f"{directory} is not a run directory: it has no config.yaml{hint}")
        run.verify()
        return run

    def verify(self) -> None:
        """See `run_files.verify`, and `CheckpointStore.verify_sizes`."""
        verify(self.directory)
        self.checkpoints().verify_sizes()

    @classmethod
    def find_existing(
        cls, launched: Mapping[str, Any] | None, again: bool, name: str, directory: Path | None
    ) -> Run | None:
        """The run that this launch has begun already, before its processes were started again.

        Args:
            launched: What `world.launch` says; None finds nothing.
            again: Whether a process has been started again: only then does the launch's name count,
                which may have been given to another before.
            name: The experiment's.
            directory: Where the run is, if not in its place under `runs/NAME/`.
        """
        if launched is None:
            return None
        place = run_folder(name)
        folders = [directory] if directory else sorted(place.glob("*"), reverse=True)
        for run in map(cls, folders):
            with suppress(RunError):  # what is no run, or damaged, is another's
                ended, its = run.summary(), run.record()["launch"] or {}
                named = again and launched["id"] is not None and its.get("id") == launched["id"]
                unfinished = again or ended is None or ended.status != "done"
                if named or (unfinished and its.get("launcher") == launched["launcher"]):
                    return run
        return None

    def discard_unsaved(self) -> None:
        """Makes room in its directory for a new run, where this one has saved nothing.

        Leaves alone what has a checkpoint, and what is no run.

        Raises:
            RunError: Another process works on it.
        """
        begun = self.metrics_path.is_file() and self.config_path.is_file()
        if not begun or self.checkpoints().all():
            return
        with self.locked():
            self.reset()
            self.config_path.unlink()

    def mark_resumed(self) -> None:
        """Forgets how it ended: it goes on, and may be killed this time."""
        self.summary_path.unlink(missing_ok=True)

    def reset(self) -> None:
        """Forgets what was recorded before anything was saved."""
        for path in (self.metrics_path, self.summary_path, self.directory / input_files.NAME):
            path.unlink(missing_ok=True)
        for path in self.tensorboard_path.glob("events.out.tfevents.*"):
            path.unlink()

    def experiment(self, overrides: Sequence[str] = ()) -> Experiment:
        """What it trains.

        Raises:
            ConfigError: The config does not hold any more, or its components are not there.
        """
        try:
            experiment = load(self.config_path, overrides)
            parts = {key: getattr(experiment, key) for key in ("data", "model", "task")}
            return replace(experiment, **{key: self._found(part) for key, part in parts.items()})
        except ConfigError as error:
            if options := self.plugin_options():
                error.add_note(f"the run was started with {options}")
            raise

    def _found(self, part: Choice) -> Choice:
        """The component, with paths that have moved along with the working directory."""
        directory = None
        with suppress(RunError):
            directory = self.record()["directory"]
        options = {name: relocate(value, directory) for name, value in part.options.items()}
        return replace(part, options=options)

    def config(self) -> dict[str, Any]:
        """The resolved config as plain data; needs none of the components that it names.

        Raises:
            RunError: It can't be read.
        """
        problems: list[Problem] = []
        try:
            tree = plain(tree_of(self._config_bytes(), str(self.config_path), problems))
            if problems:
                raise ConfigError(problems)
        except ConfigError as error:
            told = error.problems[0].message
            raise RunError(f"{self.config_path}: is not a config: {told}") from error
        seed = tree.get("seed", 0)
        if type(seed) is not int:
            told = shorten(repr(seed), 40)
            raise RunError(f"{self.config_path}: is not a config: seed: {told} is no whole number")
        return tree

    def config_text(self) -> str:
        """The resolved config, YAML.

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
        """The words that name its plug-ins on a command line; none where it has none."""
        try:
            record = self.record()
        except RunError:
            return ""
        return " ".join(f"--plugin {shlex.quote(str(path))}" for path in plugin_paths(record))

    def checkpoints(self, keep: int = 3) -> CheckpointStore:
        """Its checkpoints."""
        return CheckpointStore(self.directory / "checkpoints", keep)

    def summary(self) -> Summary | None:
        """How it ended; None while it has not."""
        try:
            found = read_json(self.summary_path, SUMMARY_FILE, FILES["summary.json"])
        except FileNotFoundError:
            return None
        return Summary(**found)

    def record(self) -> dict[str, Any]:
        """What is known of its environment: the fields of `Record`."""
        try:
            most = FILES["record.json"]
            found = read_json(self.record_path, RECORD_FILE, most, infinite=True)
        except FileNotFoundError as error:
            raise RunError(f"{self.record_path}: can't be read: there is none") from error
        found.setdefault("launch", None)  # earlier versions wrote neither
        found.setdefault("data_folder", None)
        found["device"].setdefault("processes", 1)
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time works in the directory; a dead one holds no lock.

        What a killed process has left of files that it was writing is removed.

        Raises:
            RunError: Another process does; the message names it. Or the directory holds something
                that no run has; see `run_files.verify`.
        """
        self.verify()
        # A POSIX record lock belongs to the process: worker processes don't inherit it.
        with open(self.directory / "lock", "a+", errors="replace", opener=regular) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = shorten(file.read(200).strip()) or "another process"
                raise RunError(f"{self.directory} is in use by {holder}") from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            held = self.directory.resolve()
            _HELD.add(held)
            try:
                clear_leftovers(self.directory)
                if (exports := self.directory / "exports").is_dir():
                    clear_leftovers(exports)
                self.checkpoints().recover()
                yield
            finally:
                _HELD.discard(held)
            file.truncate(0)

    @property
    def in_use(self) -> bool:
        """Whether a process works in the directory."""
        # To close any file of the lock gives up a lock that this process holds.
        if self.directory.resolve() in _HELD:
            return True
        try:
            with open(self.directory / "lock", "rb", opener=regular) as file:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
        return False

    @property
    def state(self) -> State:
        """Whether it runs, and how it ended; without a summary its process was killed."""
        if self.in_use:
            return "running"
        ended = self.summary()
        return "killed" if ended is None else ended.status

    def write_summary(self, summary: Summary) -> None:
        """Says how the run ended."""
        write_atomically(self.summary_path, summary.to_json().encode())

    def add_code(self, record: Mapping[str, Any], code: dict[str, str]) -> None:
        """Keeps that the run goes on with other code than it was started with."""
        changed = {**record, "code": [*record["code"], code]}
        write_atomically(self.record_path, json.dumps(changed, indent=1).encode())

    def write_record(self, record: Record) -> None:
        """Keeps what is known of the environment."""
        write_atomically(self.record_path, json.dumps(asdict(record), indent=1).encode())


def run_folder(name: str) -> Path:
    """Return the directory that holds the numbered runs of experiments with this name."""
    return Path("runs") / to_directory_name(name)


def next_directory(parent: Path) -> Path:
    """The first free number under `parent`; made here, so that no other process takes it."""
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
