"""What processes exchange through NCCL; with one GPU, by a group of one process."""

import pytest
import torch
import torch.distributed as dist
from gpu_config import CONFIG, STAND_IN
from gpu_steps import is_on_gpu, saved_snapshot, weights
from torch.distributed import HashStore

from dltrain.build import build_data, build_machine, build_task, build_trainer
from dltrain.checkpoints.store import Checkpoints
from dltrain.core.batch import Batch
from dltrain.distributed.ddp import Gradients
from dltrain.distributed.process_group import Processes

pytestmark = pytest.mark.gpu


@pytest.fixture
def world(cuda, monkeypatch):
    """A group of one process, with the back ends that torchrun's processes get."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    store = HashStore()
    if not STAND_IN:
        torch.cuda.set_device(0)
    dist.init_process_group(
        "gloo" if STAND_IN else "cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1
    )
    yield Processes(store, 60)
    dist.destroy_process_group()


def test_what_is_exchanged_comes_back(cuda, world):
    numbers = torch.arange(6.0, device=cuda).view(3, 2)
    flags = torch.tensor([True, False, True], device=cuda)
    batch = Batch(numbers, flags, index=torch.arange(3))
    assert torch.equal(world.sum(numbers), numbers)
    assert world.largest(7) == 7
    for got, given in zip(world.gather(batch, numbers, flags), (numbers, flags), strict=True):
        assert is_on_gpu(got)
        assert torch.equal(got, given)
    assert world.collect({"a": 1}) == [{"a": 1}]
    assert world.from_main(lambda: "x") == "x"
    sent = {"w": torch.ones(3), "none": torch.empty(0)}
    assert torch.equal(world.tensors_from_main(sent)["w"], torch.ones(3))
    strided = numbers.clone().t()
    world.copy_from_main([strided])
    assert torch.equal(strided, numbers.t())
    with world.first_on_machine():
        pass


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sharded_training_is_plain_training(make, world, experiment, tmp_path, precision):
    options = (f"train.precision={precision}", "train.ema=0.9", "train.clip_norm=1.0")
    plain = make(*options)
    plain.fit()
    chosen = experiment(CONFIG, *options)
    machine = build_machine(chosen)
    machine = type(machine)(machine.device, machine.numerics, world, shards=True)
    checkpoints = Checkpoints(tmp_path / "sharded")

    def build():
        data = build_data(chosen, machine, print)
        task = build_task(chosen, data.spec, machine)
        return build_trainer(chosen, data, task, machine, checkpoints)

    sharded = build()
    assert all(hasattr(p, "full_tensor") and is_on_gpu(p) for p in sharded.task.model.parameters())
    sharded.fit()
    snapshot = saved_snapshot(sharded)
    wanted = weights(plain)

    def whole(trainer):
        tensors = [p.full_tensor().flatten().double() for p in trainer.task.model.parameters()]
        return torch.cat(tensors).detach().cpu()

    tolerance = 1e-5 if precision == "fp32" else 2e-2
    torch.testing.assert_close(whole(sharded), wanted, rtol=tolerance, atol=tolerance)
    again = build()
    again.restore(snapshot)
    assert torch.equal(whole(again), whole(sharded))


def test_replicas_gradients_are_the_sum_over_the_processes(make, world):
    trainer = make()
    (phase,) = trainer.task.phases
    (batch,) = trainer.data.train.batches(len(trainer.data.train))
    trainer.task.loss(batch, phase).backward()
    wanted = [p.grad.clone() for p in phase.module.parameters()]
    for parameter in phase.module.parameters():
        parameter.grad = None

    class Two(Processes):
        size = 2

    two = Two(world._store, 60)
    gradients = Gradients(trainer.task, two)
    for part, last in ((batch, False), (batch, True)):
        with gradients.exchanged(phase, last):
            gradients.backward(gradients.loss(part, phase))
    # Torch divides by the one process there is; two slices, and a loss doubled for two processes.
    for parameter, gradient in zip(phase.module.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, 4 * gradient, rtol=1e-5, atol=1e-6)
