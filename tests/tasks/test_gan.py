"""Two networks against each other: the right gradients to the right side, at any cut."""

import copy
import json

import pytest
import torch
from small_data import write_images
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from trainers import trainer_for, weights

import dltrain
from dltrain import resume, train
from dltrain.build import build_data
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.store import CheckpointStore
from dltrain.commands.check import check
from dltrain.config import ConfigError
from dltrain.core.errors import InterruptedRunError
from dltrain.data.seeding import derive_seed, normal
from dltrain.rundir.directory import Run

CONFIG = {
    "seed": 3,
    "task": "gan",
    "model": {"name": "gan_mlp", "latent": 6, "hidden": [16]},
    "data": {"name": "idx", "root": "images", "validation": 30},
    "loss": "non_saturating",
    "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.0},
    "phases": {
        "discriminator": {"optimizer": {"lr": 0.3, "momentum": 0.9}, "clip_norm": 0.05},
        "generator": {"schedule": {"name": "linear"}},
    },
    "train": {"epochs": 2, "batch_size": 40, "precision": "fp64", "device": "cpu"},
    "recording": {"tensorboard": False},
}
LOSSES = ["non_saturating", "hinge", "wasserstein"]


@pytest.fixture
def make(experiment, tmp_path):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    return lambda *overrides, **changes: experiment(CONFIG | changes, *overrides)


def by_hand(loss, discriminator, generator, real, noises):
    """Mean losses of both sides as the papers write them, on probabilities where there are any."""
    with torch.no_grad():
        fake = generator(noises[0])
    on_real, on_fake = discriminator(real), discriminator(fake)
    on_new = discriminator(generator(noises[1]))
    one, zero = torch.ones_like(on_real), torch.zeros_like(on_real)
    if loss == "non_saturating":
        probability = F.binary_cross_entropy
        first = probability(on_real.sigmoid(), one) + probability(on_fake.sigmoid(), zero)
        return first, probability(on_new.sigmoid(), one)
    if loss == "hinge":
        first = (1 - on_real).clamp(min=0).mean() + (1 + on_fake).clamp(min=0).mean()
        return first, -on_new.mean()
    return on_fake.mean() - on_real.mean(), -on_new.mean()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_equals_a_hand_written_loop(make, tmp_path, loss):
    options = {"name": loss, "gradient_penalty": 0.0} if loss == "wasserstein" else loss
    trainer = trainer_for(make(loss=options), tmp_path)
    task, twin = trainer.task, copy.deepcopy(trainer.task.model)
    rates = {"discriminator": 0.3, "generator": 0.5}
    sides = {
        name: torch.optim.SGD(getattr(twin, name).parameters(), lr, momentum)
        for (name, lr), momentum in zip(rates.items(), (0.9, 0.0), strict=True)
    }
    step, total = 0, trainer.total_steps
    for epoch in range(2):
        for batch in trainer.data.train.batches(40, epoch=epoch):
            for number, (name, optimizer) in enumerate(sides.items()):
                noises = [normal(derive_seed(3, step, n), batch.index, 6).double() for n in (0, 1)]
                losses = by_hand(loss, twin.discriminator, twin.generator, batch.inputs, noises)
                twin.zero_grad()
                losses[number].backward()
                if name == "discriminator":
                    clip_grad_norm_(twin.discriminator.parameters(), 0.05)
                else:
                    optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / total)
                optimizer.step()
            step += 1
    trainer.fit()
    assert step == total
    for side in ("discriminator", "generator"):
        mine, its = weights(getattr(twin, side)), weights(getattr(task.model, side))
        # torch adds 1e-6 to the norm that it divides by, wherever it is asked to clip.
        assert torch.allclose(mine, its, rtol=1e-9, atol=1e-11), side


@pytest.mark.parametrize("loss", LOSSES)
def test_both_phases_do_not_depend_on_the_cut(make, tmp_path, loss):
    results = {}
    for micro in (40, 16, 7):
        chosen = make(f"loss={loss}", f"train.micro_batch={micro}", "recording.log_every=1")
        trainer = trainer_for(chosen, tmp_path / str(micro))
        sizes = [len(b) for b in trainer.data.train.batches(40, epoch=0)]
        assert sizes == [40, 40, 23], "the last batch must be ragged"
        trainer.fit()
        named = {k: v for k, v in trainer.state.last.items() if not k.startswith("system/")}
        assert "train/generator_gradient_norm" in named
        results[micro] = (
            weights(trainer.task.model.discriminator),
            weights(trainer.task.model.generator),
            torch.tensor(list(named.values()), dtype=torch.float64),
        )
    for micro in (16, 7):
        for whole, cut in zip(results[40], results[micro], strict=True):
            assert torch.allclose(whole, cut, rtol=1e-10, atol=1e-12)


def test_each_phase_moves_its_own_side_only(make, tmp_path):
    trainer = trainer_for(make(), tmp_path)
    task, batch = trainer.task, next(trainer.data.train.batches(40, epoch=0))
    for phase in task.phases:
        task.loss(batch, phase).backward()
        moved = {name: p.grad is not None for name, p in task.model.named_parameters()}
        assert all(grad == name.startswith(phase.name) for name, grad in moved.items())
        task.model.zero_grad()
    assert all(p.requires_grad for p in task.model.parameters())


def test_the_gradient_penalty_has_its_closed_form(make, tmp_path):
    """A linear critic's gradient is its weight, everywhere."""
    loss = trainer_for(make("loss=wasserstein"), tmp_path).task.loss_function
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1)).double()
    real, fake = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    penalty = loss.penalty(critic, real, fake, torch.rand(5).double())
    norm = critic[1].weight.norm()
    assert torch.allclose(penalty, (10 * (norm - 1) ** 2).expand(5), rtol=1e-12)
    (gradient,) = torch.autograd.grad(penalty.sum(), critic[1].weight)
    assert torch.allclose(gradient, 5 * 20 * (norm - 1) * critic[1].weight / norm, rtol=1e-12)


def test_the_penalty_is_taken_between_the_samples(make, tmp_path):
    """The critic x^2 / 2 has the gradient x: the norm is that of the point between."""
    loss = trainer_for(make("loss=wasserstein"), tmp_path).task.loss_function
    real, fake = torch.randn(2, 5, 6, dtype=torch.float64)
    share = torch.rand(5).double()
    between = real + share[:, None] * (fake - real)
    penalty = loss.penalty(lambda x: x.square().sum(1) / 2, real, fake, share)
    assert torch.allclose(penalty, 10 * (between.norm(dim=1) - 1) ** 2, rtol=1e-12)


def test_ema_averages_the_generator_alone(make, tmp_path):
    trainer = trainer_for(make("train.ema=0.9"), tmp_path)
    before = weights(trainer.task.model.discriminator)
    trainer.fit()
    assert all(name.startswith("generator.") for name in trainer.ema.tensors)
    raw = weights(trainer.task.model.generator)
    trained = weights(trainer.task.model.discriminator)
    assert not torch.equal(trained, before)
    with trainer.ema.applied():
        assert not torch.equal(weights(trainer.task.model.generator), raw)
        assert torch.equal(weights(trainer.task.model.discriminator), trained)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_evaluation_does_not_depend_on_its_batch_size(make, tmp_path, size):
    whole = trainer_for(make(), tmp_path)
    cut = trainer_for(make(f"train.evaluate_batch_size={size}"), tmp_path)
    expected = whole.evaluate(whole.data.train, "train")
    assert cut.evaluate(cut.data.train, "train") == pytest.approx(expected, rel=1e-12)
    assert expected.keys() == set(whole.task.scalars)


def test_evaluation_uses_the_same_noise_each_time(make, tmp_path):
    trainer = trainer_for(make(), tmp_path)
    first = trainer.evaluate(trainer.data.test, "test")
    torch.randn(7)
    assert trainer.evaluate(trainer.data.test, "test") == first


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_table_can_be_made_up_as_well(experiment, tmp_path, loss, precision):
    """Two-dimensional blobs, which the generator's samples come near to."""
    config = CONFIG | {
        "data": {"name": "toy_blobs", "samples": 400},
        "optimizer": {"name": "adam", "lr": 0.002, "betas": [0.5, 0.99]},
        "phases": {},
        "loss": loss,
        "train": {"steps": 10, "batch_size": 64, "precision": precision, "device": "cpu"},
    }
    summary = train(experiment(config), run_dir=tmp_path / "run", quiet=True)
    assert summary.status == "done"
    assert summary.step == 10
    assert check(experiment(config)).total_steps == 10


def test_it_learns_a_distribution(experiment, tmp_path):
    """Mean and covariance of a normal distribution, from a generator that begins elsewhere."""
    config = CONFIG | {
        "seed": 0,
        "data": {"name": "toy_blobs", "samples": 2000, "validation": 0.1},
        "model": {"name": "gan_mlp", "latent": 4, "hidden": [64, 64]},
        "loss": "hinge",
        "optimizer": {"name": "adam", "lr": 0.001, "betas": [0.5, 0.99]},
        "phases": {},
        "train": {"steps": 800, "batch_size": 128, "ema": 0.98, "device": "cpu"},
    }
    trainer = trainer_for(experiment(config), tmp_path)
    (real,) = trainer.data.train.batches(10000)
    noise = normal(5, torch.arange(2000), 4)

    def distance():
        with torch.no_grad(), trainer.ema.applied():
            fake = trainer.task.generator(noise)
        spread = torch.cov(fake.T) - torch.cov(real.inputs.T)
        return float((fake.mean(0) - real.inputs.mean(0)).norm()), float(spread.norm())

    mean, spread = distance()
    trainer.fit()
    assert distance()[0] < 0.25 * mean
    assert distance()[1] < 0.5 * spread


def test_each_evaluation_shows_what_became_of_the_same_noise(make, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    chosen = make("recording={tensorboard: true, images: 9}", "train.evaluate=3 steps")
    train(chosen, run_dir=tmp_path / "run", quiet=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"images": 0})
    events.Reload()
    shown = events.Images("val/samples")
    assert [image.step for image in shown] == [3, 6]
    assert all((image.height, image.width) == (3 * 58 + 2, 3 * 58 + 2) for image in shown)
    assert shown[0].encoded_image_string != shown[1].encoded_image_string
    # The last grid is the one that the model makes of the noise that is always the same.
    trainer = trainer_for(chosen, tmp_path)
    grids = []
    for _ in range(2):
        trainer.evaluate(trainer.data.validation, "val")
        grids += [page.content for page in trainer.task.figures()]
    assert torch.equal(*grids)


# ---------------------------------------------------------------------------- interrupt and resume


RESUMED = {
    "model": "stochastic_gan",
    "phases": {"discriminator": {"optimizer": {"lr": 0.02}, "clip_norm": 1.0}},
    "optimizer": {"name": "adam", "lr": 0.01},
    "loss": "wasserstein",
    "train": {
        "epochs": 3,
        "batch_size": 40,
        "micro_batch": 17,
        "ema": 0.9,
        "evaluate": "2 steps",
        "device": "cpu",
    },
    "checkpoint": {"every": "3 steps", "best": "val/generator_loss"},
    "recording": {"log_every": 2, "tensorboard": False},
}


def outcome(run):
    newest = load_checkpoint(CheckpointStore(run / "checkpoints").all()[0])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    state = {k: v for k, v in newest.state["trainer"].items() if k not in ("seconds", "last")}
    tensors = {
        f"{kind}/{name}": value.tolist()
        for kind in ("model", "averaged", "optimizer", "rng")
        for name, value in getattr(newest, kind).items()
    }
    return [line for line in lines if line["split"] != "system"], state, tensors


# A step of 40 in slices of 17 asks the discriminator three times three times for its own loss, with
# the penalty, and three times for the generator's: stops in both phases, and in several epochs.
@pytest.mark.parametrize("stop_at", [1, 10, 12, 13, 40, 71])
def test_a_stopped_gan_ends_as_if_it_had_not_stopped(make, tmp_path, stop_at):
    train(make(**RESUMED), run_dir=tmp_path / "whole", quiet=True)
    run = tmp_path / "stopped"
    with pytest.raises(InterruptedRunError):
        train(make(f"model.stop_at={stop_at}", **RESUMED), run_dir=run, quiet=True)
    assert outcome(run) != outcome(tmp_path / "whole")
    resume(run, quiet=True)
    assert outcome(run) == outcome(tmp_path / "whole")


# --------------------------------------------------------------------------- mistakes in a config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "cross_entropy"}, r": loss: task 'gan' expected an adversarial loss"),
        ({"metrics": ["accuracy"]}, r": metrics.0: task 'gan' has no predictions"),
        ({"metrics": ["frechet_distance"]}, r": task: the metrics need the run of a classifier"),
        ({"model": "mlp"}, r": model: task 'gan' expected model 'gan_mlp' or 'dcgan'"),
        (
            {"phases": {"generater": {}}},
            r": phases.generater: unknown phase of task 'gan'; did you mean 'generator'",
        ),
        (
            {"phases": {"generator": {"optimiser": "sgd"}}},
            r": phases.generator.optimiser: unknown option of a phase; did you mean 'optimizer'",
        ),
        (
            {"phases": {"generator": {"clip_norm": -1}}},
            r": phases.generator.clip_norm: expected a number above 0, got -1",
        ),
        (
            {"phases": {"generator": {"optimizer": {"lr": "fast"}}}},
            r": phases.generator.optimizer.lr: expected a number above 0, got 'fast'",
        ),
        ({"phases": {"generator": 3}}, r": phases.generator: expected a mapping, got 3"),
        ({"phases": ["generator"]}, r": phases: expected a mapping"),
        ({"task": "supervised", "phases": {}}, r": loss: this loss is for task 'gan'"),
        (
            {
                "task": "supervised",
                "phases": {},
                "loss": "cross_entropy",
                "model": "linear",
                "metrics": ["class_coverage"],
            },
            r": metrics.0: this metric is for task 'gan'",
        ),
        (
            {"task": {"name": "gan", "judge": "nowhere"}, "metrics": ["class_coverage"]},
            r": task.judge: .*nowhere is not a run directory",
        ),
    ],
)
def test_a_mistake_is_told_at_its_line(make, changes, message):
    with pytest.raises(ConfigError, match=r"config.yaml:\d+:\d+" + message):
        check(make(**changes))


def test_resolved_phases_are_the_same_experiment(make, tmp_path):
    chosen = make()
    path = tmp_path / "again.yaml"
    path.write_text(chosen.to_yaml())
    again = dltrain.load(path)
    assert again.to_dict() == chosen.to_dict()
    assert again.phase("discriminator").optimizer.options["lr"] == 0.3
    assert again.phase("discriminator").clip_norm == 0.05
    assert again.phase("generator").optimizer.options["lr"] == 0.5
    assert again.phase("generator").schedule.name == "linear"
    assert again.phase("other").schedule.name == "constant"


def test_the_whole_file_s_clipping_holds_unless_a_phase_takes_it_back(make):
    chosen = make("train.clip_norm=2.0", "phases.generator.clip_norm=null")
    assert chosen.phase("generator").clip_norm is None
    assert chosen.phase("discriminator").clip_norm == 0.05
    assert make("train.clip_norm=2.0").phase("generator").clip_norm == 2.0


# ------------------------------------------------------------------------------------- the judge


def test_the_judge_sees_what_it_was_trained_on(make, tmp_path):
    """Its own data, on another scale, gives the probabilities that `predict` gives."""
    train(
        make(
            "task=supervised",
            "model={name: mlp, hidden: [9]}",
            "loss=cross_entropy",
            "phases=null",
            "train.steps=5",
            "train.epochs=null",
        ),
        run_dir=tmp_path / "judge",
        quiet=True,
    )
    names = ["classifier_confidence", "class_coverage", "frechet_distance"]
    # Another validation cut: other means and deviations of the pixels.
    chosen = make(
        f"task.judge={tmp_path / 'judge'}", "data.validation=60", f"metrics=[{', '.join(names)}]"
    )
    trainer = trainer_for(chosen, tmp_path)
    test = next(trainer.data.test.batches(40))
    judged = trainer.task.judge(test.inputs)
    known = dltrain.build.load_trained(tmp_path / "judge")
    data = build_data(known.experiment, known.runtime, print)
    assert data.spec.inputs != trainer.data.spec.inputs
    its = next(data.test.batches(40)).inputs.double()
    with torch.no_grad():
        assert torch.allclose(judged.probabilities, known.task.predict(its), atol=1e-6)
        hidden = known.task.model[:-1](its)
    assert torch.allclose(judged.features, hidden, atol=1e-5)
    assert judged.features.shape == (40, 9)

    before = torch.get_rng_state()
    values = trainer.evaluate(trainer.data.test, "test")
    assert torch.equal(torch.get_rng_state(), before)
    assert set(names) <= values.keys()
    assert values["frechet_distance"] > 0
    assert not any("judge" in name for name in trainer.task.model.state_dict())


def test_a_judge_of_other_samples_is_refused(make, tmp_path):
    write_images(tmp_path / "small", train=60, test=10, side=6, classes=3)
    train(
        make(
            *("task=supervised", "model=linear", "loss=cross_entropy", "phases=null"),
            "data.root=small",
        ),
        run_dir=tmp_path / "judge",
        quiet=True,
    )
    with pytest.raises(ConfigError, match=r"task.judge: .* shape \(1, 8, 8\), .* \(1, 6, 6\)"):
        check(make(f"task.judge={tmp_path / 'judge'}", "metrics=[class_coverage]"))


def test_a_gan_is_no_judge(make, tmp_path):
    train(make(), run_dir=tmp_path / "gan", quiet=True)
    with pytest.raises(ConfigError, match=r"task.judge: .* not the run of a classifier"):
        check(make(f"task.judge={tmp_path / 'gan'}", "metrics=[class_coverage]"))


def test_the_judge_leaves_no_trace_in_training(make, tmp_path):
    judge = tmp_path / "judge"
    train(
        make(*("task=supervised", "model=linear", "loss=cross_entropy", "phases=null"), "seed=9"),
        run_dir=judge,
        quiet=True,
    )
    alone = train(make(model="stochastic_gan"), run_dir=tmp_path / "alone", quiet=True)
    judged = train(
        make(f"task.judge={judge}", "metrics=[class_coverage]", model="stochastic_gan"),
        run_dir=tmp_path / "judged",
        quiet=True,
    )
    assert judged.weights_sha256 == alone.weights_sha256
    assert Run(tmp_path / "judged").summary().metrics["test/class_coverage"] is not None
