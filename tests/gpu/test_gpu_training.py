"""What only a GPU can show: precision, loss scaling, waiting, exactness."""

import math

import pytest
import torch

from dltrain.errors import RunError

pytestmark = pytest.mark.gpu

IMAGES = {
    "model": {"name": "cnn", "channels": [4, 8], "dropout": 0.3},
    "data": {
        "name": "idx",
        "root": "images",
        "validation": 30,
        "augment": {"shift": 2, "rotate": 10, "flip": True, "cutout": 3},
    },
}


def weights(trainer):
    return torch.cat([p.detach().flatten().double() for p in trainer.task.model.parameters()]).cpu()


def run_epoch(trainer):
    for batch in trainer.data.train.batches(64, epoch=0):
        trainer.train_step(batch)


@pytest.fixture
def images(tmp_path):
    from small_data import write_images

    write_images(tmp_path / "images", train=333, test=40, side=14, classes=3)


def test_auto_takes_the_gpu_and_a_precision_it_has(make):
    trainer = make("train.device=auto", "train.precision=auto")
    assert trainer.device.type == "cuda"
    modern = torch.cuda.is_bf16_supported(including_emulation=False)
    assert trainer.numerics.name == ("bf16" if modern else "fp16")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_forward_pass_computes_in_the_precision(make, precision, dtype):
    trainer = make(f"train.precision={precision}")
    seen = []
    last = [m for m in trainer.task.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    last.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.train_step(next(trainer.data.train.batches(64, epoch=0)))
    assert seen == [dtype]
    assert all(p.dtype == torch.float32 for p in trainer.task.model.parameters())


def test_half_precisions_learn_what_full_precision_learns(make):
    results = {}
    for precision in ("fp32", "bf16", "fp16"):
        trainer = make(f"train.precision={precision}", "train.epochs=10")
        trainer.fit()
        results[precision] = trainer.state.last["val/accuracy"]
    assert results["fp32"] > 0.9
    assert results["bf16"] == pytest.approx(results["fp32"], abs=0.05)
    assert results["fp16"] == pytest.approx(results["fp32"], abs=0.05)


def test_an_overflow_is_skipped_and_lowers_the_scale(make):
    trainer = make("train.precision=fp16", "train.clip_norm=1.0")
    run_epoch(trainer)
    before, scale = weights(trainer), trainer.numerics.scaler.get_scale()
    step, updates = trainer.state.step, trainer.state.updates
    overflowing = 1e38  # the loss is finite in float32, its gradients are not in float16
    original = trainer.task.loss
    trainer.task.loss = lambda batch, phase: original(batch, phase) * overflowing
    trainer.train_step(next(trainer.data.train.batches(64, epoch=0)))
    trainer.task.loss = original
    assert trainer.numerics.scaler.get_scale() < scale
    assert torch.equal(weights(trainer), before)
    assert (trainer.state.step, trainer.state.updates) == (step + 1, updates)
    run_epoch(trainer)
    assert not torch.equal(weights(trainer), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resuming_is_exact_where_it_is_deterministic(make, images, precision):
    from gpu_config import CONFIG

    config = CONFIG | IMAGES
    options = [
        *(f"train.precision={precision}", "train.deterministic=true", "train.ema=0.9"),
        *("train.micro_batch=20", "train.clip_norm=1.0", "train.epochs=2"),
    ]
    try:
        whole = make(*options, config=config)
        whole.fit()
        first = make(*options, config=config)
        for batch in list(first.data.train.batches(64, epoch=0))[:3]:
            first.train_step(batch)
        first.save()
        torch.rand(7, device="cuda")  # another process has other random states
        again = make(*options, config=config)
        again.restore(first.checkpoints.newest()[1])
        again.fit()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(weights(whole), weights(again))
    for name, average in whole.average.tensors.items():
        assert torch.equal(average, again.average.tensors[name])
    assert whole.numerics.scaler.state_dict() == again.numerics.scaler.state_dict()


def test_gradients_do_not_depend_on_the_cut(make):
    results = []
    for size in (64, 16, 7):
        trainer = make(f"train.micro_batch={size}", "train.precision=fp64")
        run_epoch(trainer)
        results.append(weights(trainer))
    for other in results[1:]:
        assert torch.allclose(results[0], other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_does_not_wait_for_the_gpu(make, images, precision):
    from gpu_config import CONFIG

    options = [f"train.precision={precision}", "train.clip_norm=1.0", "train.ema=0.9"]
    trainer = make(*options, config=CONFIG | IMAGES)
    batches = trainer.data.train.batches(64, epoch=0)
    trainer.train_step(next(batches))  # the first builds optimizer states and cuDNN's plans
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            trainer.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_loss_that_is_not_finite_is_found_later_and_named_rightly(make):
    from gpu_config import CONFIG

    config = CONFIG | {"model": "restless"}
    trainer = make("model.nan_at=[4]", "recording.log_every=100", config=config)
    with pytest.raises(RunError, match=r"step 4: .*nothing was saved yet"):
        trainer.fit()
    assert trainer.checkpoints.all() == []


def test_a_step_can_be_skipped(make):
    from gpu_config import CONFIG

    config = CONFIG | {"model": "restless"}
    trainer = make("model.nan_at=[2,3]", "train.on_nonfinite=skip", config=config)
    trainer.fit()
    assert trainer.state.skipped == 2
    assert math.isfinite(trainer.state.last["train/loss"])


def test_a_checkpoint_goes_from_gpu_to_cpu_and_back(make):
    on_gpu = make()
    run_epoch(on_gpu)
    on_gpu.save()
    on_cpu = make("train.device=cpu")
    on_cpu.restore(on_gpu.checkpoints.newest()[1])
    assert torch.equal(weights(on_gpu), weights(on_cpu))
    run_epoch(on_cpu)
    on_cpu.save()
    back = make()
    back.restore(on_cpu.checkpoints.newest()[1])
    assert torch.equal(weights(on_cpu), weights(back))
    run_epoch(back)


def test_a_compiled_model_saves_plain_keys(make):
    plain = make()
    compiled = make("train.compile=true")
    run_epoch(compiled)
    run_epoch(plain)
    assert compiled.task.model.state_dict().keys() == plain.task.model.state_dict().keys()
    assert torch.allclose(weights(compiled), weights(plain), atol=1e-4)


def test_streamed_pictures_are_the_same_with_workers(make, tmp_path):
    from gpu_config import CONFIG
    from small_data import write_pictures

    write_pictures(tmp_path / "my_images", 12)
    config = CONFIG | {
        "model": {"name": "cnn", "channels": [4]},
        "data": {"name": "image_folder", "root": "my_images", "size": 32},
    }
    batches = {}
    for workers in (0, 2):
        trainer = make(f"data.workers={workers}", config=config)
        batches[workers] = list(trainer.data.train.batches(5, epoch=1))
    for one, other in zip(batches[0], batches[2], strict=True):
        assert one.inputs.is_cuda
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
