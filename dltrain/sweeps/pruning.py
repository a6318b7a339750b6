"""Looks at a trial's evaluations while it trains, and ends it where others are better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dltrain.core.errors import PrunedError
from dltrain.loggers import Logger

if TYPE_CHECKING:
    from optuna.trial import Trial


class Pruning(Logger):
    """Tells the study each evaluation's value, by the number of the evaluation, from 1.

    The number follows from the position alone, so a run that goes on needs nothing remembered;
    what the study knows already is not told again, for it is the same.

    Args:
        trial: Of the study.
        metric: SPLIT/NAME.
        every: `train.evaluate`.
    """

    def __init__(self, trial: Trial, metric: str, every: str) -> None:
        self._trial, self._metric = trial, metric
        count, self._unit = every.split()
        self._every = int(count)
        self._known = set(trial.study.trials[trial.number].intermediate_values)
        self._total_steps = 0

    def on_fit_start(self, step: int, total_steps: int, batch_size: int) -> None:
        """Where the run ends by itself."""
        self._total_steps = total_steps

    def log_scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Tells the value, and asks whether to go on.

        Raises:
            PrunedError: Not to.
        """
        name = self._metric.removeprefix(f"{split}/")
        passed = (epoch if self._unit.startswith("epoch") else step) / self._every
        number = round(passed)
        if name not in values or number < 1 or not math.isclose(passed, number, rel_tol=1e-6):
            return
        if number not in self._known:
            self._known.add(number)
            self._trial.report(values[name], number)
        if step < self._total_steps and self._trial.should_prune():
            raise PrunedError(f"pruned at evaluation {number}")
