"""What tests share."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

# Before torch is loaded: the suite runs in one process per core, and its models are small.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import dltrain
from dltrain.config.plugins import load_plugin
from dltrain.data.idx import TEST_FILES, TRAIN_FILES

os.fsync = os.fstat  # no test loses power, and a disk takes milliseconds for each of many calls

PLUGIN = Path(__file__).parent / "plugin.py"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker tests in a row, so that it builds the fixtures of a module only once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


def real_data(name: str, *files: str) -> Path:
    """The folder of real data; without these files a test is skipped, or fails where it must not.

    Any file may be packed, as FILE.gz.
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
    """The folder that holds the whole of MNIST."""
    return real_data("MNIST", *(f"MNIST/raw/{name}" for name in TRAIN_FILES + TEST_FILES))


@pytest.fixture(scope="session")
def sst2_root() -> Path:
    """The folder that holds SST-2."""
    return real_data("SST-2", *(f"sst2/{name}.tsv" for name in ("train", "dev", "test")))


@pytest.fixture(scope="session")
def shakespeare_root() -> Path:
    """The folder that holds tiny Shakespeare."""
    return real_data("tiny Shakespeare", "tinyshakespeare.txt")


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Makes an experiment from a mapping, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    load_plugin(PLUGIN)

    def make(config: dict, *overrides: str) -> dltrain.Experiment:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return dltrain.load(path, overrides)

    return make


@dataclass(frozen=True)
class Called:
    """What a command gave: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command line in this process, through the real entry point."""
    from dltrain.cli import main

    def call(*words: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["dltrain", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        return Called(code, *capsys.readouterr())

    return call
