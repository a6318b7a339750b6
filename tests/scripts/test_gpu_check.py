"""scripts/gpu_check.py without a GPU: results, failures and time limits."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dltrain

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"


def check(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "gpu_check.py"), *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def read_json(path: Path) -> dict:
    """Parse JSON without the constants NaN and Infinity, which the standard does not have."""

    def reject(name: str):
        raise AssertionError(f"{name} is not valid JSON")

    return json.loads(path.read_text(), parse_constant=reject)


@pytest.fixture
def scripts_path(monkeypatch):
    """Make the script and its modules importable."""
    monkeypatch.syspath_prepend(SCRIPTS)


def test_it_runs_from_end_to_end_on_the_cpu(tmp_path):
    output = tmp_path / "result.json"
    only = r"smoke\[(cnn|fp16|graph)\]|only_by_rounding\[(sgd|rmsprop)|mnist_mlp bf16"
    done = check("--stand-in-cpu", "--seconds", 900, "--only", only, "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    result = read_json(output)
    assert (result["device"], result["stand_in"]) == ("cpu stand-in", True)
    assert result["machine"]["device"] == "cpu stand-in"
    assert result["complete"] is True
    outcomes = {name.partition("::")[2]: t["outcome"] for name, t in result["tests"].items()}
    rounding = "test_graphs_change_results_only_by_rounding"
    assert outcomes == {
        **{f"test_smoke[{kind}]": "passed" for kind in ("cnn", "fp16", "graph")},
        f"{rounding}[sgd]": "passed",
        f"{rounding}[rmsprop]": "skipped",
    }
    assert {name: row["outcome"] for name, row in result["rows"].items()} == {
        "mnist_mlp bf16": "passed"
    }
    assert result["figures"]["mnist_mlp bf16: dltrain, steps/s"] > 0
    assert "this proves nothing about a GPU" in done.stdout
    assert list(tmp_path.iterdir()) == [output], "no temporary file remains"


def test_without_a_gpu_it_runs_nothing(tmp_path):
    output = tmp_path / "result.json"
    done = check("--output", output)
    assert done.returncode == 1
    assert "finds no CUDA device: nothing was run" in done.stderr
    assert read_json(output)["tests"] == {}


def test_a_missing_package_is_reported(tmp_path):
    (tmp_path / "tqdm.py").write_text("raise ImportError('no such package')\n")
    done = check("--stand-in-cpu", "--output", tmp_path / "result.json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "missing: tqdm: install tqdm: ImportError: no such package" in done.stderr
    assert "tqdm" in read_json(tmp_path / "result.json")["missing"]


def test_nothing_is_started_without_enough_time(tmp_path):
    output = tmp_path / "result.json"
    only = r"smoke\[cnn|time to 99"
    done = check("--stand-in-cpu", "--seconds", 12, "--only", only, "--output", output)
    assert done.returncode == 1, "nothing passed"
    result = read_json(output)
    entries = {**result["tests"], **result["rows"]}
    assert len(entries) == 3
    assert {entry["outcome"] for entry in entries.values()} == {"not run"}
    assert all(entry["message"].startswith("no time left") for entry in entries.values())


TESTS = """
import os, time
import pytest

pytestmark = pytest.mark.gpu

@pytest.mark.parametrize("number", [1, 2])
def test_good(number):
    pass

def test_bad():
    loss = float("nan")
    assert loss == 1.0, "the loss is wrong"

def test_crashes():
    print("last words", flush=True)
    os._exit(11)

def test_hangs():
    time.sleep(10_000)

def test_breaks_the_context():
    raise RuntimeError("CUDA error: device-side assert triggered")

def test_after_it():
    assert os.getpid() not in PIDS

def test_skipped():
    pytest.skip("not here")

PIDS = []
"""


def test_other_tests_run_after_a_failure_a_crash_and_a_hang(
    scripts_path, tmp_path, monkeypatch, capsys
):
    import gpu_check

    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")
    (tmp_path / "tests" / "gpu" / "test_gpu_some.py").write_text(TESTS)
    (tmp_path / "tests" / "gpu" / "test_gpu_stale.py").write_text("import does_not_exist\n")
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    hangs = "test_hangs"
    monkeypatch.setattr(gpu_check, "limit_of_test", lambda name: 2.0 if hangs in name else 500.0)
    output = tmp_path / "result.json"
    results = gpu_check.Results(output, 900)
    checked = gpu_check.Check(results, re.compile("some|stale"), False, 2)
    names = checked.plan_tests()
    assert {test["outcome"] for test in read_json(output)["tests"].values()} == {
        "planned",
        "error",
    }
    checked.run_tests(names)
    tests = {name.partition("::")[2]: test for name, test in read_json(output)["tests"].items()}
    assert {name: test["outcome"] for name, test in tests.items()} == {
        "": "error",
        **dict.fromkeys(("test_good[1]", "test_good[2]", "test_after_it"), "passed"),
        **dict.fromkeys(("test_bad", "test_crashes", "test_hangs"), "failed"),
        "test_breaks_the_context": "failed",
        "test_skipped": "skipped",
    }
    assert "does_not_exist" in "\n".join(tests[""]["traceback"])
    assert "the loss is wrong" in tests["test_bad"]["message"]
    assert any("assert loss == 1.0" in line for line in tests["test_bad"]["traceback"])
    assert tests["test_crashes"]["message"] == "the process ended with exit code 11"
    assert "last words" in "\n".join(tests["test_crashes"]["traceback"])
    assert "s without progress" in tests["test_hangs"]["message"]
    assert any("in test_hangs" in line for line in tests["test_hangs"]["traceback"])
    assert gpu_check._summarize(results, False) == 1
    assert "skipped: tests/gpu/test_gpu_some.py::test_skipped" in capsys.readouterr().out


def test_a_failed_or_hanging_measurement_keeps_its_figures_and_does_not_affect_others(
    scripts_path, tmp_path, monkeypatch
):
    import gpu_check
    from bench.gpu_plan import Row

    (tmp_path / "bench").mkdir()
    for name in ("__init__", "subprocesses"):
        text = (SCRIPTS / "bench" / f"{name}.py").read_text()
        (tmp_path / "bench" / f"{name}.py").write_text(text)
    (tmp_path / "bench" / "gpu.py").write_text(
        "import sys, time\n"
        "from bench.subprocesses import emit\n"
        "emit(figures={sys.argv[1] + ': s': 1.5})\n"
        "if sys.argv[1] == 'hangs': time.sleep(10_000)\n"
        "if sys.argv[1] == 'fails': raise SystemExit('no luck')\n"
        "emit(outcome='passed')\n"
    )
    monkeypatch.setattr(gpu_check, "SCRIPTS", tmp_path)
    output = tmp_path / "result.json"
    results = gpu_check.Results(output, 900)
    checked = gpu_check.Check(results, None, False, 1)
    checked.environment["PYTHONPATH"] = str(tmp_path)
    rows = [Row(name, "", {}, 1, limit) for name, limit in (("hangs", 5), ("fails", 500))]
    rows += [Row("works", "", {}, 1, 500), Row("needs MNIST", "", {}, 1, 500, needs_mnist=True)]
    rows.append(Row("takes long", "", {}, 1000, 1000))
    checked.run_rows(rows, tmp_path, is_mnist=False)
    result = read_json(output)
    assert {name: row["outcome"] for name, row in result["rows"].items()} == {
        "hangs": "failed",
        "fails": "failed",
        "works": "passed",
        "needs MNIST": "not run",
        "takes long": "not run",
    }
    assert result["rows"]["hangs"]["message"] == "killed after its time limit of 5 s"
    assert result["rows"]["fails"]["traceback"][-1] == "no luck"
    assert {"fails: s": 1.5, "works: s": 1.5}.items() <= result["figures"].items()


def test_a_measurement_with_nonfinite_figures_fails(scripts_path, tmp_path, monkeypatch):
    from bench import gpu

    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("GPU_CHECK_EVENTS", str(events))
    monkeypatch.setattr(gpu, "small_network", lambda *_, **__: [{"a": math.nan, "b": 1.0}])
    gpu.main("mnist_mlp bf16", tmp_path, "cpu")
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert lines[0] == {"figures": {"a": None, "b": 1.0}}
    assert (lines[1]["outcome"], lines[1]["message"]) == ("failed", "not finite: a")


def test_every_kind_of_measurement_runs_on_the_cpu(scripts_path, tmp_path):
    from bench import gpu
    from bench.gpu_plan import ROWS
    from gpu_check import write_random_images

    write_random_images(tmp_path, 200)
    setting = gpu.Setting(tmp_path, "cpu")
    names = set()
    for row in {row.function: row for row in reversed(ROWS)}.values():
        figures = {}
        try:
            for part in getattr(gpu, row.function)(setting, **row.arguments):
                figures |= part
        except gpu.UnavailableError:
            assert row.function == "lightning"
            continue
        assert figures, row.name
        assert all(math.isfinite(value) for value in figures.values()), figures
        names |= figures.keys()
    assert {"resnet18 bf16: dltrain, images/s", "gpt bf16: dltrain, tokens/s"} <= names


def test_every_config_of_a_measurement_is_valid(scripts_path):
    from bench.gpu import CONFIGS
    from bench.gpu_plan import ROWS

    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.seconds < row.limit
        if row.function == "trained":
            dltrain.load(CONFIGS / f"{row.arguments['config']}.yaml", row.arguments["overrides"])


def test_gpu_tests_do_not_pass_without_a_gpu():
    words = ("-m", "gpu", "tests/gpu/test_gpu_smoke.py", "-k", "cnn", "-p", "no:cacheprovider")
    for required, outcome in (("", "1 skipped"), ("1", "1 error")):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *words],
            cwd=ROOT,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "DLTRAIN_REQUIRE_GPU": required,
                "DLTRAIN_GPU_STAND_IN": "",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert outcome in done.stdout
