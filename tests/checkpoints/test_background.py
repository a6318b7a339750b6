from __future__ import annotations

import threading

import pytest
import torch
from trainers import trainer_for

from dltrain import resume, train
from dltrain.checkpoints.background import BackgroundWriter
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.errors import RunError


def test_jobs_are_done_in_their_order_and_waited_for():
    done, background = [], BackgroundWriter()
    for number in range(20):
        background.submit(lambda number=number: done.append(number))
    background.wait()
    assert done == list(range(20))


def test_after_an_error_nothing_is_begun_and_it_is_raised_by_every_call():
    done, background, begin = [], BackgroundWriter(), threading.Event()

    def fail() -> None:
        begin.wait()
        raise OSError(28, "no space")

    background.submit(fail)
    background.submit(lambda: done.append("after the failure"))
    background.check()  # it has not failed yet
    begin.set()
    background.drain()
    for call in (background.check, background.wait, lambda: background.submit(print)):
        with pytest.raises(OSError, match="no space"):
            call()
    assert done == []


CONFIG = {
    "name": "t",
    "model": "mlp",
    "loss": "cross_entropy",
    "optimizer": "adamw",
    "data": {"name": "toy_spirals", "validation": 60},
    "train": {"steps": 40, "batch_size": 20, "device": "cpu", "evaluate": "10 steps"},
    "checkpoint": {"every": "10 steps", "keep": 9, "best": "val/loss"},
    "recording": {"tensorboard": False},
}


def test_a_checkpoint_holds_the_moment_at_which_it_was_asked_for(experiment, tmp_path, monkeypatch):
    """The thread is kept from writing until the training has taken some steps."""
    trainer = trainer_for(experiment(CONFIG), tmp_path)
    go, write = threading.Event(), CheckpointStore.save

    def late(self, step, snapshot):
        assert go.wait(60)
        return write(self, step, snapshot)

    monkeypatch.setattr(CheckpointStore, "save", late)
    before = {name: tensor.clone() for name, tensor in trainer.task.model.state_dict().items()}
    trainer.save()
    for batch in trainer.data.train.batches(20, epoch=0):
        trainer.train_step(batch)
    go.set()
    trainer.checkpoint_manager.wait()
    (path,) = trainer.checkpoint_manager.store.all()
    saved = load_checkpoint(path)
    assert saved.state["trainer"]["step"] == 0 < trainer.state.step
    assert saved.model.keys() == before.keys()
    assert all(torch.equal(saved.model[name], before[name]) for name in before)


def test_an_error_of_the_thread_fails_the_run_and_resuming_is_exact(
    experiment, tmp_path, monkeypatch
):
    whole = train(experiment(CONFIG), run_dir=tmp_path / "whole", quiet=True)
    write = CheckpointStore.save

    def full(self, step, snapshot):
        if step >= 20:
            raise OSError(28, "No space left on device", "some file")
        return write(self, step, snapshot)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", full)
        with pytest.raises(RunError, match=r"some file: No space left.*dltrain resume"):
            train(experiment(CONFIG), run_dir=tmp_path / "run", quiet=True)
    checkpoints = CheckpointStore(tmp_path / "run" / "checkpoints")
    assert [path.name for path in checkpoints.all()] == ["step-0000000010"]
    assert checkpoints.best() == checkpoints.all()[0]  # not one that was never written
    assert resume(tmp_path / "run", quiet=True).weights_sha256 == whole.weights_sha256
