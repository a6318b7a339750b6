"""One optimizer step: gradients of a whole batch, loss scaling, clipping, weights and EMA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from dltrain.config.settings import TrainSettings
from dltrain.core.batch import Batch
from dltrain.core.protocols import ProcessGroup
from dltrain.core.task import Phase, Task
from dltrain.distributed.ddp import GradientReducer
from dltrain.distributed.fsdp import full_tensor, total_norm
from dltrain.training.device import Precision
from dltrain.training.ema import ExponentialMovingAverage
from dltrain.training.loss_scaling import LossScaling, can_decide_on_device
from dltrain.training.micro_batches import MicroBatches
from dltrain.training.nonfinite import NonFiniteGuard
from dltrain.training.rollback import StepRollback
from dltrain.training.runtime import Runtime
from dltrain.training.state import TrainerState, Window


@dataclass(frozen=True)
class StepScalars:
    """Scalars that change from step to step: Python numbers, or scalar tensors on the device.

    Attributes:
        learning_rates: Learning rate of every parameter group; see `parameter_groups`.
        ema_weight: Weight of the new parameters in their exponential moving average.
    """

    learning_rates: Sequence[float | Tensor]
    ema_weight: float | Tensor


def parameter_groups(phases: Iterable[Phase]) -> list[dict[str, Any]]:
    """Return the parameter groups of all optimizers, phase by phase."""
    optimizers = [optimizer for phase in phases for optimizer in phase.optimizers]
    return [group for optimizer in optimizers for group in optimizer.param_groups]


class OptimizerStep:
    """Updates the weights of all phases of a task from one batch, or changes nothing.

    Args:
        task: Task with the losses, the model and the optimizers.
        settings: Settings of training.
        runtime: Device of the model, autocast context, gradient scaler and ranks.
        ema: Exponential moving average of the weights.
        warn: Function that shows a line to the user.
        describe_checkpoint: Function that names the last checkpoint, for error messages.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        runtime: Runtime,
        ema: ExponentialMovingAverage,
        warn: Callable[[str], None],
        describe_checkpoint: Callable[[], str],
    ) -> None:
        self.task = task
        self.settings = settings
        self.precision: Precision = runtime.precision
        self.process_group: ProcessGroup = runtime.process_group
        self.ema = ema
        self.micro_batches: MicroBatches = MicroBatches(
            settings.micro_batch, task, warn, self.process_group.rank_slice
        )
        self.guard: NonFiniteGuard = NonFiniteGuard(
            runtime.device,
            settings.on_nonfinite,
            settings.max_skipped,
            describe_checkpoint,
            len(task.phases),
            clipped=all(phase.clip_norm is not None for phase in task.phases),
            half_precision=self.precision.name in ("fp16", "bf16"),
        )
        self._parameters = {
            phase.name: [p for p in phase.module.parameters() if p.requires_grad]
            for phase in task.phases
        }
        for group in parameter_groups(task.phases):
            group["initial_lr"] = group["lr"]

    @cached_property
    def reducer(self) -> GradientReducer:
        """Reducer of gradients over all ranks, created at the first step."""
        return GradientReducer(self.task, self.process_group)

    @cached_property
    def scaling(self) -> LossScaling:
        """Loss scaling for fp16; without effect for other precisions."""
        optimizers = [optimizer for phase in self.task.phases for optimizer in phase.optimizers]
        asks = self.guard.asks_each_step or not can_decide_on_device(optimizers)
        return LossScaling(self.precision.scaler, asks, self.guard.describe)

    def compute(
        self, state: TrainerState, batch: Batch, step_scalars: Callable[[], StepScalars]
    ) -> bool:
        """Compute gradients, and update the weights, their EMA and the sums of the state.

        Args:
            state: State of the trainer.
            batch: All samples of the step that this rank has.
            step_scalars: Function that returns the scalars of this step. It is called once the
                gradients of the first phase are queued on the device.

        Returns:
            Whether the weights were updated; False too where only `scaling.drain` will know.
        """
        undo, scalars, sums = self._rollback(), None, []
        for phase in self.task.phases:
            weight = self._weight(batch, phase)
            add_gradients = partial(self._add_gradients, phase=phase, weight=weight)
            loss = self.process_group.all_reduce_sum(
                self.micro_batches.total(state, batch, add_gradients)
            )
            if scalars is None:
                scalars = step_scalars()
                groups = parameter_groups(self.task.phases)
                for group, rate in zip(groups, scalars.learning_rates, strict=True):
                    group["lr"] = rate
            norm = self._unscaled_norm(phase)
            if not self._is_finite(state, loss, norm):
                undo()
                self._zero_grad(self.task.phases)
                return False
            self._update(phase, norm)
            sums.append((phase.name, loss, weight, norm))
        assert scalars is not None
        self.ema.update(self.scaling.select(scalars.ema_weight, 0.0))
        for name, *values in sums:
            self._add_to_window(state, name, *values)
        state.skipped_in_a_row = 0
        return self.scaling.end(state.step + 1)

    def restart(self, step: int) -> None:
        """Forget undecided steps, after a checkpoint of this step has been restored."""
        self.guard.start(step)
        self.__dict__.pop("scaling", None)

    def _rollback(self) -> Callable[[], None]:
        """Return a function that restores everything that the step changes until it is refused."""
        several = self.precision.scaler.is_enabled() and len(self.task.phases) > 1
        if self.settings.on_nonfinite == "skip" or (several and self.scaling.asks_each_step):
            return StepRollback(self.task, len(self.task.phases) - 1)
        return lambda: None

    def _weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """Return the weight of the batch over all ranks."""
        weight = self.task.weight(batch, phase)
        if batch.global_size is None or self.process_group.world_size == 1:
            return weight
        if isinstance(weight, int):
            return weight * batch.global_size // len(batch)
        return self.process_group.all_reduce_sum(weight * batch.is_real)

    def _add_gradients(self, part: Batch, last: bool, phase: Phase, weight: Tensor | int) -> Tensor:
        """Accumulate the gradients of a micro-batch, and return its summed loss."""
        with self.reducer.synchronized(phase, last):
            with self.precision.autocast():
                loss = self.reducer.loss(part, phase)
            self.reducer.backward(self.precision.scaler.scale(loss / weight))
        return loss.detach()

    def _unscaled_norm(self, phase: Phase) -> Tensor:
        """Divide the gradients of a phase by the loss scale, and return their norm."""
        gradients = [p.grad for p in self._parameters[phase.name] if p.grad is not None]
        self.scaling.unscale(gradients)
        return full_tensor(total_norm(gradients))

    def _is_finite(self, state: TrainerState, loss: Tensor, norm: Tensor) -> bool:
        """Return False where the loss or the gradients are known not to be finite."""
        # Scaled gradients overflow now and then; that is expected and not an error of the run.
        value = loss if self.precision.scaler.is_enabled() else loss + norm
        return self.guard.allows(state, value) and self.scaling.allows(norm, state.step + 1)

    def _update(self, phase: Phase, norm: Tensor) -> None:
        """Clip the gradients and step the optimizers."""
        if phase.clip_norm is not None:
            clip_grads_with_norm_(self._parameters[phase.name], phase.clip_norm, norm)
        for optimizer in phase.optimizers:
            self.scaling.step(optimizer, is_last=phase is self.task.phases[-1])
        self._zero_grad([phase])

    def _add_to_window(
        self,
        state: TrainerState,
        phase: str,
        loss: Tensor,
        weight: Tensor | int,
        gradient_norm: Tensor,
    ) -> None:
        """Add the step to the sums of its phase, unless its gradients have overflowed."""
        before = state.windows.get(phase, Window()).gradient_norm
        state.add(
            phase,
            self.scaling.select(loss, 0.0),
            self.scaling.select(weight, 0),
            self.scaling.select(gradient_norm, before),
        )

    def _zero_grad(self, phases: Iterable[Phase]) -> None:
        for phase in phases:
            for optimizer in phase.optimizers:
                optimizer.zero_grad()
