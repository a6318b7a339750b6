"""The content of a report: what is known about a run, before it becomes HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dltrain.core.data_spec import DataSpec
from dltrain.core.task import Figure
from dltrain.loggers.jsonl import Scalars
from dltrain.reporting.analysis import ClassificationAnalysis, RegressionAnalysis


@dataclass(frozen=True)
class Evaluation:
    """Results of a model on a split.

    Attributes:
        checkpoint: Name of the checkpoint with the weights.
        split: Name of the split.
        num_samples: Number of samples in it.
        spec: Spec of the data.
        metrics: Loss and metrics.
        analysis: Errors of the predictions; None for a task without predictions.
        figures: Figures of the task; empty for a task with predictions.
    """

    checkpoint: str
    split: str
    num_samples: int
    spec: DataSpec
    metrics: Mapping[str, float]
    analysis: ClassificationAnalysis | RegressionAnalysis | None
    figures: Sequence[Figure]


@dataclass(frozen=True)
class ReportedRun:
    """Everything that a report shows about one run.

    Attributes:
        directory: The run directory.
        state: State of the run, such as `done`.
        name: Name of the experiment; empty where the config can't be read.
        model: Name of the model; empty where the config can't be read.
        config: The resolved config, YAML.
        scalars: Contents of `metrics.jsonl`.
        summary: Contents of `summary.json`; empty where there is none.
        record: Contents of `record.json`; empty where there is none.
        num_parameters: Of the model; None where it can't be built.
        model_bytes: Of its parameters and buffers; None where it can't be built.
        evaluation: Results on a split; None where the run can't be evaluated.
        notes: Warnings to the reader.
    """

    directory: str
    state: str
    name: str
    model: str
    config: str
    scalars: Mapping[str, Scalars]
    summary: Mapping[str, Any]
    record: Mapping[str, Any]
    num_parameters: int | None = None
    model_bytes: int | None = None
    evaluation: Evaluation | None = None
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class DetailLevel:
    """Limits that keep a page small.

    Attributes:
        num_errors: Number of the largest errors to show.
        image_pixels: Longest side of an image.
        grid_pixels: Longest side of a grid of images.
    """

    num_errors: int
    image_pixels: int
    grid_pixels: int
