"""Measurements of scripts/gpu_check.py and time limits of its tests; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DEADLINE = "GPU_CHECK_DEADLINE"
"""Environment variable of the tests: Unix time in seconds by which they must end."""


@dataclass(frozen=True)
class Row:
    """One measurement, which runs in a separate process.

    Attributes:
        name: Unique name, the prefix of its figures.
        function: Name of a function of `bench.gpu` that yields figures.
        arguments: Keyword arguments of the function.
        seconds: Expected duration on an H100, including the start of the process; the measurement
            is not started if less time is left.
        limit: Seconds after which the process is killed.
        needs_mnist: Whether random images would make the figures meaningless.
    """

    name: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    seconds: float = 30.0
    limit: float = 90.0
    needs_mnist: bool = False


def _small(network: str, precision: str) -> Row:
    arguments = {"network": network, "precision": precision}
    return Row(f"{network} {precision}", "small_network", arguments, 25, 75)


def _trained(name: str, config: str, seconds: float, *overrides: str) -> Row:
    arguments = {"config": config, "overrides": overrides}
    return Row(name, "trained", arguments, seconds, 3 * seconds, needs_mnist=True)


_DETERMINISTIC = ("train.precision=bf16", "train.deterministic=true")

ROWS = (
    _small("mnist_mlp", "bf16"),
    _small("mnist_cnn", "bf16"),
    *(
        _trained(f"time to 99%, graph {g}", "mnist_fast", 20, f"train.cuda_graph={g}")
        for g in ("on", "off")
    ),
    Row("resnet18 bf16", "residual_network", {"compiled": False}, 30, 90),
    Row("gpt bf16", "transformer", {"compiled": False}, 30, 90),
    _small("mnist_mlp", "fp32"),
    _small("mnist_cnn", "fp32"),
    *(
        _trained(f"mnist_cnn accuracy {p}", "mnist_cnn", 20, f"train.precision={p}")
        for p in ("fp32", "bf16", "fp16")
    ),
    Row("resnet18 bf16 compiled", "residual_network", {"compiled": True}, 90, 180),
    Row("gpt bf16 compiled", "transformer", {"compiled": True}, 90, 180),
    *(
        _trained(
            f"mnist_cnn deterministic, graph {g}",
            "mnist_cnn",
            20,
            *_DETERMINISTIC,
            f"train.cuda_graph={g}",
        )
        for g in ("on", "off")
    ),
    Row("mnist_cnn lightning", "lightning", {}, 40, 120, needs_mnist=True),
)
"""Measurements, most valuable first, because the last ones are skipped if time runs out."""

SMOKE = "test_gpu_smoke.py"
"""File of tests/gpu that runs first and takes less than half a minute."""

_TEST_SECONDS = {"compile": 45.0, "process": 40.0, "evaluated_on_a_cpu": 40.0, "cpu_run": 30.0}
_TEST_LIMIT = 60.0


def seconds_of_test(name: str) -> float:
    """Return the expected duration of a test, including its fixtures."""
    return max((s for part, s in _TEST_SECONDS.items() if part in name), default=5.0)


def limit_of_test(name: str) -> float:
    """Return the seconds after which a test counts as hanging."""
    return max(_TEST_LIMIT, 3 * seconds_of_test(name))
