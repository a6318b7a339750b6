"""Find the largest batch that fits into memory, with real training steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dltrain.build import build_runtime
from dltrain.commands.batch_trial import (
    Plan,
    Trial,
    budget_suffix,
    trials_in_processes,
    trials_on_gpu,
)
from dltrain.config import Experiment
from dltrain.core.errors import RunError, UsageError
from dltrain.data.cache import free_bytes
from dltrain.training.runtime import Runtime

DEFAULT_FRACTION = 0.5
"""Default budget on a CPU, as a fraction of the available memory."""
RESERVE = 1 / 16
"""Fraction of the budget kept for what a run needs besides steps: loggers and file writing."""
PRECISION = 16
"""The search ends when the next size to try is larger by less than 1/16."""


@dataclass(frozen=True)
class BatchSize:
    """Result of the search.

    Attributes:
        setting: `train.batch_size` or `train.micro_batch`.
        suggestion: The largest size that fits.
        configured: Batch size of the config.
        samples: Number of training samples; no batch is larger.
        fast_from: The smallest size tried whose throughput is at least 95% of the best one.
        trials: All trials, sorted by size.
        device: Device of the trials.
        memory_bytes: The budget; None where a GPU's own memory is the limit.
        limited_by: What limits the size: `memory`, `samples` where the batch is the whole training
            split, or `batch_size` where a slice is the whole batch.
    """

    setting: str
    suggestion: int
    configured: int
    samples: int
    fast_from: int
    trials: list[Trial]
    device: str
    memory_bytes: int | None
    limited_by: Literal["memory", "samples", "batch_size"]


def tune_batch(
    experiment: Experiment,
    *,
    micro_batch: bool = False,
    memory_bytes: int | None = None,
    steps: int = 5,
    plugins: Sequence[str | Path] = (),
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> BatchSize:
    """Train a temporary model for a few steps with batches of different sizes.

    The configured size is tried first. It is doubled while it fits, or halved until it fits, and
    the sizes between are searched by bisection. On a GPU a size does not fit if torch runs out of
    memory. On a CPU each trial runs in a process of its own, which ends as soon as it exceeds the
    budget, so the machine never runs out of memory. 1/16 of the budget is kept for what a run
    needs besides its steps.

    Args:
        experiment: The experiment; see `dltrain.load`.
        micro_batch: Whether to tune `train.micro_batch`, at most the configured batch.
        memory_bytes: The budget (default: a GPU's memory, or half of a CPU's available memory).
        steps: Number of measured steps for each size, after one for warmup.
        plugins: Files of the user's own components, for the processes.
        on_trial: Called with each trial.

    Raises:
        ConfigError: The experiment can't be trained as its config says.
        DataError: The data is missing or damaged.
        RunError: Not even one sample fits, or a step fails for another reason.
    """
    setting = "micro_batch" if micro_batch else "batch_size"
    configured = experiment.train.batch_size
    runtime = build_runtime(experiment)
    memory_bytes = memory_bytes or _budget(runtime)
    allowed = None if memory_bytes is None else int((1 - RESERVE) * memory_bytes)
    if runtime.device.type == "cuda":
        run_trial = trials_on_gpu(experiment, runtime)
    else:
        run_trial = trials_in_processes(experiment, plugins)
    samples = configured

    def attempt(size: int) -> Trial:
        nonlocal samples
        trial, num_samples = run_trial(Plan(setting, size, steps, allowed))
        samples = num_samples or samples
        on_trial(trial)
        return trial

    def maximum() -> int:
        return min(configured, samples) if micro_batch else samples

    trials = search(attempt, configured, maximum)
    fitting = [trial for trial in trials if trial.fits]
    if not fitting:
        raise RunError(
            f"not even one sample fits into the memory{budget_suffix(memory_bytes)}: make the "
            "model or its inputs smaller, or give more"
        )
    speeds = {trial.size: trial.samples_per_second or 0.0 for trial in fitting}
    fast = min(size for size, speed in speeds.items() if speed >= 0.95 * max(speeds.values()))
    return BatchSize(
        setting=f"train.{setting}",
        suggestion=fitting[-1].size,
        configured=configured,
        samples=samples,
        fast_from=fast,
        trials=trials,
        device=str(runtime.device),
        memory_bytes=memory_bytes,
        limited_by=_limit(fitting[-1].size, samples, configured if micro_batch else None),
    )


def _limit(
    suggestion: int, samples: int, batch_size: int | None
) -> Literal["memory", "samples", "batch_size"]:
    """See `BatchSize.limited_by`."""
    if batch_size is not None and suggestion >= min(batch_size, samples):
        return "batch_size"
    return "samples" if suggestion >= samples else "memory"


def _budget(runtime: Runtime) -> int | None:
    """Return the default budget."""
    if runtime.device.type == "cuda":
        return None
    if runtime.device.type != "cpu":
        raise UsageError(f"{runtime.device} does not tell what its memory holds: add --device cpu")
    free = free_bytes(runtime.device)
    if free is None:
        raise UsageError("this system does not tell what memory is free: give --memory")
    return int(DEFAULT_FRACTION * free)


def search(attempt: Callable[[int], Trial], start: int, maximum: Callable[[], int]) -> list[Trial]:
    """Double, or halve, a size from `start` on; then bisect. Return the trials by size.

    Args:
        attempt: Runs a trial of a size.
        start: The first size.
        maximum: Returns the largest size to try; called after the first trial.
    """
    trials: dict[int, Trial] = {}

    def fits(size: int) -> bool:
        trial = attempt(size)
        trials[trial.size] = trial
        return trial.fits

    if fits(start):
        low, high = start, None
        while high is None and low < maximum():
            size = min(2 * low, maximum())
            low, high = (size, None) if fits(size) else (low, size)
    else:
        low, high = start // 2, start
        while low and not fits(low):
            low, high = low // 2, low
    while high is not None and low and high - low > max(1, low // PRECISION):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return sorted(trials.values(), key=lambda trial: trial.size)
