"""The final state of a run, `summary.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from typing_extensions import TypedDict

from dltrain.checkpoints.untrusted_json import Count, typed_dict_of
from dltrain.rundir.provenance import DataRecord

Status = Literal["done", "stopped", "pruned", "failed"]


class Best(TypedDict):
    """The best checkpoint: the metric that selected it, its value and its step."""

    metric: str
    value: float
    step: Count


class StoppedEarly(TypedDict):
    """Step and reason of early stopping; values that were not finite are None."""

    step: Count
    metric: str
    value: float | None
    best: float | None
    patience: Count
    min_delta: float


@dataclass(frozen=True)
class Summary:
    """Final state of a run; the content of `summary.json`, whose keys are stable.

    Attributes:
        run: The run directory.
        status: `done`, `stopped` by a signal, `pruned` by a sweep, or `failed`.
        step: Number of steps taken.
        epoch: Number of passes over the training split.
        seconds: Time spent on training, over all processes that worked on the run.
        samples_per_second: Throughput over that time, which includes evaluation and checkpoints.
        peak_memory_bytes: Peak memory of the process, or of the GPU's allocator.
        metrics: Last value of each scalar; None where it was not finite.
        best: `metric`, `value` and `step` of the best checkpoint, if one is selected.
        best_metrics: Validation metrics of the best checkpoint; `metrics` has the last ones.
        tested_weights: Weights that the test split was evaluated with: the name of a checkpoint,
            `averaged` or `final`.
        skipped_steps: Number of steps skipped because a loss or gradient was not finite.
        stopped_early: `step`, `metric`, `value`, `best`, `patience` and `min_delta` if early
            stopping ended the training; `value` is that of the last evaluation.
        data: `name`, `source`, sizes of the splits, `fingerprint`, and `notices` of the source.
        weights_sha256: Hash of the final weights' names, dtypes, shapes and bytes.
        error: Reason of a failure.
    """

    run: str
    status: Status
    step: int
    epoch: float
    seconds: float
    samples_per_second: float
    peak_memory_bytes: int
    metrics: dict[str, float | None]
    best: dict[str, Any] | None
    best_metrics: dict[str, float | None]
    tested_weights: str | None
    skipped_steps: int
    stopped_early: dict[str, Any] | None
    data: dict[str, Any]
    weights_sha256: str
    error: str | None = None

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


SUMMARY_FILE = typed_dict_of(
    Summary,
    best=Best | None,
    stopped_early=StoppedEarly | None,
    data=DataRecord,
)
"""The types of `summary.json`."""
