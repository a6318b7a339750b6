"""The loop: steps, evaluation, and the state that makes a run go on exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import chain, count, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from dltrain.checkpoints.store import (
    CheckpointStore,
    Snapshot,
)
from dltrain.config.settings import CheckpointSettings, EarlyStopSettings, TrainSettings, steps_in
from dltrain.core.batch import Batch
from dltrain.core.errors import InterruptedRunError, RunError
from dltrain.core.jsonable import describe_early_stop
from dltrain.core.protocols import Data, ProcessGroup, Split
from dltrain.core.task import Phase, Task
from dltrain.data.subset import evenly_spaced_batches
from dltrain.distributed.ddp import GradientReducer
from dltrain.distributed.fsdp import full_tensor, total_norm
from dltrain.loggers.base import Logger
from dltrain.training.checkpointing import CheckpointManager
from dltrain.training.compilation import CompilationCheck
from dltrain.training.cuda_graph import (
    IndexableSplit,
    StepGraph,
    StepScalars,
    cuda_graph_blocker,
    make_optimizers_capturable,
    parameter_groups,
)
from dltrain.training.device import (
    Precision,
    peak_memory_bytes,
)
from dltrain.training.ema import ExponentialMovingAverage
from dltrain.training.loss_scaling import LossScaling, can_decide_on_device
from dltrain.training.micro_batches import MicroBatches
from dltrain.training.monitoring import loss_name, monitorable_scalars
from dltrain.training.nonfinite import NonFiniteGuard
from dltrain.training.rollback import StepRollback
from dltrain.training.state import TrainerState, Window


class Trainer:
    """Trains a task on data.

    Args:
        task: What a step computes.
        data: The splits.
        numerics: In which numbers to compute.
        device: Where.
        checkpoints: Where to save.
        recorders: Who hears of it.
        settings: How long and how.
        checkpoint_settings: How often to save, and what is best.
        early_stop: When to stop before the end.
        log_every: Steps between two training scalars.
        num_embeddings: Samples of the test split to show as points, if the task can.
        world: The processes that train together; each has a trainer, and all do the same.
    """

    def __init__(
        self,
        task: Task,
        data: Data,
        *,
        precision: Precision,
        device: torch.device,
        checkpoints: CheckpointStore,
        loggers: Sequence[Logger],
        settings: TrainSettings,
        checkpoint_settings: CheckpointSettings,
        early_stop: EarlyStopSettings | None,
        log_every: int,
        num_embeddings: int = 0,
        process_group: ProcessGroup | None = None,
    ) -> None:
        self.task = task
        self.data = data
        self.process_group: ProcessGroup = process_group or ProcessGroup()
        self.precision = precision
        self.device = device
        self.loggers = loggers
        self.settings = settings
        self.early_stop = early_stop
        self.log_every = log_every
        self.num_embeddings = num_embeddings

        samples = len(data.train)
        self.batches_per_epoch: int = settings.batches_per_epoch(samples)
        self.steps_per_epoch: int = settings.steps_per_epoch(samples)
        self.samples_per_epoch: int = min(samples, self.steps_per_epoch * settings.batch_size)
        self.total_steps: int = settings.total_steps(samples)
        self.evaluate_every: int = steps_in(settings.evaluate, self.steps_per_epoch)
        self.save_every: int = steps_in(checkpoint_settings.every, self.steps_per_epoch)
        self.monitor: str | None = checkpoint_settings.best

        self.state = TrainerState()
        averaged = [phase.module for phase in task.phases if phase.averaged]
        self.ema: ExponentialMovingAverage = ExponentialMovingAverage(
            task.model, averaged, settings.ema
        )
        self.checkpoint_manager: CheckpointManager = CheckpointManager(
            task, data.spec, self.ema, precision.scaler, loggers, checkpoints, self.process_group
        )
        self.parameters: dict[str, list[nn.Parameter]] = {
            phase.name: [p for p in phase.module.parameters() if p.requires_grad]
            for phase in task.phases
        }
        self.micro_batches: MicroBatches = MicroBatches(
            settings.micro_batch, task, self._log_message, self.process_group.rank_slice
        )
        self.stop_signal: int | None = None
        self.tested_weights: str | None = None
        self.guard: NonFiniteGuard = NonFiniteGuard(
            device,
            settings.on_nonfinite,
            settings.max_skipped,
            self.checkpoint_manager.describe,
            len(task.phases),
            clipped=all(phase.clip_norm is not None for phase in task.phases),
            half_precision=precision.name in ("fp16", "bf16"),
        )
        self.cuda_graph_blocker: str | None = cuda_graph_blocker(
            settings, precision, task, data.train, device, self.process_group
        )
        if settings.cuda_graph != "off" and self.cuda_graph_blocker is None:
            make_optimizers_capturable(task)
        self._compilation = CompilationCheck(task) if settings.compile else None
        self._saved_step: int | None = None
        self._started = time.perf_counter()
        self._lap = (self._started, 0)
        for group in parameter_groups(task.phases):
            group["initial_lr"] = group["lr"]

    # ------------------------------------------------------------------------------- the loop

    def fit(self) -> None:
        """Trains to the end, then reads the test split once.

        Raises:
            RunError: The loss is not finite, or the disk refuses.
            InterruptedRunError: `stop_signal` was set; a checkpoint has been saved.
        """
        self._started = time.perf_counter() - self.state.seconds
        self._lap = (time.perf_counter(), self.state.step)
        for logger in self.loggers:
            logger.on_fit_start(self.state.step, self.total_steps, self.settings.batch_size)
        try:
            self._evaluate_and_save()  # does what a stopped run left undone
            while not self.finished:
                self.train_epoch()
            if early := self.stopped_early:
                self._log_message(describe_early_stop(early))
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
        """Trains from where the run stands to the end of the epoch, or of the run."""
        epoch, offset = divmod(self.state.step, self.steps_per_epoch)
        epoch = 0 if self.settings.overfit else epoch  # the same batches, again and again
        self.task.model.train()
        for step in islice(self._steps(epoch, offset), self.steps_per_epoch - offset):
            step()
            self._after_step()
            if self.finished:
                break

    def _steps(self, epoch: int, offset: int) -> Iterator[Callable[[], None]]:
        """What makes each step of an epoch."""
        if self.graph is not None:
            return self.graph.steps(epoch, offset)
        batches = self.data.train.batches(
            self.settings.batch_size,
            epoch=epoch,
            offset=offset,
            rank_slice=self.process_group.rank_slice,
        )
        return (partial(self.train_step, batch) for batch in batches)

    def batches(self) -> Iterator[Batch]:
        """Training batches from the first epoch on, without end, for a look at some steps."""
        size = self.settings.batch_size
        return chain.from_iterable(
            islice(self.data.train.batches(size, epoch=epoch), self.batches_per_epoch)
            for epoch in count()
        )

    def train_step(self, batch: Batch) -> None:
        """One optimizer step for each phase; gradients are those of the whole batch."""
        batch.step = self.state.step
        updated = self.compute(batch, self._next_step_scalars)
        self.state.step += 1
        self.state.updates += updated

    def drain(self) -> None:
        """Counts the steps that the device has decided on; waits for the last of them."""
        self.state.updates += self.scaling.drain()

    def _next_step_scalars(self) -> StepScalars:
        """Those of the step in progress."""
        self.drain()  # the device has this step's gradients to compute meanwhile
        return self._step_scalars(self.state.updates)

    def _step_scalars(self, updates: int) -> StepScalars:
        """Learning rates and the like, after so many updates of the weights."""
        rates = []
        for phase in self.task.phases:
            # A graph plans whole epochs, of which the last may end early.
            factor = phase.schedule(min(updates / self.total_steps, 1.0))
            rates += [group["initial_lr"] * factor for group in parameter_groups([phase])]
        return StepScalars(rates, self.ema.weight(updates + 1))

    def compute(self, batch: Batch, numbers: Callable[[], StepScalars]) -> bool:
        """All of a step that the device does, in all phases or in none.

        Args:
            batch: All samples of the step.
            numbers: Called once the gradients of the first phase are there.

        Returns:
            Whether the step was taken; False as well where `settle` will know.
        """
        undo, now, sums = self._rollback(), None, []
        for phase in self.task.phases:
            weight = self._weight(batch, phase)
            gradients = partial(self._gradients, phase=phase, weight=weight)
            loss = self.process_group.all_reduce_sum(
                self.micro_batches.total(self.state, batch, gradients)
            )
            if now is None:
                now = numbers()
                for group, rate in zip(
                    parameter_groups(self.task.phases), now.learning_rates, strict=True
                ):
                    group["lr"] = rate
            norm = self._unscaled_norm(phase)
            if not self._allows(loss, norm):
                undo()
                self._forget_gradients(self.task.phases)
                return False
            self._update(phase, norm)
            sums.append((phase.name, loss, weight, norm))
        assert now is not None
        self.ema.update(self.scaling.select(now.ema_weight, 0.0))
        for name, *values in sums:
            self._add(name, *values)
        self.state.skipped_in_a_row = 0
        return self.scaling.end(self.state.step + 1)

    def _rollback(self) -> Callable[[], None]:
        """Undoes all that the step has changed by the time that one of its phases is refused."""
        several = self.precision.scaler.is_enabled() and len(self.task.phases) > 1
        if self.settings.on_nonfinite == "skip" or (several and self.scaling.asks_each_step):
            return StepRollback(self.task, len(self.task.phases) - 1)
        return lambda: None

    def _add(self, phase: str, loss: Tensor, weight: Tensor | int, gradient_norm: Tensor) -> None:
        """Adds a step to its phase's sums, where it is one that was taken."""
        before = self.state.windows.get(phase, Window()).gradient_norm
        self.state.add(
            phase,
            self.scaling.select(loss, 0.0),
            self.scaling.select(weight, 0),
            self.scaling.select(gradient_norm, before),
        )

    @cached_property
    def graph(self) -> StepGraph | None:
        """Makes the steps where `train.cuda_graph` wants it and nothing is in its way."""
        split = self.data.train
        if self.settings.cuda_graph == "off":
            return None
        if self.cuda_graph_blocker is not None or not isinstance(split, IndexableSplit):
            self._without_graph(self.cuda_graph_blocker)
            return None
        return StepGraph(
            self.task,
            split,
            self.settings.batch_size,
            self.compute,
            self._step_scalars,
            self.state,
            self._without_graph,
        )

    def _without_graph(self, reason: str | None) -> None:
        if self.settings.cuda_graph == "on":
            raise RunError(f"train.cuda_graph=on: {reason}")
        self._log_message(f"no CUDA graph: {reason}")

    @cached_property
    def scaling(self) -> LossScaling:
        """Decides on the gradients of half precision; one that does nothing for any other."""
        optimizers = [optimizer for phase in self.task.phases for optimizer in phase.optimizers]
        asks = self.guard.asks_each_step or not can_decide_on_device(optimizers)
        return LossScaling(self.precision.scaler, asks, self.checkpoint_manager.describe)

    @cached_property
    def gradients(self) -> GradientReducer:
        """Made at the first step, when the weights are those to begin with."""
        return GradientReducer(self.task, self.process_group)

    def _weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """That of the batch over all processes."""
        weight = self.task.weight(batch, phase)
        if batch.global_size is None or self.process_group.world_size == 1:
            return weight
        if isinstance(weight, int):
            return weight * batch.global_size // len(batch)
        return self.process_group.all_reduce_sum(weight * batch.is_real)

    def _gradients(self, part: Batch, last: bool, phase: Phase, weight: Tensor | int) -> Tensor:
        """Adds the gradients of a slice to those of the others; its summed loss."""
        with self.gradients.synchronized(phase, last):
            with self.precision.autocast():
                loss = self.gradients.loss(part, phase)
            self.gradients.backward(self.precision.scaler.scale(loss / weight))
        return loss.detach()

    def _unscaled_norm(self, phase: Phase) -> Tensor:
        """The norm of a phase's gradients, which are divided by the loss scale first."""
        gradients = [p.grad for p in self.parameters[phase.name] if p.grad is not None]
        self.scaling.unscale(gradients)
        return full_tensor(total_norm(gradients))

    def _allows(self, loss: Tensor, norm: Tensor) -> bool:
        """Whether loss and gradients of a phase are finite, as far as is known already."""
        # Scaled gradients overflow now and then, which is no fault of the run.
        value = loss if self.precision.scaler.is_enabled() else loss + norm
        return self.guard.allows(self.state, value) and self.scaling.allows(
            norm, self.state.step + 1
        )

    def _update(self, phase: Phase, norm: Tensor) -> None:
        """Clips the gradients and steps the optimizers."""
        if phase.clip_norm is not None:
            clip_grads_with_norm_(self.parameters[phase.name], phase.clip_norm, norm)
        for optimizer in phase.optimizers:
            self.scaling.step(optimizer, is_last=phase is self.task.phases[-1])
        self._forget_gradients([phase])

    def _forget_gradients(self, phases: Iterable[Phase]) -> None:
        for phase in phases:
            for optimizer in phase.optimizers:
                optimizer.zero_grad()

    def _after_step(self) -> None:
        state = self.state
        self._report_compilation()
        self.checkpoint_manager.check()
        for logger in self.loggers:
            logger.on_step_end(state.step)
        ends = state.step >= self.total_steps
        state.evaluation_due = ends or state.step % self.evaluate_every == 0
        if state.evaluation_due or state.step % self.log_every == 0:
            self.log()
        self._evaluate_and_save()
        self._raise_if_interrupted()

    def _report_compilation(self) -> None:
        """After the first step, says so where `train.compile` has had no effect."""
        check, self._compilation = self._compilation, None
        if check is not None and check.nothing_compiled():
            self._log_message(
                "train.compile: torch.compile has compiled nothing of this model, and steps run as "
                "without it; TORCH_LOGS=graph_breaks shows why"
            )

    def _evaluate_and_save(self) -> None:
        better = False
        if self.state.evaluation_due:
            if self.data.validation is not None:
                self.evaluate(self.data.validation, "val")
            better = self._update_best_and_early_stopping()
            self.state.evaluation_due = False
            self._lap = (time.perf_counter(), self.state.step)  # throughput is training's alone
        if better or self.state.step % self.save_every == 0 < self.state.step:
            self.save()
        if better:
            self._mark_best()

    def samples_after(self, step: int) -> int:
        """Samples that this many steps have trained on; the last batch of an epoch is smaller."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        rest = min(steps * self.settings.batch_size, self.samples_per_epoch)
        return epochs * self.samples_per_epoch + rest

    @property
    def seconds(self) -> float:
        """Spent so far, over all processes that worked on the run."""
        return time.perf_counter() - self._started

    @property
    def finished(self) -> bool:
        """Whether there is no step left, or early stopping has seen enough."""
        patience = self.early_stop.patience if self.early_stop else math.inf
        return (
            self.state.step >= self.total_steps or self.state.evaluations_without_better >= patience
        )

    @property
    def stopped_early(self) -> dict[str, Any] | None:
        """The step at which early stopping ended the training, and why; None where it did not."""
        state = self.state
        if self.early_stop is None or state.step >= self.total_steps or not self.finished:
            return None
        return {
            "step": state.step,
            "metric": self.early_stop.monitor,
            "value": state.last.get(self.early_stop.monitor),
            "best": state.stop_best,
            "patience": self.early_stop.patience,
            "min_delta": self.early_stop.min_delta,
        }

    # ------------------------------------------------------------------- evaluation and scalars

    @property
    def monitorable_scalars(self) -> dict[str, bool]:
        """See `monitoring.monitorable_scalars`."""
        return monitorable_scalars(self.task, self.data)

    def evaluate(self, split: Split, name: str) -> dict[str, float]:
        """Loss and metrics over a whole split, with the averaged weights where EMA is on."""
        whole = split.batches(
            self.settings.samples_at_once, rank_slice=self.process_group.rank_slice
        )
        with self._evaluating(whole) as batches:
            values = self.task.evaluate(batches)
        values = self.process_group.broadcast_object(lambda: values)
        self._record(name, values)
        for logger in self.loggers:
            logger.on_evaluation_end(self.state.step, name, self.task)
        return values

    @contextmanager
    def _evaluating(self, batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
        """The same batches, and inside this context all as evaluation wants it."""
        self.task.model.eval()
        self.process_group.broadcast_(self.task.model.buffers())
        with self.ema.applied(), torch.inference_mode(), self.precision.autocast():
            yield self._until_interrupted(batches)
        self.task.model.train()

    def test(self) -> None:
        """Evaluates the test split with the best weights, or the last where none are best."""
        if self.data.test is None:
            return
        best = self.checkpoint_manager.best() if self.monitor else None
        self.tested_weights = best.name if best else "averaged" if self.ema.tensors else "final"
        with self.checkpoint_manager.weights_of(best):
            self.evaluate(self.data.test, "test")
            if self.num_embeddings:
                self._embed(self.data.test)

    def _embed(self, split: Split) -> None:
        """Shows samples as the model sees them; only where the task can, which `build.py` asks."""
        size, rank_slice = self.settings.samples_at_once, self.process_group.rank_slice
        some = evenly_spaced_batches(split, self.num_embeddings, size, rank_slice)
        with self._evaluating(some) as batches, torch.compiler.set_stance("force_eager"):
            embedding = self.task.embed(batches, self.num_embeddings)
        for logger in self.loggers:
            logger.log_embedding(self.state.step, embedding)

    def log(self) -> None:
        """Records the training scalars since the last time; waits for the device."""
        self.guard.check()
        self.drain()
        state, values = self.state, {}
        for phase in self.task.phases:
            loss, weight, norm = state.take(phase.name)
            name = loss_name(self.task, phase)
            if weight:
                values[name] = loss / weight
                values[name.replace("loss", "gradient_norm")] = norm
            values[name.replace("loss", "learning_rate")] = phase.optimizers[0].param_groups[0][
                "lr"
            ]
        if self.settings.on_nonfinite == "skip":
            values["skipped_steps"] = state.skipped
            before = int(state.last.get("train/skipped_steps") or 0)
            if state.skipped > before:
                self._log_message(
                    f"step {state.step}: skipped {state.skipped - before} steps since the last "
                    f"report, {state.skipped} in all: the loss or its gradient was not finite"
                )
        self._record("train", values)
        now, (before, step) = time.perf_counter(), self._lap
        self._lap = (now, state.step)
        samples = self.samples_after(state.step) - self.samples_after(step)
        self._record(
            "system",
            {
                "samples_per_second": samples / (now - before),
                "peak_memory_bytes": peak_memory_bytes(self.device),
            },
        )

    def _update_best_and_early_stopping(self) -> bool:
        """Compares with the best values so far; whether this step's checkpoint is the best."""
        state, higher = self.state, self.monitorable_scalars
        if self.early_stop is not None:
            name = self.early_stop.monitor
            state.watch(state.last.get(name), higher[name], self.early_stop.min_delta)
        return self.monitor is not None and state.is_best(
            state.last.get(self.monitor), higher[self.monitor]
        )

    def _log_message(self, text: str) -> None:
        for logger in self.loggers:
            logger.log_message(text)

    def _record(self, split: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.state.last[f"{split}/{name}"] = value if math.isfinite(value) else None
        epoch = self.state.step / self.steps_per_epoch
        for logger in self.loggers:
            logger.log_scalars(self.state.step, epoch, split, values)

    # ------------------------------------------------------------------------------------ stops

    def _raise_if_interrupted(self) -> None:
        if signal := self.process_group.all_reduce_max(self.stop_signal or 0):
            raise InterruptedRunError(signal)

    def _until_interrupted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._raise_if_interrupted()
            yield batch

    # ------------------------------------------------------------------- what makes a run go on

    def save(self) -> None:
        """Begins to save a checkpoint of this step, unless there is one."""
        if self._saved_step == self.state.step:
            return
        self.guard.check()
        self.checkpoint_manager.save(self.snapshot())
        self._saved_step = self.state.step

    def _mark_best(self) -> None:
        if self.monitor is not None and self.state.best is not None:
            higher = self.monitorable_scalars[self.monitor]
            self.checkpoint_manager.mark_best(self.monitor, higher, *self.state.best)

    def snapshot(self) -> Snapshot:
        """All that `restore` needs."""
        self.drain()
        self.state.seconds = self.seconds
        return self.checkpoint_manager.snapshot(self.state)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to where `snapshot` was taken; the random generators too."""
        self.state: TrainerState = self.checkpoint_manager.restore(snapshot)
        self.guard.start(self.state.step)
        self.__dict__.pop("graph", None)  # it was made for other tensors
        self.__dict__.pop("scaling", None)  # it may have steps to count that are undone
        self._saved_step = None if self.state.evaluation_due else self.state.step
        self._mark_best()
