"""Gradients, losses and metrics, against plain torch."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn import functional as F
from trainers import trainer_for, weights

from dltrain.build import build_runtime
from dltrain.core.errors import RunError
from dltrain.loggers import Logger

CONFIG = {
    "seed": 3,
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "toy_blobs", "samples": 143, "validation": 20, "test": 20},
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0},
    "metrics": ["accuracy", "f1", "auroc"],
    "train": {"epochs": 2, "batch_size": 64, "precision": "fp64", "device": "cpu"},
}


def test_the_data_has_103_samples_and_a_ragged_last_batch(experiment, tmp_path):
    trainer = trainer_for(experiment(CONFIG), tmp_path)
    batches = list(trainer.data.train.batches(64, epoch=0))
    assert [len(b) for b in batches] == [64, 39]


@pytest.mark.parametrize("loss", ["cross_entropy", "weighted", "mse"])
@pytest.mark.parametrize("clip", ["null", "0.1"])
def test_gradients_and_loss_do_not_depend_on_the_cut(experiment, tmp_path, loss, clip):
    changes = {
        "cross_entropy": {},
        "weighted": {
            "loss": {"name": "cross_entropy", "class_weights": "balanced", "label_smoothing": 0.1}
        },
        "mse": {
            "loss": "mse",
            "metrics": ["mse", "r2"],
            "data": {"name": "toy_sine", "samples": 143, "validation": 20, "test": 20},
        },
    }[loss]
    results = {}
    for micro in (64, 16, 7):
        chosen = experiment(
            CONFIG | changes, f"train.micro_batch={micro}", f"train.clip_norm={clip}"
        )
        trainer = trainer_for(chosen, tmp_path / str(micro))
        trainer.fit()
        named = {k: v for k, v in trainer.state.last.items() if not k.startswith("system/")}
        results[micro] = (weights(trainer.task.model), torch.tensor(list(named.values())).double())
    for micro in (16, 7):
        for whole, cut in zip(results[64], results[micro], strict=True):
            assert torch.allclose(whole, cut, rtol=1e-12, atol=1e-12)


def test_a_run_equals_a_hand_written_loop(experiment, tmp_path):
    trainer = trainer_for(experiment(CONFIG, "optimizer.momentum=0.9"), tmp_path)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    ).double()
    own = list(trainer.task.model.parameters())
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), own, strict=True):
            mine.copy_(theirs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for epoch in range(2):
        for batch in trainer.data.train.batches(64, epoch=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
    trainer.fit()
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.allclose(weights(trainer.task.model), mine, rtol=1e-12, atol=1e-12)
    test = next(trainer.data.test.batches(20))
    with torch.no_grad():
        outputs = model(test.inputs)
    assert trainer.state.last["test/loss"] == pytest.approx(
        F.cross_entropy(outputs, test.targets).item(), rel=1e-12
    )
    accuracy = (outputs.argmax(1) == test.targets).double().mean().item()
    assert trainer.state.last["test/accuracy"] == pytest.approx(accuracy, rel=1e-12)


def test_clipping_equals_torch(experiment, tmp_path):
    trainer = trainer_for(experiment(CONFIG, "train.clip_norm=0.01", "optimizer.lr=1.0"), tmp_path)
    before = weights(trainer.task.model)
    trainer.train_step(next(trainer.data.train.batches(64, epoch=0)))
    assert (weights(trainer.task.model) - before).norm().item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("size", [1, 7, 20, 64])
def test_evaluation_does_not_depend_on_its_batch_size(experiment, tmp_path, size):
    whole = trainer_for(experiment(CONFIG), tmp_path)
    cut = trainer_for(experiment(CONFIG, f"train.evaluate_batch_size={size}"), tmp_path)
    expected = whole.evaluate(whole.data.train, "train")
    assert cut.evaluate(cut.data.train, "train") == pytest.approx(expected, rel=1e-12)


def test_the_schedule_sees_progress_and_the_last_step_is_not_the_end(experiment, tmp_path):
    chosen = experiment(CONFIG, "schedule.name=linear", "recording.log_every=1")
    seen = []

    class Rates:
        def __getattr__(self, name):
            return lambda *arguments: None

        def log_scalars(self, step, epoch, split, values):
            if split == "train":
                seen.append(values["learning_rate"])

    trainer = trainer_for(chosen, tmp_path, [Rates()])
    for epoch in range(2):
        for batch in trainer.data.train.batches(64, epoch=epoch):
            trainer.train_step(batch)
            trainer.log()
    assert seen == pytest.approx([0.5, 0.375, 0.25, 0.125])


def test_ema_equals_its_definition(experiment, tmp_path):
    trainer = trainer_for(experiment(CONFIG, "train.ema=0.5"), tmp_path)
    average = weights(trainer.task.model)
    for batch in trainer.data.train.batches(10, epoch=0):
        trainer.train_step(batch)
        n = trainer.state.updates
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weights(trainer.task.model)
    raw = weights(trainer.task.model)
    with trainer.ema.applied():
        assert torch.allclose(weights(trainer.task.model), average, rtol=1e-12)
    assert torch.equal(weights(trainer.task.model), raw)
    assert not torch.allclose(raw, average)


def test_overfit_sees_the_same_batches_again(experiment, tmp_path):
    trainer = trainer_for(
        experiment(CONFIG, "train.overfit=1", "train.epochs=200", "train.evaluate=200 epochs"),
        tmp_path,
    )
    trainer.fit()
    assert trainer.state.step == 200
    batch = next(trainer.data.train.batches(64, epoch=0))
    assert trainer.state.last["train/loss"] is not None
    with torch.no_grad():
        loss = F.cross_entropy(trainer.task.model(batch.inputs), batch.targets).item()
    assert loss < 0.05


def test_early_stopping_ends_a_run_that_does_not_get_better(experiment, tmp_path):
    config = CONFIG | {"early_stop": {"monitor": "val/accuracy", "patience": 3}}
    trainer = trainer_for(experiment(config, "optimizer.lr=1e-12", "train.epochs=50"), tmp_path)
    trainer.fit()
    assert trainer.state.step == 4 * trainer.steps_per_epoch


class Lines(Logger):
    """Keeps the messages to the user and the system's scalars."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.system: list[dict] = []

    def log_message(self, text: str) -> None:
        self.lines.append(text)

    def log_scalars(self, step, epoch, split, values) -> None:
        if split == "system":
            self.system.append(dict(values))


def test_early_stopping_says_at_which_step_and_why(experiment, tmp_path):
    early_stop = {"monitor": "val/loss", "patience": 2, "min_delta": 100}
    lines = Lines()
    chosen = experiment(CONFIG | {"early_stop": early_stop}, "train.epochs=9")
    trainer = trainer_for(chosen, tmp_path, [lines])
    trainer.fit()
    step, value = 3 * trainer.steps_per_epoch, trainer.state.last["val/loss"]
    assert trainer.stopped_early == {
        **{"step": step, "metric": "val/loss", "patience": 2, "min_delta": 100},
        **{"value": value, "best": trainer.state.stop_best},
    }
    (line,) = [line for line in lines.lines if line.startswith("stopped early")]
    assert line == (
        f"stopped early at step {step}: val/loss has not improved by more than 100 in 2 "
        f"evaluations; it is {value:.6g}, and its best was {trainer.state.stop_best:.6g}"
    )


@pytest.mark.parametrize("patience", [1, 9])
def test_a_run_that_reaches_its_end_was_not_stopped_early(experiment, tmp_path, patience):
    early_stop = {"monitor": "val/loss", "patience": patience, "min_delta": 100}
    trainer = trainer_for(experiment(CONFIG | {"early_stop": early_stop}), tmp_path)
    trainer.fit()
    assert trainer.state.step == trainer.total_steps
    assert trainer.stopped_early is None


@pytest.mark.parametrize("overrides", [[], ["train.overfit=1"], ["train.batch_size=10000"]])
def test_samples_are_counted_and_not_batches(experiment, tmp_path, monkeypatch, overrides):
    """A clock that goes by one second a look: the recorded throughput is a count."""
    chosen = experiment(CONFIG, "train.epochs=3", "recording.log_every=1", *overrides)
    lines = Lines()
    trainer = trainer_for(chosen, tmp_path, [lines])
    sizes, count = [], trainer.train_step

    def step(batch) -> None:
        sizes.append(len(batch))
        count(batch)

    ticks = itertools.count()
    monkeypatch.setattr(trainer, "train_step", step)
    monkeypatch.setattr("dltrain.training.trainer.time.perf_counter", lambda: float(next(ticks)))
    laps = []
    throughput = trainer.throughput
    monkeypatch.setattr(throughput, "samples_after", spy(throughput.samples_after, laps))
    trainer.fit()
    assert [after - before for after, before in zip(laps[::2], laps[1::2], strict=True)] == sizes
    assert throughput.samples_after(trainer.state.step) == sum(sizes)


def spy(function, found: list):
    """The function, which keeps its results."""

    def call(*arguments):
        found.append(function(*arguments))
        return found[-1]

    return call


@pytest.mark.parametrize(("monitor", "higher"), [("val/accuracy", True), ("val/loss", False)])
def test_best_goes_the_right_way(experiment, tmp_path, monitor, higher):
    values = []

    class Values:
        def __getattr__(self, name):
            return lambda *arguments: {}

        def log_scalars(self, step, epoch, split, values_):
            if split == "val":
                values.append((values_[monitor[4:]], step))

    chosen = experiment(CONFIG, f"checkpoint.best={monitor}", "train.epochs=6", "optimizer.lr=3.0")
    trainer = trainer_for(chosen, tmp_path, [Values()])
    trainer.fit()
    best = (max if higher else min)(value for value, _ in values)
    assert trainer.state.best == next((v, s) for v, s in values if v == best)
    assert trainer.checkpoint_manager.store.best().name == f"step-{trainer.state.best[1]:010d}"


def test_the_test_split_is_read_with_the_best_weights(experiment, tmp_path):
    chosen = experiment(CONFIG, "checkpoint.best=val/accuracy", "train.epochs=6")
    trainer = trainer_for(chosen, tmp_path)
    trainer.fit()
    final = weights(trainer.task.model)
    best = trainer.checkpoint_manager.store.best()
    assert trainer.tested_weights == best.name
    assert trainer.state.best[1] < trainer.state.step, "the last step must not be the best here"
    with trainer.checkpoint_manager.weights_of(best):
        again = trainer.evaluate(trainer.data.test, "test")
    assert trainer.state.last["test/loss"] == again["loss"]
    assert torch.equal(weights(trainer.task.model), final)


@pytest.mark.parametrize("nonfinite", ["model.nan_at=[3]"])
def test_a_loss_that_is_not_finite_stops_the_run(experiment, tmp_path, nonfinite):
    config = CONFIG | {"model": "stochastic", "checkpoint": {"every": "1 step"}}
    trainer = trainer_for(experiment(config, nonfinite), tmp_path)
    with pytest.raises(RunError, match=r"step 3: the loss .* not finite.*step-0000000002"):
        trainer.fit()
    assert torch.isfinite(weights(trainer.task.model)).all()


def test_a_step_that_is_not_finite_can_be_skipped(experiment, tmp_path):
    config = CONFIG | {"model": "stochastic"}
    chosen = experiment(config, "model.nan_at=[2,3]", "train.on_nonfinite=skip")
    trainer = trainer_for(chosen, tmp_path)
    trainer.fit()
    assert (trainer.state.step, trainer.state.updates, trainer.state.skipped) == (4, 2, 2)
    assert math.isfinite(trainer.state.last["train/loss"])


def test_skipping_has_an_end(experiment, tmp_path):
    config = CONFIG | {"model": "stochastic"}
    chosen = experiment(
        config, "model.nan_at=[2,3]", "train.on_nonfinite=skip", "train.max_skipped=1"
    )
    with pytest.raises(RunError, match="step 3"):
        trainer_for(chosen, tmp_path).fit()


def test_a_step_that_the_scaler_skips_leaves_no_trace(experiment, tmp_path):
    chosen = experiment(CONFIG, "optimizer.momentum=0.9")
    trainer, plain = (trainer_for(chosen, tmp_path / name) for name in ("scaled", "plain"))
    scaler = torch.amp.GradScaler("cpu")
    trainer.precision = dataclasses.replace(trainer.precision, scaler=scaler)
    trainer.optimizer_step.precision = trainer.precision
    batch, loss = next(trainer.data.train.batches(64, epoch=0)), trainer.task.loss
    trainer.task.loss = lambda part, phase: loss(part, phase) * 1e305  # overflows when scaled
    trainer.train_step(batch)
    assert (trainer.state.step, trainer.state.updates, trainer.state.windows) == (1, 0, {})
    trainer.save()  # JSON has no infinite gradient norm
    trainer.checkpoint_manager.wait()
    trainer.task.loss = loss
    for one in (trainer, plain):
        one.train_step(batch)
        one.train_step(batch)
    assert torch.allclose(
        weights(trainer.task.model), weights(plain.task.model), rtol=1e-12, atol=1e-12
    )


def test_a_run_without_loss_scaling_goes_on_with_it(experiment, tmp_path):
    first, again = (trainer_for(experiment(CONFIG), tmp_path / name) for name in ("one", "two"))
    scaler = torch.amp.GradScaler("cpu")
    again.optimizer_step.precision = dataclasses.replace(again.precision, scaler=scaler)
    again.checkpoint_manager.scaler = scaler
    again.restore(first.snapshot())
    assert scaler.is_enabled()
    assert scaler.get_scale() == torch.amp.GradScaler("cpu").get_scale()


@pytest.mark.parametrize("keep", [True, False])
def test_memory_is_kept_unless_the_config_says_no(keep, experiment, monkeypatch):
    called = []
    monkeypatch.setattr("dltrain.build.retain_freed_memory", lambda: called.append(True))
    build_runtime(experiment(CONFIG, f"train.keep_memory={str(keep).lower()}"))
    assert bool(called) is keep
