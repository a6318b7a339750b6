"""Command lines in processes of their own, forked from one that has imported torch already."""

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
_SECONDS = 600  # nothing waits for so long, on a busy machine either; a test should still end


class Started:
    """A process that runs a function, with its output in files.

    Args:
        name: Its output goes to NAME.out and NAME.err in the folder.
        folder: Its working directory.
        run: What it runs; of a module that it can import.
        arguments: Of the function.
        environment: Variables on top of this process's.
        file_bytes: The longest file that it may write.
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
            forkserver.ensure_running()  # the first time, it starts and finds `preloaded`
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    @property
    def out(self) -> str:
        """What it has printed."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it has printed to standard error."""
        return self._err.read_text()

    def wait_for(self, line: str) -> None:
        """Waits until it has printed a line to standard error."""
        deadline = time.monotonic() + _SECONDS
        while not self._err.exists() or line not in self.err.splitlines():
            assert self.running, self.err
            assert time.monotonic() < deadline, f"no {line!r} in {_SECONDS} s"
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Waits for its end; the exit code, or minus the signal that ended it."""
        self._process.join(_SECONDS)
        if self.running:
            self.end()
            raise AssertionError(f"still ran after {_SECONDS} s")
        assert self._process.exitcode is not None
        return self._process.exitcode

    def end(self) -> None:
        """Ends it, whatever it does."""
        if self.running:
            self.signal(signal.SIGKILL)
        self._process.join()


def processes_in(folder: Path) -> set[int]:
    """The processes whose working directory it is, other than this one."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):  # it ends just now, or is not ours
                if (entry / "cwd").samefile(folder):
                    found.add(int(entry.name))
    return found


def wait_for_the_end_of_all_in(folder: Path, but: set[int]) -> None:
    """Waits until no process is left there but these; a killed one's workers end by themselves."""
    deadline = time.monotonic() + _SECONDS
    while left := processes_in(folder) - but:
        assert time.monotonic() < deadline, f"left after {_SECONDS} s: processes {left}"
        time.sleep(0.05)


def command_line(*words: object) -> None:
    """What the shell would run."""
    from dltrain.cli import main

    sys.argv = ["dltrain", *map(str, words)]
    main()


def _child(settings, run, arguments) -> None:
    assert "preloaded" in sys.modules, "the forkserver did not find it, or an import in it failed"
    folder, out, err, environment, file_bytes = settings
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    os.chdir(folder)
    os.environ.clear()  # the forkserver has that of the test that was the first to need it
    os.environ.update(environment)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    run(*arguments)
