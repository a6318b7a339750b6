"""Fixtures for all tests."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

# Set before torch is imported: the suite runs one process per core, and its models are small.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import dltrain
from dltrain.config.plugins import load_plugin
from dltrain.data.idx import TEST_FILES, TRAIN_FILES

os.fsync = os.fstat  # no test simulates power loss on a real disk, and each call takes milliseconds

PLUGIN = Path(__file__).parent / "plugin.py"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker tests in a row, so that it builds the fixtures of a module only once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


def real_data(name: str, *files: str) -> Path:
    """Return the folder of real data, or skip the test if files are missing.

    Each file may be compressed as FILE.gz. With DLTRAIN_REQUIRE_DATA the test fails instead.
    """
    root = Path(os.environ.get("DLTRAIN_DATA", "data"))
    if not all((root / file).is_file() or (root / f"{file}.gz").is_file() for file in files):
        reason = f"{root} does not hold {name}; set DLTRAIN_DATA"
        if os.environ.get("DLTRAIN_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return root


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """Folder with all files of MNIST."""
    return real_data("MNIST", *(f"MNIST/raw/{name}" for name in TRAIN_FILES + TEST_FILES))


@pytest.fixture(scope="session")
def sst2_root() -> Path:
    """Folder with SST-2."""
    return real_data("SST-2", *(f"sst2/{name}.tsv" for name in ("train", "dev", "test")))


@pytest.fixture(scope="session")
def shakespeare_root() -> Path:
    """Folder with tiny Shakespeare."""
    return real_data("tiny Shakespeare", "tinyshakespeare.txt")


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Function that builds an experiment from a mapping, in a temporary working directory."""
    monkeypatch.chdir(tmp_path)
    load_plugin(PLUGIN)

    def make(config: dict, *overrides: str) -> dltrain.Experiment:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return dltrain.load(path, overrides)

    return make


@dataclass(frozen=True)
class CommandResult:
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Function that runs a command line in this process through the real entry point."""
    from dltrain.cli import main

    def call(*words: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["dltrain", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as error:
            code = error.code
        return CommandResult(code, *capsys.readouterr())

    return call
