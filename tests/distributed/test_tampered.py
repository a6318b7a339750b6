"""Tampered checkpoints of a model that is sharded over several ranks."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import experiments
import pytest
import safetensors.torch
import tampered
import yaml
from launching import ended, in_ranks
from processes import ChildProcess, command_line


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tampered")
    experiments.write(folder)
    return folder


def test_a_tampered_optimizer_state_is_refused_on_every_rank_before_anything_is_loaded(folder):
    out = folder / "errors.json"
    config = folder / "two" / "sharded_classifier.yaml"
    for code, _, err in in_ranks(folder, 2, tampered.main, config, out):
        assert code == 0, err
    errors = json.loads(out.read_text())
    key = errors.pop("key")
    assert len(errors) == 6
    for case, messages in errors.items():
        assert messages[0] == messages[1]
        assert messages[0].startswith("optimizer state: "), case
        assert key in messages[0], case
        assert "expected" in messages[0], case
        assert "\n" not in messages[0]


def test_a_run_with_a_tampered_optimizer_state_is_refused_in_one_line(folder):
    config = yaml.safe_load((folder / "two" / "sharded_classifier.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = ("train", "config.yaml", "--run-dir", "run", "--quiet")
    for code, _, err in in_ranks(folder, 2, command_line, *words):
        assert code == 0, err
    run = folder / "run"
    (run / "summary.json").unlink()  # so that the run can be resumed
    newest, *others = sorted((run / "checkpoints").glob("step-*"), reverse=True)
    for other in others:
        shutil.rmtree(other)
    path = newest / "optimizer.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    key = next(name for name in tensors if name.endswith("weight/exp_avg"))
    content = safetensors.torch.save({**tensors, key: tensors[key][1:].clone()})
    path.write_bytes(content)
    manifest = json.loads((newest / "manifest.json").read_text())
    signed = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    manifest["files"][path.name] = signed
    (newest / "manifest.json").write_text(json.dumps(manifest))
    words = ("resume", "run", "--processes", 2, "--quiet")
    ((code, out, err),) = ended(ChildProcess("resumed", folder, command_line, *words))
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert f"does not fit what run/config.yaml builds now: optimizer state: {key} is" in line
