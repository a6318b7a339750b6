"""Whether a model can train on a slice of one sample, where some step will have one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch.nn.modules.batchnorm import _NormBase

from dltrain.core.batch import Batch
from dltrain.distributed.batch_norm import GroupBatchNorm
from dltrain.distributed.fsdp import is_sharded
from dltrain.training.rollback import StepRollback
from dltrain.training.trainer import Trainer


def single_sample_error(trainer: Trainer) -> str | None:
    """What the model says of the smallest slice that training will have; None where all is well.

    Only slices of one sample are tried: the rest of the training split, or of a rank's shard or a
    micro-batch, and only with models that normalize over samples: trying is one more forward pass,
    which a model may count. The trainer is left as it was. All ranks call this together.
    """
    if not any(isinstance(module, _NormBase) for module in trainer.task.model.modules()):
        return None
    for size in _batch_sizes(trainer):
        lone = trainer.micro_batches.parts(_batch(trainer, size))[-1]  # none is smaller
        if not trainer.process_group.all_reduce_max(int(len(lone) == 1)):
            continue
        error = _failure(trainer, lone)
        if error is None:
            continue
        more = _batch(trainer, 2 * trainer.process_group.world_size)
        # A model that fails on more samples as well does so for another reason.
        if len(more) == 1 or _failure(trainer, more) is None:
            return f"{_described(trainer, size)}, which the model can't train on: {error}"
    return None


def _batch_sizes(trainer: Trainer) -> Iterator[int]:
    """Sizes of the batches of an epoch."""
    samples, size = len(trainer.data.train), trainer.settings.batch_size
    full, rest = divmod(samples, size)
    steps = min(trainer.steps_per_epoch, trainer.total_steps)
    if full:
        yield size
    if rest and steps > full:
        yield rest


def _batch(trainer: Trainer, size: int) -> Batch:
    """This rank's shard of a batch of so many samples."""
    batches = trainer.data.train.batches(size, epoch=0, rank_slice=trainer.process_group.rank_slice)
    batch = next(iter(batches))
    batch.step = trainer.state.step
    return batch


def _failure(trainer: Trainer, part: Batch) -> str | None:
    undo, task = StepRollback(trainer.task), trainer.task
    training = task.model.training
    task.model.train()
    for module in task.model.modules():
        if isinstance(module, GroupBatchNorm):
            module.counts = part.is_real
    sharded = any(is_sharded(phase.module) for phase in task.phases)
    try:
        with torch.no_grad() if sharded else nullcontext(), trainer.precision.autocast():
            for phase in task.phases:
                task.loss(part, phase)
    except Exception as error:  # a model may raise anything
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    finally:
        task.model.train(training)
        undo()
    return None


def _described(trainer: Trainer, size: int) -> str:
    """Where the slice of one sample comes from."""
    samples, batch_size = len(trainer.data.train), trainer.settings.batch_size
    if size == batch_size == 1:
        return "each batch has one sample"
    last = f"the last batch of each epoch has {size} of {samples} samples"
    where = last if size < batch_size else f"a batch has {size} samples"
    if size == 1:
        return f"{where} (batches of {batch_size})"
    shares = (
        f" on {trainer.process_group.world_size} ranks"
        if trainer.process_group.world_size > 1
        else ""
    )
    micro = trainer.micro_batches.size
    slices = f" in slices of {micro}" if micro is not None else ""
    return f"{where}{shares}{slices}, so that one sample is left alone"
