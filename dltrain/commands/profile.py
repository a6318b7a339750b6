"""Profile the parts of a training step."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import torch

from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.store import CheckpointStore
from dltrain.config import Experiment
from dltrain.core.batch import Batch
from dltrain.core.errors import RunError, describe_error, print_warning
from dltrain.loggers import MetricsFile, TensorBoard
from dltrain.training.device import is_out_of_memory
from dltrain.training.trainer import Trainer

Part = Literal["data", "forward", "backward", "optimizer", "logging", "other"]
MOST_OPERATORS = 15
SLOW_DATA = 0.3
"""Fraction of a step from which loading data counts as the bottleneck."""


@dataclass(frozen=True)
class Operator:
    """One of torch's operators.

    Attributes:
        name: Name of the operator in torch.
        calls: Number of calls in all profiled steps.
        seconds: Time in the operator itself, without its callees, in all profiled steps.
        share: Fraction of the time of all operators.
    """

    name: str
    calls: int
    seconds: float
    share: float


@dataclass(frozen=True)
class Profile:
    """Result of profiling.

    Attributes:
        steps: Number of measured steps, after the warmup.
        samples_per_second: Throughput of these steps.
        parts: Seconds per step: waiting for the `data`; `forward`, `backward`, `optimizer` with
            clipping; `logging`, all that follows a step; `other`.
        operators: Operators that take the most time.
        device: Device of the model.
        trace: Trace file for ui.perfetto.dev or chrome://tracing.
        advice: Summary, and what to change.
    """

    steps: int
    samples_per_second: float
    parts: dict[Part, float]
    operators: list[Operator]
    device: str
    trace: str
    advice: str


def profile(
    experiment: Experiment, trace: str | Path, *, steps: int = 50, warmup: int = 10
) -> Profile:
    """Measure the time of some training steps, and trace as many under torch's profiler.

    On a GPU the device is synchronized after each part of a step, so a step takes longer than in
    training.

    Args:
        experiment: The experiment; see `dltrain.load`.
        trace: File for the profiler's trace; an existing file is replaced.
        steps: Number of steps to measure, and to trace.
        warmup: Number of unmeasured steps before.

    Raises:
        ConfigError: The experiment can't be trained as its config says.
        DataError: The data is missing or damaged.
        RunError: A step fails, or the trace can't be written.
    """
    trace = Path(trace)
    runtime = build_runtime(experiment)
    data = build_data(experiment, runtime, print_warning)
    task = build_task(experiment, data.spec, runtime)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        metrics = MetricsFile(folder / "metrics.jsonl")
        board = TensorBoard(folder / "tensorboard", "", {}, lambda: next(data.train.batches(1)))
        loggers = [metrics, board] if experiment.recording.tensorboard else [metrics]
        trainer = build_trainer(
            experiment, data, task, runtime, CheckpointStore(folder / "checkpoints"), loggers
        )
        trainer.evaluate_every = trainer.save_every = sys.maxsize
        trainer.total_steps = max(trainer.total_steps, warmup + 2 * steps + 1)
        task.model.train()
        batches = trainer.batches()
        try:
            parts, seconds, samples = _measured(trainer, batches, steps, warmup)
            operators = _operators(trainer, batches, steps, trace)
        except RuntimeError as error:
            cause = "out of memory: " if is_out_of_memory(error) else ""
            raise RunError(f"a step fails: {cause}{describe_error(error)}") from error
        finally:
            trainer.checkpoint_manager.drain()
            for logger in loggers:
                logger.close()
    return Profile(
        steps=steps,
        samples_per_second=samples / seconds,
        parts=parts,
        operators=operators,
        device=str(runtime.device),
        trace=str(trace),
        advice=_advice(parts, experiment),
    )


def _measured(
    trainer: Trainer, batches: Iterator[Batch], steps: int, warmup: int
) -> tuple[dict[Part, float], float, int]:
    """Return seconds per step of each part, total seconds, and number of samples."""
    spent: dict[str, float] = dict.fromkeys(("forward", "backward", "optimizer", "logging"), 0.0)
    waited = 0.0

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            _synchronize(trainer.device)
            before = time.perf_counter()
            result = function(*arguments, **options)
            _synchronize(trainer.device)
            spent[name] += time.perf_counter() - before
            return result

        return call

    reducer = trainer.optimizer_step.reducer
    watched = [
        (reducer, "loss", "forward"),
        (reducer, "backward", "backward"),
        (trainer.optimizer_step, "_update", "optimizer"),
        (trainer, "_after_step", "logging"),
    ]
    for owner, method, name in watched:
        setattr(owner, method, timed(name, getattr(owner, method)))
    samples, started = 0, 0.0
    try:
        for number in range(warmup + steps):
            if number == warmup:
                trainer.log()  # imports for the first scalars are not part of a step
                _synchronize(trainer.device)
                spent.update(dict.fromkeys(spent, 0.0))
                waited, samples, started = 0.0, 0, time.perf_counter()
            before = time.perf_counter()
            batch = next(batches)
            _synchronize(trainer.device)
            waited += time.perf_counter() - before
            samples += len(batch)
            trainer.train_step(batch)
            trainer._after_step()
        _synchronize(trainer.device)
        seconds = time.perf_counter() - started
    finally:
        for owner, method, _ in watched:
            delattr(owner, method)
    parts: dict[Part, float] = {"data": waited / steps}
    for name in ("forward", "backward", "optimizer", "logging"):
        parts[name] = spent[name] / steps
    parts["other"] = max(0.0, seconds / steps - sum(parts.values()))
    return parts, seconds, samples


def _operators(
    trainer: Trainer, batches: Iterator[Batch], steps: int, trace: Path
) -> list[Operator]:
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it warns of missing GPUs
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as torch_profile

    on_gpu = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch_profile(activities=activities) as profiler:
        for _ in range(steps):
            with record_function("data"):
                batch = next(batches)
            with record_function("step"):
                trainer.train_step(batch)
            with record_function("logging"):
                trainer._after_step()
    try:
        profiler.export_chrome_trace(str(trace))
    except (OSError, RuntimeError) as error:
        raise RunError(f"{trace}: can't be written: {error}") from error
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    own = ("data", "step", "logging")
    events = [event for event in profiler.key_averages() if event.key not in own]
    total = sum(getattr(event, key) for event in events) or 1
    events.sort(key=lambda event: getattr(event, key), reverse=True)
    return [
        Operator(event.key, event.count, getattr(event, key) / 1e6, getattr(event, key) / total)
        for event in events[:MOST_OPERATORS]
    ]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _advice(parts: dict[Part, float], experiment: Experiment) -> str:
    total = sum(parts.values())
    fraction = {name: seconds / total for name, seconds in parts.items()}
    if fraction["data"] >= SLOW_DATA:
        options = experiment.data.options
        ways = ["fewer or cheaper augmentations"] if options.get("augment") else []
        if "cache" in options and options["cache"] == "none":
            ways.insert(0, "data.cache=memory")
        if "workers" in options:
            ways.insert(0, f"more data.workers than {options['workers']}")
        hint = f": try {', '.join(ways)}" if ways else ""
        return f"{fraction['data']:.0%} of a step waits for the data{hint}"
    if fraction["logging"] >= 0.1:
        return f"{fraction['logging']:.0%} of a step is logging: a larger recording.log_every"
    computing = fraction["forward"] + fraction["backward"]
    return f"the model takes {computing:.0%} of a step, and the data {fraction['data']:.0%}"
