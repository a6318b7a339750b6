"""Runs of two processes on the command line: interrupted, killed, failing and resumed."""

import json
import re
from pathlib import Path

import pytest
import yaml
from launching import Ended, ended, standalone, torchrun
from processes import ChildProcess, command_line
from small_data import write_images

PLUGIN = Path(__file__).parent / "faulty_plugin.py"
CONFIG = {
    "model": "faulty",
    "data": {"name": "idx", "root": "images", "validation": 30},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "metrics": ["accuracy"],
    "train": {"epochs": 4, "batch_size": 34, "device": "cpu", "evaluate": "2 steps"},
    "checkpoint": {"every": "3 steps"},
    "recording": {"log_every": 1},
}
TRAIN = ("train", "config.yaml", "--plugin", PLUGIN)
TWO = ("--processes", 2)
NO_FAULT = "none:0:0"


def dltrain(folder: Path, *words: object, fault: str = NO_FAULT) -> Ended:
    """Run `dltrain WORDS`; `--processes` makes it the launcher of new processes."""
    return ended(
        ChildProcess("dltrain", folder, command_line, *words, environment={"FAULT": fault})
    )[0]


def run_with_restart(folder: Path, *words: object, fault: str = NO_FAULT) -> Ended:
    """Run `dltrain WORDS` in two processes of torchrun, which restarts them once."""
    words = standalone(2, "-m", "dltrain", *words, restarts=1)
    return ended(ChildProcess("torchrun", folder, torchrun, *words, environment={"FAULT": fault}))[
        0
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folder with `config.yaml` and its data."""
    folder = tmp_path_factory.mktemp("runs")
    write_images(folder / "images", train=133, test=40, side=8, classes=3)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


def summary(run: Path) -> dict:
    """Return the summary of a run."""
    return json.loads((run / "summary.json").read_text())


def scalars(run: Path) -> list[dict]:
    """Return the recorded scalars, except those that depend on time."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["split"] != "system"]


def checkpoints(run: Path) -> list[int]:
    """Return the steps of the checkpoints."""
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def test_interrupted_and_killed_runs_end_bitwise_identical(folder):
    words = (*TRAIN, *TWO, "--run-dir", "interrupted", "--json")
    code, out, err = dltrain(folder, *words, fault="interrupt:1:5")
    message = "stopped by signal 15\nresume with: dltrain resume interrupted"
    assert (code, out, err[-len(message) - 1 : -1]) == (143, "", message)
    assert checkpoints(folder / "interrupted") == [3, 5]
    resume = ("resume", "interrupted", "--plugin", PLUGIN, *TWO, "--quiet", "--json")
    code, out, err = dltrain(folder, *resume)
    assert (code, err) == (0, "")
    resumed = json.loads(out)
    assert resumed == summary(folder / "interrupted")
    assert resumed["status"] == "done"

    code, out, err = run_with_restart(folder, *TRAIN, fault="kill:1:8")
    assert code == 0, err
    assert "resuming from runs/config/0001/checkpoints/step-0000000006" in err
    again = folder / "runs" / "config" / "0001"
    assert [path.name for path in again.parent.iterdir()] == ["0001"]
    assert summary(again)["weights_sha256"] == resumed["weights_sha256"]
    assert scalars(again) == scalars(folder / "interrupted")
    record = json.loads((again / "record.json").read_text())
    assert record["device"]["processes"] == 2


@pytest.mark.parametrize(
    ("fault", "saved", "message", "recorded"),
    [
        (
            "raise:1:5",
            [3],
            f"step 5 fails: {PLUGIN}:26: ValueError: one process alone fails",
            f"process 1 of 2 failed: step 5 fails: {PLUGIN}:26: "
            "ValueError: one process alone fails",
        ),
        (
            "full:0:5",
            [3],
            "full/checkpoints/.step-0000000006.*.part/model.safetensors: No space left on device; "
            "earlier checkpoints are untouched, resume with: dltrain resume full",
            "No space left on device",
        ),
    ],
)
def test_if_one_process_fails_all_end_and_one_reports_it(folder, fault, saved, message, recorded):
    run = fault.partition(":")[0]
    words = (*TRAIN, *TWO, "--run-dir", run, "--quiet")
    code, out, err = dltrain(folder, *words, fault=fault)
    err = re.sub(r"\.[0-9a-f]{16}\.part", ".*.part", err)
    assert (code, out, err) == (1, "", f"{message}\n")
    assert checkpoints(folder / run) == saved
    assert summary(folder / run)["status"] == "failed"
    assert recorded in summary(folder / run)["error"]


def test_a_run_killed_before_its_first_checkpoint_restarts(folder):
    words = (*TRAIN, "--run-dir", "early", "--quiet")
    code, _, err = run_with_restart(folder, *words, fault="kill:0:2")
    assert code == 0, err
    recorded = [(line["step"], line["split"], line["name"]) for line in scalars(folder / "early")]
    assert len(recorded) == len(set(recorded))
    assert summary(folder / "early")["status"] == "done"


def test_an_unsupported_option_is_reported_once_at_its_line(folder):
    words = (*TRAIN, *TWO, "train.micro_batch=auto", "train.distributed=fsdp")
    code, out, err = dltrain(folder, *words)
    assert (code, out) == (2, "")
    assert err.count("train.micro_batch: 'auto' needs a single process") == 1
    assert len(err.splitlines()) == 1


def test_an_invalid_config_is_reported_before_any_process_starts(folder):
    code, out, err = dltrain(folder, *TRAIN, *TWO, "train.epoch=2")
    assert (code, out) == (2, "")
    assert err.count("epoch") > 0
    assert "Traceback" not in err
