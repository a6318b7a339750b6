"""Worker processes that read batches."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch
from processes import ChildProcess

from dltrain.data.worker_reader import WorkerReader


def parent_has_torch(_sample: int) -> torch.Tensor:
    """Return 1 if the process that started this one has loaded torch, else 0."""
    return torch.tensor(float("libtorch" in Path(f"/proc/{os.getppid()}/maps").read_text()))


def read_with_fork_server() -> None:
    """Print the samples of two batches that a worker of a fork server reads."""
    multiprocessing.set_start_method("forkserver", force=True)
    reader = WorkerReader(
        parent_has_torch,
        ["a", "b"],
        [torch.tensor([0]), torch.tensor([1])],
        sample_bytes=4,
        workers=1,
        timeout=60,
        pin_memory=False,
        ignore_signals=False,
    )
    print(reader.next_batch().tolist(), reader.next_batch().tolist())
    reader.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory map of a process")
def test_workers_of_a_fork_server_do_not_import_torch_each(tmp_path):
    process = ChildProcess("reader", tmp_path, read_with_fork_server)
    assert process.wait() == 0, process.err
    assert process.out == "[1.0] [1.0]\n"
