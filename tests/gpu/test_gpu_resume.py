"""A run on a GPU resumes with identical results, in another process and on another device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from gpu_config import CONFIG, DEVICE, IMAGES, LANGUAGE, SEQ2SEQ, STAND_IN, TEXT
from gpu_steps import is_on_gpu, saved_snapshot, train_steps, weights

from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.store import CheckpointStore

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parent.parent.parent
PLUGIN = ROOT / "tests" / "plugin.py"

# Shuffling, dropout, augmentation, EMA, a schedule, clipping and micro-batches are all on, and
# every random generator is used.
RESTLESS = IMAGES | {
    "model": "restless",
    "train": {
        **{"epochs": 3, "batch_size": 64, "micro_batch": 20, "device": DEVICE},
        **{"deterministic": True, "ema": 0.9, "clip_norm": 1.0, "evaluate": "3 steps"},
    },
    "checkpoint": {"every": "4 steps", "best": "val/accuracy"},
    "recording": {"log_every": 2, "tensorboard": False},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_restored_trainer_goes_on_bit_for_bit(make, images, precision):
    options = [
        *(f"train.precision={precision}", "train.deterministic=true", "train.ema=0.9"),
        *("train.micro_batch=20", "train.clip_norm=1.0"),
    ]
    whole = make(*options, config=IMAGES)
    whole.fit()
    first = make(*options, config=IMAGES)
    train_steps(first, 3)
    snapshot = saved_snapshot(first)
    torch.rand(7, device=DEVICE)  # another process has other random states
    again = make(*options, config=IMAGES)
    again.restore(snapshot)
    again.fit()
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(weights(whole), weights(again))
    assert whole.ema.tensors
    for name, average in whole.ema.tensors.items():
        assert torch.equal(average, again.ema.tensors[name])
    assert whole.precision.scaler.state_dict() == again.precision.scaler.state_dict()
    recorded = [
        {name: value for name, value in trainer.state.last.items() if "system" not in name}
        for trainer in (whole, again)
    ]
    assert recorded[0] == recorded[1]


RECURRENT = {
    "text_lstm": TEXT | {"model": {**TEXT["model"], "layers": 2, "bidirectional": True}},
    "text_generator": LANGUAGE,
    "seq2seq_lstm": SEQ2SEQ,
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", RECURRENT)
def test_a_recurrent_network_with_dropout_goes_on_bit_for_bit(make, network, precision):
    options = [f"train.precision={precision}", "train.deterministic=true"]
    whole, first = (make(*options, config=RECURRENT[network]) for _ in range(2))
    beginning = first.snapshot().to_cpu_copy()
    for trainer, steps in ((whole, 5), (first, 2)):
        trainer.restore(beginning)
        train_steps(trainer, steps)
    snapshot = saved_snapshot(first)
    train_steps(first, 2)  # what draws from a state of its own would continue from here
    torch.rand(7, device=DEVICE)
    again = make(*options, config=RECURRENT[network])
    again.restore(snapshot)
    batches = again.data.train.batches(64, epoch=0, offset=2)
    for _ in range(3):
        again.train_step(next(batches))
    assert torch.equal(weights(whole), weights(again))


@pytest.fixture
def command(cuda, images, tmp_path):
    """Runs a command line in a process of its own, as a user would; its exit code is expected."""

    def run(*words, code=0, **variables):
        # What cuBLAS needs to be deterministic is the library's to set.
        inherited = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "dltrain", *map(str, words)],
            cwd=tmp_path,
            env={**inherited, "PYTHONPATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


def write_config(path: Path, config: dict) -> Path:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def device_of(run: Path) -> dict:
    return json.loads((run / "record.json").read_text())["device"]


def outcome(run: Path) -> dict:
    """What two runs of one experiment must agree in."""
    summary = json.loads((run / "summary.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = load_checkpoint(CheckpointStore(run / "checkpoints").all()[0])
    tensors = {**last.optimizer, **last.averaged, **last.rng}
    return {
        "status": summary["status"],
        "weights": summary["weights_sha256"],
        "best": summary["best"],
        "scalars": [line for line in lines if line["split"] != "system"],
        "tensors": {name: tensor.tolist() for name, tensor in tensors.items()},
    }


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stopped_process_goes_on_bit_for_bit(command, tmp_path, precision):
    if STAND_IN and precision == "fp16":
        pytest.skip("a CPU's process has no fp16")
    config = write_config(tmp_path / "config.yaml", RESTLESS)
    words = ["--plugin", PLUGIN, f"train.precision={precision}", "--quiet"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    command("train", config, *words, "--run-dir", whole)
    # A step takes four passes: the stop falls into the second epoch's second step.
    command("train", config, *words, "model.stop_at=26", "--run-dir", stopped, code=143)
    command("resume", stopped, "--plugin", PLUGIN, "--quiet")
    for run in (whole, stopped):
        device = device_of(run)
        assert (device["type"], device["precision"]) == (DEVICE, precision)
    if not STAND_IN:
        assert any(name.startswith("cuda.") for name in outcome(whole)["tensors"])
    assert outcome(stopped) == outcome(whole)


def test_a_run_of_the_gpu_is_evaluated_without_one(command, tmp_path):
    config = write_config(tmp_path / "config.yaml", CONFIG)
    run = tmp_path / "run"
    command("train", config, "--run-dir", run, "--quiet")
    assert device_of(run)["type"] == DEVICE
    results = [
        json.loads(command("evaluate", run, *device, "--json", **hidden))["metrics"]
        for device, hidden in (([], {}), (["--device", "cpu"], {"CUDA_VISIBLE_DEVICES": ""}))
    ]
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert results[0]["accuracy"] > 0.5


def test_a_run_of_a_cpu_goes_on_on_the_gpu(command, only_cuda, tmp_path):
    config = write_config(tmp_path / "config.yaml", CONFIG | {"model": "restless"})
    run, words = tmp_path / "run", ["--plugin", PLUGIN, "--quiet"]
    command(
        *("train", config, *words, "train.device=cpu", "model.stop_at=7", "--run-dir", run),
        code=143,
        CUDA_VISIBLE_DEVICES="",
    )
    (newest, *_) = CheckpointStore(run / "checkpoints").all()
    assert not any(name.startswith("cuda") for name in load_checkpoint(newest).rng)
    saved = run / "config.yaml"
    saved.write_text(saved.read_text().replace("device: cpu", "device: cuda"))
    command("resume", run, *words)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("done", 15)
    (newest, *_) = CheckpointStore(run / "checkpoints").all()
    assert any(name.startswith("cuda") for name in load_checkpoint(newest).rng), (
        "it continued on the GPU"
    )


def test_a_checkpoint_goes_from_gpu_to_cpu_and_back(make, images):
    on_gpu = make("train.ema=0.9", config=IMAGES)
    train_steps(on_gpu, 3)
    on_cpu = make("train.ema=0.9", "train.device=cpu", config=IMAGES)
    on_cpu.restore(saved_snapshot(on_gpu))
    assert torch.equal(weights(on_gpu), weights(on_cpu))
    train_steps(on_cpu, 1)
    back = make("train.ema=0.9", config=IMAGES)
    back.restore(saved_snapshot(on_cpu))
    assert torch.equal(weights(on_cpu), weights(back))
    for name, average in back.ema.tensors.items():
        assert is_on_gpu(average)
        assert torch.equal(average.cpu(), on_cpu.ema.tensors[name])
    (optimizer,) = back.task.phases[0].optimizers
    assert all(is_on_gpu(value) for state in optimizer.state.values() for value in state.values())
    train_steps(back, 1)
    assert (back.state.step, back.state.updates) == (5, 5)
