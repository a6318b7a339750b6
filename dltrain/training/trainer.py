"""The training loop: epochs, steps, evaluations and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import count, islice
from typing import Any

import torch

from dltrain.checkpoints.snapshot import Snapshot
from dltrain.checkpoints.store import CheckpointStore
from dltrain.config.settings import CheckpointSettings, EarlyStopSettings, TrainSettings, steps_in
from dltrain.core.batch import Batch
from dltrain.core.errors import InterruptedRunError
from dltrain.core.jsonable import describe_early_stop
from dltrain.core.protocols import Data, ProcessGroup, Split
from dltrain.core.task import Task
from dltrain.loggers.base import Logger
from dltrain.training.checkpointing import CheckpointManager
from dltrain.training.compilation import CompilationCheck
from dltrain.training.cuda_graph import StepGraph, cuda_graph_blocker, make_optimizers_capturable
from dltrain.training.device import Precision
from dltrain.training.ema import ExponentialMovingAverage
from dltrain.training.evaluation import Evaluator
from dltrain.training.monitoring import Monitor
from dltrain.training.runtime import Runtime
from dltrain.training.scalars import ScalarLog, Throughput
from dltrain.training.state import TrainerState
from dltrain.training.step import OptimizerStep, StepScalars, parameter_groups


class Trainer:
    """Trains a task on the training split, and evaluates it on the others.

    Args:
        task: Model, losses, optimizers and metrics.
        data: The splits and their specification.
        runtime: Device of the model and of the batches, precision of the forward pass, and ranks
            that train together. Each rank has a trainer that runs the same steps on its shard of
            every batch.
        checkpoints: Store in which checkpoints are saved.
        loggers: Loggers that receive scalars and events.
        settings: Settings of the loop, such as the number of epochs and the batch size.
        checkpoint_settings: How often a checkpoint is saved, and which scalar selects the best.
        early_stop: Settings of early stopping; None trains to the last step.
        log_every: Number of steps between two records of the training scalars.
        num_embeddings: Number of test samples to log as points; only for tasks that embed samples.
    """

    def __init__(
        self,
        task: Task,
        data: Data,
        runtime: Runtime,
        *,
        checkpoints: CheckpointStore,
        loggers: Sequence[Logger],
        settings: TrainSettings,
        checkpoint_settings: CheckpointSettings,
        early_stop: EarlyStopSettings | None,
        log_every: int,
        num_embeddings: int = 0,
    ) -> None:
        self.task = task
        self.data = data
        self.device: torch.device = runtime.device
        self.precision: Precision = runtime.precision
        self.process_group: ProcessGroup = runtime.process_group
        self.loggers = loggers
        self.settings = settings
        self.log_every = log_every
        self.num_embeddings = num_embeddings
        num_samples = len(data.train)
        self.steps_per_epoch: int = settings.steps_per_epoch(num_samples)
        self.total_steps: int = settings.total_steps(num_samples)
        self.evaluate_every: int = steps_in(settings.evaluate, self.steps_per_epoch)
        self.save_every: int = steps_in(checkpoint_settings.every, self.steps_per_epoch)

        averaged = [phase.module for phase in task.phases if phase.averaged]
        self.ema: ExponentialMovingAverage = ExponentialMovingAverage(
            task.model, averaged, settings.ema
        )
        self.checkpoint_manager: CheckpointManager = CheckpointManager(
            task, data.spec, self.ema, runtime, loggers, checkpoints
        )
        self.optimizer_step: OptimizerStep = OptimizerStep(
            task, settings, runtime, self.ema, self._log_message, self.checkpoint_manager.describe
        )
        self.cuda_graph_blocker: str | None = cuda_graph_blocker(
            settings, self.precision, task, data.train, self.device, self.process_group
        )
        if settings.cuda_graph != "off" and self.cuda_graph_blocker is None:
            make_optimizers_capturable(task)
        self._evaluator = Evaluator(
            task, runtime, self.ema, settings.samples_at_once, self._raise_if_interrupted
        )
        self.throughput: Throughput = Throughput(num_samples, settings)
        self._scalars = ScalarLog(task, loggers, self.throughput, self.device, settings)
        self.monitor: Monitor = Monitor(task, data, checkpoint_settings.best, early_stop)
        self.state: TrainerState = TrainerState()
        self.stop_signal: int | None = None
        self.tested_weights: str | None = None
        self._compilation = CompilationCheck(task) if settings.compile else None
        self._saved_step: int | None = None
        self._started = time.perf_counter()

    def fit(self) -> None:
        """Train to the last step, or until early stopping; then evaluate the test split once.

        Raises:
            RunError: A loss is not finite, or a checkpoint can't be written.
            InterruptedRunError: `stop_signal` was set; a checkpoint has been saved.
        """
        self._started = time.perf_counter() - self.state.seconds
        self.throughput.restart(self.state.step)
        for logger in self.loggers:
            logger.on_fit_start(self.state.step, self.total_steps, self.settings.batch_size)
        try:
            self._evaluate_and_save()  # a run that was interrupted here has not done so
            while not self.finished:
                self.train_epoch()
            if reason := self.stopped_early:
                self._log_message(describe_early_stop(reason))
            self.save()
            self.test()
            self.checkpoint_manager.wait()
        except InterruptedRunError:
            self.save()
            self.checkpoint_manager.wait()
            raise
        finally:
            self.checkpoint_manager.drain()

    def train_epoch(self) -> None:
        """Train from the current step to the end of its epoch, or of the training."""
        epoch, offset = divmod(self.state.step, self.steps_per_epoch)
        epoch = 0 if self.settings.overfit else epoch  # repeats the same batches
        self.task.model.train()
        for step in islice(self._steps(epoch, offset), self.steps_per_epoch - offset):
            step()
            self._after_step()
            if self.finished:
                break

    def _steps(self, epoch: int, offset: int) -> Iterator[Callable[[], None]]:
        """Iterate over the steps of an epoch: CUDA graph replays, or calls of `train_step`."""
        if self.graph is not None:
            return self.graph.steps(epoch, offset)
        size, rank_slice = self.settings.batch_size, self.process_group.rank_slice
        batches = self.data.train.batches(size, epoch=epoch, offset=offset, rank_slice=rank_slice)
        return (partial(self.train_step, batch) for batch in batches)

    def train_step(self, batch: Batch) -> None:
        """Take one optimizer step for each phase of the task."""
        batch.step = self.state.step
        updated = self.optimizer_step.compute(self.state, batch, self._next_step_scalars)
        self.state.step += 1
        self.state.updates += updated

    def drain(self) -> None:
        """Count the updates that were decided on the device. With fp16, this is a device sync."""
        self.state.updates += self.optimizer_step.scaling.drain()

    def _next_step_scalars(self) -> StepScalars:
        self.drain()  # device sync for the step before, while this step's gradients are computed
        return self._step_scalars(self.state.updates)

    def _step_scalars(self, updates: int) -> StepScalars:
        """Return learning rates and EMA weight of the step that follows `updates` updates."""
        progress = min(updates / self.total_steps, 1.0)  # a CUDA graph plans whole epochs
        rates = []
        for phase in self.task.phases:
            factor = phase.schedule(progress)
            rates += [group["initial_lr"] * factor for group in parameter_groups([phase])]
        return StepScalars(rates, self.ema.weight(updates + 1))

    def _after_step(self) -> None:
        """Log, evaluate and save where it is due; without any of them, no device sync."""
        state = self.state
        if self._compilation is not None and (warning := self._compilation.warning()):
            self._log_message(warning)
        self._compilation = None
        self.checkpoint_manager.check()
        for logger in self.loggers:
            logger.on_step_end(state.step)
        is_last = state.step >= self.total_steps
        state.evaluation_due = is_last or state.step % self.evaluate_every == 0
        if state.evaluation_due or state.step % self.log_every == 0:
            self.log()
        self._evaluate_and_save()
        self._raise_if_interrupted()

    def _evaluate_and_save(self) -> None:
        is_best = False
        if self.state.evaluation_due:
            if self.data.validation is not None:
                self.evaluate(self.data.validation, "val")
            is_best = self.monitor.update_best_and_early_stopping(self.state)
            self.state.evaluation_due = False
            self.throughput.restart(self.state.step)  # evaluation does not count
        if is_best or self.state.step % self.save_every == 0 < self.state.step:
            self.save()
        if is_best:
            self._mark_best()

    def evaluate(self, split: Split, name: str) -> dict[str, float]:
        """Return loss and metrics over a whole split, with the EMA weights where EMA is on."""
        values = self._evaluator.evaluate(split)  # device sync, at the end of the split
        self._scalars.log(self.state, name, values)
        for logger in self.loggers:
            logger.on_evaluation_end(self.state.step, name, self.task)
        return values

    def test(self) -> None:
        """Evaluate the test split with the best checkpoint if one is marked, else as it is now."""
        if self.data.test is None:
            return
        best = self.checkpoint_manager.best() if self.monitor.best else None
        self.tested_weights = best.name if best else "averaged" if self.ema.tensors else "final"
        with self.checkpoint_manager.weights_of(best):
            self.evaluate(self.data.test, "test")
            if self.num_embeddings:
                embedding = self._evaluator.embed(self.data.test, self.num_embeddings)
                for logger in self.loggers:
                    logger.log_embedding(self.state.step, embedding)

    def log(self) -> None:
        """Log the training scalars since the last call."""
        self.optimizer_step.guard.check()  # device sync
        self.drain()
        self._scalars.log_training(self.state)

    def _log_message(self, text: str) -> None:
        for logger in self.loggers:
            logger.log_message(text)

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or early stopping ends the training."""
        return self.state.step >= self.total_steps or self.monitor.is_out_of_patience(self.state)

    @property
    def stopped_early(self) -> dict[str, Any] | None:
        """Step and reason of early stopping; None if it has not ended the training."""
        is_last = self.state.step >= self.total_steps
        return None if is_last else self.monitor.early_stop_reason(self.state)

    @property
    def seconds(self) -> float:
        """Seconds spent on the run, including those before it was resumed."""
        return time.perf_counter() - self._started

    def save(self) -> None:
        """Start to save a checkpoint of the current step, unless there is one."""
        if self._saved_step == self.state.step:
            return
        self.optimizer_step.guard.check()  # device sync; never save after a non-finite step
        self.checkpoint_manager.save(self.snapshot())
        self._saved_step = self.state.step

    def snapshot(self) -> Snapshot:
        """Return everything that `restore` needs. This is a device sync."""
        self.drain()
        self.state.seconds = self.seconds
        return self.checkpoint_manager.snapshot(self.state)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore weights, optimizers, random generators, loggers and the trainer's state."""
        self.state = self.checkpoint_manager.restore(snapshot)
        self.optimizer_step.restart(self.state.step)
        self.__dict__.pop("graph", None)  # it refers to the old state
        self._saved_step = None if self.state.evaluation_due else self.state.step
        self._mark_best()

    def _mark_best(self) -> None:
        if self.monitor.best is not None and self.state.best is not None:
            name, higher = self.monitor.best, self.monitor.best_is_higher
            self.checkpoint_manager.mark_best(name, higher, *self.state.best)

    def _raise_if_interrupted(self) -> None:
        # No device sync: ranks exchange the signal between CPUs.
        if signal := self.process_group.all_reduce_max(self.stop_signal or 0):
            raise InterruptedRunError(signal)

    def batches(self) -> Iterator[Batch]:
        """Iterate over training batches without end, for commands that measure some steps."""
        for epoch in count():
            batches = self.data.train.batches(self.settings.batch_size, epoch=epoch)
            yield from islice(batches, self.settings.batches_per_epoch(len(self.data.train)))

    @cached_property
    def graph(self) -> StepGraph | None:
        """CUDA graph of a step, where `train.cuda_graph` asks for one and it is possible."""
        return StepGraph.create(
            *(self.task, self.data.train, self.settings, self.cuda_graph_blocker),
            *(self.optimizer_step.compute, self._step_scalars, self.state, self._log_message),
        )
