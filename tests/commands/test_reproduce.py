"""A reproduced run is bitwise identical, or the differences are reported."""

import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from threading import Event

import pytest
import yaml
from small_data import write_images
from small_runs import CONFIG, read_metric_lines, rewrite_config, write_folder

import dltrain
from dltrain.core.errors import RunError
from dltrain.rundir import input_files
from dltrain.rundir.directory import Run
from dltrain.rundir.git import git_changes, git_state

PLUGIN = '''
import torch
from dltrain import DATA
from dltrain.data.in_memory import in_memory_data
from dltrain.core.data_spec import Column, DataSpec, TableInputs
from dltrain.core.protocols import Data, DataContext

@DATA.register
def numbers(context: DataContext, /, *, path: str) -> Data:
    """Numbers of a file, which is not named.

    Args:
        path: The file.
    """
    with open(path) as file:
        x = torch.tensor([float(line) for line in file])[:, None]
    spec = DataSpec((1,), 1, TableInputs((Column("x"),)))
    return in_memory_data(
        context, spec, {"train": (x, 2 * x)}, source=path, fingerprint=str(x.sum().item())
    )
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(*overrides: str, place: str = "one") -> Path:
    run = Path("runs") / place
    dltrain.train(dltrain.load("config.yaml", overrides), run_dir=run, quiet=True)
    return run


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip_a_byte(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def write_table(rows: int = 60) -> None:
    lines = [f"{n},{n % 7},{'ab'[n % 2]}" for n in range(rows)]
    Path("table.csv").write_text("\n".join(["id,x,y", *lines]) + "\n")
    config = {
        **CONFIG,
        "data": {"name": "csv", "path": "table.csv", "target": "y", "features": ["x"]},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))


def test_a_run_comes_out_again(folder, call):
    run = trained("checkpoint.best=null")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ended = call("reproduce", run)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "runs/config/0001 is identical to runs/one"
    assert Run(run).summary().weights_sha256 in ended.out
    assert read_metric_lines(Path("runs/config/0001")) == read_metric_lines(run)
    assert {path: path.read_bytes() for path in before} == before  # it is left as it was
    result = json.loads(call("reproduce", run, "--json", "--quiet", "--run-dir", "two").out)
    assert result["run"] == "two"
    assert result["scalars"] == len(read_metric_lines(run))
    assert (result["identical"], result["tolerance"], result["changes"]) == (True, 0.0, [])


def test_dropout_augmentation_and_what_was_resumed_come_out_again(experiment, tmp_path):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    model = {"name": "stochastic", "stop_at": 6}
    augment = {"shift": 2, "flip": True}
    config = {**CONFIG, "model": model, "data": {**CONFIG["data"], "augment": augment}}
    with pytest.raises(dltrain.core.errors.InterruptedRunError):
        dltrain.train(experiment(config), run_dir=tmp_path / "run", quiet=True)
    with pytest.raises(RunError, match=r"is not done.*resume"):
        dltrain.reproduce(tmp_path / "run", quiet=True)
    dltrain.resume(tmp_path / "run", quiet=True)
    # the model stops no more at the sixth step: as if no signal had come
    rewrite_config(tmp_path / "run", ("stop_at: 6", "stop_at: 0"))
    assert dltrain.reproduce(tmp_path / "run", quiet=True).identical


def test_where_it_differs_and_by_how_much(folder, call):
    run = trained()
    rewrite_config(run, ("lr: 0.01", "lr: 0.0101"))
    ended = call("reproduce", run, "--json", "--quiet", "--run-dir", "two")
    assert ended.code == 1
    found = json.loads(ended.out)
    pairs = list(zip(read_metric_lines(run), read_metric_lines(Path("two")), strict=True))
    different = [(a, b) for a, b in pairs if a["value"] != b["value"]]
    distances = [abs(a["value"] - b["value"]) for a, b in different]
    shares = [
        d / max(abs(a["value"]), abs(b["value"]))
        for d, (a, b) in zip(distances, different, strict=True)
    ]
    assert not found["identical"]
    assert found["differing"] == len(different) > 0
    assert found["largest"] == max(distances)
    assert found["tolerance"] == max(shares)
    first = different[0][0]
    assert found["first"]["name"] == f"{first['split']}/{first['name']}"
    assert (found["first"]["step"], found["first"]["before"]) == (first["step"], first["value"])
    assert found["weights"]["largest"] > 0
    shown = call("reproduce", run, "--run-dir", "three")
    assert shown.code == 1
    assert f"first      {first['split']}/{first['name']} at step {first['step']}:" in shown.out
    assert "three differs from runs/one" in shown.out
    quiet = call("reproduce", run, "--quiet", "--run-dir", "four")
    assert (quiet.code, quiet.out, quiet.err) == (1, "", "four differs from runs/one\n")


def test_one_bit_of_one_value_is_a_difference(folder):
    run = trained()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if '"accuracy"' in line)
    line = json.loads(lines[number])
    value = line["value"]
    line["value"] = math.nextafter(value, 2)
    lines[number] = json.dumps(line)
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found = dltrain.reproduce(run, quiet=True)
    assert (found.identical, found.differing, found.weights) == (False, 1, None)
    assert found.first is not None
    assert (found.first.before, found.first.now) == (line["value"], value)
    assert found.tolerance == pytest.approx(2**-53, rel=1)


def test_a_value_that_only_one_has_allows_no_tolerance(folder):
    run = trained()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[1:]) + "\n")
    found = dltrain.reproduce(run, quiet=True)
    assert (found.differing, found.tolerance) == (1, None)
    assert found.first is not None
    assert found.first.before is None


# ------------------------------------------------------------------------------------------- data


def test_a_changed_byte_is_refused_by_name_before_training(folder, call):
    run = trained()
    flip_a_byte(folder / "images" / "train-images-idx3-ubyte")
    ended = call("reproduce", run)
    assert (ended.code, ended.out) == (1, "")
    assert "the data is not what runs/one was trained on: images/train-images-idx3" in ended.err
    assert not Path("runs/config").exists()


def test_a_changed_byte_that_no_fingerprint_sees(folder, call):
    write_table()
    run = trained("checkpoint.best=null")
    text = Path("table.csv").read_text()
    Path("table.csv").write_text(text.replace("\n59,", "\n95,"))  # in a column that is not used
    ended = call("reproduce", run)
    assert ended.code == 1
    assert "table.csv: its SHA-256 is" in ended.err
    Path("table.csv").write_text(text)
    assert call("reproduce", run, "--quiet").code == 0


def test_large_inputs_are_known_by_size_and_time(folder, call, monkeypatch):
    monkeypatch.setattr(input_files, "MOST_HASHED_BYTES", 1000)
    run = trained()
    written = input_files.read(run)
    assert written is not None
    assert {file.sha256 for file in written.data} == {None}
    assert written.note is not None
    assert "not by SHA-256" in written.note
    assert written.note in call("reproduce", run).out
    place = folder / "images" / "train-images-idx3-ubyte"
    flip_a_byte(place)
    os.utime(place, (1e9, 1e9))
    ended = call("reproduce", run)
    assert ended.code == 1
    assert f"images/{place.name}: was changed at 2001" in ended.err
    assert "size and time alone" in ended.err


def test_the_same_data_elsewhere_is_the_same(folder, monkeypatch):
    run = folder / trained()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / "images", elsewhere / "images")
    monkeypatch.chdir(elsewhere)
    found = dltrain.reproduce(run, quiet=True)
    assert (found.identical, found.changes, found.notes) == (True, [], [])
    flip_a_byte(elsewhere / "images" / "train-labels-idx1-ubyte")
    with pytest.raises(RunError, match="images/train-labels-idx1-ubyte: its SHA-256"):
        dltrain.reproduce(run, quiet=True)


def test_a_file_that_is_packed_by_now_is_named(folder):
    run = trained()
    subprocess.run(["gzip", "images/t10k-labels-idx1-ubyte"], check=True)
    found = dltrain.reproduce(run, quiet=True)
    assert found.identical
    gone, new = found.notes
    assert gone == f"{folder}/images/t10k-labels-idx1-ubyte: was read, and is not now"
    assert new == "images/t10k-labels-idx1-ubyte.gz: is read, and was not before"


def test_a_run_of_an_earlier_version_is_known_by_its_fingerprint(folder):
    run = trained()
    (run / "inputs.json").unlink()
    found = dltrain.reproduce(run, quiet=True)
    assert found.identical
    assert "fingerprint" in found.notes[0]
    flip_a_byte(folder / "images" / "train-images-idx3-ubyte")
    with pytest.raises(RunError, match="the data is not what"):
        dltrain.reproduce(run, quiet=True)


def test_a_damaged_record_of_inputs_is_told_in_a_line(folder, call):
    run = trained()
    for text in ("{", "[]", '{"data": [1], "plugins": [], "note": null}'):
        (run / "inputs.json").write_text(text)
        ended = call("reproduce", run)
        assert ended.code == 1
        assert ended.err.startswith(f"{run}/inputs.json: damaged:")


@pytest.mark.parametrize("path", ["", ".", "images/train-images-idx3-ubyte"])
def test_a_relative_path_in_a_record_of_inputs_is_told_in_a_line(folder, call, path):
    run = trained()
    found = json.loads((run / "inputs.json").read_bytes())
    found["data"][0]["path"] = path
    (run / "inputs.json").write_text(json.dumps(found))
    ended = call("reproduce", run)
    assert ended.code == 1
    assert ended.err == f"{run}/inputs.json: damaged: {path!r} is not an absolute path\n"


def test_sources_name_what_they_read(folder):
    write_images(folder / "more", train=9, test=3, side=8, classes=3)
    Path("texts.tsv").write_text("t\ty\n" + "a b\t0\nc d\t1\n" * 20)
    Path("long.txt").write_text("to be or not to be " * 50)
    named = {
        "idx": ({"root": "more"}, {f"more/{p.name}" for p in Path("more").iterdir()}),
        "text_csv": ({"path": "texts.tsv", "text": ["t"], "label": "y"}, {"texts.tsv"}),
        "text_file": ({"path": "long.txt", "window": 8}, {"long.txt"}),
        "toy_blobs": ({}, set()),
    }
    for name, (options, files) in named.items():
        data = dltrain.DATA[name].builder(dltrain.DataContext(Path()), **options)
        assert {str(path) for path in data.files} == files


# ----------------------------------------------------------------------------- code and versions


def test_other_versions_and_threads_are_told_or_refused(folder, call):
    run = trained()

    def change(record) -> None:
        record["versions"]["torch"] = "1.0"
        record["device"]["threads"] = 77

    change_json(run / "record.json", change)
    ended = call("reproduce", run, "--json")
    assert ended.code == 0
    assert "warning: torch was 1.0 and is " in ended.err
    assert [line.split(" and ")[0] for line in json.loads(ended.out)["changes"]] == [
        "device threads was 77",
        "torch was 1.0",
    ]
    ended = call("reproduce", run, "--exact", "--run-dir", "exact")
    assert (ended.code, ended.out) == (1, "")
    assert "can't reproduce runs/one bitwise identically: device threads was 77" in ended.err
    assert not Path("exact").exists()


def test_plugins_are_hashed_and_a_source_that_names_no_files_works(folder, call, monkeypatch):
    dltrain.load("config.yaml")  # registers the built-in sources
    monkeypatch.setattr(dltrain.DATA, "_components", dict(dltrain.DATA))
    Path("mine.py").write_text(PLUGIN)
    Path("numbers.txt").write_text("\n".join(map(str, range(40))))
    config = {
        "model": "linear",
        "data": {"name": "numbers", "path": "numbers.txt"},
        "loss": "mse",
        "optimizer": {"name": "sgd", "lr": 1e-4},
        "train": {"steps": 3, "device": "cpu"},
        "recording": {"tensorboard": False},
    }
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    words = ("--plugin", "mine.py")
    assert call("train", "mine.yaml", *words, "--run-dir", "run").code == 0
    written = input_files.read(Path("run"))
    assert written is not None
    assert written.data == []
    assert [file.path for file in written.plugins] == [str(folder / "mine.py")]
    assert call("reproduce", "run", *words, "--exact").code == 0
    with Path("mine.py").open("a") as file:
        file.write("# another line\n")
    ended = call("reproduce", "run", *words)
    assert ended.code == 0
    assert "changed    mine.py: has" in ended.out
    assert call("reproduce", "run", *words, "--exact").code == 1
    Path("mine.py").write_text(PLUGIN)
    Path("numbers.txt").write_text("\n".join(map(str, range(1, 41))))
    ended = call("reproduce", "run", *words)
    assert ended.code == 1
    assert "the data is not what run was trained on" in ended.err


def git(*words: str) -> None:
    name = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    subprocess.run(["git", *name, *words], check=True, capture_output=True)


def test_changed_code_is_named_and_nothing_is_checked_out(folder, call):
    Path("code.py").write_text("x = 1\n")
    Path("other.py").write_text("y = 1\n")
    Path(".gitignore").write_text("runs\n")
    git("init", "-q")
    git("add", "code.py", "other.py", ".gitignore", "config.yaml")
    git("commit", "-qm", "first")
    Path("code.py").write_text("x = 2\n")  # a change that the run records
    run = trained()
    assert dltrain.reproduce(run, quiet=True, exact=True).changes == []
    Path("other.py").write_text("y = 2\n")
    ended = call("reproduce", run)
    assert ended.code == 0
    assert "code is not as it was at commit" in ended.err
    assert ended.err.split("with its changes: ")[1].startswith("other.py;")
    assert call("reproduce", run, "--exact").code == 1
    git("commit", "-qam", "second")
    assert "other.py" in call("reproduce", run).err
    Path("other.py").write_text("y = 1\n")  # the commit is another, the files are as they were
    assert dltrain.reproduce(run, quiet=True, exact=True).changes == []
    assert Path("other.py").read_text() == "y = 1\n"


def test_a_commit_that_is_not_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"commit": "0" * 40, "diff": ""}
    assert git_changes(None) == []
    assert "no git repository" in git_changes(state)[0]
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    assert "does not have" in git_changes(state)[0]
    assert git_changes(git_state()) == []


# ------------------------------------------------------------------------------ how it is recorded


def test_the_first_step_does_not_wait_for_the_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    begun = Event()
    with input_files.recorded(tmp_path, [tmp_path / "a"], [], begun.is_set):
        assert not begun.wait(0.1)
        assert not (tmp_path / "inputs.json").exists()
    found = input_files.read(tmp_path)  # the end came before a step
    assert found is not None
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    (file,) = found.data
    assert (file.path, file.bytes, file.sha256) == (str(tmp_path / "a"), 1, sha256)
    before = (tmp_path / "inputs.json").read_bytes()
    (tmp_path / "a").write_bytes(b"y")
    with input_files.recorded(tmp_path, [tmp_path / "a"], [], begun.is_set):
        pass
    assert (tmp_path / "inputs.json").read_bytes() == before  # a resumed run reads the same


def test_a_run_that_fails_does_not_wait(tmp_path):
    with (
        pytest.raises(ValueError, match="its own"),
        input_files.recorded(tmp_path, [tmp_path / "a"], [], Event().is_set),
    ):
        raise ValueError("its own")
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_is_gone_does_not_stop_a_run(tmp_path):
    with input_files.recorded(tmp_path, [tmp_path / "gone"], [], lambda: True):
        pass
    assert input_files.read(tmp_path) == input_files.InputFiles(
        [input_files.InputFile(str(tmp_path / "gone"), None, None, None)], [], None
    )


def test_very_many_files_are_not_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(input_files, "MOST_FILES", 2)
    with input_files.recorded(tmp_path, [tmp_path / str(n) for n in range(3)], [], lambda: True):
        pass
    assert input_files.read(tmp_path) == input_files.InputFiles(
        [], [], "3 files of data, too many to be listed"
    )


def test_resuming_records_what_a_killed_run_has_not(folder):
    run = trained()
    (run / "inputs.json").unlink()
    (run / "summary.json").unlink()
    newest = Run(run).checkpoints().all()
    shutil.rmtree(newest[0])
    dltrain.resume(run, quiet=True)
    found = input_files.read(run)
    assert found is not None
    assert len(found.data) == 4
    assert dltrain.reproduce(run, quiet=True).identical
