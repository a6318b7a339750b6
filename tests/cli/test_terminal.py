"""Control characters in untrusted text never reach the terminal."""

import ast
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import write_folder

import dltrain
from dltrain.core.errors import escape_control_characters, print_warning
from dltrain.reporting import charts, html, parallel_coordinates

PACKAGE = Path(dltrain.__file__).parent
HOSTILE = "a\x1b[31m\x1b]0;owned\x07\x9b2J\u202eb\u2066\u2028c\rd\x00\x7f"
STEERING = set(HOSTILE) - set("a[31m]0;owned2Jbcd")


def assert_harmless(text: str) -> None:
    assert not STEERING & set(text), ascii(text)


def test_control_characters_are_shown_by_their_numbers():
    assert escape_control_characters("\x1b[31m") == r"\x1b[31m"
    assert escape_control_characters("\u202e\x9b\udce9") == r"\u202e\x9b\udce9"
    kept = "tab\tline\nÜber 中文 🚀 👩‍🚀 می‌خواهم\u00a0\u3000"
    assert escape_control_characters(kept) == kept
    assert_harmless(escape_control_characters(HOSTILE))


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
    print_warning(HOSTILE)
    assert_harmless(capsys.readouterr().err)
    dltrain.train(dltrain.load("config.yaml"), run_dir="runs/\x1b[31mtwo")
    assert_harmless(capsys.readouterr().err)
    (log,) = folder.glob("runs/*two/log.txt")
    assert r"runs/\x1b[31mtwo" in log.read_text()
    assert_harmless(log.read_text())


@pytest.mark.parametrize(
    "words",
    [
        [HOSTILE],
        ["train", f"--{HOSTILE}"],
        ["list", "models", "mlp", HOSTILE],
        ["serve", "run", "--port", HOSTILE],
        ["export", "run", "--to", HOSTILE],
        ["runs", "--json", "--watch", HOSTILE],
    ],
)
def test_a_mistyped_command_line_is_quoted_harmlessly(call, words):
    ended = call(*(word.replace("\0", "") for word in words))
    assert (ended.code, ended.out) == (2, "")
    assert_harmless(ended.err)
    assert "Usage: dltrain" in ended.err


def test_tracebacks_warnings_and_logs_are_harmless(tmp_path):
    lines = [
        "import logging, warnings",
        f"warnings.warn({HOSTILE!r})",
        f"logging.getLogger('mine').error({HOSTILE!r})",
        f"raise SystemError({HOSTILE!r})",
    ]
    (tmp_path / "plugin.py").write_text("\n".join(lines))
    words = ["--debug", "list", "--plugin", "plugin.py"]
    ended = subprocess.run(
        [sys.executable, "-m", "dltrain", *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "UserWarning" in ended.stderr
    assert any(line.startswith(r"a\x1b[31m") for line in ended.stderr.splitlines())
    assert_harmless(ended.stdout + ended.stderr)


def test_json_is_ascii_without_control_characters(folder, call):
    (folder / "runs" / "one").rename(folder / "runs" / "a\x7f\x1b\u202e")
    ended = call("runs", "--json")
    assert_harmless(ended.out)
    assert json.loads(ended.out)[0]["run"] == "runs/a\x7f\x1b\u202e"


PRINTING = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}
PRINTERS = {
    "cli/terminal.py",
    "core/errors.py",
    "loggers/progress.py",  # to the log
    "commands/fit.py",  # to the log
    "commands/batch_trial.py",  # JSON in ASCII, for the process that has started it
}


def test_nothing_prints_beside_the_functions_that_escape():
    printing = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        calls = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
        if PRINTING & set(calls):
            printing.add(str(path.relative_to(PACKAGE)))
    assert printing == PRINTERS


def test_pages_show_a_hostile_text_and_do_not_obey_it():
    spoilt = f"<script>{HOSTILE}"
    lines = [charts.Series(spoilt, [(0, 1.0), (1, 2.0)])]
    parts = [
        html.section(spoilt, html.paragraph(spoilt), html.preformatted(spoilt)),
        html.tiles({spoilt: spoilt}),
        html.table([spoilt], [[spoilt, spoilt]]),
        html.confusion_matrix([spoilt], [[1]]),
        charts.line_chart(spoilt, lines, spoilt),
        charts.standalone_line_chart(spoilt, lines),
        charts.bar_chart(spoilt, {spoilt: 0.5}, spoilt),
        parallel_coordinates.parallel_coordinates(
            spoilt,
            [parallel_coordinates.Axis(spoilt, [(0.0, spoilt)])] * 2,
            [parallel_coordinates.Line([0.5, 0.5], spoilt, 0.5)],
            spoilt,
        ),
    ]
    for page in [html.document(spoilt, part) for part in parts]:
        assert_harmless(page.replace("\n", ""))
        assert "<script>" not in page
        assert r"&lt;script&gt;a\x1b[31m" in page


def test_names_of_a_strangers_table_steer_nothing_that_is_printed_or_written(
    tmp_path, monkeypatch, call
):
    spoilt = HOSTILE.replace("\0", "").replace("\r", "") + "\n- real line"
    with (tmp_path / "table.csv").open("w", newline="") as file:
        rows = [[str(n), f"k{spoilt}{n % 2}", f"y{spoilt}{n % 3}"] for n in range(60)]
        csv.writer(file).writerows([[f"a{spoilt}", f"b{spoilt}", f"c{spoilt}"], *rows])
    monkeypatch.chdir(tmp_path)
    for words in (
        ["init", "table.csv", "-o", "config.yaml"],
        ["check", "config.yaml"],
        ["train", "config.yaml", "train.epochs=1", "train.device=cpu", "--run-dir", "run"],
        ["evaluate", "run"],
        ["predict", "run", "table.csv"],
        ["report", "run"],
        ["export", "run", "--to", "safetensors"],
        ["compare", "run", "--csv"],
    ):
        ended = call(*words)
        assert ended.code == 0, ended.err
        assert_harmless(ended.out + ended.err)
        assert "\n- real line" not in ended.out + ended.err
    for file in ("config.yaml", "run/config.yaml", "run/log.txt", "run/report.html"):
        assert_harmless(Path(file).read_text())
    card = Path("run/exports/model.safetensors.md").read_text()
    assert r"ya\x1b[31m" in card
    assert_harmless(card)
    assert "\n- real line" not in card
