"""A step that is not taken leaves no trace, whatever it had changed; loss scaling decides once."""

import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from torch import nn
from trainers import trainer_for, weights

import dltrain
from dltrain.core.errors import RunError
from dltrain.core.registry import Choice, Component
from dltrain.training.trainer import Trainer

CONFIG = {
    "seed": 3,
    "model": {"name": "mlp", "hidden": [8], "batch_norm": True, "dropout": 0.2},
    "data": {"name": "toy_blobs", "samples": 143, "validation": 20, "test": 20},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "metrics": ["accuracy"],
    "train": {"epochs": 4, "batch_size": 32, "device": "cpu", "on_nonfinite": "skip", "ema": 0.9},
    "recording": {"log_every": 1, "tensorboard": False},
}
GAN = CONFIG | {
    "task": "gan",
    "model": {"name": "gan_mlp", "latent": 4, "hidden": [8]},
    "loss": "non_saturating",
    "metrics": [],
}
MUON = ("model.hidden=[16, 16]", "optimizer={name: muon, lr: 0.01, weight_decay: 0.1}")


def trace(trainer: Trainer) -> list[torch.Tensor]:
    """All that a step may change, less the number of the step and the accounts of skipping."""
    snapshot = trainer.snapshot()
    kinds = (snapshot.model, snapshot.averaged, snapshot.optimizer, snapshot.rng)
    windows = [json.dumps(snapshot.state["trainer"]["windows"]).encode()]
    return [
        *(tensors[name].clone() for tensors in kinds for name in sorted(tensors)),
        *(torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in windows),
        torch.tensor(snapshot.state["trainer"]["updates"]),
    ]


def assert_equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def spoil(trainer: Trainer, phase: str, factor: float = float("nan")):
    """From now on the loss of a phase is not finite; gives what ends that."""
    loss = trainer.task.loss

    def spoilt(batch, of):
        return loss(batch, of) * (factor if of.name == phase else 1)

    trainer.task.loss = spoilt
    return lambda: setattr(trainer.task, "loss", loss)


@pytest.mark.parametrize("taken_before", [0, 2])
@pytest.mark.parametrize("micro", ["null", "10"])
@pytest.mark.parametrize(
    ("config", "phase"),
    [(CONFIG, "main"), (GAN, "discriminator"), (GAN, "generator")],
    ids=["classifier", "discriminator", "generator"],
)
def test_a_skipped_step_leaves_no_trace(experiment, tmp_path, config, phase, micro, taken_before):
    trainer = trainer_for(experiment(config, f"train.micro_batch={micro}"), tmp_path)
    batches = trainer.batches()
    for _ in range(taken_before):
        trainer.train_step(next(batches))
    before, end = trace(trainer), spoil(trainer, phase)
    trainer.train_step(next(batches))
    assert_equal(trace(trainer), before)
    state = trainer.state
    assert (state.step, state.skipped, state.skipped_in_a_row) == (taken_before + 1, 1, 1)
    end()
    trainer.train_step(next(batches))
    assert (state.updates, state.skipped, state.skipped_in_a_row) == (taken_before + 1, 1, 0)
    assert not torch.equal(weights(trainer.task.model), before[0])


class Keeper(nn.Module):
    """Keeps values in every way that a module can, and draws from every generator."""

    def __init__(self, spec: dltrain.DataSpec) -> None:
        super().__init__()
        self.layer = nn.Linear(spec.input_shape[0], spec.num_outputs)
        self.codes = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("changed", torch.zeros(3))
        self.register_buffer("replaced", torch.zeros(3), persistent=False)
        self.seen = 0

    def get_extra_state(self):
        return torch.tensor(self.seen)

    def set_extra_state(self, state) -> None:
        self.seen = int(state)

    def forward(self, inputs):
        outputs = self.layer(inputs)
        if self.training:
            with torch.no_grad():
                self.codes += outputs.mean()
                self.changed += outputs.mean()
                self.replaced = self.replaced + outputs.mean()
            self.seen += 1
            outputs = outputs * (1 + random.random() + float(np.random.rand()))
        return outputs


def test_all_that_a_model_keeps_goes_back(experiment, tmp_path):
    chosen = dataclasses.replace(
        experiment(CONFIG), model=Choice(Component("model", "keeper", lambda spec, /: Keeper(spec)))
    )
    trainer = trainer_for(chosen, tmp_path)
    batches, model = trainer.batches(), trainer.task.model
    trainer.train_step(next(batches))
    before, replaced = trace(trainer), model.replaced.clone()
    bad = next(batches)
    bad.inputs = bad.inputs * float("nan")
    trainer.train_step(bad)
    assert trainer.state.skipped == 1
    assert_equal(trace(trainer), before)
    assert torch.equal(model.replaced, replaced)
    assert all(tensor.isfinite().all() for tensor in (model.codes, model.changed))
    assert model.seen == 1


def test_every_phase_counts_and_the_run_ends_after_so_many_steps_in_a_row(experiment, tmp_path):
    """The other phase's loss is finite in every step."""
    for phase in ("discriminator", "generator"):
        trainer = trainer_for(experiment(GAN, "train.max_skipped=3"), tmp_path / phase)
        before = weights(trainer.task.model)
        spoil(trainer, phase)
        with pytest.raises(RunError, match="step 4: the loss or its gradient is not finite"):
            trainer.fit()
        assert (trainer.state.updates, trainer.state.skipped) == (0, 4)
        assert torch.equal(weights(trainer.task.model), before) or phase == "generator"


def test_the_number_of_skipped_steps_is_reported_everywhere(experiment, tmp_path, call):
    config = CONFIG | {"model": {"name": "stochastic", "nan_at": [2, 5, 6]}}
    experiment(config)
    called = call("train", "config.yaml", "--run-dir", "run")
    assert called.code == 0, called.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["skipped_steps"], summary["metrics"]["train/skipped_steps"]) == (3, 3)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    counts = [line["value"] for line in lines if line["name"] == "skipped_steps"]
    assert counts == [0, 1, 1, 1, 2, 3, *[3] * (len(counts) - 6)]
    message = "step 6: skipped 1 steps since the last report, 3 in all"
    assert message in called.err
    assert message in (tmp_path / "run" / "log.txt").read_text()
    assert "skipped steps 3" in called.out


# ------------------------------------------------------------------------------- loss scaling


def scaled(experiment, tmp_path, *overrides: str, on_device: bool, config=CONFIG) -> Trainer:
    """A trainer with loss scaling on a CPU; `on_device` decides as on a GPU, without asking."""
    chosen = experiment(config, "train.on_nonfinite=stop", *overrides)
    trainer = trainer_for(chosen, tmp_path)
    scaler = torch.amp.GradScaler("cpu")
    trainer.precision = dataclasses.replace(trainer.precision, scaler=scaler)
    trainer.optimizer_step.precision = trainer.precision
    trainer.checkpoint_manager.scaler = scaler
    trainer.optimizer_step.guard.asks_each_step = not on_device
    return trainer


@pytest.fixture(params=[False, True], ids=["asked", "on the device"])
def on_device(request) -> bool:
    return request.param


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("clip", ["null", "1.0"])
@pytest.mark.parametrize("taken_before", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        MUON,
        ("optimizer={name: rmsprop, momentum: 0.9}",),
        ("optimizer={name: sgd, momentum: 0.9}",),
        ("optimizer=adamw",),
    ],
    ids=["muon", "rmsprop", "sgd", "adamw"],
)
def test_an_overflow_anywhere_changes_no_weight_of_any_optimizer(
    experiment, tmp_path, options, taken_before, clip, value, on_device
):
    trainer = scaled(
        *(experiment, tmp_path, f"train.clip_norm={clip}", *options, "model.dropout=0"),
        on_device=on_device,
    )
    batches = trainer.batches()
    for _ in range(taken_before):
        trainer.train_step(next(batches))
    trainer.drain()
    named = dict(trainer.task.model.named_parameters())
    averages = [tensor.clone() for tensor in trainer.ema.tensors.values()]
    scale = trainer.precision.scaler.get_scale()
    (_, matrix, *_) = [p for p in named.values() if p.ndim == 2]  # one of muon's
    bad = matrix.register_hook(lambda gradient: torch.full_like(gradient, value))
    before = weights(trainer.task.model)
    trainer.train_step(next(batches))
    bad.remove()
    trainer.drain()
    assert torch.equal(weights(trainer.task.model), before)
    assert all(map(torch.equal, averages, trainer.ema.tensors.values()))
    assert trainer.precision.scaler.get_scale() == scale / 2
    assert (trainer.state.step, trainer.state.updates) == (taken_before + 1, taken_before)
    moments = [
        value
        for optimizer in trainer.task.phases[0].optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    assert all(value.isfinite().all() for value in moments)
    trainer.save()  # JSON has no norm that is not finite
    trainer.checkpoint_manager.wait()
    for number in range(2):
        trainer.train_step(next(batches))
        trainer.drain()
        assert trainer.state.updates == taken_before + 1 + number
    assert weights(trainer.task.model).isfinite().all()
    assert not torch.equal(weights(trainer.task.model), before)


@pytest.mark.parametrize("options", [MUON, ("optimizer=adamw",)], ids=["muon", "adamw"])
def test_after_an_overflow_training_is_as_if_the_step_had_not_been(
    experiment, tmp_path, options, on_device
):
    """In float64, against a trainer that never saw the step; learning rates included."""
    options = (*options, "model.dropout=0", "model.batch_norm=false", "train.precision=fp64")
    options += ("schedule.name=linear", "train.clip_norm=0.1")
    one = scaled(experiment, tmp_path / "one", *options, on_device=on_device)
    plain = trainer_for(experiment(CONFIG, *options, "train.on_nonfinite=stop"), tmp_path / "plain")
    batches = list(one.data.train.batches(32, epoch=0))
    for number, batch in enumerate(batches):
        if number == 1:
            end = spoil(one, "main", 1e305)
            one.train_step(batch)
            end()
        else:
            one.train_step(batch)
            plain.train_step(batch)
    one.drain()
    assert one.state.updates == plain.state.updates == len(batches) - 1
    assert torch.allclose(
        weights(one.task.model), weights(plain.task.model), rtol=1e-10, atol=1e-12
    )
    mine, theirs = (trainer.state.windows["main"] for trainer in (one, plain))
    assert float(mine.loss) == pytest.approx(float(theirs.loss), rel=1e-10)
    assert float(mine.weight) == float(theirs.weight)


@pytest.mark.parametrize("phase", ["discriminator", "generator"])
def test_an_overflow_in_one_phase_undoes_the_other(experiment, tmp_path, phase, on_device):
    trainer = scaled(experiment, tmp_path, on_device=on_device, config=GAN)
    batches = trainer.batches()
    for taken in (0, 1):
        scale = trainer.precision.scaler.get_scale()
        parameters = weights(trainer.task.model)
        end = spoil(trainer, phase, 1e34)
        trainer.train_step(next(batches))
        end()
        trainer.drain()
        assert torch.equal(weights(trainer.task.model), parameters), taken
        assert (trainer.state.updates, trainer.state.skipped) == (taken, 0)
        assert trainer.precision.scaler.get_scale() == scale / 2
        trainer.train_step(next(batches))
        trainer.drain()
        assert trainer.state.updates == taken + 1
        assert not torch.equal(weights(trainer.task.model), parameters)


@pytest.mark.parametrize("hook", ["nan", "inf"])
def test_gradients_that_are_never_finite_end_the_run(experiment, tmp_path, hook, on_device):
    trainer = scaled(experiment, tmp_path, "train.epochs=40", on_device=on_device)
    parameter = next(trainer.task.model.parameters())
    parameter.register_hook(lambda gradient: torch.full_like(gradient, float(hook)))
    with pytest.raises(RunError, match=r"step 17: .*loss scale has fallen to 0.5"):
        trainer.fit()
    assert trainer.state.updates == 0


def test_a_scale_grows_and_is_resumed(experiment, tmp_path, on_device):
    one = scaled(experiment, tmp_path / "one", on_device=on_device)
    one.precision.scaler.set_growth_interval(3)
    batches = list(one.data.train.batches(32, epoch=0))
    for batch in batches:
        one.train_step(batch)
    assert one.precision.scaler.get_scale() == 2.0**17
    again = scaled(experiment, tmp_path / "two", on_device=on_device)
    snapshot = one.snapshot().to_cpu_copy()
    outcomes = []
    for trainer in (one, again):
        trainer.restore(snapshot.to_cpu_copy())
        trainer.train_step(batches[0])
        trainer.train_step(batches[1])
        outcomes.append(trace(trainer))
    assert one.precision.scaler.state_dict() == again.precision.scaler.state_dict()
    assert one.precision.scaler.get_scale() == 2.0**18
    assert_equal(*outcomes)
