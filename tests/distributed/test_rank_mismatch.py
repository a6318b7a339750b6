"""Ranks with different data, config, code or versions are refused before the first step."""

import socket
import time
from pathlib import Path

import pytest
import yaml
from launching import Ended, agent, ended, in_ranks, torchrun
from node_folders import run_in_node_folder
from processes import ChildProcess
from torch.distributed import HashStore

from dltrain.core.batch import RankSlice
from dltrain.distributed.process_group import TorchProcessGroup
from dltrain.rundir.provenance import unlike_ranks

PLUGIN = """
from torch import nn
from dltrain import MODELS, DataSpec

@MODELS.register
def net(spec: DataSpec, /) -> nn.Module:
    "A net."
    return nn.Sequential(nn.Linear(spec.input_shape[0], 4), nn.ReLU(), nn.Linear(4, 2))
"""
CONFIG = {
    "model": "net",
    "data": {"name": "csv", "path": "t.csv", "target": "y"},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.1},
    "train": {"epochs": 2, "batch_size": 16, "device": "cpu", "timeout": 60},
    "recording": {"tensorboard": False},
}


def write_node(folder: Path) -> None:
    """Write config, data and plug-in of one rank."""
    folder.mkdir()
    rows = [f"{n % 13},{'ab'[n % 2]}" for n in range(80)]
    (folder / "t.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    (folder / "p.py").write_text(PLUGIN)
    (folder / "c.yaml").write_text(yaml.safe_dump(CONFIG))


@pytest.fixture
def nodes(tmp_path) -> Path:
    for rank in range(2):
        write_node(tmp_path / f"node{rank}")
    return tmp_path


def train(nodes: Path, **environment: str) -> tuple[set[int], str, str]:
    """Train with two ranks; return their exit codes, and the output and errors of both."""
    words = ("train", "c.yaml", "--plugin", "p.py", "--run-dir", "run", "--quiet")
    return combine(in_ranks(nodes, 2, run_in_node_folder, *words, **environment))


def combine(ranks: list[Ended]) -> tuple[set[int], str, str]:
    codes, outs, errs = zip(*ranks, strict=True)
    return set(codes), "".join(outs), "".join(errs)


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_equal_ranks_train_in_different_folders(nodes):
    codes, _, err = train(nodes)
    assert codes == {0}, err


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("t.csv", "12,a", "12,b", "the data's fingerprint is "),
        ("c.yaml", "lr: 0.1", "lr: 0.2", "optimizer.lr is 0.1 in rank 0 and 0.2 in rank 1"),
        ("p.py", "ReLU", "Tanh", "code of p.py is "),
    ],
)
def test_differing_data_config_or_code_is_named(nodes, file, old, new, message):
    replace(nodes / "node1" / file, old, new)
    codes, out, err = train(nodes)
    assert (codes, out) == ({1}, "")
    (line,) = [line for line in err.splitlines() if "the ranks do not train the same" in line]
    assert message in line
    assert "rank 0" in line
    assert "rank 1" in line
    assert not (nodes / "node0" / "run").exists()
    assert not (nodes / "node1" / "run").exists()


def test_a_rank_that_is_terminated_reports_its_error_first(nodes):
    replace(nodes / "node1" / "c.yaml", "lr: 0.1", "lr: 0.2")
    words = ("train", "c.yaml", "--plugin", "p.py", "--run-dir", "run", "--quiet")
    ranks = in_ranks(nodes, 2, run_in_node_folder, *words, SIGTERM_WHILE_WAITING="1")
    assert [code for code, _, _ in ranks] == [1, 1]


def test_a_rank_reads_the_error_of_an_ended_rank_without_waiting(monkeypatch):
    group = TorchProcessGroup.__new__(TorchProcessGroup)
    group.rank_slice, group._store, group._timeout = RankSlice(1, 2), HashStore(), 60
    group._store.set("first_error", "0 0 1 t.csv: damaged")
    monkeypatch.setenv("GROUP_RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("the store may end by then"))
    error = group.root_cause(RuntimeError("gloo: Connection closed by peer"))
    assert str(error) == "process 0 of 2 failed: t.csv: damaged"


def test_a_differing_package_version_is_named(nodes):
    codes, _, err = train(nodes, UNLIKE="torch")
    assert codes == {1}
    assert "version of torch is " in err
    assert " in rank 0 and 1.0 in rank 1" in err


def test_ranks_are_compared_on_resume(nodes):
    codes, _, err = train(nodes)
    assert codes == {0}, err
    (nodes / "node0" / "run" / "summary.json").unlink()
    (nodes / "node0" / "run").rename(nodes / "run")
    for rank in range(2):
        (nodes / f"node{rank}" / "run").symlink_to(nodes / "run")
    replace(nodes / "node1" / "p.py", "ReLU", "Tanh")
    words = ("resume", "run", "--plugin", "p.py", "--quiet")
    codes, _, err = combine(in_ranks(nodes, 2, run_in_node_folder, *words))
    assert codes == {1}
    assert "code of p.py is " in err


def train_on_two_machines(nodes: Path, backend: str = "static") -> list[Ended]:
    """Return exit code, output and errors of the launcher on each machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("-m", "dltrain", "train", "c.yaml", "--plugin", "p.py", "--run-dir", "run", "--quiet")
    return ended(
        *(
            ChildProcess(
                "torchrun", nodes / f"node{n}", torchrun, *agent(n, port, *words, backend=backend)
            )
            for n in (0, 1)
        )
    )


def test_two_equal_machines_train(nodes):
    for code, _, err in train_on_two_machines(nodes):
        assert code == 0, err
    assert (nodes / "node0" / "run" / "summary.json").exists()
    assert not (nodes / "node1" / "run").exists()


@pytest.mark.parametrize(
    ("backend", "file", "old", "new", "message"),
    [
        ("static", "t.csv", "12,a", "12,b", "the data's fingerprint is "),
        ("c10d", "c.yaml", "lr: 0.1", "lr: 0.2", "optimizer.lr is 0."),
        ("static", "c.yaml", "lr: 0.1", "lrr: 0.1", "optimizer.lrr: unknown option"),
        ("static", "c.yaml", "path: t.csv", "path: u.csv", "u.csv"),
    ],
)
def test_each_machine_reports_the_difference(nodes, backend, file, old, new, message):
    replace(nodes / "node1" / file, old, new)
    for code, out, err in train_on_two_machines(nodes, backend):
        assert (code, out) == (1, "")
        (line,) = [line for line in err.splitlines() if message in line]
        if "do not train the same" in line:
            assert "rank 0" in line
            assert "rank 1" in line
        assert backend == "c10d" or "[c10d]" not in err  # message of the launcher
    assert not (nodes / "node0" / "run").exists()


def test_a_rank_that_waits_too_long_reports_it(nodes):
    replace(nodes / "node0" / "c.yaml", "timeout: 60", "timeout: 3")
    words = ("train", "c.yaml", "--plugin", "p.py", "--run-dir", "run")
    ((code, out, err),) = in_ranks(nodes, 1, run_in_node_folder, *words, WORLD_SIZE="2")
    assert (code, out) == (1, "")
    assert "process 0 has not met all 2 processes in 3 s" in err
    assert 'dltrain/cli/__init__.py"' not in err


def test_equal_ranks_are_grouped_in_the_message():
    facts = [{"a": "1", "b": "x"}, {"a": "2", "b": "x"}, {"a": "1", "b": "x", "c": "3"}]
    assert unlike_ranks(facts) == [
        "a is 1 in rank 0, 2 and 2 in rank 1",
        "c is not set in rank 0, 1 and 3 in rank 2",
    ]
    assert unlike_ranks([{"a": "1"}]) == []
