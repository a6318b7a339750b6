"""The largest batch that fits into the memory, found by steps that are really taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dltrain.build import build_runtime
from dltrain.commands.batch_trial import (
    Plan,
    Trial,
    of_memory,
    trials_in_processes,
    trials_on_gpu,
)
from dltrain.config import Experiment
from dltrain.core.errors import RunError, UsageError
from dltrain.data.cache import free_bytes
from dltrain.training.runtime import Runtime

SHARE = 0.5
"""Of the memory that is available, on a CPU, where no budget is given."""
RESERVE = 1 / 16
"""Of the budget, for what a run has beside steps: recorders, and files being written."""
PRECISION = 16
"""The search ends where the next size to try would be less than a sixteenth larger."""


@dataclass(frozen=True)
class BatchSize:
    """What the trials found.

    Attributes:
        setting: `train.batch_size` or `train.micro_batch`.
        suggestion: The largest size that fits.
        configured: Samples in a batch, as the config has it.
        samples: Training samples: no batch is larger.
        fast_from: The smallest size tried that trains 95% of the samples a second that the best
            of them does.
        trials: By size.
        device: Where.
        memory_bytes: The budget; None where a GPU's own memory is the limit.
        limited_by: What stands in the way of a larger size: `memory`, `samples` where the batch is
            the whole training split, or `batch_size` where a slice is the whole batch.
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
    say: Callable[[Trial], None] = lambda _: None,
) -> BatchSize:
    """Trains a throw-away model for a few steps with batches of different sizes.

    The configured size is tried first; it is doubled while it fits, or halved until it does, and
    then what lies between is searched by bisection. On a GPU that is done until the memory is
    full. On a CPU each trial is a process of its own, which ends as soon as it has more than the
    budget: the machine's memory is never filled. A sixteenth of the budget is left to what a run
    has beside its steps.

    Args:
        experiment: What `dltrain.load` gave.
        micro_batch: Whether to look for the slices of the configured batch, at most all of it.
        memory_bytes: The budget; by default a GPU's memory, or half of what is available to a CPU.
        steps: To be measured of each size, after one to warm up.
        plugins: The files of the user's own components, for the processes.
        say: Hears of each trial.

    Raises:
        ConfigError: Something in the config can't work.
        DataError: The data is missing or damaged.
        RunError: Not even one sample fits, or a step fails for another reason.
    """
    setting = "micro_batch" if micro_batch else "batch_size"
    configured = experiment.train.batch_size
    runtime = build_runtime(experiment)
    memory_bytes = memory_bytes or _budget(runtime)
    allowed = None if memory_bytes is None else int((1 - RESERVE) * memory_bytes)
    if runtime.device.type == "cuda":
        make = trials_on_gpu(experiment, runtime)
    else:
        make = trials_in_processes(experiment, plugins)
    samples = configured

    def attempt(size: int) -> Trial:
        nonlocal samples
        trial, found = make(Plan(setting, size, steps, allowed))
        samples = found or samples
        say(trial)
        return trial

    def most() -> int:
        return min(configured, samples) if micro_batch else samples

    trials = search(attempt, configured, most)
    fitting = [trial for trial in trials if trial.fits]
    if not fitting:
        raise RunError(
            f"not even one sample fits into the memory{of_memory(memory_bytes)}: make the model or "
            "its inputs smaller, or give more"
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
    """Where none is given."""
    if runtime.device.type == "cuda":
        return None
    if runtime.device.type != "cpu":
        raise UsageError(f"{runtime.device} does not tell what its memory holds: add --device cpu")
    free = free_bytes(runtime.device)
    if free is None:
        raise UsageError("this system does not tell what memory is free: give --memory")
    return int(SHARE * free)


def search(attempt: Callable[[int], Trial], start: int, most: Callable[[], int]) -> list[Trial]:
    """Trials by size: doubling, or halving, from `start`; then bisection.

    Args:
        attempt: Makes a trial.
        start: The first size.
        most: No larger one is tried; asked after the first trial.
    """
    trials: dict[int, Trial] = {}

    def fits(size: int) -> bool:
        trial = attempt(size)
        trials[trial.size] = trial
        return trial.fits

    if fits(start):
        low, high = start, None
        while high is None and low < most():
            size = min(2 * low, most())
            low, high = (size, None) if fits(size) else (low, size)
    else:
        low, high = start // 2, start
        while low and not fits(low):
            low, high = low // 2, low
    while high is not None and low and high - low > max(1, low // PRECISION):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return sorted(trials.values(), key=lambda trial: trial.size)
