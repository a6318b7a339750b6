"""Steps with a batch of some size: in this process on a GPU, in one of its own on a CPU."""

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
"""Steps are measured for about so long."""
POLL_SECONDS = 0.01
FULL, FULL_AT_ONCE, WRONG_CONFIG = 75, 76, 77
"""Exit codes of a trial's process: the budget did not do for the batch, or for anything."""


@dataclass(frozen=True)
class Trial:
    """A few steps with one size of the batch, or of its slices.

    Attributes:
        size: Samples.
        fits: Whether the memory was enough.
        memory_bytes: The most that was in use: of the process, or of the GPU's allocator; None
            where it did not fit.
        samples_per_second: Of training steps; None where it did not fit.
    """

    size: int
    fits: bool
    memory_bytes: int | None = None
    samples_per_second: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a trial is of: it is handed to the process that makes it.

    Attributes:
        setting: `batch_size` or `micro_batch`.
        size: Its value.
        steps: To be measured, at most.
        memory_bytes: What the trial may have; None where a GPU's own memory is the limit.
    """

    setting: str
    size: int
    steps: int
    memory_bytes: int | None

    def of(self, experiment: Experiment) -> Experiment:
        """The experiment with this size; no step is recorded as a graph, which takes memory."""
        changed: dict[str, Any] = {"micro_batch": None, self.setting: self.size}
        return replace(experiment, train=replace(experiment.train, cuda_graph="off", **changed))


MakeTrial = Callable[[Plan], tuple[Trial, int | None]]
"""Gives the trial, and how many training samples there are, where that came out."""


def of_memory(memory_bytes: int | None) -> str:
    """A budget in words, for the end of a phrase; none where there is none."""
    return "" if memory_bytes is None else f", {memory_bytes / 2**20:,.0f} MiB"


def trials_on_gpu(experiment: Experiment, runtime: Runtime) -> MakeTrial:
    """Makes trials in this process, one after another."""
    data = build_data(experiment, runtime, print_warning)

    def make(plan: Plan) -> tuple[Trial, int | None]:
        gc.collect()  # of a trial that failed, its frames hold what has to be freed
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
        taken = torch.cuda.max_memory_reserved(runtime.device)
        if plan.memory_bytes is not None and taken > plan.memory_bytes:
            trial = Trial(trial.size, fits=False)
        return trial, len(data.train)

    return make


def _steps(plan: Plan, experiment: Experiment, data: Data, runtime: Runtime) -> Trial:
    """Takes steps, evaluates a batch, and copies what a checkpoint holds, as training does."""
    experiment = plan.of(experiment)
    task = build_task(experiment, data.spec, runtime)
    with tempfile.TemporaryDirectory() as place:
        trainer = build_trainer(experiment, data, task, runtime, CheckpointStore(Path(place)))
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
    """Seconds, and samples trained in them."""
    _wait(runtime)
    samples, started = 0, time.perf_counter()
    for batch in islice(batches, steps):
        trainer.train_step(batch)
        samples += len(batch)
        _wait(runtime)
        if time.perf_counter() - started > MOST_SECONDS:
            break
    return time.perf_counter() - started, samples


def _wait(runtime: Runtime) -> None:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)


# -------------------------------------------------------------------------- a process for a trial


def trials_in_processes(experiment: Experiment, plugins: Sequence[str | Path]) -> MakeTrial:
    """Makes each trial in a process of its own."""

    def make(plan: Plan) -> tuple[Trial, int | None]:
        with tempfile.TemporaryDirectory() as place:
            config = Path(place) / "config.yaml"
            config.write_text(experiment.to_yaml(), encoding="utf-8")
            words = [str(config), json.dumps(asdict(plan)), *map(str, plugins)]
            ended = subprocess.run(  # noqa: S603
                [sys.executable, "-m", "dltrain.commands.batch_trial", *words],
                capture_output=True,
                check=False,
                text=True,
            )
        if ended.returncode == 0:
            found = json.loads(ended.stdout.splitlines()[-1])
            return Trial(**found["trial"]), found["samples"]
        if ended.returncode == FULL_AT_ONCE:
            raise RunError(
                f"the data alone does not fit into the memory{of_memory(plan.memory_bytes)}"
            )
        if ended.returncode in (FULL, -signal.SIGKILL):  # the system's own guard may be quicker
            return Trial(plan.size, fits=False), None
        if ended.returncode == WRONG_CONFIG:  # told at the line of the user's own file
            raise experiment.problem(*json.loads(ended.stdout.splitlines()[-1]))
        raise RunError(ended.stderr.strip() or f"a trial ended with exit code {ended.returncode}")

    return make


def _trial_process(config: str, words: str, *plugins: str) -> None:
    """What such a process does."""
    plan, begun = Plan(**json.loads(words)), threading.Event()
    assert plan.memory_bytes is not None
    threading.Thread(target=_guard, args=(plan.memory_bytes, begun), daemon=True).start()
    try:
        for plugin in plugins:
            load_plugin(Path(plugin))
        experiment = load(config)
        runtime = build_runtime(experiment)
        data = build_data(experiment, runtime, lambda _: None)
        begun.set()
        trial = _steps(plan, experiment, data, runtime)
    except ConfigError as error:
        print(json.dumps([error.problems[0].path, error.problems[0].message]))
        sys.exit(WRONG_CONFIG)
    except DltrainError as error:
        print_warning(error)
        sys.exit(error.exit_code)
    except Exception as error:  # a model may raise anything
        if is_out_of_memory(error):
            sys.exit(FULL)
        print_warning(f"a step fails: {describe_error(error)}")
        sys.exit(RunError.exit_code)
    if trial.memory_bytes is not None and trial.memory_bytes > plan.memory_bytes:
        sys.exit(FULL)  # it was quicker than the guard
    print(json.dumps({"trial": asdict(trial), "samples": len(data.train)}))


def _guard(memory_bytes: int, begun: threading.Event) -> None:
    """Ends the process as soon as it has had more than the budget."""
    while peak_memory_bytes(torch.device("cpu")) <= memory_bytes:
        time.sleep(POLL_SECONDS)
    os._exit(FULL if begun.is_set() else FULL_AT_ONCE)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        _trial_process(*sys.argv[1:])
