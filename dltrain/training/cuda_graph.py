"""Training steps as CUDA graphs: recorded once, and replayed with one call.

Everything that changes from step to step is read from memory on the device: the indices of the
samples, the epoch and the learning rates. Those of a whole epoch are copied there before its first
step. See docs.nvidia.com/cuda, "CUDA Graphs", and "CUDA Graphs" in torch's notes on CUDA semantics.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dltrain.config.settings import TrainSettings
from dltrain.core.batch import Batch
from dltrain.core.errors import RunError, describe_error
from dltrain.core.protocols import ProcessGroup, Split
from dltrain.core.task import Task
from dltrain.data.in_memory import to_device
from dltrain.training.device import Precision
from dltrain.training.state import TrainerState, Window
from dltrain.training.step import StepScalars, parameter_groups

WARM_UP_STEPS = 3
"""Number of steps per batch size that run eagerly before one is recorded, to warm libraries up."""

KNOWN_CODE = ("dltrain.", "torch.", "torchvision.")
"""Packages whose Python code is known to do the same at each step."""


ComputeStep = Callable[[TrainerState, Batch, Callable[[], StepScalars]], bool]
"""See `OptimizerStep.compute`."""


@runtime_checkable
class IndexableSplit(Split, Protocol):
    """A split with all samples on the device, so that batches can be made in a CUDA graph."""

    def epoch_order(self, epoch: int) -> Tensor:
        """Return the order of the samples in a training epoch, (samples,) int64, on the device."""
        ...

    def gather(self, index: Tensor, epoch: int | Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a training batch, as `batches` does.

        Args:
            index: (batch,) int64, indices of the samples, on the device.
            epoch: The training epoch; an int64 scalar on the device causes no device sync.
        """
        ...


def cuda_graph_blocker(
    settings: TrainSettings,
    precision: Precision,
    task: Task,
    split: Split,
    device: torch.device,
    process_group: ProcessGroup,
) -> str | None:
    """Return why steps can't be recorded; None if they can."""
    optimizers = [optimizer for phase in task.phases for optimizer in phase.optimizers]
    loss = task.loss_function
    modules = (*task.model.modules(), *(() if loss is None else loss.modules()))
    kinds = {type(part) for part in (task, split, *modules, *optimizers)}
    foreign = sorted(k.__qualname__ for k in kinds if not k.__module__.startswith(KNOWN_CODE))
    on_device = all(map(_on_device, optimizers))
    reasons = [
        (device.type != "cuda", f"it needs a CUDA device, and this is {device.type!r}"),
        (process_group.world_size > 1, "ranks exchange gradients"),
        (precision.scaler.is_enabled(), "with fp16 each step checks whether gradients overflow"),
        (settings.on_nonfinite == "skip", "'on_nonfinite: skip' checks the loss of each step"),
        (
            settings.micro_batch == "auto",
            "'micro_batch: auto' may change the size of micro-batches",
        ),
        (not isinstance(split, IndexableSplit), "the samples are not in memory on the device"),
        (not on_device, "the optimizer keeps its step counter or its learning rate on the CPU"),
        (
            bool(foreign) and settings.cuda_graph != "on",
            f"the Python code of {', '.join(foreign)} may differ between steps; "
            "train.cuda_graph=on declares that it does not",
        ),
    ]
    return next((reason for holds, reason in reasons if holds), None)


def _on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer can read step counter and learning rate on the device."""
    groups = optimizer.param_groups
    return all("capturable" in group or group.get("fused") for group in groups)


def make_optimizers_capturable(task: Task) -> None:
    """Make optimizers keep their step counters on the device; call this before loading a state."""
    for group in parameter_groups(task.phases):
        if "capturable" in group:
            group["capturable"] = True


class GraphRecorder:
    """Runs and records steps on a separate CUDA stream.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: torch.cuda.Stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], None]) -> str:
        """Run a function, and return warnings about its device syncs; empty if there are none."""
        current, mode = torch.cuda.current_stream(self.device), torch.cuda.get_sync_debug_mode()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        current.wait_stream(self.stream)
        return "; ".join(str(w.message) for w in caught if "synchronizing" in str(w.message))

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record a function without running it, and return a function that replays it.

        On an error, the current stream and the random generator are restored.
        """
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        generator = torch.cuda.default_generators[current.device_index]
        state = generator.clone_state()
        try:
            # Other threads, such as the one that writes checkpoints, may use CUDA meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                work()
        except Exception:
            # A failed recording leaves its stream current, and the generator in capture mode.
            torch.cuda.set_stream(current)
            generator.graphsafe_set_state(state)
            torch.cuda.synchronize(self.device)
            raise
        return graph.replay


class StepGraph:
    """Runs training steps on samples in device memory, as CUDA graphs where possible.

    Args:
        task: Task whose optimizers were given to `make_optimizers_capturable`.
        split: Training split.
        batch_size: Samples per step; a smaller last batch of an epoch gets its own graph.
        compute: See `OptimizerStep.compute`.
        step_scalars: Function that returns the scalars of a step from the number of updates before.
        state: State of the trainer.
        refuse: Function that receives the reason if a step can't be recorded; steps then run
            without a graph.
    """

    def __init__(
        self,
        task: Task,
        split: IndexableSplit,
        batch_size: int,
        compute: ComputeStep,
        step_scalars: Callable[[int], StepScalars],
        state: TrainerState,
        refuse: Callable[[str], None],
    ) -> None:
        self.task = task
        self.split = split
        self.batch_size = batch_size
        self.state = state
        self.compute = compute
        self.step_scalars = step_scalars
        self.refuse = refuse
        self.groups: list[dict[str, Any]] = parameter_groups(task.phases)
        order = split.epoch_order(0)
        device = order.device
        self._order, self._epoch = order, torch.zeros((), dtype=torch.int64, device=device)
        # Positions in the order, row of the table, and step; all of them advance at each step.
        self._position = torch.zeros(batch_size + 2, dtype=torch.int64, device=device)
        self._motion = torch.ones_like(self._position)
        self._motion[:batch_size] = batch_size
        steps = -(-len(order) // batch_size)
        self._table = torch.zeros(steps, len(self.groups) + 1, device=device)
        self._windows = {phase.name: Window() for phase in task.phases}
        self._recorder = GraphRecorder(device)
        self._shapes: dict[int, _Shape] = {}
        self._refused = False

    @classmethod
    def create(
        cls,
        task: Task,
        split: Split,
        settings: TrainSettings,
        blocker: str | None,
        compute: ComputeStep,
        step_scalars: Callable[[int], StepScalars],
        state: TrainerState,
        log_message: Callable[[str], None],
    ) -> StepGraph | None:
        """Return a graph of a step, or None where `train.cuda_graph` is off or it is impossible.

        Args:
            task: See `StepGraph`, also for arguments that are not listed here.
            split: Training split.
            settings: Settings of training.
            blocker: Result of `cuda_graph_blocker`.
            log_message: Function that shows why steps run without a graph.

        Raises:
            RunError: `train.cuda_graph` is on, and a graph is impossible.
        """

        def refuse(reason: str) -> None:
            if settings.cuda_graph == "on":
                raise RunError(f"train.cuda_graph=on: {reason}")
            log_message(f"no CUDA graph: {reason}")

        if settings.cuda_graph == "off":
            return None
        if blocker is not None:
            refuse(blocker)
            return None
        assert isinstance(split, IndexableSplit)
        return cls(task, split, settings.batch_size, compute, step_scalars, state, refuse)

    def steps(self, epoch: int, offset: int) -> Iterator[Callable[[], None]]:
        """Iterate over the steps of an epoch, from number `offset` on, as functions to call."""
        sizes = [len(part) for part in self._order.split(self.batch_size)][offset:]
        updates = self.state.updates
        plan = [self.step_scalars(updates + number) for number in range(len(sizes))]
        device = self._order.device
        rows = torch.tensor([[*numbers.learning_rates, numbers.ema_weight] for numbers in plan])
        places = torch.arange(self.batch_size) + offset * self.batch_size
        counters = torch.tensor([0, self.state.step])
        self._order.copy_(self.split.epoch_order(epoch))
        self._epoch.fill_(epoch)
        self._table[: len(rows)] = to_device(rows, device)
        self._position.copy_(to_device(torch.cat([places, counters]), device))
        for size, numbers in zip(sizes, plan, strict=True):
            yield partial(self._take, size, numbers)

    def _take(self, size: int, numbers: StepScalars) -> None:
        shape = self._shapes.get(size)
        if shape is None:
            shape = self._shapes[size] = _Shape(
                partial(self._work, size), self._recorder, self._refuse
            )
        self._use_fixed_windows()
        shape(list(self._windows.values()), records=not self._refused)
        self.state.step += 1
        self.state.updates += 1
        for group, rate in zip(self.groups, numbers.learning_rates, strict=True):
            group["lr"] = rate

    def _refuse(self, reason: str) -> None:
        """Run all further steps without a graph, and report the reason once."""
        self._refused = True
        for phase in self.task.phases:
            for optimizer in phase.optimizers:
                optimizer.zero_grad()  # a failed recording may have set gradients
        self.refuse(reason)

    def _work(self, size: int) -> None:
        """Compute a step from the values on the device; this is what a graph records."""
        index = self._order.index_select(0, self._position[:size])
        row, step = self._position[self.batch_size :].split(1)
        *rates, average = self._table.index_select(0, row)[0].unbind()
        batch = Batch(*self.split.gather(index, self._epoch), index, step=step[0])
        self.compute(self.state, batch, lambda: StepScalars(rates, average))
        self._position.add_(self._motion)

    def _use_fixed_windows(self) -> None:
        """Put windows with fixed memory into the state, with the sums that it has so far."""
        for phase, window in self._windows.items():
            now = self.state.windows.get(phase, Window())
            if now is not window:
                window.set(now)
                self.state.windows[phase] = window


class _Shape:
    """Steps with batches of one size: the first ones run eagerly, the others are replayed."""

    def __init__(
        self,
        work: Callable[[], None],
        recorder: GraphRecorder,
        refuse: Callable[[str], None],
    ) -> None:
        self.work, self.recorder, self.refuse = work, recorder, refuse
        self.warm_up: float = WARM_UP_STEPS
        self.replay: Callable[[], None] | None = None
        self.added: list[tuple[float, Tensor | float]] = []

    def __call__(self, windows: Sequence[Window], records: bool) -> None:
        """Run a step; `records` is whether it may be recorded."""
        if not records:
            self.replay = None
            self.recorder.run(self.work)
        elif self.replay is not None:
            self.replay()
            # A replay does not repeat what Python adds to plain numbers.
            for window, (weight, norm) in zip(windows, self.added, strict=True):
                if not isinstance(window.weight, Tensor):
                    window.weight += weight
                window.gradient_norm = norm
        elif self.warm_up > 0:
            self.warm_up -= 1
            waits = self.recorder.run(self.work)
            if waits and self.warm_up <= 0:
                self.refuse("an operation of the step synchronizes with the device: " + waits)
        else:
            self._record(windows)

    def _record(self, windows: Sequence[Window]) -> None:
        """Record the step and replay it; on an error, run it without a graph."""
        before = [replace(window) for window in windows]
        try:
            replay = self.recorder.record(self.work)
        except Exception as error:  # libraries, drivers and models may raise anything
            for window, old in zip(windows, before, strict=True):
                vars(window).update(vars(old))
            self.refuse(f"a step can't be recorded: {describe_error(error).partition(chr(10))[0]}")
            self.recorder.run(self.work)
            return
        self.replay = replay
        self.replay()
        self.added = [
            (0.0 if isinstance(w.weight, Tensor) else w.weight - float(old.weight), w.gradient_norm)
            for w, old in zip(windows, before, strict=True)
        ]
