"""Settings: the sections of a config that are not components."""

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
        description="a duration such as '1 epoch' or '500 steps'",
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
    """Convert a `Duration` to steps."""
    count, unit = duration.split()
    return int(count) * (steps_per_epoch if unit.startswith("epoch") else 1)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Duration and method of training.

    Attributes:
        epochs: Number of passes over the training split. Give either this or `steps`.
        steps: Number of optimizer steps, instead of `epochs`.
        batch_size: Samples per optimizer step, over all processes.
        drop_last: Drop the last batch of an epoch if it is smaller than `batch_size`. The dropped
            samples differ from epoch to epoch.
        micro_batch: Maximum number of samples in one forward and backward pass. Gradients are
            accumulated over the full batch. Saves memory. auto starts with the full batch and
            halves the slices when out of memory.
        evaluate: Interval between evaluations on the validation split.
        evaluate_batch_size: Batch size of evaluations (default: `batch_size`). Does not affect
            results.
        device: Device to train on. auto selects a GPU if there is one.
        precision: Precision of forward and backward passes. auto is bf16 on GPUs that support it,
            fp16 with loss scaling on older GPUs, fp32 on a CPU.
        matmul_precision: Precision of float32 matrix products on a GPU with tensor cores: highest
            is float32, high is TF32, which is faster and has 10 bits of mantissa, medium is bf16.
        deterministic: Raise an error for operations without a deterministic implementation; slower
            on a GPU.
        clip_norm: Maximum total norm of the gradients.
        ema: Decay of an exponential moving average of the weights, which is then evaluated instead
            of the weights.
        on_nonfinite: How to handle a non-finite loss or gradient: stop the run, or skip the step
            and restore weights, buffers and random states of all phases. skip synchronizes with a
            GPU at each step.
        max_skipped: Maximum number of consecutive skipped steps with `on_nonfinite: skip`; one more
            fails the run.
        overfit: Train on the first N batches only, to see whether the model can fit them.
        compile: Compile the model with torch.compile.
        cuda_graph: Capture the whole training step as a CUDA graph and replay it, which removes the
            overhead of Python and of kernel launches. auto does so where it is known to be safe and
            logs the reason otherwise. on includes your own components, whose Python code then runs
            for the first steps only, and fails where capture is impossible.
        keep_memory: On a CPU under Linux with glibc, keep large freed blocks for the next step
            instead of returning them to the system. Does not affect results.
        distributed: Strategy for several processes: ddp replicates the model, fsdp shards it, for
            models larger than one device.
        timeout: Seconds that a process waits for its peers before the run fails.
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
        """Return the batch size of evaluations."""
        return self.evaluate_batch_size or self.batch_size


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """Which checkpoints are saved and kept.

    Attributes:
        every: Interval between checkpoints.
        keep: Number of latest checkpoints to keep, in addition to the best one.
        best: Scalar that selects the best checkpoint, such as `val/accuracy`.
    """

    every: Duration = "1 epoch"
    keep: PositiveInt = 3
    best: str | None = None


@dataclass(frozen=True, kw_only=True)
class EarlyStopSettings:
    """When to stop early.

    Attributes:
        monitor: Scalar to monitor, such as `val/loss`.
        patience: Evaluations without improvement before stopping.
        min_delta: Minimum change that counts as an improvement.
    """

    monitor: str
    patience: PositiveInt = 5
    min_delta: NonNegativeFloat = 0.0


@dataclass(frozen=True, kw_only=True)
class RecordingSettings:
    """What is logged during training.

    Attributes:
        log_every: Steps between two logged training scalars. Only logging synchronizes with the
            device.
        tensorboard: Write event files for TensorBoard.
        histograms: Log histograms of the weights at each evaluation.
        images: Number of inputs to log with their predictions at each evaluation.
        embeddings: Number of test samples to log for TensorBoard's projector after the final test;
            false logs none. An embedding is the input of the model's last linear layer, or the
            output of a model without one; for an autoencoder it is the code. Embeddings of more
            than 200 dimensions are reduced to 200 principal components.
    """

    log_every: PositiveInt = 50
    tensorboard: bool = True
    histograms: bool = False
    images: NonNegativeInt = 16
    embeddings: PositiveInt | Literal[False] = False
