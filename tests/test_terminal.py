"""What a stranger's text does to the terminal: nothing."""

import json

import pytest
from small_runs import write_folder

import dltrain
from dltrain.errors import tell, visible

HOSTILE = "a\x1b[31m\x1b]0;owned\x07\x9b2J\u202eb\u2066\u2028c\rd\x00\x7f"
STEERING = set(HOSTILE) - set("a[31m]0;owned2Jbcd")


def assert_harmless(text: str) -> None:
    assert not STEERING & set(text), ascii(text)


def test_control_characters_are_shown_by_their_numbers():
    assert visible("\x1b[31m") == r"\x1b[31m"
    assert visible("\u202e\x9b\udce9") == r"\u202e\x9b\udce9"
    kept = "tab\tline\nÜber 中文 🚀 👩‍🚀 می‌خواهم\u00a0\u3000"
    assert visible(kept) == kept
    assert_harmless(visible(HOSTILE))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    dltrain.train(dltrain.load("config.yaml"), run_dir="runs/one", quiet=True)
    return tmp_path


def rewritten(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_results_and_errors_of_a_hostile_run_steer_no_terminal(folder, call):
    run = folder / "runs" / "one"
    spoilt = HOSTILE + "\nreal line"

    def summary(content):
        content["best"]["metric"] = spoilt
        content["data"]["notices"] = [spoilt]
        content["metrics"][f"val/{spoilt}"] = 1.0

    rewritten(run / "summary.json", summary)
    rewritten(run / "checkpoints" / "best.json", lambda content: content.update(metric=spoilt))
    rewritten(run / "record.json", lambda content: content["data"].update(fingerprint=spoilt))
    for words in (["runs"], ["compare", run], ["resume", run], ["evaluate", run], ["report", run]):
        ended = call(*words)
        assert ended.code == 0, ended.err
        shown = ended.out + ended.err
        assert_harmless(shown)
        assert "\nreal line" not in ended.out
    assert r"\x1b[31m" in call("runs").out
    assert_harmless(call("compare", run, "--csv").out)
    (run / "lock").write_text(HOSTILE)
    rewritten(run / "record.json", lambda content: content.update(versions=spoilt))
    ended = call("evaluate", run)
    assert ended.code == 1
    assert_harmless(ended.err)


def test_lines_on_standard_error_and_in_the_log_are_harmless(folder, capsys):
    tell(HOSTILE)
    assert_harmless(capsys.readouterr().err)
    dltrain.train(dltrain.load("config.yaml"), run_dir="runs/\x1b[31mtwo")
    assert_harmless(capsys.readouterr().err)
    (log,) = folder.glob("runs/*two/log.txt")
    assert r"runs/\x1b[31mtwo" in log.read_text()
    assert_harmless(log.read_text())
