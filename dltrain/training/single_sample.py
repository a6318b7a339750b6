"""Check whether a model can train on a slice of one sample, where some step will have one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch.nn.modules.batchnorm import _NormBase

from dltrain.config.settings import TrainSettings
from dltrain.core.batch import Batch
from dltrain.core.errors import print_warning
from dltrain.core.protocols import Data, ProcessGroup
from dltrain.core.task import Task
from dltrain.distributed.batch_norm import GroupBatchNorm
from dltrain.distributed.fsdp import is_sharded
from dltrain.training.micro_batches import MicroBatches
from dltrain.training.rollback import StepRollback
from dltrain.training.runtime import Runtime


def single_sample_error(
    settings: TrainSettings, data: Data, task: Task, runtime: Runtime
) -> str | None:
    """Return the model's error on the smallest slice that training will have; None without one.

    Only slices of one sample are tried: the rest of the training split, or of a rank's shard or a
    micro-batch, and only with models that normalize over samples: trying is one more forward pass,
    which a model may count. The task is left unchanged. All ranks call this together.
    """
    if not any(isinstance(module, _NormBase) for module in task.model.modules()):
        return None
    group = runtime.process_group
    slices = MicroBatches(settings.micro_batch, task, print_warning, group.rank_slice)
    for size in _batch_sizes(settings, len(data.train)):
        single = slices.parts(_batch(data, size, group))[-1]  # none is smaller
        if not group.all_reduce_max(int(len(single) == 1)):
            continue
        error = _failure(task, single, runtime)
        if error is None:
            continue
        more = _batch(data, 2 * group.world_size, group)
        # A model that fails on more samples as well does so for another reason.
        if len(more) == 1 or _failure(task, more, runtime) is None:
            place = _describe(settings, len(data.train), size, slices.size, group.world_size)
            return f"{place}, which the model can't train on: {error}"
    return None


def _batch_sizes(settings: TrainSettings, samples: int) -> Iterator[int]:
    """Yield the sizes of the batches in an epoch."""
    full, rest = divmod(samples, settings.batch_size)
    steps = min(settings.steps_per_epoch(samples), settings.total_steps(samples))
    if full:
        yield settings.batch_size
    if rest and steps > full:
        yield rest


def _batch(data: Data, size: int, process_group: ProcessGroup) -> Batch:
    """Return this rank's shard of a batch of `size` samples."""
    batch = next(iter(data.train.batches(size, epoch=0, rank_slice=process_group.rank_slice)))
    batch.step = 0
    return batch


def _failure(task: Task, part: Batch, runtime: Runtime) -> str | None:
    """Return the error of a forward pass in training mode, which is undone; None without one."""
    undo, training = StepRollback(task), task.model.training
    task.model.train()
    for module in task.model.modules():
        if isinstance(module, GroupBatchNorm):
            module.counts = part.is_real
    sharded = any(is_sharded(phase.module) for phase in task.phases)
    try:
        with torch.no_grad() if sharded else nullcontext(), runtime.precision.autocast():
            for phase in task.phases:
                task.loss(part, phase)
    except Exception as error:  # a model may raise anything
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    finally:
        task.model.train(training)
        undo()
    return None


def _describe(
    settings: TrainSettings, samples: int, size: int, micro_batch: int | None, world_size: int
) -> str:
    """Describe where the slice of one sample comes from."""
    batch_size = settings.batch_size
    if size == batch_size == 1:
        return "each batch has one sample"
    last = f"the last batch of each epoch has {size} of {samples} samples"
    where = last if size < batch_size else f"a batch has {size} samples"
    if size == 1:
        return f"{where} (batches of {batch_size})"
    ranks = f" on {world_size} ranks" if world_size > 1 else ""
    slices = f" in slices of {micro_batch}" if micro_batch is not None else ""
    return f"{where}{ranks}{slices}, so that one sample is left alone"
