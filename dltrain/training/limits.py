"""What components and settings do not support, as an error at the line of the config."""

from __future__ import annotations

from dltrain.config import Experiment


def require_supported(experiment: Experiment, precision: str, world_size: int) -> None:
    """Check that components and settings support the precision and the number of processes.

    Args:
        experiment: The experiment to check.
        precision: Name of the precision that `train.precision` stands for on this device.
        world_size: Number of processes.

    Raises:
        ConfigError: A component declares a limit (`Registry.register`) that the run exceeds, or
            settings exclude each other.
    """
    train, is_fp16 = experiment.train, precision == "fp16"
    is_distributed = world_size > 1
    is_sharded = is_distributed and train.distributed == "fsdp"
    for path, choice in experiment.choices.items():
        limits = choice.component.limits
        for exceeded, reason, feature, hint in (
            (is_sharded, limits.fsdp, "FSDP", "set train.distributed: ddp"),
            (is_distributed, limits.distributed, "several processes", "train with one process"),
            (is_fp16, limits.fp16, "fp16", "set train.precision: fp32 or bf16"),
        ):
            if exceeded and reason:
                name = f"{choice.component.kind} {choice.name!r}"
                message = f"{name} does not support {feature}: {reason}; {hint}, or choose another"
                raise experiment.problem(path, message)
    if is_distributed and train.micro_batch == "auto":
        message = "'auto' needs a single process: ranks must not split batches differently"
        raise experiment.problem("train.micro_batch", f"{message}; give a number of samples")
    if is_sharded and is_fp16:
        message = "FSDP does not support the loss scaling of fp16; set train.precision: bf16"
        raise experiment.problem("train.precision", message)
    if is_sharded and experiment.recording.histograms:
        message = "FSDP does not support histograms, because no rank has all weights"
        raise experiment.problem("recording.histograms", f"{message}; set it to false")
