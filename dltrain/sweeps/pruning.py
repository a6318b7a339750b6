"""Report a trial's evaluations to the study, and stop the trial when it is pruned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dltrain.core.errors import PrunedError
from dltrain.loggers import Logger

if TYPE_CHECKING:
    from optuna.trial import Trial


class Pruning(Logger):
    """Reports the value of each evaluation to the study, numbered from 1.

    The number depends on the training position only, so a resumed run needs no state. A value that
    the study already has is not reported again, since it is the same.

    Args:
        trial: Trial of the study.
        metric: Name of the metric, as SPLIT/NAME.
        every: Interval of evaluations, `train.evaluate`.
    """

    def __init__(self, trial: Trial, metric: str, every: str) -> None:
        self._trial, self._metric = trial, metric
        count, self._unit = every.split()
        self._every = int(count)
        self._reported = set(trial.study.trials[trial.number].intermediate_values)
        self._total_steps = 0

    def on_fit_start(self, step: int, total_steps: int, batch_size: int) -> None:
        """Store the step at which the run ends."""
        self._total_steps = total_steps

    def log_scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Report the value, and stop the trial if the pruner decides so.

        Raises:
            PrunedError: The trial is pruned.
        """
        name = self._metric.removeprefix(f"{split}/")
        count = (epoch if self._unit.startswith("epoch") else step) / self._every
        number = round(count)
        if name not in values or number < 1 or not math.isclose(count, number, rel_tol=1e-6):
            return
        if number not in self._reported:
            self._reported.add(number)
            self._trial.report(values[name], number)
        if step < self._total_steps and self._trial.should_prune():
            raise PrunedError(f"pruned at evaluation {number}")
