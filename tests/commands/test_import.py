"""Weights of torch.save's files are converted unchanged, and nothing else is read."""

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch


class Evil:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights() -> dict[str, torch.Tensor]:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    tied = torch.arange(6.0).view(2, 3)
    return {**model.state_dict(), "tied": tied, "turned": tied.T, "half": tied.bfloat16()}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_a_state_dict(call, key, old_format):
    saved = weights()
    content = saved if key is None else {key: saved, "epoch": 3}
    torch.save(content, "some.pt", _use_new_zipfile_serialization=not old_format)
    ended = call("import", "some.pt", "-o", "other.safetensors", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == {
        "path": "other.safetensors",
        "tensors": len(saved),
        "values": sum(t.numel() for t in saved.values()),
        "bytes": Path("other.safetensors").stat().st_size,
    }
    loaded = safetensors.torch.load_file("other.safetensors")
    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_the_output_lies_beside_the_file(call):
    torch.save(weights(), "some.pt")
    ended = call("import", "some.pt")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("some.safetensors: 10 tensors, ")
    assert Path("some.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "no file of tensors alone"),
        ({"state_dict": weights(), "more": Evil()}, "no file of tensors alone"),
        (torch.nn.Linear(2, 2), "no file of tensors alone"),
        ([torch.zeros(2)], "holds no state_dict, but list"),
        (torch.zeros(2), "holds no state_dict, but Tensor"),
        ({}, "holds no state_dict, but dict"),
        ({"a": torch.zeros(2), "b": 3}, "'b' is int, not a tensor"),
        ({1: torch.zeros(2)}, "1 is Tensor"),
        ({"\x1b[31m" * 10**5: 1}, "... is int, not a tensor"),
        ({"a": torch.zeros(2).to_sparse()}, "can't be written as safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("old_format", [False, True])
def test_anything_else_is_refused_in_a_line(call, content, message, old_format):
    torch.save(content, "some.pt", _use_new_zipfile_serialization=not old_format)
    ended = call("import", "some.pt", "-o", "other.safetensors")
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("some.pt: ")
    assert message in line
    assert len(line) < 300
    assert "\x1b" not in line
    assert "weights_only" not in line
    assert sorted(Path().iterdir()) == [Path("some.pt")]


@pytest.mark.parametrize(
    "content",
    [b"", b"no such thing", pickle.dumps(Evil()), safetensors.torch.save({"a": torch.zeros(2)})],
    ids=["empty", "text", "pickle", "safetensors"],
)
def test_other_files_are_refused_in_a_line(call, content):
    Path("some.pt").write_bytes(content)
    ended = call("import", "some.pt")
    assert (ended.code, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1
    assert sorted(Path().iterdir()) == [Path("some.pt")]


def test_files_that_are_not_there_or_cannot_be_written(call):
    assert call("import", "some.pt").err == "some.pt: can't be read: No such file or directory\n"
    torch.save(weights(), "some.pt")
    ended = call("import", "some.pt", "-o", "nowhere/x.safetensors")
    assert ended.code == 1
    assert ended.err == "nowhere/x.safetensors: can't be written: No such file or directory\n"
    ended = call("import", "some.pt", "-o", "other.pt")
    assert ended.code == 2
    assert "written to a .safetensors file" in ended.err
