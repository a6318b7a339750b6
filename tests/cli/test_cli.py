"""The command line: output, exit codes and signals."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from processes import ChildProcess, command_line
from small_data import write_images
from small_runs import read_metric_lines, rewrite_config, write_folder

import dltrain
from dltrain.cli import cli
from dltrain.config import ConfigError
from dltrain.core.registry import REGISTRIES
from dltrain.rundir.directory import Run
from dltrain.rundir.summary import Summary
from dltrain.training.trainer import Trainer

WAITING = Path(__file__).parents[1] / "waiting_plugin.py"
VERBS = sorted(cli.commands)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run; tests only read it."""
    place = tmp_path_factory.mktemp("trained")
    write_folder(place)
    experiment = dltrain.load(place / "config.yaml", [f"data.root={place / 'images'}"])
    dltrain.train(experiment, run_dir=place / "run", quiet=True)
    return place / "run"


# ------------------------------------------------------------------------------------- parsing


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["nonsense"]])
def test_help_and_usage_errors_do_not_import_torch(words):
    code = (
        "import sys\nfrom dltrain.cli import main\nsys.argv[1:] = sys.orig_argv[3:]\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "False False"
    assert done.returncode == (2 if words == ["nonsense"] else 0)


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ({}, "10000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
    ],
)
def test_waiting_threads_soon_leave_the_core_unless_the_environment_says_otherwise(
    theirs, expected
):
    code = (
        "import os, sys\nfrom dltrain.cli import main\nsys.argv[1:] = ['--version']\n"
        "try:\n    main()\nfinally:\n"
        "    print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    )
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**inherited, **theirs},
    )
    assert done.stdout.splitlines()[-1] == expected


def test_version():
    assert CliRunner().invoke(cli, ["--version"]).output == "dltrain, version 0.2.0\n"


@pytest.mark.parametrize("verb", VERBS)
def test_each_option_of_each_verb_is_explained(verb):
    command = cli.commands[verb]
    shown = CliRunner().invoke(cli, [verb, "--help"])
    assert shown.exit_code == 0
    assert command.help
    assert command.help.splitlines()[0] in shown.output
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, f"{verb} {option.opts[0]} has no help"
            assert option.opts[0] in shown.output
            assert " ".join(option.help.split()[:3]) in " ".join(shown.output.split())


def test_the_verbs():
    assert set(VERBS) >= {
        *("train", "resume", "evaluate", "predict"),
        *("check", "list", "schema", "completion"),
    }


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["train"],
        ["train", "config.yaml", "--frobnicate"],
        ["evaluate", ".", "--split", "holdout"],
        ["predict", "run"],
        ["completion", "tcsh"],
        ["list", "animals"],
        ["list", "models", "cmm"],
        ["train", "missing.yaml"],
        ["train", "."],
        ["train", "config.yaml", "--plugin", "missing.py"],
        ["train", "config.yaml", "--device", "toaster"],
        ["train", "config.yaml", "--device", "cuda:99"],
        ["train", "config.yaml", "train.batch_size"],
        ["train", "config.yaml", "optimizer.lr=fast"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("folder")
def test_a_wrong_command_line_ends_with_2_and_a_message(call, words):
    ended = call(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.strip()
    assert "Traceback" not in ended.err
    assert not Path("runs").exists()


# ---------------------------------------------------------------------------------- happy paths


def test_train_then_resume_of_a_finished_run(call, folder):
    ended = call("train", "config.yaml", "train.steps=6")
    assert ended.code == 0
    assert "done after 6 steps" in ended.out
    assert "test/accuracy" in ended.out
    assert "step 5/6" in ended.err  # progress is no result
    run = folder / "runs" / "config" / "0001"
    assert str(run.relative_to(folder)) in ended.out
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}
    again = call("resume", run)
    assert (again.code, again.err) == (0, "")
    assert "done after 6 steps" in again.out
    assert {p: p.read_bytes() for p in before} == before


def test_json_of_train_has_the_keys_of_a_summary(call, folder):
    ended = call("train", "config.yaml", "--json", "--quiet", "--run-dir", "run")
    assert (ended.code, ended.err) == (0, "")
    printed = strict_json(ended.out)
    assert list(printed) == [field.name for field in dataclasses.fields(Summary)]
    assert printed == strict_json((folder / "run" / "summary.json").read_text())
    assert set(printed["data"]) == {"name", "source", "notices", "sizes", "fingerprint"}
    assert printed["data"]["sizes"] == {"train": 103, "val": 30, "test": 40}
    assert set(printed["best"]) == {"metric", "value", "step"}
    assert {"train/loss", "val/accuracy", "val/auroc", "test/loss"} <= set(printed["metrics"])
    assert printed["tested_weights"] == f"step-{printed['best']['step']:010d}"
    assert len(printed["weights_sha256"]) == 64


def strict_json(text: str):
    """JSON as the standard has it, without NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_evaluate(call, trained):
    ended = call("evaluate", trained, "--json")
    assert (ended.code, ended.err) == (0, "")
    printed = strict_json(ended.out)
    assert set(printed) == {"checkpoint", "split", "samples", "metrics"}
    assert (printed["split"], printed["samples"]) == ("test", 40)
    table = call("evaluate", trained, "--split", "val")
    assert table.out.startswith("val: 30 samples")
    assert "accuracy" in table.out


def test_predict(call, trained, tmp_path):
    from PIL import Image

    for shade in (10, 200):
        Image.new("L", (8, 8), shade).save(tmp_path / f"{shade}.png")
    files = [tmp_path / "10.png", tmp_path / "200.png"]
    ended = call("predict", trained, *files, "--json")
    assert (ended.code, ended.err) == (0, "")
    printed = strict_json(ended.out)
    assert [item["input"] for item in printed] == [str(f) for f in files]
    for item in printed:
        assert set(item) == {"input", "label", "probabilities", "values", "text"}
        assert sum(item["probabilities"].values()) == pytest.approx(1)
        assert item["label"] == max(item["probabilities"], key=item["probabilities"].get)
    table = call("predict", trained, *files).out.splitlines()
    assert [line.split("\t")[:2] for line in table] == [[i["input"], i["label"]] for i in printed]


def test_check(call, folder):
    ended = call("check", "config.yaml", "--json")
    assert (ended.code, ended.err) == (0, "")
    printed = strict_json(ended.out)
    assert printed["sizes"] == {"train": 103, "val": 30, "test": 40}
    assert (printed["steps_per_epoch"], printed["total_steps"]) == (4, 10)
    assert call("check", "config.yaml").out.splitlines()[-1] == "ok"
    assert not (folder / "runs").exists()


def test_list_shows_every_component(call):
    printed = strict_json(call("list", "--json").out)
    for kind, registry in REGISTRIES.items():
        assert {c["name"] for c in printed if c["kind"] == registry.kind} == set(registry), kind
        shown = call("list", kind).out
        for name, component in registry.items():
            assert f"  {name:20} {component.summary}" in shown


@pytest.mark.parametrize("word", ["model", "loss", "metric", "optimizer", "Models", "section"])
def test_list_suggests_the_kind_that_was_meant(call, word):
    meant = next(
        kind
        for kind in ("losses", "models", "metrics", "optimizers", "sections")
        if kind.startswith(word.lower())
    )
    assert f"did you mean '{meant}'?" in call("list", word).err


def test_list_explains_the_keys_of_a_mapping(call):
    shown = call("list", "data", "mnist").out
    assert "  augment  mapping | null, default null\n" in shown
    assert "  augment.crop  int >= 0, default 0\n      Padding in pixels" in shown
    (mnist,) = strict_json(call("list", "data", "mnist", "--json").out)
    (augment,) = (option for option in mnist["options"] if option["name"] == "augment")
    assert {"crop", "flip"} <= {option["name"] for option in augment["options"]}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("epochs=3", "train.epochs=3"),
        ("patience=2", "early_stop.patience=2"),
        ("lr=0.1", "optimizer.lr=0.1"),
        ("batch_size=", None),
        ("frobnicate=1", None),
        ("name_=x", "name"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_section_of_an_option_without_one_is_suggested(call, given, meant):
    message = call("check", "config.yaml", given).err
    assert (f"did you mean '{meant}'?" if meant else "expected") in message


def test_list_explains_each_option(call):
    shown = call("list", "models", "cnn").out
    (cnn,) = strict_json(call("list", "models", "cnn", "--json").out)
    assert {o["name"] for o in cnn["options"]} >= {"channels", "kernel_size", "dropout"}
    for option in cnn["options"]:
        default = json.dumps(option["default"])
        assert f"  {option['name']}  {option['type']}, default {default}\n" in shown
        assert option["doc"].endswith(".")
        assert option["doc"] in shown
    assert "  channels  list of int > 0, default [32, 64]\n" in shown
    assert "  root  text, required\n" in call("list", "data", "idx").out


def test_schema_and_completion(call):
    assert {"model", "data", "train"} <= set(strict_json(call("schema").out)["properties"])
    for shell in ("bash", "zsh", "fish"):
        ended = call("completion", shell)
        assert ended.code == 0
        assert "_DLTRAIN_COMPLETE" in ended.out


def test_device_overrides_the_config(call, folder):
    ended = call("train", "config.yaml", "train.device=cuda:99", "--device", "cpu", "--quiet")
    assert ended.code == 0
    run = folder / "runs" / "config" / "0001"
    assert json.loads((run / "record.json").read_text())["device"]["type"] == "cpu"
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["device"] == "cpu"
    assert call("evaluate", run, "--device", "cpu").code == 0
    assert call("evaluate", run, "--device", "cuda:99").code == 2


def test_quiet_shows_nothing_but_errors(call, folder):
    ended = call("train", "config.yaml", "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    run = folder / "runs" / "config" / "0001"
    for words in (("resume", run), ("reproduce", run), ("train", "config.yaml", "--seeds", "0,1")):
        ended = call(*words, "--quiet")
        assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert call("train", "config.yaml", "--quiet", "seed=no").err.startswith("command line: seed")


def test_a_notice_of_the_data_is_shown_once(call, folder):
    (folder / "rows.csv").write_text("x,y\n" + "".join(f"{i},{i}.5\n" for i in range(40)) + "?x,1")
    words = ["config.yaml", "data={name: csv, path: rows.csv, target: y}", "loss=mse"]
    words += ["metrics=[mse]", "checkpoint.best=null"]
    ended = call("train", *words)
    assert ended.code == 0
    assert ended.err.count("rows.csv:42: 'x' is '?x'") == 1
    assert ended.out.count("note: rows.csv:42: 'x' is '?x'") == 1
    log = (folder / "runs" / "config" / "0001" / "log.txt").read_text()
    assert log.count("rows.csv:42") == 1
    assert call("train", *words, "--quiet").err == ""


def test_metrics_that_are_undefined_are_null_in_json(call, folder):
    """AUROC needs two classes among the samples."""
    write_images(folder / "images", train=133, test=1, side=8, classes=3)
    ended = call("train", "config.yaml", "--quiet", "--json")
    assert strict_json(ended.out)["metrics"]["test/auroc"] is None
    evaluated = call("evaluate", folder / "runs" / "config" / "0001", "--json")
    assert strict_json(evaluated.out)["metrics"]["auroc"] is None


# --------------------------------------------------------------------------------------- errors


def test_a_config_error_reads_like_a_compilers(folder):
    (folder / "config.yaml").write_text(
        "model: {name: mlp, hiden: [8]}\ndata: {name: idx, root: images}\n"
        "loss: cross_entropy\noptimizer: sgd\ntrain: {epochs: 1}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "dltrain", "train", "config.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "config.yaml:1:20: model.hiden: unknown option of model 'mlp'; did you mean 'hidden'?\n"
        "    1 | model: {name: mlp, hiden: [8]}\n"
        "      |                    ^^^^^\n"
    )
    assert not (folder / "runs").exists()


@pytest.mark.usefixtures("folder")
def test_debug_shows_the_traceback(call):
    with pytest.raises(ConfigError):
        call("--debug", "train", "config.yaml", "seed=no")


@pytest.fixture
def unreachable(folder, monkeypatch):
    """MNIST neither here nor to be had."""
    from dltrain.data import mnist

    monkeypatch.setenv("DLTRAIN_DATA", str(folder / "nothing"))
    published = vars(mnist.MNIST) | {"mirrors": ("http://127.0.0.1:9/",)}
    monkeypatch.setattr(mnist, "MNIST", type(mnist.MNIST)(**published))


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize(("verb", "code"), [("train", 1), ("check", 2)])
def test_missing_data(call, folder, verb, code):
    ended = call(verb, "config.yaml", "data={name: mnist, offline: error}")
    assert (ended.code, ended.out) == (code, "")
    assert "can't be downloaded" in ended.err.splitlines()[-1]
    assert "train-images-idx3-ubyte" in ended.err
    assert not (folder / "runs").exists()


def test_a_run_directory_is_used_once(call, trained, folder):
    before = (trained / "config.yaml").read_bytes()
    ended = call("train", "config.yaml", "--run-dir", trained)
    assert (ended.code, ended.out) == (1, "")
    expected = f"{trained} holds a run already; resume with: dltrain resume {trained}\n"
    assert ended.err == expected
    assert (trained / "config.yaml").read_bytes() == before
    assert not (folder / "runs").exists()


def test_a_run_directory_in_which_nothing_is_saved_can_be_used_again(call, trained, folder):
    run = folder / "begun"
    run.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(trained / name, run)
    ended = call("train", "config.yaml", "--run-dir", run)
    assert (ended.code, ended.out) == (1, "")
    expected = f"{run} holds a run already; nothing is saved of it; if it does not run: "
    assert ended.err == f"{expected}dltrain rm {run}\n"
    assert call("rm", run, "--yes").code == 0
    assert call("train", "config.yaml", "--run-dir", run).code == 0


@pytest.mark.parametrize(
    "words",
    [["resume", "{}"], ["evaluate", "{}"], ["predict", "{}", "some.png"]],
    ids=lambda words: words[0],
)
def test_what_is_no_run_directory(call, tmp_path, words):
    for place in (tmp_path, tmp_path / "nowhere"):
        ended = call(*(word.format(place) for word in words))
        assert (ended.code, ended.out) == (1, "")
        assert f"{place} is not a run directory" in ended.err


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_an_unknown_checkpoint(call, trained, verb):
    words = [trained, *(["some.png"] if verb == "predict" else []), "--checkpoint", "step-7"]
    ended = call(verb, *words)
    assert (ended.code, ended.out) == (1, "")
    assert "no checkpoint 'step-7'; there are: best, latest, step-0000000010" in ended.err


def test_a_split_that_the_data_lacks(call, folder):
    for name in ("images", "labels"):
        (folder / "images" / f"t10k-{name}-idx{3 if name == 'images' else 1}-ubyte").unlink()
    run = folder / "run"
    assert call("train", "config.yaml", "--run-dir", run).code == 0
    ended = call("evaluate", run)
    assert (ended.code, ended.out) == (2, "")
    assert "no 'test' split" in ended.err


def test_best_where_none_is_marked(call, folder):
    run = folder / "run"
    assert call("train", "config.yaml", "checkpoint.best=null", "--run-dir", run).code == 0
    assert "checkpoint.best is not set" in call("evaluate", run, "--checkpoint", "best").err
    assert call("evaluate", run, "--checkpoint", "latest").code == 0


def test_a_model_that_the_weights_do_not_fit(call, folder):
    run = folder / "run"
    assert call("train", "config.yaml", "--run-dir", run, "--quiet").code == 0
    config = run / "config.yaml"
    rewrite_config(run, ("hidden: [8]", "hidden: [9]"))
    (run / "summary.json").unlink()
    for verb in ("evaluate", "resume"):
        ended = call(verb, run)
        assert (ended.code, ended.out) == (1, "")
        assert f"does not fit what {config} builds now: " in ended.err
        assert "1.weight is float32 (8, 64); expected float32 (9, 64)" in ended.err.splitlines()[-1]


def test_evaluate_warns_of_changed_data(call, folder):
    run = folder / "run"
    assert call("train", "config.yaml", "--run-dir", run, "--quiet").code == 0
    assert call("evaluate", run).err == ""
    write_images(folder / "images", train=133, test=20, side=8, classes=3)
    ended = call("evaluate", run)
    assert ended.code == 0
    assert "is not the data that the run was trained on" in ended.err


PLUGIN = """\
import torch
from dltrain import MODELS

class Wrong(torch.nn.Module):
    def __init__(self, when):
        super().__init__()
        self.layer, self.when = torch.nn.Linear(64, 3), when

    def forward(self, inputs):
        if self.when == "tracing" and torch.jit.is_tracing():
            raise TypeError("don't trace me")
        if self.when == "torch" and torch.jit.is_tracing():
            raise RuntimeError("don't trace me")  # which torch prints before it raises it
        if self.when == "first" and self.training:
            return self.layer(inputs)  # not flattened
        return self.layer(inputs.flatten(1)) * (float("nan") if self.when == "nan" else 1)

@MODELS.register
def wrong(spec, /, *, when: str = "first"):
    "A model that fails."
    return Wrong(when)
"""


@pytest.fixture
def plugin(folder, monkeypatch):
    """A user's file, whose components are gone after the test."""
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_components", dict(registry))
    (folder / "mine.py").write_text(PLUGIN)
    return folder / "mine.py"


def test_a_model_that_fails_in_its_first_step(call, folder, plugin):
    words = ["config.yaml", "model=wrong", "--plugin", plugin]
    ended = call("train", *words)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith("step 1 fails: mine.py:15: mat1 and mat2 shapes")
    summary = json.loads((folder / "runs" / "config" / "0001" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "mat1 and mat2" in summary["error"]
    checked = call("check", *words)
    assert (checked.code, checked.out) == (2, "")
    assert checked.err.startswith("the first step fails: mine.py:15: mat1 and mat2 shapes")


@pytest.mark.parametrize("what", ["stop", "skip"])
def test_a_loss_that_is_not_finite(call, plugin, what):
    words = ["config.yaml", "model={name: wrong, when: nan}", f"train.on_nonfinite={what}"]
    words += ["--plugin", plugin]
    checked = call("check", *words)
    assert (checked.code, checked.out) == (2, "")
    assert "not finite" in checked.err
    assert call("train", *words, "train.max_skipped=3").code == 1


@pytest.mark.parametrize("when", ["tracing", "torch"])
def test_a_model_that_cannot_be_traced_trains_all_the_same(call, folder, plugin, when):
    words = [f"model={{name: wrong, when: {when}}}", "--plugin", plugin, "--json"]
    ended = call("train", "config.yaml", *words, "recording.tensorboard=true")
    assert ended.code == 0
    assert strict_json(ended.out)["status"] == "done"
    files = list((folder / "runs" / "config" / "0001" / "tensorboard").iterdir())
    assert b"can't be traced: don't trace me" in files[0].read_bytes()


def test_a_full_disk_is_reported_in_one_line(folder):
    """A limit on the size of files stands for it; TensorBoard writes from a thread of its own."""
    words = ["train", "config.yaml", "recording.tensorboard=true", "--run-dir", "run"]
    started = ChildProcess("train", folder, command_line, *words, file_bytes=40_000)
    assert (started.wait(), started.out) == (1, "")
    assert "Traceback" not in started.err
    last = started.err.splitlines()[-1]
    assert last.startswith("run: File too large")
    assert last.endswith("dltrain resume run")
    assert json.loads((folder / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.usefixtures("folder")
def test_the_reader_of_a_pipe_can_close_it():
    """`dltrain train config.yaml 2>&1 | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dltrain", "train", "config.yaml", "--run-dir", "run"]
    done = subprocess.run(command, stdout=writer, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert json.loads(Path("run/summary.json").read_text())["status"] == "done"


# -------------------------------------------------------------------------------------- signals


STOPS = ("term", "int", "kill", "twice")


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """Processes that train and wait in their eighth step."""
    place = tmp_path_factory.mktemp("signals")
    write_folder(place)
    processes = {}
    for name in STOPS:
        words = ["config.yaml", "model=waiting", "--plugin", WAITING, "--run-dir", name]
        processes[name] = ChildProcess(
            name,
            place,
            command_line,
            *("train", *words),
            environment={"WAIT_IN_STEP": "8", "WAIT_FOR": str(place / f"{name}.go")},
        )
    yield place, processes
    for process in processes.values():
        process.end()


@pytest.fixture
def stop(waiting, monkeypatch):
    """Send a signal to the process of that name in its eighth step, and let it continue."""
    place, processes = waiting
    monkeypatch.chdir(place)

    def stop(name: str, number: int) -> ChildProcess:
        process = processes[name]
        process.wait_for("waiting")
        while not (place / name / "checkpoints" / "step-0000000006").exists():
            assert process.running, process.err  # a thread writes it while the step waits
            time.sleep(0.01)
        process.signal(number)
        if name != "twice":
            (place / f"{name}.go").touch()
        return process

    return stop


@pytest.fixture(scope="module")
def whole(waiting):
    """What an uninterrupted run gives."""
    place, _ = waiting
    from dltrain.config.plugins import load_plugin

    load_plugin(WAITING)
    chosen = [f"data.root={place / 'images'}", "model=waiting"]
    experiment = dltrain.load(place / "config.yaml", chosen)
    summary = dltrain.train(experiment, run_dir=place / "whole", quiet=True)
    return summary.weights_sha256, read_metric_lines(place / "whole")


@pytest.mark.parametrize(("name", "number"), [("term", signal.SIGTERM), ("int", signal.SIGINT)])
def test_a_signal_stops_the_run_after_a_checkpoint(call, stop, whole, name, number):
    process = stop(name, number)
    assert (process.wait(), process.out) == (128 + number, "")
    assert process.err.splitlines()[-2:] == [
        f"stopped by signal {int(number)}",
        f"resume with: dltrain resume {name}",
    ]
    assert "Traceback" not in process.err
    summary = json.loads(Path(name, "summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("stopped", 8)
    assert Path(name, "checkpoints", "step-0000000008", "manifest.json").exists()
    resumed = call("resume", name, "--json", "--plugin", WAITING)
    assert resumed.code == 0
    assert strict_json(resumed.out)["weights_sha256"] == whole[0]
    assert read_metric_lines(Path(name)) == whole[1]


def test_a_killed_run_resumes_from_its_last_checkpoint(call, stop, whole):
    process = stop("kill", signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("kill", "summary.json").exists()
    resumed = call("resume", "kill", "--json", "--plugin", WAITING)
    assert resumed.code == 0
    assert "resuming from kill/checkpoints/step-0000000006" in resumed.err
    assert strict_json(resumed.out)["weights_sha256"] == whole[0]
    assert read_metric_lines(Path("kill")) == whole[1]


def test_a_run_in_use_is_left_alone_and_a_second_signal_ends_it_at_once(call, stop):
    process = stop("twice", signal.SIGTERM)
    before = Path("twice", "metrics.jsonl").read_bytes()
    refused = call("resume", "twice", "--plugin", WAITING)
    assert (refused.code, refused.out) == (1, "")
    assert f"twice is in use by process {process.pid} on " in refused.err
    assert Path("twice", "metrics.jsonl").read_bytes() == before
    assert process.running
    while process.running:  # two signals that arrive together are one
        with suppress(ProcessLookupError):
            process.signal(signal.SIGTERM)
        time.sleep(0.2)
    assert process.wait() == -signal.SIGTERM


def interrupted_twice():
    """Trains; SIGINT comes in a step, and again as the run writes its summary."""
    write_summary, train_step = Run.write_summary, Trainer.train_step

    def write(run, summary):
        signal.raise_signal(signal.SIGINT)
        write_summary(run, summary)

    def step(trainer, *arguments):
        signal.raise_signal(signal.SIGINT)
        return train_step(trainer, *arguments)

    Run.write_summary, Trainer.train_step = write, step
    command_line("train", "config.yaml", "--run-dir", "run", "--quiet")


def test_a_second_signal_ends_the_run_by_itself_while_its_summary_is_written(folder):
    process = ChildProcess("twice", folder, interrupted_twice)
    assert process.wait() == -signal.SIGINT, process.err
    assert list(Path("run", "checkpoints").glob("step-*"))
