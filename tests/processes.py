"""Child processes, forked from a server process that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["preloaded"])
_SECONDS = 600  # never reached, even on a busy machine; a test must end nevertheless


class ChildProcess:
    """A process that runs a function and writes its output to files.

    Args:
        name: Stem of the output files NAME.out and NAME.err in the folder.
        folder: Working directory.
        run: Function to run, from an importable module.
        arguments: Positional arguments of the function.
        environment: Environment variables added to those of this process.
        file_bytes: Maximum size of a file that the process may write.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        run: Callable[..., object],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        file_bytes: int | None = None,
    ) -> None:
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        variables = {**os.environ, **(environment or {})}
        settings = (folder, self._out, self._err, variables, file_bytes)
        self._process = _CONTEXT.Process(target=_child, args=(settings, run, arguments))
        paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(paths)):
            forkserver.ensure_running()  # the first call starts it, and it imports `preloaded`
        self._process.start()

    @property
    def pid(self) -> int:
        """Process ID."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is still running."""
        return self._process.is_alive()

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text()

    def wait_for(self, line: str) -> None:
        """Wait until the process has printed a line to standard error."""
        deadline = time.monotonic() + _SECONDS
        while not self._err.exists() or line not in self.err.splitlines():
            assert self.running, self.err
            assert time.monotonic() < deadline, f"no {line!r} in {_SECONDS} s"
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the process and return its exit code; minus N if signal N ended it."""
        self._process.join(_SECONDS)
        if self.running:
            self.end()
            raise AssertionError(f"still running after {_SECONDS} s")
        assert self._process.exitcode is not None
        return self._process.exitcode

    def end(self) -> None:
        """Kill the process if it is running."""
        if self.running:
            self.signal(signal.SIGKILL)
        self._process.join()


def processes_in_folder(folder: Path) -> set[int]:
    """Return the other processes with this working directory."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):  # it has exited, or belongs to another user
                if (entry / "cwd").samefile(folder):
                    found.add(int(entry.name))
    return found


def wait_until_all_exit(folder: Path, except_for: set[int]) -> None:
    """Wait until only these processes have this working directory.

    Workers of a killed process exit without being asked.
    """
    deadline = time.monotonic() + _SECONDS
    while left := processes_in_folder(folder) - except_for:
        assert time.monotonic() < deadline, f"processes still running after {_SECONDS} s: {left}"
        time.sleep(0.05)


def command_line(*words: object) -> None:
    """Run `dltrain WORDS` in this process."""
    from dltrain.cli import main

    sys.argv = ["dltrain", *map(str, words)]
    main()


def _child(settings, run, arguments) -> None:
    assert "preloaded" in sys.modules, "the forkserver did not import preloaded.py"
    folder, out, err, environment, file_bytes = settings
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    os.chdir(folder)
    os.environ.clear()  # the forkserver has the environment of the first test that used it
    os.environ.update(environment)
    # A child would use `forkserver` for its own children too, unlike a command line.
    multiprocessing.set_start_method(None, force=True)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    run(*arguments)
