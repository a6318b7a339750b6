"""Files that a command line or a config names: what is no file is refused, and waited for never."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import yaml
from PIL import Image
from small_runs import CONFIG, write_folder

KINDS = ["fifo", "directory", "/dev/zero"]


def place(kind: str, name: str) -> Path:
    """What is no file, under this name where it can be."""
    path = Path(name)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(kind)
    return path


def table_config() -> Path:
    Path("table.csv").write_text("x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)))
    config = CONFIG | {"data": {"name": "csv", "path": "table.csv", "target": "y"}}
    Path("table.yaml").write_text(yaml.safe_dump(config))
    return Path("table.yaml")


def text_config() -> Path:
    rows = "".join(f"some text {i},{'ab'[i % 2]}\n" for i in range(40))
    Path("texts.csv").write_text("text,label\n" + rows)
    chosen = {"name": "text_csv", "path": "texts.csv", "text": ["text"], "label": "label"}
    config = CONFIG | {"data": chosen, "model": {"name": "text_lstm"}}
    Path("texts.yaml").write_text(yaml.safe_dump(config))
    return Path("texts.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_arguments(call, kind):
    assert call("train", "config.yaml", "--run-dir", "run", "--quiet").code == 0
    for words in (
        ["train", place(kind, "a.yaml")],
        ["check", "config.yaml", "--plugin", place(kind, "b.py")],
        ["sweep", "config.yaml", place(kind, "c.yaml")],
        ["import", place(kind, "d.pt"), "-o", "weights.safetensors"],
        ["predict", "run", place(kind, "e.png")],
    ):
        called = call(*words)
        assert called.code in (1, 2)
        (line,) = called.err.splitlines()
        named = next(word for word in words if isinstance(word, Path))
        assert str(named) in line
        assert ("irectory" if kind == "directory" else "not a file") in line


def test_an_image_larger_than_any_is_not_read(call):
    assert call("train", "config.yaml", "--run-dir", "run", "--quiet").code == 0
    Image.new("L", (8, 8)).save("huge.png")
    with Path("huge.png").open("r+b") as file:
        file.truncate(2**40)
    called = call("predict", "run", "huge.png")
    assert (called.code, called.out) == (1, "")
    (line,) = called.err.splitlines()
    assert "huge.png: not an image that can be read: has 1,099,511,627,776 bytes" in line


@pytest.mark.parametrize("kind", KINDS)
def test_paths_in_configs(call, kind):
    table, texts = table_config(), text_config()
    for words in (
        ["check", table, f"data.path={place(kind, 'a.csv')}"],
        ["check", texts, f"data.tokenizer={place(kind, 'tokenizer.json')}"],
        ["check", texts, f"model.embeddings={place(kind, 'vectors.txt')}"],
    ):
        called = call(*words)
        assert called.code in (1, 2), called.out
        place_, *rest = called.err.splitlines()
        assert "irectory" in place_ if kind == "directory" else "not a file" in place_, rest


def test_a_config_may_be_a_pipe_that_the_shell_has_made(call):
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as file:
        file.write(Path("config.yaml").read_bytes())
    called = call("check", f"/dev/fd/{read_end}")
    os.close(read_end)
    assert called.code == 0, called.err


def test_an_image_and_texts_may_be_such_a_pipe(call):
    assert call("train", "config.yaml", "--run-dir", "run", "--quiet").code == 0
    assert call("train", text_config(), "--run-dir", "texts", "--quiet").code == 0
    Image.new("L", (8, 8)).save("image.png")
    for run, content in (("run", Path("image.png").read_bytes()), ("texts", b"one\ntwo\n")):
        read_end, write_end = os.pipe()
        with os.fdopen(write_end, "wb") as file:
            file.write(content)
        called = call("predict", run, f"/dev/fd/{read_end}")
        os.close(read_end)
        assert called.code == 0, called.err


def test_a_file_is_reached_through_a_link(call):
    Image.new("L", (8, 8)).save("image.png")
    Path("link.png").symlink_to("image.png")
    Path("link.yaml").symlink_to("config.yaml")
    assert call("train", "link.yaml", "--run-dir", "run", "--quiet").code == 0
    assert call("predict", "run", "link.png").code == 0


def test_a_fifo_with_a_writer_is_no_file_either(call):
    path = place("fifo", "a.yaml")
    content = Path("config.yaml").read_bytes()
    writer = threading.Thread(target=lambda: path.write_bytes(content), daemon=True)
    writer.start()
    assert "is a FIFO" in call("check", path).err
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # lets the writer go
    writer.join()
    os.close(descriptor)
