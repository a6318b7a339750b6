"""Files of a run directory from a stranger: what is refused, read and cleared away."""

import fcntl
import os
import re
import socket
from pathlib import Path

import pytest
from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import (
    UnsafeFileError,
    clear_leftovers,
    open_regular,
    read,
    regular,
    temporary_name,
    write_atomically,
)
from dltrain.checkpoints.untrusted_files import verify
from dltrain.checkpoints.untrusted_json import Count, parse_json, read_json
from dltrain.core.errors import RunError

LEFT = ".summary.json.0123456789abcdef.part"


@pytest.fixture
def folder(tmp_path):
    """A run directory with one file of each kind, and another's file beside it."""
    (tmp_path / "thesis.txt").write_text("my only copy")
    run = tmp_path / "run"
    for name in ("config.yaml", "log.txt", "checkpoints/step-0000000001/model.safetensors"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("1")
    return run


def link(place: Path) -> None:
    place.symlink_to(os.environ["THESIS"])


def dangling(place: Path) -> None:
    place.symlink_to("nowhere")


def loop(place: Path) -> None:
    place.symlink_to(place.name)


def second_name(place: Path) -> None:
    place.hardlink_to(os.environ["THESIS"])


def fifo(place: Path) -> None:
    os.mkfifo(place)


def listening(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        os.chdir(place.parent)  # such a path is short
        unix.bind(place.name)


SPECIAL = [link, dangling, loop, second_name, fifo, listening]
PLACES = ["config.yaml", "log.txt", "lock", "metrics.jsonl", "checkpoints/best.json", LEFT]
STEP = "checkpoints/step-0000000001"
PLACES += [f"{STEP}/model.safetensors", "tensorboard/events.out.tfevents.1"]


@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_plain_file_is_refused_where_dltrain_would_use_it(
    folder, place, make, monkeypatch
):
    verify(folder)
    monkeypatch.setenv("THESIS", str(folder.parent / "thesis.txt"))
    monkeypatch.chdir(folder)
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(RunError) as caught:
        verify(folder)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)
    for mode in ("rb", "ab", "wb"):
        with pytest.raises(UnsafeFileError):
            open(path, mode, opener=regular)  # noqa: SIM115
    with pytest.raises(UnsafeFileError):
        read(path, 100)
    assert (folder.parent / "thesis.txt").read_text() == "my only copy"


def test_directories_files_and_sizes_are_those_of_a_run(folder):
    (folder / "summary.json").mkdir()
    with pytest.raises(RunError, match=r"summary\.json is a directory in the place of a file"):
        verify(folder)
    (folder / "summary.json").rmdir()
    for name in (*PLACES[:-2], *(f"{STEP}/{name}" for name in ("state.json", "model.safetensors"))):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
        with pytest.raises(RunError, match=f"{re.escape(name)} is a directory in the place of a f"):
            verify(folder)
        (folder / name).rmdir()
    (folder / "tensorboard").touch()
    with pytest.raises(RunError, match="tensorboard is a file in the place of a directory"):
        verify(folder)
    (folder / "tensorboard").unlink()
    with (folder / "record.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RunError, match=r"record\.json is larger"):
        verify(folder)
    (folder / "record.json").rename(folder / STEP / "state.json")
    with pytest.raises(RunError, match=r"state\.json is larger"):
        verify(folder)
    (folder / STEP / "state.json").rename(folder / "record.json")
    with pytest.raises(OSError, match="at most 100 are read"):
        read(folder / "record.json", 100)


def test_what_is_not_dltrains_is_nobodys_business(folder):
    (folder / "my data").symlink_to("/")
    (folder / "notes.txt").mkdir()
    verify(folder)
    link = folder.parent / "link"
    link.symlink_to(folder)
    verify(link)


def test_no_folder_on_the_way_to_a_checkpoints_file_may_be_a_link(folder):
    path = folder / "checkpoints/step-0000000001/model.safetensors"
    assert read(path, 1, levels=3) == b"1"
    (folder / "checkpoints").rename(folder.parent / "elsewhere")
    (folder / "checkpoints").symlink_to(folder.parent / "elsewhere")
    assert read(path, 1) == b"1"
    with pytest.raises(OSError, match=r"link|[Nn]ot a directory"):
        read(path, 1, levels=3)


def test_files_are_replaced_through_names_that_nobody_can_predict(folder, monkeypatch):
    names = [temporary_name("summary.json") for _ in range(3)]
    assert len(set(names)) == 3
    taken = folder / names[0]
    taken.symlink_to(folder.parent / "thesis.txt")
    monkeypatch.setattr("dltrain.checkpoints.atomic_files.temporary_name", lambda name: names[0])
    with pytest.raises(OSError, match="exists"):
        write_atomically(folder / "summary.json", b"new")
    assert (folder.parent / "thesis.txt").read_text() == "my only copy"
    monkeypatch.undo()
    long = folder / ("é" * 127)
    write_atomically(long, b"new")
    assert long.read_bytes() == b"new"


def test_leftovers_of_killed_processes_go_and_those_being_written_stay(folder):
    for name in (LEFT, ".report.html.0123456789abcdef.part", ".mine.part"):
        (folder / name).touch()
    (folder / ".log.txt.0123456789abcdef.part").mkdir()
    written = folder / temporary_name("record.json")
    with written.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear_leftovers(folder)
        hidden = {path.name for path in folder.glob(".*")}
        assert hidden == {".mine.part", ".log.txt.0123456789abcdef.part", written.name}
    write_atomically(folder / "record.json", b"{}")
    assert not written.exists()


class Kind(TypedDict):
    """A file's types."""

    steps: Count
    values: dict[str, float | None]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"steps": 1}', "it has no values"),
        (b'{"steps": true, "values": {}}', "steps: expected a valid integer, got True"),
        (b'{"steps": -1, "values": {}}', "steps: expected greater than or equal to 0"),
        (b'{"steps": 1' + b"0" * 9999 + b', "values": {}}', "too large"),
        (b'{"steps": 1, "values": {"a": "1"}}', "values.a: expected a valid number"),
        (b'{"steps": 1, "values": {"a": NaN}}', "NaN is not a finite number"),
        (b'{"steps": 1, "values": {"a": 1e999}}', "1e999 is not a finite number"),
        (b'{"steps": 1, "values": {}, "steps": 1}', "a key is given twice"),
        (b'{"steps": 1, "values": {"\\u001b[31m": "x"}}', r"values.\x1b[31m"),
        (b"[]", "expected a valid dictionary"),
        (b"", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"steps": ' + b"[" * 100_000, "nested deeper"),
        (b'{"steps": [' + b"[],[]," * 1_500_000 + b"[]]}", "more than 2,000,000 values"),
        (b'{"a": "' + b'\\"' * 1_000_000, "not JSON"),
    ],
)
def test_json_is_bounded_and_has_the_types_of_its_schema(content, expected, tmp_path):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(RunError) as caught:
        read_json(tmp_path / "file.json", Kind, 2**24)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'file.json'}: ")
    assert expected in message
    assert message.isprintable()
    assert len(message) < len(str(tmp_path)) + 200


def test_json_that_fits_is_what_it_says():
    content = b'{"steps": 3, "values": {"a": 1, "b": null, "\\udce9": 0.5}, "more": 1}'
    assert parse_json(content, Kind) == {"steps": 3, "values": {"a": 1, "b": None, "\udce9": 0.5}}


def test_a_descriptor_is_not_left_open_by_a_refusal(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        with pytest.raises(UnsafeFileError):
            open_regular(tmp_path / "fifo")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
