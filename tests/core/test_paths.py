"""Paths in configs lead to the same files from everywhere; names make safe directories."""

import inspect
import json
import unicodedata
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch
import yaml
from small_data import write_sentences

import dltrain
from dltrain import commands
from dltrain.commands import rm
from dltrain.commands.import_ import import_weights
from dltrain.commands.seeds import train_seeds
from dltrain.config import ConfigError
from dltrain.core.paths import MAX_NAME_BYTES, to_directory_name

CONFIG = {
    "model": "linear",
    "data": {"name": "csv", "path": "rows.csv", "target": "y"},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.1},
    "metrics": ["accuracy"],
    "train": {"steps": 4, "batch_size": 8, "device": "cpu"},
    "recording": {"tensorboard": False},
}
ROWS = "x,y\n" + "".join(f"{n % 9 + 5 * (n > 29)},{'ab'[n > 29]}\n" for n in range(60))
PATHS = {
    "data.path": "data.path={}/rows.csv",
    "data.root": "data={{name: image_folder, root: '{}/images'}}",
    "data.root of mnist": "data={{name: mnist, root: '{}/mnist'}}",
    "data.tokenizer": (
        "data={{name: text_csv, path: rows.csv, text: [x], label: y, tokenizer: '{}/t.json'}}"
    ),
    "model.embeddings": "model={{name: text_lstm, embeddings: '{}/vectors.txt'}}",
    "task.judge": "task={{name: gan, judge: '{}/run'}}",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a table, a config and another directory, and no data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DLTRAIN_DATA", raising=False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return tmp_path


def option(experiment, key: str) -> str:
    component, name = key.partition(" ")[0].split(".")
    return getattr(experiment, component).options[name]


@pytest.mark.parametrize("key", PATHS)
def test_variables_and_home_are_expanded_in_every_path(folder, monkeypatch, key):
    monkeypatch.setenv("MY_FILES", str(folder / "mine"))
    monkeypatch.setenv("HOME", str(folder / "mine"))
    plain = option(dltrain.load("config.yaml", [PATHS[key].format("mine")]), key)
    assert plain.startswith(str(folder / "mine"))
    for start in ("${MY_FILES}", "~"):
        assert option(dltrain.load("config.yaml", [PATHS[key].format(start)]), key) == plain


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("${NO_SUCH_VARIABLE}", "the environment variable NO_SUCH_VARIABLE is not set"),
        ("${}", "expected an environment variable as ${NAME}, got '${}'"),
        ("~no_such_user", "there is no home directory '~no_such_user'"),
    ],
)
def test_what_can_t_be_expanded_is_told_at_its_line(folder, key, start, message):
    with pytest.raises(ConfigError) as caught:
        dltrain.load("config.yaml", [PATHS[key].format(start)])
    (problem,) = caught.value.problems
    assert problem.path == key.partition(" ")[0]
    assert message in problem.message


def test_the_line_of_a_variable_that_is_not_set(folder, call):
    ended = call("check", "config.yaml", "data.path=${NO_SUCH_VARIABLE}/rows.csv")
    assert (ended.code, ended.out) == (2, "")
    Path("config.yaml").write_text(
        Path("config.yaml").read_text().replace("rows.csv", "${NO_SUCH_VARIABLE}/rows.csv")
    )
    ended = call("check", "config.yaml")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("config.yaml:4:9: data.path: the environment variable NO_SUCH_VAR")


def test_extends_expands_too(folder, monkeypatch):
    monkeypatch.setenv("BASES", str(folder))
    for start in ("${BASES}", ".."):
        (folder / "elsewhere" / "mine.yaml").write_text(f"extends: {start}/config.yaml\nseed: 3\n")
        assert dltrain.load("elsewhere/mine.yaml").train.steps == 4
    (folder / "elsewhere" / "mine.yaml").write_text("extends: ${NO_SUCH_VARIABLE}/config.yaml\n")
    with pytest.raises(ConfigError, match=r"mine.yaml:1:10: extends: the environment variable NO_"):
        dltrain.load("elsewhere/mine.yaml")


@pytest.mark.parametrize("place", ["working directory", "data folder", "DLTRAIN_DATA"])
def test_a_run_finds_its_data_from_any_directory(folder, monkeypatch, place):
    if place == "data folder":
        (folder / "data").mkdir()
        Path("rows.csv").rename("data/rows.csv")
    if place == "DLTRAIN_DATA":
        (folder / "mine").mkdir()
        Path("rows.csv").rename("mine/rows.csv")
        monkeypatch.setenv("DLTRAIN_DATA", "mine")
    trained = dltrain.train(dltrain.load("config.yaml"), run_dir="run", quiet=True)
    monkeypatch.chdir(folder / "elsewhere")
    found = dltrain.evaluate("../run")
    assert found.metrics["accuracy"] == trained.metrics["test/accuracy"]
    Path("../run/summary.json").unlink()
    assert dltrain.resume("../run", quiet=True).weights_sha256 == trained.weights_sha256
    again = dltrain.train(dltrain.load("../run/config.yaml"), run_dir="again", quiet=True)
    assert again.weights_sha256 == trained.weights_sha256
    assert again.data["fingerprint"] == trained.data["fingerprint"]
    assert dltrain.reproduce(Path("../run"), run_dir=Path("third"), quiet=True).identical


def test_the_common_data_folder_is_recorded_and_may_move(folder, monkeypatch):
    """A source whose root is not given takes the folder that the run has had."""
    write_sentences(folder / "mine" / "sst2")
    monkeypatch.setenv("DLTRAIN_DATA", "mine")
    words = ["data={name: sst2}", "model={name: text_lstm, hidden_size: 4, layers: 1}"]
    trained = dltrain.train(dltrain.load("config.yaml", words), run_dir="run", quiet=True)
    record = json.loads(Path("run/record.json").read_text())
    assert record["data_folder"] == str(folder / "mine")
    monkeypatch.delenv("DLTRAIN_DATA")
    monkeypatch.chdir(folder / "elsewhere")
    expected = trained.metrics["test/accuracy"]
    assert dltrain.evaluate(Path("../run")).metrics["accuracy"] == expected
    (folder / "mine").rename(folder / "moved")
    monkeypatch.setenv("DLTRAIN_DATA", "../moved")
    assert dltrain.evaluate(Path("../run")).metrics["accuracy"] == expected


COMMANDS = [import_module(f"dltrain.commands.{m.name}") for m in iter_modules(commands.__path__)]
FUNCTIONS = [getattr(dltrain, name) for name in dltrain.__all__]
FUNCTIONS += [
    value
    for module in COMMANDS
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
]
PATHS_AS_CODE = {"work", "diagnose_checkpoints"}
"""Functions that other modules call with paths that are paths already."""


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if inspect.isfunction(f)])
def test_every_public_function_takes_text_for_a_path(function):
    if function.__name__ in PATHS_AS_CODE:
        return
    for name, parameter in inspect.signature(function).parameters.items():
        assert "Path" not in str(parameter.annotation) or "str" in parameter.annotation, name


@pytest.mark.parametrize("kind", [str, Path])
def test_text_and_paths_lead_to_the_same(folder, kind):
    experiment = dltrain.load(kind("config.yaml"))
    expected = dltrain.train(experiment, run_dir=kind("run"), quiet=True)
    run = kind("run")
    assert dltrain.resume(run, quiet=True) == expected
    assert dltrain.evaluate(run).metrics["accuracy"] == expected.metrics["test/accuracy"]
    assert len(dltrain.predict(run, [kind("rows.csv")])) == 60
    assert dltrain.Run.load(run).summary == expected
    assert [one.run for one in dltrain.runs(kind("."))] == ["run"]
    assert [group.runs for group in dltrain.compare(run)] == [["run"]]
    assert [group.runs for group in dltrain.compare([run])] == [["run"]]
    assert dltrain.report(run).path == "run/report.html"
    assert dltrain.report([run], kind("page.html")).path == "page.html"
    assert dltrain.reproduce(run, run_dir=kind("again"), quiet=True).identical
    assert dltrain.profile(experiment, kind("trace.json"), steps=1, warmup=1).trace == "trace.json"
    assert dltrain.tune_lr(experiment, kind("lr.html"), steps=20).picture == "lr.html"
    assert Path(dltrain.export(run, to="safetensors", output=kind("m.safetensors")).path).is_file()
    assert dltrain.init(kind("rows.csv"), kind("new.yaml")).config == "new.yaml"
    torch.save({"a": torch.zeros(2)}, "weights.pt")
    assert import_weights(kind("weights.pt"), kind("weights.safetensors")).tensors == 1
    assert train_seeds([experiment], directory=kind("seeds"), quiet=True).directory == "seeds"
    assert rm.plan(run).remove == rm.plan([run]).remove == ["run"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist_cnn-2.1", "mnist_cnn-2.1"),
        ("中文实验", "中文实验"),
        ("Привет мир", "Привет_мир"),
        ("हिन्दी प्रयोग", "हिन्दी_प्रयोग"),
        ("cafe\u0301", "caf\u00e9"),
        ("a / b\\c: d", "a_b_c_d"),
        ("🚀 start 🚀", "start"),
        ("🚀", "experiment"),
        ("..", "experiment"),
        ("../../etc/passwd", "etc_passwd"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a\x1b[31m\x00b", "a_31m_b"),
    ],
)
def test_a_name_becomes_a_readable_directory(name, expected):
    assert to_directory_name(name) == expected


@pytest.mark.parametrize("letter", ["a", "é", "中", "नि", "\U00020bb7", "-", "."])
@pytest.mark.parametrize("length", [1, 33, 50, 99, 100, 101, 5000])
def test_a_directory_s_name_is_bounded_and_safe(letter, length):
    found = to_directory_name(letter * length)
    assert 1 <= len(found.encode()) <= MAX_NAME_BYTES
    assert found == unicodedata.normalize("NFC", found)
    assert found[0] not in ".-"
    assert Path(found).name == found


@pytest.mark.parametrize("name", ["中文 实验", "../up", "🚀", "x" * 300])
def test_runs_of_any_name_are_made_below_runs(folder, name):
    summary = dltrain.train(dltrain.load("config.yaml", [f"name={name}"]))
    run = Path(summary.run)
    assert run == Path("runs", to_directory_name(name), "0001")
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["name"] == name
    assert {path.name for path in folder.iterdir()} == {
        *("rows.csv", "config.yaml", "elsewhere", "runs")
    }
