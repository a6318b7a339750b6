"""Checkpoints are whole or absent, verified, and free of pickle."""

import hashlib
import json
import os
import pickle

import pytest
import safetensors.torch
import torch

from dltrain.checkpoints import atomic_files
from dltrain.checkpoints.loading import DamagedCheckpointError, load_checkpoint
from dltrain.checkpoints.snapshot import (
    Snapshot,
    num_bytes,
    pack_optimizers,
    unpack_optimizers,
    weights_sha256,
)
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.errors import RunError
from dltrain.training.device import random_state


def snapshot(value: float = 1.0) -> Snapshot:
    tied = torch.full((4, 3), value)
    return Snapshot(
        model={"a": tied, "b": tied.T, "half": torch.ones(2, dtype=torch.bfloat16)},
        averaged={},
        optimizer={"main/0/a/exp_avg": torch.full((4, 3), value / 2)},
        rng=random_state(),
        state={"step": 1},
    ).to_cpu_copy()


def test_what_is_saved_is_loaded(tmp_path):
    saved = snapshot()
    loaded = load_checkpoint(CheckpointStore(tmp_path / "c").save(7, saved))
    for kind in ("model", "averaged", "optimizer", "rng"):
        before, after = getattr(saved, kind), getattr(loaded, kind)
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert after[name].dtype == tensor.dtype
            assert torch.equal(after[name], tensor)
    assert loaded.state == {"step": 1}


def test_older_ones_are_pruned_but_never_the_best(tmp_path):
    checkpoints = CheckpointStore(tmp_path / "c", keep=2)
    for step in range(1, 6):
        checkpoints.save(step, snapshot())
        if step == 2:
            checkpoints.mark_best(2, "val/loss", 0.1)
    assert [int(p.name[5:]) for p in checkpoints.all()] == [5, 4, 2]
    assert checkpoints.best() == checkpoints.directory / "step-0000000002"
    assert json.loads((checkpoints.directory / "latest.json").read_text())["step"] == 5


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_remove])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"]
)
def test_damage_is_found_named_and_passed_over(tmp_path, damage, name):
    checkpoints = CheckpointStore(tmp_path / "c")
    old = checkpoints.save(1, snapshot(1.0))
    new = checkpoints.save(2, snapshot(2.0))
    damage(new / name)
    with pytest.raises(DamagedCheckpointError, match=name):
        load_checkpoint(new)
    path, good, passed_over = checkpoints.newest()
    assert path == old
    assert torch.equal(good.model["a"], torch.ones(4, 3))
    assert len(passed_over) == 1
    assert str(new / name) in passed_over[0]


@pytest.mark.parametrize("name", ["model", "optimizer", "rng"])
def test_huge_files_are_refused_by_their_size_and_not_passed_over(tmp_path, name):
    checkpoints = CheckpointStore(tmp_path / "c")
    checkpoints.save(1, snapshot())
    path = checkpoints.save(2, snapshot())
    checkpoints.verify_sizes()
    file = path / f"{name}.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(size + 10)
    checkpoints.verify_sizes()  # damage as any other, which loading finds
    assert checkpoints.newest()[0].name == "step-0000000001"
    with file.open("r+b") as opened:
        opened.truncate(2**40)
    with pytest.raises(
        RunError, match=rf"{name}\.safetensors: has 1,099,511,627,776 bytes, and man"
    ):
        checkpoints.verify_sizes()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][file.name]["bytes"] = 2**40
    (path / "manifest.json").write_text(json.dumps(manifest))
    checkpoints.verify_sizes()
    with pytest.raises(
        RunError, match=rf"{name}\.safetensors: has .* and the model of config.yaml"
    ):
        checkpoints.newest(num_bytes(snapshot().model))


@pytest.mark.parametrize("content", [b"", b"[]"])
def test_damage_is_no_matter_of_sizes(tmp_path, content):
    checkpoints = CheckpointStore(tmp_path / "c")
    (checkpoints.save(1, snapshot()) / "manifest.json").write_bytes(content)
    checkpoints.verify_sizes()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"step": 2, "files": 3}', b"\xff"])
def test_a_damaged_manifest_is_found(tmp_path, content):
    checkpoints = CheckpointStore(tmp_path / "c")
    new = checkpoints.save(2, snapshot())
    (new / "manifest.json").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json"):
        load_checkpoint(new)
    with pytest.raises(RunError, match="no good checkpoint"):
        checkpoints.newest()


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    checkpoints = CheckpointStore(tmp_path / "c")
    path = checkpoints.save(2, snapshot())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"bytes": 0, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedCheckpointError, match="other files"):
        load_checkpoint(path)


def test_checkpoints_swapped_between_steps_are_found(tmp_path):
    checkpoints = CheckpointStore(tmp_path / "c")
    one, two = checkpoints.save(1, snapshot()), checkpoints.save(2, snapshot())
    one.rename(tmp_path / "x")
    two.rename(one)
    with pytest.raises(DamagedCheckpointError, match="belongs to step 2"):
        load_checkpoint(one)


def test_a_pickle_under_a_checkpoints_name_is_refused(tmp_path):
    path = CheckpointStore(tmp_path / "c").save(1, snapshot())

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    content = pickle.dumps(Evil())
    (path / "model.safetensors").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedCheckpointError, match=r"model\.safetensors"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_rubbish(tmp_path, monkeypatch):
    checkpoints = CheckpointStore(tmp_path / "c")
    checkpoints.save(1, snapshot(1.0))
    before = sorted(p.name for p in checkpoints.directory.iterdir())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(atomic_files.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            checkpoints.save(2, snapshot(2.0))
    assert sorted(p.name for p in checkpoints.directory.iterdir()) == before
    assert torch.equal(checkpoints.newest()[1].model["a"], torch.ones(4, 3))


def test_the_hash_of_weights_sees_names_types_shapes_and_bytes():
    base = {"a": torch.zeros(2, 2)}
    others = [
        {"b": torch.zeros(2, 2)},
        {"a": torch.zeros(4)},
        {"a": torch.zeros(2, 2, dtype=torch.int32)},
        {"a": torch.eye(2)},
    ]
    hashes = {weights_sha256(tensors) for tensors in [base, *others]}
    assert len(hashes) == 5
    reordered = {"a": torch.zeros(2, 2).T}
    assert weights_sha256(reordered) == weights_sha256(base)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "muon"])
def test_an_optimizer_goes_on_where_it_was(name):
    """Also with the channels-last weights that fused optimizers walk through as they lie."""
    from dltrain.config.plugins import register_builtins
    from dltrain.core.registry import OPTIMIZERS
    from dltrain.core.task import Phase

    register_builtins()

    def made():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3),
            torch.nn.Flatten(),
            torch.nn.Linear(64, 8),
            torch.nn.Linear(8, 2),
        ).to(memory_format=torch.channels_last)
        optimizers = OPTIMIZERS[name].builder(model)
        if not isinstance(optimizers, tuple):
            optimizers = (optimizers,)
        return model, (Phase("main", model, optimizers),)

    def step(model, phases):
        generator = torch.Generator().manual_seed(1)
        inputs = torch.rand(5, 3, 6, 6, generator=generator)
        model(inputs).square().sum().backward()
        for optimizer in phases[0].optimizers:
            optimizer.step()
            optimizer.zero_grad()

    model, phases = made()
    for _ in range(3):
        step(model, phases)
    again, its_phases = made()
    again.load_state_dict(model.state_dict())
    packed = pack_optimizers(phases)
    stored = safetensors.torch.load(
        safetensors.torch.save({k: v.contiguous().clone() for k, v in packed.items()})
    )
    unpack_optimizers(its_phases, stored)
    for _ in range(2):
        step(model, phases)
        step(again, its_phases)
    for mine, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
