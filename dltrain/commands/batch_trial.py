"""Trial steps with a batch size: in this process on a GPU, in a process of its own on a CPU."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.store import CheckpointStore
from dltrain.config import ConfigError, Experiment, load
from dltrain.config.plugins import load_plugin
from dltrain.core.batch import Batch
from dltrain.core.errors import DltrainError, RunError, describe_error, print_warning
from dltrain.core.protocols import Data
from dltrain.training.device import is_out_of_memory, peak_memory_bytes
from dltrain.training.runtime import Runtime
from dltrain.training.trainer import Trainer

MOST_SECONDS = 2.0
"""Approximate limit of the time for measuring steps."""
POLL_SECONDS = 0.01
OUT_OF_MEMORY, DATA_TOO_LARGE, WRONG_CONFIG = 75, 76, 77
"""Exit codes of a trial's process: the budget is too small for the batch, or for the data."""


@dataclass(frozen=True)
class Trial:
    """Result of a few steps with one size of the batch, or of its slices.

    Attributes:
        size: Number of samples.
        fits: Whether the memory was sufficient.
        memory_bytes: Peak memory of the process, or of the GPU's allocator; None if the size does
            not fit.
        samples_per_second: Throughput of training steps; None if the size does not fit.
    """

    size: int
    fits: bool
    memory_bytes: int | None = None
    samples_per_second: float | None = None


@dataclass(frozen=True)
class Plan:
    """What to try; passed to the process that runs the trial.

    Attributes:
        setting: `batch_size` or `micro_batch`.
        size: Value of the setting.
        steps: Maximum number of steps to measure.
        memory_bytes: Budget of the trial; None where a GPU's own memory is the limit.
    """

    setting: str
    size: int
    steps: int
    memory_bytes: int | None

    def apply(self, experiment: Experiment) -> Experiment:
        """Return the experiment with this size, and without CUDA graphs, which take memory."""
        changed: dict[str, Any] = {"micro_batch": None, self.setting: self.size}
        return replace(experiment, train=replace(experiment.train, cuda_graph="off", **changed))


RunTrial = Callable[[Plan], tuple[Trial, int | None]]
"""Runs a trial; returns it, and the number of training samples if it is known."""


def budget_suffix(memory_bytes: int | None) -> str:
    """Return a budget for the end of a message; empty without one."""
    return "" if memory_bytes is None else f", {memory_bytes / 2**20:,.0f} MiB"


def trials_on_gpu(experiment: Experiment, runtime: Runtime) -> RunTrial:
    """Return a function that runs trials in this process."""
    data = build_data(experiment, runtime, print_warning)

    def run(plan: Plan) -> tuple[Trial, int | None]:
        gc.collect()  # the frames of a failed trial hold memory that has to be freed
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(runtime.device)
        try:
            trial = _steps(plan, experiment, data, runtime)
        except DltrainError:
            raise
        except Exception as error:  # a model may raise anything
            if not is_out_of_memory(error):
                raise RunError(f"a step fails: {describe_error(error)}") from error
            trial = Trial(plan.size, fits=False)
        reserved = torch.cuda.max_memory_reserved(runtime.device)
        if plan.memory_bytes is not None and reserved > plan.memory_bytes:
            trial = Trial(trial.size, fits=False)
        return trial, len(data.train)

    return run


def _steps(plan: Plan, experiment: Experiment, data: Data, runtime: Runtime) -> Trial:
    """Take steps, evaluate a batch, and copy the state for a checkpoint, as training does."""
    experiment = plan.apply(experiment)
    task = build_task(experiment, data.spec, runtime)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(experiment, data, task, runtime, CheckpointStore(Path(folder)))
        task.model.train()
        trainer.total_steps = max(trainer.total_steps, plan.steps + 1)  # schedules end there
        batches = trainer.batches()
        trainer.train_step(next(batches))
        seconds, samples = _measured(plan.steps, trainer, batches, runtime)
        task.model.eval()
        with torch.inference_mode(), runtime.precision.autocast():
            size = experiment.train.samples_at_once
            task.evaluate(iter([next((data.validation or data.train).batches(size))]))
        trainer.snapshot().to_cpu_copy()
    return Trial(
        size=min(plan.size, len(data.train)),
        fits=True,
        memory_bytes=peak_memory_bytes(runtime.device),
        samples_per_second=samples / seconds,
    )


def _measured(
    steps: int, trainer: Trainer, batches: Iterator[Batch], runtime: Runtime
) -> tuple[float, int]:
    """Return the time of the steps in seconds, and the number of samples."""
    _synchronize(runtime)
    samples, started = 0, time.perf_counter()
    for batch in islice(batches, steps):
        trainer.train_step(batch)
        samples += len(batch)
        _synchronize(runtime)
        if time.perf_counter() - started > MOST_SECONDS:
            break
    return time.perf_counter() - started, samples


def _synchronize(runtime: Runtime) -> None:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)


# -------------------------------------------------------------------------- one process per trial


def trials_in_processes(experiment: Experiment, plugins: Sequence[str | Path]) -> RunTrial:
    """Return a function that runs each trial in a process of its own."""

    def run(plan: Plan) -> tuple[Trial, int | None]:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.yaml"
            config.write_text(experiment.to_yaml(), encoding="utf-8")
            arguments = [str(config), json.dumps(asdict(plan)), *map(str, plugins)]
            ended = subprocess.run(  # noqa: S603
                [sys.executable, "-m", "dltrain.commands.batch_trial", *arguments],
                capture_output=True,
                check=False,
                text=True,
            )
        if ended.returncode == 0:
            result = json.loads(ended.stdout.splitlines()[-1])
            return Trial(**result["trial"]), result["samples"]
        if ended.returncode == DATA_TOO_LARGE:
            raise RunError(
                f"the data alone does not fit into the memory{budget_suffix(plan.memory_bytes)}"
            )
        if ended.returncode in (OUT_OF_MEMORY, -signal.SIGKILL):  # the system may kill it earlier
            return Trial(plan.size, fits=False), None
        if ended.returncode == WRONG_CONFIG:  # reported at the line of the user's own file
            raise experiment.problem(*json.loads(ended.stdout.splitlines()[-1]))
        raise RunError(ended.stderr.strip() or f"a trial ended with exit code {ended.returncode}")

    return run


def _trial_process(config: str, plan_json: str, *plugins: str) -> None:
    """Run a trial in this process, and print its result as JSON."""
    plan, has_data = Plan(**json.loads(plan_json)), threading.Event()
    assert plan.memory_bytes is not None
    threading.Thread(target=_guard, args=(plan.memory_bytes, has_data), daemon=True).start()
    try:
        for plugin in plugins:
            load_plugin(Path(plugin))
        experiment = load(config)
        runtime = build_runtime(experiment)
        data = build_data(experiment, runtime, lambda _: None)
        has_data.set()
        trial = _steps(plan, experiment, data, runtime)
    except ConfigError as error:
        print(json.dumps([error.problems[0].path, error.problems[0].message]))
        sys.exit(WRONG_CONFIG)
    except DltrainError as error:
        print_warning(error)
        sys.exit(error.exit_code)
    except Exception as error:  # a model may raise anything
        if is_out_of_memory(error):
            sys.exit(OUT_OF_MEMORY)
        print_warning(f"a step fails: {describe_error(error)}")
        sys.exit(RunError.exit_code)
    if trial.memory_bytes is not None and trial.memory_bytes > plan.memory_bytes:
        sys.exit(OUT_OF_MEMORY)  # the guard was slower
    print(json.dumps({"trial": asdict(trial), "samples": len(data.train)}))


def _guard(memory_bytes: int, has_data: threading.Event) -> None:
    """End the process as soon as its peak memory exceeds the budget."""
    while peak_memory_bytes(torch.device("cpu")) <= memory_bytes:
        time.sleep(POLL_SECONDS)
    os._exit(OUT_OF_MEMORY if has_data.is_set() else DATA_TOO_LARGE)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        _trial_process(*sys.argv[1:])
