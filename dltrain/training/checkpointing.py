"""Snapshots of a trainer, and checkpoints that a background thread writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Len
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from dltrain.checkpoints.background import BackgroundWriter
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.snapshot import (
    Snapshot,
    num_bytes,
    pack_optimizers,
    read_on_main,
    unpack_optimizers,
)
from dltrain.checkpoints.store import CheckpointStore
from dltrain.checkpoints.untrusted_json import Count, typed_dict_of, validated
from dltrain.core.data_spec import DataSpec, spec_to_json
from dltrain.core.errors import RunError
from dltrain.core.protocols import ProcessGroup
from dltrain.core.task import Task
from dltrain.data.seeding import derive_seed
from dltrain.distributed.fsdp import gather_to_main, load_full_state_dict
from dltrain.loggers.base import Logger
from dltrain.training.checkpoint_checks import check_optimizers, check_random_states, check_tensors
from dltrain.training.device import random_state, seed_everything, set_random_state
from dltrain.training.ema import ExponentialMovingAverage
from dltrain.training.runtime import Runtime
from dltrain.training.state import TrainerState


class _Window(TypedDict):
    loss: float
    weight: float
    gradient_norm: float


class _Scaler(TypedDict):
    scale: Annotated[float, Field(gt=0)]
    growth_factor: Annotated[float, Field(gt=1)]
    backoff_factor: Annotated[float, Field(gt=0, lt=1)]
    growth_interval: Annotated[int, Field(gt=0)]
    _growth_tracker: Count


_Best = Annotated[list[int | float], Len(2, 2)]
_Slice = Annotated[int, Field(gt=0)]


class _State(TypedDict):
    trainer: typed_dict_of(
        TrainerState,
        windows=dict[str, _Window],
        best=_Best | None,
        micro_batch=_Slice | None,
        seconds=Annotated[float, Field(ge=0)],
    )  # pyright: ignore
    scaler: dict[str, Any]
    recorders: dict[str, dict[str, Any]]
    spec: dict[str, Any]


class CheckpointManager:
    """Saves and restores the state of a trainer.

    Rank 0 writes checkpoints in a background thread. An error of the thread is raised by the next
    call of `check`, `wait` or `save`.

    Args:
        task: Task with the model and the optimizers.
        spec: Specification of the data, which is saved in each checkpoint.
        ema: Exponential moving average of the weights.
        runtime: Gradient scaler, and ranks that train together.
        loggers: Loggers with a position to save and to restore.
        checkpoints: Store in which checkpoints are saved.
    """

    def __init__(
        self,
        task: Task,
        spec: DataSpec,
        ema: ExponentialMovingAverage,
        runtime: Runtime,
        loggers: Sequence[Logger],
        checkpoints: CheckpointStore,
    ) -> None:
        self.task = task
        self.spec = spec
        self.ema = ema
        self.scaler: torch.amp.GradScaler = runtime.precision.scaler
        self.loggers = loggers
        self.store = checkpoints
        self.process_group: ProcessGroup = runtime.process_group
        self._background = BackgroundWriter()
        self.check: Callable[[], None] = self._background.check
        self.drain: Callable[[], None] = self._background.drain
        self.wait: Callable[[], None] = self._background.wait

    def save(self, snapshot: Snapshot) -> None:
        """Copy a snapshot to the CPU and start to write it, once the one before is written."""
        self.wait()
        if self.process_group.is_main:
            self._background.submit(partial(self._write, snapshot.to_cpu_copy()))

    def _write(self, snapshot: Snapshot) -> None:
        for logger in self.loggers:
            logger.sync()
        self.store.save(snapshot.state["trainer"]["step"], snapshot)

    def mark_best(self, metric: str, higher: bool, value: float, step: int) -> None:
        """Record that the checkpoint of this step is the best so far."""
        if self.process_group.is_main:
            self._background.submit(partial(self.store.mark_best, step, metric, value, higher))

    def best(self) -> Path | None:
        """Wait for the background thread, and return the result of `CheckpointStore.best`."""
        self.wait()
        return self.process_group.broadcast_object(self.store.best)

    def describe(self) -> str:
        """Wait for the background thread, and return the result of `CheckpointStore.describe`."""
        self.drain()
        return self.store.describe()

    def snapshot(self, state: TrainerState) -> Snapshot:
        """Return everything that `restore` needs. Device sync."""
        main = self.process_group.is_main
        return Snapshot(
            model=gather_to_main(self.task.model.state_dict(), main),
            averaged=gather_to_main(self.ema.tensors, main),
            optimizer=gather_to_main(pack_optimizers(self.task.phases), main),
            rng=self._random_states(),
            state={
                "trainer": state.to_json(),
                "scaler": self.scaler.state_dict(),
                "recorders": {type(r).__name__: r.position() for r in self.loggers},
                "spec": spec_to_json(self.spec),
            },
        )

    def restore(self, snapshot: Snapshot) -> TrainerState:
        """Verify a snapshot, restore everything and return the trainer's state.

        Raises:
            ValueError: The snapshot belongs to another model, or is damaged; nothing was restored.
        """
        self._check_weights(snapshot)
        check_optimizers(self.task.phases, snapshot.optimizer)
        check_random_states(snapshot.rng)
        validated(snapshot.state, _State)
        if snapshot.state["scaler"]:
            validated(snapshot.state["scaler"], _Scaler)
        load_full_state_dict(self.task.model, snapshot.model)
        self.ema.load(snapshot.averaged)
        unpack_optimizers(self.task.phases, snapshot.optimizer)
        self._set_random_states(snapshot.rng, snapshot.state["trainer"]["step"])
        if snapshot.state["scaler"]:  # empty without loss scaling, as on a CPU
            self.scaler.load_state_dict(snapshot.state["scaler"])
        positions = snapshot.state["recorders"]
        for logger in self.loggers:
            if type(logger).__name__ in positions:  # otherwise the logger is new
                logger.restore(positions[type(logger).__name__])
        return TrainerState.from_json(snapshot.state["trainer"])

    def _check_weights(self, snapshot: Snapshot) -> None:
        check_tensors("model", snapshot.model, self.task.model.state_dict())
        check_tensors("averaged weights", snapshot.averaged, self.ema.tensors)

    def _random_states(self) -> dict[str, Tensor]:
        """Return the random states of all ranks; names of ranks above 0 begin with `rank1/` etc."""
        states = self.process_group.all_gather_object(
            random_state(this_gpu=self.process_group.world_size > 1)
        )
        others = {
            f"rank{rank}/{name}": state
            for rank, own in enumerate(states[1:], start=1)
            for name, state in own.items()
        }
        return {**states[0], **others}

    def _set_random_states(self, states: Mapping[str, Tensor], step: int) -> None:
        """Restore the random states of this rank; a rank without any gets a new seed."""
        rank = self.process_group.rank_slice.rank
        prefix = f"rank{rank}/" if rank else ""
        own = {n.removeprefix(prefix): s for n, s in states.items() if n.startswith(prefix)}
        set_random_state(own or states)
        if not own:
            seed_everything(derive_seed(torch.initial_seed(), rank, step))

    @contextmanager
    def weights_of(self, path: Path | None) -> Iterator[None]:
        """Load the weights of a checkpoint inside the context; None changes nothing."""
        if path is None:
            yield
            return
        now = {name: tensor.clone() for name, tensor in self.task.model.state_dict().items()}
        averaged = {name: tensor.clone() for name, tensor in self.ema.tensors.items()}
        size = num_bytes(now)
        snapshot = read_on_main(self.process_group, lambda: load_checkpoint(path, size))
        try:
            self._check_weights(snapshot)
        except ValueError as error:
            raise RunError(f"{path}: {error}") from error
        load_full_state_dict(self.task.model, snapshot.model)
        self.ema.load(snapshot.averaged)
        try:
            yield
        finally:
            self.task.model.load_state_dict(now)
            self.ema.load(averaged)
