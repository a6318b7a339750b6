"""Collective operations of NCCL and FSDP, in a process group of one GPU."""

import pytest
import torch
import torch.distributed as dist
from gpu_config import CONFIG, STAND_IN
from gpu_steps import is_on_gpu, save_and_load, weights
from torch.distributed import HashStore

from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.batch import Batch
from dltrain.distributed.ddp import GradientReducer
from dltrain.distributed.process_group import TorchProcessGroup

pytestmark = pytest.mark.gpu


@pytest.fixture
def process_group(cuda, monkeypatch):
    """A process group of one rank, with the backends of a torchrun launch."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    store = HashStore()
    if not STAND_IN:
        torch.cuda.set_device(0)
    dist.init_process_group(
        "gloo" if STAND_IN else "cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1
    )
    yield TorchProcessGroup(store, 60)
    dist.destroy_process_group()


def test_collectives_of_one_rank_return_their_input(cuda, process_group):
    floats = torch.arange(6.0, device=cuda).view(3, 2)
    flags = torch.tensor([True, False, True], device=cuda)
    batch = Batch(floats, flags, index=torch.arange(3))
    assert torch.equal(process_group.all_reduce_sum(floats), floats)
    assert process_group.all_reduce_max(7) == 7
    for gathered, expected in zip(
        process_group.all_gather(batch, floats, flags), (floats, flags), strict=True
    ):
        assert is_on_gpu(gathered)
        assert torch.equal(gathered, expected)
    assert process_group.all_gather_object({"a": 1}) == [{"a": 1}]
    assert process_group.broadcast_object(lambda: "x") == "x"
    sent = {"w": torch.ones(3), "none": torch.empty(0)}
    assert torch.equal(process_group.broadcast_tensors(sent)["w"], torch.ones(3))
    strided = floats.clone().t()
    process_group.broadcast_([strided])
    assert torch.equal(strided, floats.t())
    with process_group.local_rank_zero_first():
        pass


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sharded_training_equals_unsharded_training(
    make_trainer, process_group, experiment, tmp_path, precision
):
    options = (f"train.precision={precision}", "train.ema=0.9", "train.clip_norm=1.0")
    unsharded = make_trainer(*options)
    unsharded.fit()
    loaded = experiment(CONFIG, *options)
    runtime = build_runtime(loaded)
    runtime = type(runtime)(runtime.device, runtime.precision, process_group, is_sharded=True)
    checkpoints = CheckpointStore(tmp_path / "sharded")

    def build():
        data = build_data(loaded, runtime, print)
        task = build_task(loaded, data.spec, runtime)
        return build_trainer(loaded, data, task, runtime, checkpoints)

    sharded = build()
    assert all(hasattr(p, "full_tensor") and is_on_gpu(p) for p in sharded.task.model.parameters())
    sharded.fit()
    snapshot = save_and_load(sharded)

    def full_weights(trainer):
        tensors = [p.full_tensor().flatten().double() for p in trainer.task.model.parameters()]
        return torch.cat(tensors).detach().cpu()

    tolerance = 1e-5 if precision == "fp32" else 2e-2
    torch.testing.assert_close(
        full_weights(sharded), weights(unsharded), rtol=tolerance, atol=tolerance
    )
    restored = build()
    restored.restore(snapshot)
    assert torch.equal(full_weights(restored), full_weights(sharded))


def test_gradients_of_replicas_are_summed_over_ranks(make_trainer, process_group):
    trainer = make_trainer()
    (phase,) = trainer.task.phases
    (batch,) = trainer.data.train.batches(len(trainer.data.train))
    trainer.task.loss(batch, phase).backward()
    expected = [p.grad.clone() for p in phase.module.parameters()]
    for parameter in phase.module.parameters():
        parameter.grad = None

    class TwoRanks(TorchProcessGroup):
        world_size = 2

    gradients = GradientReducer(trainer.task, TwoRanks(process_group._store, 60))
    for is_last in (False, True):
        with gradients.synchronized(phase, is_last):
            gradients.backward(gradients.loss(batch, phase))
    # Two micro-batches, and a loss multiplied by the two ranks; torch divides by the real one.
    for parameter, gradient in zip(phase.module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 4 * gradient, rtol=1e-5, atol=1e-6)
