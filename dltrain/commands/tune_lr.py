"""Find a learning rate with a range test."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.atomic_files import write_atomically
from dltrain.checkpoints.store import CheckpointStore
from dltrain.config import Experiment
from dltrain.core.errors import RunError, UsageError, print_warning
from dltrain.reporting.charts import Series, line_chart
from dltrain.reporting.html import document, paragraph
from dltrain.training.device import random_state, set_random_state
from dltrain.training.trainer import Trainer

SMOOTHING, DIVERGED = 0.9, 3.0
"""Smoothing factor of the loss; factor above its minimum at which the test ends."""
FALLEN, FALLEN_AT_END = 0.95, 0.5
"""Fractions of the untrained model's loss below which the loss counts as fallen; the second one if
the minimum is at the highest rate."""
SAFETY = 10.0
"""Factor by which the suggestion is below the rate at which the loss is lowest."""


@dataclass(frozen=True)
class LearningRate:
    """Result of a range test.

    Attributes:
        suggestion: Value for `optimizer.lr`, one significant digit.
        lowest_at: Rate at which the smoothed loss is the smallest fraction of the untrained
            model's on the same batches.
        rates: Learning rate of each step.
        losses: Smoothed loss before each step.
        configured: Learning rate of the config.
        picture: HTML page with the curve.
    """

    suggestion: float
    lowest_at: float
    rates: list[float]
    losses: list[float]
    configured: float
    picture: str


def tune_lr(
    experiment: Experiment,
    page: str | Path,
    *,
    steps: int = 200,
    lowest: float = 1e-6,
    highest: float = 3.0,
) -> LearningRate:
    """Train a temporary model while the learning rate grows exponentially.

    Smith, "Cyclical Learning Rates for Training Neural Networks", 2017. The loss falls while the
    rate is large enough to learn and small enough to remain stable. The suggestion is a tenth of
    the rate at which the smoothed loss is lowest, as a fraction of the untrained model's loss on
    the same batches. If the loss never falls, there is no suggestion, and the error gives the
    reason. With several optimizers the rates of all of them grow together.

    Args:
        experiment: The experiment; see `dltrain.load`.
        page: HTML file to write; an existing file is replaced.
        steps: Maximum number of steps; the test ends earlier if the loss rises to three times its
            minimum.
        lowest: First learning rate.
        highest: Last learning rate.

    Raises:
        ConfigError: The experiment can't be trained as its config says.
        DataError: The data is missing or damaged.
        RunError: The loss falls at no rate.
        UsageError: The task has more than one phase.
    """
    runtime = build_runtime(experiment)
    data = build_data(experiment, runtime, print_warning)
    task = build_task(experiment, data.spec, runtime)
    if len(task.phases) > 1:
        names = ", ".join(phase.name for phase in task.phases)
        raise UsageError(f"a range test is for one learning rate, and this task has {names}")
    task.phases = tuple(replace(phase, schedule=lambda _: 1.0) for phase in task.phases)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(experiment, data, task, runtime, CheckpointStore(Path(folder)))
        configured = task.phases[0].optimizers[0].param_groups[0]["lr"]
        factor = (highest / lowest) ** (1 / max(1, steps - 1))
        rates = [lowest * factor**number for number in range(steps)]
        untrained = _untrained(trainer, steps)
        losses = _losses(trainer, [rate / configured for rate in rates])
    # Losses differ between batches, so each is compared with the untrained model's loss.
    pairs = zip(losses, untrained, strict=False)
    fractions = [1 - (before - loss) / (abs(before) or 1.0) for loss, before in pairs]
    best = min(range(len(fractions)), key=fractions.__getitem__) if fractions else 0
    # If the loss still falls at the highest rate, its minimum is beyond the range.
    threshold = FALLEN if best < steps - 1 else FALLEN_AT_END
    if not fractions or fractions[best] > threshold:
        raise RunError(_no_fall(experiment, rates, losses, fractions, data.spec.num_classes == 0))
    suggestion = _one_digit(rates[best] / SAFETY)
    rates = rates[: len(losses)]
    write_atomically(Path(page), _page(rates, losses, suggestion, configured).encode())
    return LearningRate(suggestion, rates[best], rates, losses, configured, str(page))


def _untrained(trainer: Trainer, steps: int) -> list[float]:
    """Return smoothed losses of the first batches with unchanged weights; nothing is changed."""
    (phase,) = trainer.task.phases
    random = random_state()
    buffers = [(buffer, buffer.clone()) for buffer in trainer.task.model.buffers()]
    trainer.task.model.train()
    losses = []
    with torch.no_grad(), trainer.precision.autocast():
        for number, batch in enumerate(islice(trainer.batches(), steps)):
            batch.step = number
            total = trainer.optimizer_step.micro_batches.total(
                trainer.state, batch, lambda part, _last: trainer.task.loss(part, phase)
            )
            losses.append(float(total / trainer.task.weight(batch, phase)))
        for buffer, before in buffers:
            buffer.copy_(before)
    set_random_state(random)
    return _smoothed(losses)


def _smoothed(losses: Iterable[float]) -> list[float]:
    """Return the exponential moving average of losses, with bias correction."""
    average, smoothed = 0.0, []
    for number, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**number))
    return smoothed


def _no_fall(
    experiment: Experiment,
    rates: list[float],
    losses: list[float],
    fractions: list[float],
    has_values: bool,
) -> str:
    """Return the reason why there is no suggestion."""
    if not losses:
        return (
            f"no suggestion: the loss is not finite at the first step, at rate {rates[0]:g}; check "
            "the data and the loss"
        )
    last = rates[len(losses) - 1]
    message = f"no suggestion: no rate made the loss fall enough, from {rates[0]:g} to {last:g}; "
    if len(losses) < len(rates):
        message += f"it is {losses[0]:.4g} untrained and only rises: "
        return f"{message}check the loss and the data"
    message += f"it is {losses[0]:.4g} untrained, and at best {min(fractions):.1%} of that; "
    if has_values and experiment.data.options.get("standardise_target") is False:
        return f"{message}targets so large need data.standardise_target=true"
    return f"{message}are inputs and targets of the order of 1, and are layers frozen?"


def _losses(trainer: Trainer, factors: list[float]) -> list[float]:
    """Return smoothed losses of steps at multiples of the configured rates, until divergence."""
    (phase,) = trainer.task.phases
    groups = [group for optimizer in phase.optimizers for group in optimizer.param_groups]
    configured = [group["lr"] for group in groups]
    trainer.task.model.train()
    trainer.total_steps = len(factors)
    losses: list[float] = []
    for number, (factor, batch) in enumerate(
        zip(factors, trainer.batches(), strict=False), start=1
    ):
        for group, rate in zip(groups, configured, strict=True):
            group["initial_lr"] = rate * factor
        try:
            trainer.train_step(batch)
        except RunError:  # not finite
            break
        total, weight, _ = trainer.state.take(phase.name)
        if not weight or not math.isfinite(total):
            break
        losses.append(total / weight)
        smoothed = _smoothed(losses)
        if smoothed[-1] > DIVERGED * min(smoothed) and number > 10:
            break
    return _smoothed(losses)


def _one_digit(value: float) -> float:
    return float(f"{value:.0e}")


def _page(rates: list[float], losses: list[float], suggestion: float, configured: float) -> str:
    top = 1.5 * losses[0]  # larger values carry no information, and would flatten the curve
    points = [(math.log10(rate), min(loss, top)) for rate, loss in zip(rates, losses, strict=True)]
    chart = line_chart(
        "Loss while the learning rate grows",
        [Series("smoothed loss", points)],
        x_label="learning rate, power of ten",
    )
    text = f"Suggested: {suggestion:g}. The config has {configured:g}."
    return document("Learning rate", f"<h1>Learning rate</h1>{paragraph(text)}{chart}")
