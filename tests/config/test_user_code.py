"""Changed code of the user's own is reported by every command that uses a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

import dltrain
from dltrain.config import user_code
from dltrain.config.plugins import register_builtins

PLUGIN = '''
import math, os, signal, sys
from pathlib import Path
from torch import nn
from dltrain import MODELS, DataSpec

sys.path.insert(0, str(Path(__file__).parent))
import helper_of_net

class Net(nn.Sequential):
    calls = 0
    def forward(self, inputs):
        Net.calls += 1
        if os.environ.get("STOP") and Net.calls == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(inputs)

@MODELS.register
def net(spec: DataSpec, /) -> nn.Module:
    """A net."""
    width = helper_of_net.WIDTH
    return Net(nn.Linear(spec.input_shape[0], width), nn.ReLU(), nn.Linear(width, spec.num_outputs))
'''
CONFIG = {
    "model": {"name": "net"},
    "data": {"name": "toy_blobs", "samples": 143},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.01},
    "metrics": ["accuracy"],
    "train": {"epochs": 3, "batch_size": 32, "device": "cpu"},
    "recording": {"tensorboard": False},
}


@pytest.fixture
def fresh(call, tmp_path, monkeypatch):
    """Runs a command line as a new process would: with no plug-in loaded yet."""
    monkeypatch.chdir(tmp_path)
    Path("p.py").write_text(PLUGIN)
    Path("helper_of_net.py").write_text("WIDTH = 8\n")
    Path("c.yaml").write_text(yaml.safe_dump(CONFIG))
    register_builtins()
    components = dict(dltrain.MODELS)
    path = list(sys.path)

    def clear() -> None:
        for name in [n for n in sys.modules if n == "helper_of_net" or n.startswith("dltrain_pl")]:
            if Path(str(sys.modules[name].__file__)).is_relative_to(tmp_path):
                del sys.modules[name]
        user_code._LOADED.pop(str(tmp_path / "p.py"), None)
        monkeypatch.setattr(dltrain.MODELS, "_components", dict(components))

    def run(*words: str):
        clear()
        return call(*words)

    yield run
    clear()
    sys.path[:] = path


@pytest.fixture
def run(fresh) -> Path:
    """A finished run of the plug-in."""
    ended = fresh("train", "c.yaml", "--plugin", "p.py", "--run-dir", "run", "--quiet")
    assert ended.code == 0, ended.err
    return Path("run")


@pytest.fixture
def interrupted(fresh, monkeypatch) -> Path:
    """A run of the plug-in that was interrupted."""
    with monkeypatch.context() as patched:
        patched.setenv("STOP", "1")
        words = ("train", "c.yaml", "--plugin", "p.py", "--run-dir", "run", "--quiet")
        assert fresh(*words).code == 143
    return Path("run")


def change(file: str = "p.py") -> None:
    """Gives the net another activation, or its helper another text of the same length."""
    text = Path(file).read_text()
    Path(file).write_text(
        text.replace("nn.ReLU()", "nn.Tanh()").replace("WIDTH = 8\n", "WIDTH= 8 \n")
    )


USES = {
    "evaluate": ("evaluate", "run"),
    "predict": ("predict", "run", "in.csv"),
    "export": ("export", "run", "--to", "pt2"),
    "report": ("report", "run"),
    "resume": ("resume", "run"),
    "reproduce": ("reproduce", "run", "--run-dir", "again"),
}


@pytest.mark.parametrize("verb", USES)
@pytest.mark.parametrize("file", ["p.py", "helper_of_net.py"])
def test_every_command_names_the_changed_file(fresh, run, verb, file):
    Path("in.csv").write_text("x0,x1\n1,2\n")
    words = (*USES[verb], "--plugin", "p.py")
    unchanged = fresh(*words)
    assert "warning" not in unchanged.err
    change(file)
    ended = fresh(*USES[verb][:-1], "again2" if verb == "reproduce" else words[-3], *words[-2:])
    warnings = [line for line in ended.err.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 1
    assert file in warnings[0]
    assert "SHA-256" in warnings[0] or "bytes" in warnings[0]


def test_a_sweep_names_the_trials_of_other_code(fresh):
    space = {"optimizer.lr": {"float": [0.01, 0.1]}}
    words = ("sweep", "c.yaml", "s.yaml", "--run-dir", "found", "--plugin", "p.py")
    settings = {"metric": "val/accuracy", "space": space}
    for trials in (2, 3):
        Path("s.yaml").write_text(yaml.safe_dump({**settings, "trials": trials}))
        ended = fresh(*words)
        assert ended.code == 0, ended.err
        assert "warning" not in ended.err
    change("helper_of_net.py")
    Path("s.yaml").write_text(yaml.safe_dump({**settings, "trials": 4}))
    ended = fresh(*words, "--json")
    (warning,) = [line for line in ended.err.splitlines() if line.startswith("warning:")]
    assert warning.startswith("warning: trials 0, 1, 2: helper_of_net.py is not the code of the")
    (notice,) = json.loads(ended.out)["notices"]
    assert notice in warning
    assert "helper_of_net.py is not the code" in Path("found/report.html").read_text()


def test_a_plugin_that_is_not_given_is_named(fresh, run):
    Path("other.py").write_text(f"{PLUGIN}# more\n")  # the same components, in another file
    ended = fresh("evaluate", "run", "--plugin", "other.py")
    assert ended.code == 0
    assert "warning: p.py was loaded in training but not now (see --plugin)" in ended.err


def test_moved_code_is_the_same(fresh, run):
    Path("elsewhere").mkdir()
    for file in ("p.py", "helper_of_net.py"):
        Path(file).rename(Path("elsewhere") / file)
    ended = fresh("evaluate", "run", "--plugin", "elsewhere/p.py")
    assert (ended.code, ended.err) == (0, "")


def test_the_hashes_are_there_before_the_first_step(fresh, interrupted):
    (Path("run") / "inputs.json").unlink(missing_ok=True)
    change()
    assert "p.py is not the code" in fresh("evaluate", "run", "--plugin", "p.py").err


def test_resuming_with_other_code_is_refused_by_exact_or_kept_in_mind(fresh, interrupted):
    original = Path("p.py").read_text()
    change()
    ended = fresh("resume", "run", "--plugin", "p.py", "--exact")
    assert (ended.code, ended.out) == (1, "")
    assert "can't resume bitwise identically: p.py is not the code of the training" in ended.err
    ended = fresh("resume", "run", "--plugin", "p.py")
    assert ended.code == 0
    assert "warning: p.py is not the code of the training" in ended.err
    assert "warning: p.py is not the code of the training" in Path("run/log.txt").read_text()
    assert len(json.loads(Path("run/record.json").read_text())["code"]) == 2
    for text in (original, Path("p.py").read_text()):  # one part of it was trained with either
        Path("p.py").write_text(text)
        assert "warning: p.py" in fresh("evaluate", "run", "--plugin", "p.py").err


def test_a_card_lists_no_metrics_of_other_code(fresh, run):
    words = ("export", "run", "--to", "pt2", "--plugin", "p.py")
    assert fresh(*words).code == 0
    card = Path("run/exports/model.pt2.md")
    assert "| test/accuracy |" in card.read_text()
    change()
    assert fresh(*words).code == 0
    assert "| test/accuracy |" not in card.read_text()
    assert "- p.py is not the code of the training" in card.read_text()


def test_a_card_lists_no_metrics_of_another_config(fresh, run):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("test: 0.2", "test: 0.3"))
    ended = fresh("export", "run", "--to", "pt2", "--plugin", "p.py")
    assert "warning: run/config.yaml: data.test was 0.2 and is 0.3; results may differ" in ended.err
    assert "| test/accuracy |" not in Path("run/exports/model.pt2.md").read_text()


def test_a_card_lists_the_metrics_of_its_checkpoint_alone(fresh, run):
    summary = json.loads((run / "summary.json").read_text())
    older = sorted((run / "checkpoints").glob("step-*"))[0].name
    assert older != f"step-{summary['step']:010d}"
    words = ("export", "run", "--to", "pt2", "--plugin", "p.py", "--checkpoint", older)
    assert fresh(*words).code == 0
    assert "no recorded metrics of these weights" in Path("run/exports/model.pt2.md").read_text()


def test_quiet_and_json_are_kept(fresh, run):
    change()
    ended = fresh("evaluate", "run", "--plugin", "p.py", "--json")
    assert "accuracy" in json.loads(ended.out)["metrics"]


def test_a_component_of_a_package_is_known_by_the_packages_version(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "pretend"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def build(): pass\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(user_code.metadata, "version", lambda name: f"1.0 of {name}")
    import pretend  # pyright: ignore[reportMissingImports]

    before = user_code.code_of([pretend.build], [])
    assert before == {"package pretend": "1.0 of pretend"}
    assert user_code.code_changes([before], before) == []
    now = {"package pretend": "2.0"}
    assert user_code.code_changes([before], now) == [
        "package pretend was 1.0 of pretend and is 2.0"
    ]


def test_a_record_makes_no_file_be_opened(tmp_path, monkeypatch):
    secret = tmp_path / "secret.py"
    secret.write_text("x = 1\n")

    def refuse(*_arguments, **_options):
        raise AssertionError("opened")

    monkeypatch.setattr(Path, "open", refuse)
    (line,) = user_code.code_changes([{str(secret): "0" * 64}], {})
    assert "secret.py was loaded in training but not now" in line
