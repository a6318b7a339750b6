"""Bit-exact resume of a run on a GPU, also in another process and on another device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from gpu_config import CONFIG, DEVICE, IMAGES, LANGUAGE, SEQ2SEQ, STAND_IN, TEXT
from gpu_steps import is_on_gpu, save_and_load, train_steps, weights

from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.store import CheckpointStore

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parent.parent.parent
PLUGIN = ROOT / "tests" / "plugin.py"

# Shuffling, dropout, augmentation, EMA, a schedule, clipping and micro-batches are enabled, and
# every random generator is used.
ALL_FEATURES = IMAGES | {
    "model": "stochastic",
    "train": {
        **{"epochs": 3, "batch_size": 64, "micro_batch": 20, "device": DEVICE},
        **{"deterministic": True, "ema": 0.9, "clip_norm": 1.0, "evaluate": "3 steps"},
    },
    "checkpoint": {"every": "4 steps", "best": "val/accuracy"},
    "recording": {"log_every": 2, "tensorboard": False},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_restored_trainer_continues_bitwise_identically(make_trainer, images, precision):
    options = [
        *(f"train.precision={precision}", "train.deterministic=true", "train.ema=0.9"),
        *("train.micro_batch=20", "train.clip_norm=1.0"),
    ]
    uninterrupted = make_trainer(*options, config=IMAGES)
    uninterrupted.fit()
    first = make_trainer(*options, config=IMAGES)
    train_steps(first, 3)
    snapshot = save_and_load(first)
    torch.rand(7, device=DEVICE)  # changes the random state, as in another process
    restored = make_trainer(*options, config=IMAGES)
    restored.restore(snapshot)
    restored.fit()
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(weights(uninterrupted), weights(restored))
    assert uninterrupted.ema.tensors
    for name, average in uninterrupted.ema.tensors.items():
        assert torch.equal(average, restored.ema.tensors[name])
    assert uninterrupted.precision.scaler.state_dict() == restored.precision.scaler.state_dict()
    recorded = [
        {name: value for name, value in trainer.state.last.items() if "system" not in name}
        for trainer in (uninterrupted, restored)
    ]
    assert recorded[0] == recorded[1]


RECURRENT = {
    "text_lstm": TEXT | {"model": {**TEXT["model"], "layers": 2, "bidirectional": True}},
    "text_generator": LANGUAGE,
    "seq2seq_lstm": SEQ2SEQ,
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", RECURRENT)
def test_a_restored_recurrent_network_continues_bitwise_identically(
    make_trainer, network, precision
):
    options = [f"train.precision={precision}", "train.deterministic=true"]
    uninterrupted, first = (make_trainer(*options, config=RECURRENT[network]) for _ in range(2))
    initial = first.snapshot().to_cpu_copy()
    for trainer, steps in ((uninterrupted, 5), (first, 2)):
        trainer.restore(initial)
        train_steps(trainer, steps)
    snapshot = save_and_load(first)
    train_steps(first, 2)  # advances any random state that the snapshot does not restore
    torch.rand(7, device=DEVICE)
    restored = make_trainer(*options, config=RECURRENT[network])
    restored.restore(snapshot)
    batches = restored.data.train.batches(64, epoch=0, offset=2)
    for _ in range(3):
        restored.train_step(next(batches))
    assert torch.equal(weights(uninterrupted), weights(restored))


@pytest.fixture
def command(cuda, images, tmp_path):
    """Function that runs a command line in a separate process and checks its exit code."""

    def run(*words, code=0, **variables):
        # dltrain itself must set the variable that makes cuBLAS deterministic.
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
    """Return the results that must be equal in two runs of one experiment."""
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
def test_an_interrupted_process_resumes_bitwise_identically(command, tmp_path, precision):
    if STAND_IN and precision == "fp16":
        pytest.skip("fp16 is not emulated in a separate process")
    config = write_config(tmp_path / "config.yaml", ALL_FEATURES)
    words = ["--plugin", PLUGIN, f"train.precision={precision}", "--quiet"]
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    command("train", config, *words, "--run-dir", uninterrupted)
    # A step has four forward passes, so this interrupts the second step of the second epoch.
    command("train", config, *words, "model.stop_at=26", "--run-dir", interrupted, code=143)
    command("resume", interrupted, "--plugin", PLUGIN, "--quiet")
    for run in (uninterrupted, interrupted):
        device = device_of(run)
        assert (device["type"], device["precision"]) == (DEVICE, precision)
    if not STAND_IN:
        assert any(name.startswith("cuda.") for name in outcome(uninterrupted)["tensors"])
    assert outcome(interrupted) == outcome(uninterrupted)


def test_a_gpu_run_is_evaluated_on_a_cpu(command, tmp_path):
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


def test_a_cpu_run_resumes_on_a_gpu(command, requires_cuda, tmp_path):
    config = write_config(tmp_path / "config.yaml", CONFIG | {"model": "stochastic"})
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
        "resumed on the GPU"
    )


def test_a_checkpoint_moves_from_gpu_to_cpu_and_back(make_trainer, images):
    on_gpu = make_trainer("train.ema=0.9", config=IMAGES)
    train_steps(on_gpu, 3)
    on_cpu = make_trainer("train.ema=0.9", "train.device=cpu", config=IMAGES)
    on_cpu.restore(save_and_load(on_gpu))
    assert torch.equal(weights(on_gpu), weights(on_cpu))
    train_steps(on_cpu, 1)
    back_on_gpu = make_trainer("train.ema=0.9", config=IMAGES)
    back_on_gpu.restore(save_and_load(on_cpu))
    assert torch.equal(weights(on_cpu), weights(back_on_gpu))
    for name, average in back_on_gpu.ema.tensors.items():
        assert is_on_gpu(average)
        assert torch.equal(average.cpu(), on_cpu.ema.tensors[name])
    (optimizer,) = back_on_gpu.task.phases[0].optimizers
    assert all(is_on_gpu(value) for state in optimizer.state.values() for value in state.values())
    train_steps(back_on_gpu, 1)
    assert (back_on_gpu.state.step, back_on_gpu.state.updates) == (5, 5)
