"""Which learning rate to train with: the range test."""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from dltrain.build import build_data, build_machine, build_task, build_trainer
from dltrain.checkpoint import Checkpoints
from dltrain.config import Experiment
from dltrain.errors import RunError, UsageError
from dltrain.files import write_atomically
from dltrain.reporting.charts import Series, line_chart
from dltrain.reporting.html import document, paragraph
from dltrain.trainer import Trainer

SMOOTHING, DIVERGED = 0.9, 3.0
"""Share of the past in the smoothed loss; how much above its lowest it may rise."""
SAFETY = 10.0
"""The suggestion is so far below the rate at which the loss is lowest."""


@dataclass(frozen=True)
class LearningRate:
    """What a range test found.

    Attributes:
        suggestion: For `optimizer.lr`, one significant digit.
        lowest_at: The rate at which the smoothed loss is lowest.
        rates: Of each step.
        losses: Smoothed, of each step, before the step.
        configured: What the config has now.
        picture: An HTML page with the curve.
    """

    suggestion: float
    lowest_at: float
    rates: list[float]
    losses: list[float]
    configured: float
    picture: str


def tune_lr(
    experiment: Experiment,
    picture: Path,
    *,
    steps: int = 200,
    lowest: float = 1e-6,
    highest: float = 3.0,
) -> LearningRate:
    """Trains a throw-away model while the rate grows, by the same factor each step.

    Smith, "Cyclical Learning Rates for Training Neural Networks", 2017. The loss falls while the
    rate is large enough to learn and small enough not to leap; the suggestion is a tenth of the
    rate at which the smoothed loss is lowest. With several optimizers the rates of all of them
    grow together.

    Args:
        experiment: What `dltrain.load` gave.
        picture: Where the page goes; replaced if it is there.
        steps: Of training, if the loss does not rise to three times its lowest before.
        lowest: The first rate.
        highest: The last.

    Raises:
        ConfigError: Something in the config can't work.
        DataError: The data is missing or damaged.
        RunError: No rate made the loss fall.
        UsageError: The task has more than one phase.
    """
    machine = build_machine(experiment)
    data = build_data(experiment, machine, lambda text: print(text, file=sys.stderr))
    task = build_task(experiment, data.spec, machine)
    if len(task.phases) > 1:
        names = ", ".join(phase.name for phase in task.phases)
        raise UsageError(f"a range test is for one learning rate, and this task has {names}")
    task.phases = tuple(replace(phase, schedule=lambda _: 1.0) for phase in task.phases)
    with tempfile.TemporaryDirectory() as place:
        trainer = build_trainer(experiment, data, task, machine, Checkpoints(Path(place)))
        configured = task.phases[0].optimizers[0].param_groups[0]["lr"]
        factor = (highest / lowest) ** (1 / max(1, steps - 1))
        rates = [lowest * factor**number for number in range(steps)]
        losses = _losses(trainer, [rate / configured for rate in rates])
    found = min(range(len(losses)), key=losses.__getitem__) if losses else 0
    if not losses or losses[found] > 0.95 * losses[0]:
        raise RunError(
            "no rate made the loss fall: look at the loss and the data, or take more steps"
        )
    suggestion = _one_digit(rates[found] / SAFETY)
    rates = rates[: len(losses)]
    write_atomically(picture, _page(rates, losses, suggestion, configured).encode())
    return LearningRate(suggestion, rates[found], rates, losses, configured, str(picture))


def _losses(trainer: Trainer, factors: list[float]) -> list[float]:
    """Smoothed losses of steps at these multiples of the configured rates, until it goes wrong."""
    (phase,) = trainer.task.phases
    groups = [group for optimizer in phase.optimizers for group in optimizer.param_groups]
    configured = [group["lr"] for group in groups]
    trainer.task.model.train()
    trainer.total_steps = len(factors)
    losses: list[float] = []
    average = 0.0
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
        average = SMOOTHING * average + (1 - SMOOTHING) * total / weight
        losses.append(average / (1 - SMOOTHING**number))
        if losses[-1] > DIVERGED * min(losses) and number > 10:
            break
    return losses


def _one_digit(value: float) -> float:
    return float(f"{value:.0e}")


def _page(rates: list[float], losses: list[float], suggestion: float, configured: float) -> str:
    top = 1.5 * losses[0]  # what rises above tells nothing, and would flatten the rest
    points = [(math.log10(rate), min(loss, top)) for rate, loss in zip(rates, losses, strict=True)]
    chart = line_chart(
        "Loss while the learning rate grows",
        [Series("smoothed loss", points)],
        x_label="learning rate, power of ten",
    )
    text = f"Suggested: {suggestion:g}. The config has {configured:g}."
    return document("Learning rate", f"<h1>Learning rate</h1>{paragraph(text)}{chart}")
