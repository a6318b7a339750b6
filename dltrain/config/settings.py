"""Settings of one value each: the sections of a config that are not components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dltrain.core.option_types import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)

Duration = Annotated[
    str,
    Field(
        pattern=r"^[1-9][0-9]{0,17} (step|steps|epoch|epochs)$",
        description="a length such as '1 epoch' or '500 steps'",
    ),
]
Device = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?)$",
        description="one of auto, cpu, mps, cuda, cuda:N",
        examples=["auto", "cpu", "mps", "cuda"],
    ),
]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "fp64"]


def steps_in(duration: str, steps_per_epoch: int) -> int:
    """A `Duration` in steps."""
    count, unit = duration.split()
    return int(count) * (steps_per_epoch if unit.startswith("epoch") else 1)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How long and how to train.

    Attributes:
        epochs: Passes over the training split. Give this or `steps`.
        steps: Optimizer steps, instead of `epochs`.
        batch_size: Samples an optimizer step.
        drop_last: Leave out the last batch of an epoch where it is smaller than `batch_size`. Which
            samples it has differs from epoch to epoch.
        micro_batch: Largest slice of a batch that goes through the model at once; the gradients are
            those of the whole batch. Saves memory. auto begins with the whole batch and halves the
            slices whenever the memory is full.
        evaluate: How often to evaluate on the validation split.
        evaluate_batch_size: Samples at once in evaluation, `batch_size` if not given; changes no
            figure.
        device: auto takes a GPU if there is one.
        precision: auto is bf16 on GPUs that have it, fp16 with loss scaling on older ones, fp32 on
            a CPU.
        matmul_precision: Of float32 matrix products on a GPU with tensor cores: highest computes in
            float32, high in TF32, which is faster and keeps 10 bits of the mantissa, medium in
            bf16.
        deterministic: Refuse operations that have no deterministic form; slower on a GPU.
        clip_norm: Scale gradients down to this total norm.
        ema: Keep an exponential moving average of the weights with this decay; it is what is
            evaluated.
        on_nonfinite: What a loss or gradient that is not finite does: stop the run, or skip the
            step, which undoes all that the step has changed: weights, buffers and random states,
            in all phases. To skip, a GPU is waited for at each step.
        max_skipped: Maximum number of consecutive steps that `on_nonfinite: skip` skips; one more
            fails the run.
        overfit: Train on the first N batches only, to see whether the model can learn them.
        compile: Compile the model with torch.compile.
        cuda_graph: On a CUDA device, record the whole step once and repeat it with one call, which
            takes the cost of Python and of each launch away. auto does so where it is known to be
            possible, and says why where not; on also for components of your own, whose Python
            code then runs for the first steps only, and is an error where it is not possible.
        keep_memory: On a CPU under Linux with glibc, keep large freed blocks for the next step
            instead of giving them back to the system; changes no figure.
        distributed: Where several processes train together, ddp gives each the whole model, and
            fsdp a part of it, for models beyond one device.
        timeout: Seconds that a process waits for the others before the run fails.
    """

    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 128
    drop_last: bool = False
    micro_batch: PositiveInt | Literal["auto"] | None = None
    evaluate: Duration = "1 epoch"
    evaluate_batch_size: PositiveInt | None = None
    device: Device = "auto"
    precision: PrecisionName = "auto"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    deterministic: bool = False
    clip_norm: PositiveFloat | None = None
    ema: Probability | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: PositiveInt = 20
    overfit: PositiveInt | None = None
    compile: bool = False
    cuda_graph: Literal["auto", "on", "off"] = "off"
    keep_memory: bool = True
    distributed: Literal["ddp", "fsdp"] = "ddp"
    timeout: Annotated[float, Field(gt=0, le=86400)] = 600.0

    def batches_per_epoch(self, num_samples: int) -> int:
        """Return the number of batches that a training split of this size gives."""
        full, rest = divmod(num_samples, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def steps_per_epoch(self, num_samples: int) -> int:
        """Return the number of optimizer steps in an epoch."""
        batches = self.batches_per_epoch(num_samples)
        return min(batches, self.overfit or batches)

    def total_steps(self, num_samples: int) -> int:
        """Return the number of optimizer steps of the whole run."""
        return self.steps or (self.epochs or 0) * self.steps_per_epoch(num_samples)

    @property
    def samples_at_once(self) -> int:
        """In evaluation."""
        return self.evaluate_batch_size or self.batch_size


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """What is kept.

    Attributes:
        every: How often to save.
        keep: How many of the newest to keep, beside the best.
        best: The scalar that chooses the best checkpoint, such as `val/accuracy`.
    """

    every: Duration = "1 epoch"
    keep: PositiveInt = 3
    best: str | None = None


@dataclass(frozen=True, kw_only=True)
class EarlyStopSettings:
    """When to stop before the end.

    Attributes:
        monitor: The scalar to watch, such as `val/loss`.
        patience: How many evaluations without a better value to bear.
        min_delta: What counts as better: by more than this.
    """

    monitor: str
    patience: PositiveInt = 5
    min_delta: NonNegativeFloat = 0.0


@dataclass(frozen=True, kw_only=True)
class RecordingSettings:
    """What is written while training.

    Attributes:
        log_every: Steps between two training scalars; the only time the device is waited for.
        tensorboard: Write TensorBoard's event files.
        histograms: Write histograms of weights at each evaluation.
        images: How many inputs to show with their predictions at each evaluation.
        embeddings: How many samples of the test split to show as points in TensorBoard's projector,
            once, after the test; false shows none. A point is what the model's last linear layer
            gets, or the output where it has none; of an autoencoder it is the code. More than 200
            numbers become 200, their principal components.
    """

    log_every: PositiveInt = 50
    tensorboard: bool = True
    histograms: bool = False
    images: NonNegativeInt = 16
    embeddings: PositiveInt | Literal[False] = False
