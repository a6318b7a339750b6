"""What processes exchange through NCCL; with one GPU, by a group of one process."""

import pytest
import torch
import torch.distributed as dist
from gpu_config import CONFIG, STAND_IN
from gpu_steps import is_on_gpu, saved_snapshot, weights
from torch.distributed import HashStore

from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.batch import Batch
from dltrain.distributed.ddp import GradientReducer
from dltrain.distributed.process_group import TorchProcessGroup

pytestmark = pytest.mark.gpu


@pytest.fixture
def process_group(cuda, monkeypatch):
    """A group of one process, with the back ends that torchrun's processes get."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    store = HashStore()
    if not STAND_IN:
        torch.cuda.set_device(0)
    dist.init_process_group(
        "gloo" if STAND_IN else "cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1
    )
    yield TorchProcessGroup(store, 60)
    dist.destroy_process_group()


def test_what_is_exchanged_comes_back(cuda, process_group):
    numbers = torch.arange(6.0, device=cuda).view(3, 2)
    flags = torch.tensor([True, False, True], device=cuda)
    batch = Batch(numbers, flags, index=torch.arange(3))
    assert torch.equal(process_group.all_reduce_sum(numbers), numbers)
    assert process_group.all_reduce_max(7) == 7
    for got, given in zip(
        process_group.all_gather(batch, numbers, flags), (numbers, flags), strict=True
    ):
        assert is_on_gpu(got)
        assert torch.equal(got, given)
    assert process_group.all_gather_object({"a": 1}) == [{"a": 1}]
    assert process_group.broadcast_object(lambda: "x") == "x"
    sent = {"w": torch.ones(3), "none": torch.empty(0)}
    assert torch.equal(process_group.broadcast_tensors(sent)["w"], torch.ones(3))
    strided = numbers.clone().t()
    process_group.broadcast_([strided])
    assert torch.equal(strided, numbers.t())
    with process_group.local_rank_zero_first():
        pass


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sharded_training_is_plain_training(make, process_group, experiment, tmp_path, precision):
    options = (f"train.precision={precision}", "train.ema=0.9", "train.clip_norm=1.0")
    plain = make(*options)
    plain.fit()
    chosen = experiment(CONFIG, *options)
    runtime = build_runtime(chosen)
    runtime = type(runtime)(runtime.device, runtime.precision, process_group, is_sharded=True)
    checkpoints = CheckpointStore(tmp_path / "sharded")

    def build():
        data = build_data(chosen, runtime, print)
        task = build_task(chosen, data.spec, runtime)
        return build_trainer(chosen, data, task, runtime, checkpoints)

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


def test_replicas_gradients_are_the_sum_over_the_processes(make, process_group):
    trainer = make()
    (phase,) = trainer.task.phases
    (batch,) = trainer.data.train.batches(len(trainer.data.train))
    trainer.task.loss(batch, phase).backward()
    wanted = [p.grad.clone() for p in phase.module.parameters()]
    for parameter in phase.module.parameters():
        parameter.grad = None

    class Two(TorchProcessGroup):
        size = 2

    two = Two(process_group._store, 60)
    gradients = GradientReducer(trainer.task, two)
    for part, last in ((batch, False), (batch, True)):
        with gradients.synchronized(phase, last):
            gradients.backward(gradients.loss(part, phase))
    # Torch divides by the one process there is; two slices, and a loss doubled for two processes.
    for parameter, gradient in zip(phase.module.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, 4 * gradient, rtol=1e-5, atol=1e-6)
