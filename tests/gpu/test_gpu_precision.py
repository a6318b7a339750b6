"""Half precisions and loss scaling on a GPU."""

from contextlib import contextmanager

import pytest
import torch
from gpu_config import CONFIG, DEVICE
from gpu_steps import save_and_load, train_steps, weights

pytestmark = pytest.mark.gpu


@contextmanager
def overflowing_gradients(trainer):
    """Scale the loss so that it is finite in float32 and its gradients overflow in float16."""
    loss = trainer.task.loss
    trainer.task.loss = lambda batch, phase: loss(batch, phase) * 1e30
    try:
        yield
    finally:
        trainer.task.loss = loss


def test_auto_selects_the_gpu_and_a_supported_precision(make_trainer, requires_cuda):
    trainer = make_trainer("train.device=auto", "train.precision=auto")
    assert trainer.device.type == "cuda"
    has_bf16 = torch.cuda.get_device_capability() >= (8, 0)
    assert trainer.precision.name == ("bf16" if has_bf16 else "fp16")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_forward_pass_uses_the_precision(make_trainer, precision, dtype):
    trainer = make_trainer(f"train.precision={precision}")
    recorded = []

    def record(module, inputs, output):
        autocast = torch.get_autocast_dtype(DEVICE) if torch.is_autocast_enabled(DEVICE) else None
        recorded.append((output.device.type, output.dtype, autocast))

    for module in trainer.task.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(record)
    train_steps(trainer, 1)
    assert recorded == [(DEVICE, dtype, None if precision == "fp32" else dtype)] * 2
    (optimizer,) = trainer.task.phases[0].optimizers
    for parameter in trainer.task.model.parameters():
        assert parameter.dtype == torch.float32
        for value in optimizer.state[parameter].values():
            assert (value.device.type, value.dtype) == (DEVICE, torch.float32)


def test_precisions_reach_the_same_loss(make_trainer):
    losses = {}
    for precision in ("fp32", "bf16", "fp16"):
        trainer = make_trainer(f"train.precision={precision}", "train.epochs=10")
        before = trainer.evaluate(trainer.data.validation, "val")["loss"]
        trainer.fit()
        losses[precision] = trainer.state.last["val/loss"]
        assert losses[precision] < before / 4
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.02)
    assert losses["fp16"] == pytest.approx(losses["fp32"], abs=0.02)


@pytest.mark.parametrize("clip", ["null", "1.0"])
def test_an_overflow_is_skipped_and_lowers_the_scale(make_trainer, clip):
    trainer = make_trainer("train.precision=fp16", "train.ema=0.9", f"train.clip_norm={clip}")
    train_steps(trainer, 3)
    before, state, scale = weights(trainer), trainer.state, trainer.precision.scaler.get_scale()
    averages = {name: tensor.clone() for name, tensor in trainer.ema.tensors.items()}
    step, updates = state.step, state.updates
    with overflowing_gradients(trainer):
        train_steps(trainer, 1)
    assert trainer.precision.scaler.get_scale() == scale / 2
    assert torch.equal(weights(trainer), before)
    assert all(torch.equal(trainer.ema.tensors[n], tensor) for n, tensor in averages.items())
    assert (state.step, state.updates) == (step + 1, updates)

    train_steps(trainer, 1)
    assert (state.step, state.updates) == (step + 2, updates + 1)
    assert not torch.equal(weights(trainer), before)
    (group, *_) = trainer.task.phases[0].optimizers[0].param_groups
    # A skipped step does not advance the schedule.
    factor = trainer.task.phases[0].schedule(updates / trainer.total_steps)
    assert group["lr"] == group["initial_lr"] * factor
    trainer.log()  # the loss was always finite, so this raises no error


@pytest.mark.parametrize("optimizer", ["{name: sgd, lr: 0.1}", "{name: adamw, lr: 0.01}"])
def test_an_overflow_in_the_first_step_does_not_affect_later_steps(make_trainer, optimizer):
    options = ["train.precision=fp16", f"optimizer={optimizer}"]
    plain, overflowed = make_trainer(*options), make_trainer(*options)
    with overflowing_gradients(overflowed):
        train_steps(overflowed, 1)
    overflowed.save()  # the last gradient norm is not finite, which JSON cannot represent
    overflowed.checkpoint_manager.wait()
    train_steps(plain, 3)
    train_steps(overflowed, 3)
    # With half the scale, the smallest gradients are rounded differently.
    assert torch.allclose(weights(plain), weights(overflowed), atol=1e-3)


def test_the_state_of_the_scaler_is_restored(make_trainer):
    trainer = make_trainer("train.precision=fp16")
    with overflowing_gradients(trainer):
        train_steps(trainer, 2)
    train_steps(trainer, 3)
    scaler = trainer.precision.scaler.state_dict()
    assert (scaler["scale"], scaler["_growth_tracker"]) == (2.0**14, 3)
    restored = make_trainer("train.precision=fp16")
    restored.restore(save_and_load(trainer))
    assert restored.precision.scaler.state_dict() == scaler
    train_steps(trainer, 2)
    train_steps(restored, 2)
    assert restored.precision.scaler.state_dict() == trainer.precision.scaler.state_dict()
    assert restored.precision.scaler.state_dict()["_growth_tracker"] == 5


def test_a_run_without_loss_scaling_resumes_with_it(make_trainer):
    trainer = make_trainer("train.device=cpu")
    train_steps(trainer, 2)
    restored = make_trainer("train.precision=fp16")
    restored.restore(save_and_load(trainer))
    train_steps(restored, 2)
    assert (restored.state.step, restored.state.updates) == (4, 4)


@pytest.mark.parametrize("clip", ["null", "1.0"])
def test_muon_and_adamw_skip_a_step_together(make_trainer, clip):
    options = [
        "train.precision=fp16",
        f"train.clip_norm={clip}",
        "optimizer={name: muon, lr: 0.01}",
    ]
    trainer = make_trainer(*options, "model.hidden=[32, 32]", config=CONFIG)
    train_steps(trainer, 3)
    before, scale = weights(trainer), trainer.precision.scaler.get_scale()
    (phase,) = trainer.task.phases
    assert len(phase.optimizers) == 2
    for optimizer in phase.optimizers:
        # The gradients of one optimizer overflow; the loss and the other gradients stay finite.
        parameter = optimizer.param_groups[0]["params"][0]
        hook = parameter.register_hook(lambda gradient: gradient * float("inf"))
        train_steps(trainer, 1)
        hook.remove()
        assert torch.equal(weights(trainer), before)
    assert trainer.state.updates == 3
    assert trainer.precision.scaler.get_scale() == scale / 4
    train_steps(trainer, 1)
    assert trainer.state.updates == 4
    assert torch.isfinite(weights(trainer)).all()
    assert not torch.equal(weights(trainer), before)
