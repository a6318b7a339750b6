"""Export a run's model as a file for other programs, verified against the model itself."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.build import Trained, build_data, build_runtime, build_task, load_trained
from dltrain.checkpoints.atomic_files import make_directory, read_named, write_atomically
from dltrain.config import load
from dltrain.core.data_spec import spec_from_json, spec_to_json
from dltrain.core.errors import RunError, UsageError, print_warning
from dltrain.exporting.card import model_card
from dltrain.exporting.description import description
from dltrain.exporting.formats import (
    Format,
    RunFile,
    read_safetensors,
    require_onnx,
    run_onnx,
    run_pt2,
    to_onnx,
    to_pt2,
    to_safetensors,
)
from dltrain.exporting.interface import Interface, interface_of
from dltrain.exporting.module_replacement import replace_modules
from dltrain.exporting.quantization import (
    Method,
    Quantized,
    describe_quantization,
    insert_int8_layers,
    quantize_linear_layers,
    require_torchao,
    to_int8_layers,
)
from dltrain.exporting.verification import BATCH_SIZE, Comparison, compare, references
from dltrain.rundir.directory import Run
from dltrain.rundir.provenance import fingerprint
from dltrain.training.checkpoint_checks import check_tensors

TOLERANCE = 1e-4
"""Largest difference from the model, as a fraction of the largest value: rounding only."""
INT8_TOLERANCE = 0.1
"""Largest difference of a quantized file from the trained model, likewise."""
NUM_SAMPLES = 100
INT8_NUM_SAMPLES = 1000
"""Default numbers of samples to compare."""


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        path: The exported file.
        card: Model card beside the file, in Markdown.
        format: Format of the file.
        bytes: Size of the file.
        checkpoint: Path of the checkpoint.
        inputs: Name, dtype, shape and meaning of the input.
        outputs: Name, dtype, shape and meaning of the output.
        comparison: Comparison with the trained model on real samples.
        tolerance: Largest difference that was allowed.
        quantized: Quantized layers; None without `quantize`.
        exactness: Comparison of the file with the quantized model as torchao computes it, where at
            most `TOLERANCE` is allowed; None without `quantize`.
        notes: Remarks.
    """

    path: str
    card: str
    format: Format
    bytes: int
    checkpoint: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    comparison: Comparison
    tolerance: float
    quantized: Quantized | None
    exactness: Comparison | None
    notes: list[str]


def export(
    run_dir: Path | str,
    to: Format,
    output: Path | str | None = None,
    *,
    checkpoint: str | None = None,
    quantize: Method | None = None,
    tolerance: float | None = None,
    samples: int | None = None,
) -> Exported:
    """Write a run's model as a file that takes raw inputs, and a model card beside it.

    Normalization, and the function from outputs to predictions, are part of the file. Before it is
    written, the file is compared with the model on samples of the run's data, in batches of
    different sizes. A file that differs is not written.

    Args:
        run_dir: Directory of the run.
        to: `onnx`, `pt2` for `torch.export.load`, or `safetensors`: weights without the network.
        output: File to write, with the suffix of the format (default: `exports/model.FORMAT` in
            the run directory).
        checkpoint: Name of a checkpoint; see `load_trained`.
        quantize: `int8` stores the weights of linear layers in 8 bits; see
            `quantize_linear_layers`.
        tolerance: Largest allowed difference from the trained model, as a fraction of the largest
            prediction, or of 1 where all are smaller (default: `TOLERANCE`, and `INT8_TOLERANCE`
            with `quantize`).
        samples: Minimum number of samples to compare, if the split has as many (default:
            `NUM_SAMPLES`; with `quantize` `INT8_NUM_SAMPLES` where predictions are classes or
            values).

    Raises:
        RunError: There is no such checkpoint, the model can't be exported, or the file differs.
        DataError: The run's data is missing.
        UsageError: The task's model can't be exported, none of its layers can be quantized, a
            library is missing, or `output` has another suffix.
    """
    run, path = Run.open(run_dir), _path(run_dir, to, output)
    if to == "onnx":
        require_onnx()
    if quantize is not None:
        require_torchao()
    trained = _loaded(run, checkpoint)
    interface = _interface(trained)
    layers = quantize_linear_layers(interface.model) if quantize else {}
    quantized = describe_quantization(interface.model, layers) if quantize else None
    record, ended = run.record(), run.summary()
    data = build_data(
        trained.experiment,
        trained.runtime,
        print_warning,
        record["data_folder"],
    )
    split = data.test or data.validation or data.train
    if samples is None:
        samples = _num_samples(interface, quantize)
    chosen = split, math.ceil(samples / BATCH_SIZE), trained.experiment.seed
    expected = references(interface, *chosen)
    about = description(interface, trained.spec, _run_description(run, trained))
    if to == "safetensors":
        about |= _build_description(run, trained)
    if quantized is not None:
        about["quantized"] = asdict(quantized)
    example = max((reference.raw for reference in expected), key=len)
    with replace_modules(interface.model, to_int8_layers(layers)):
        content, use = _exported(trained, interface, to, about, example)
    exactness = None
    if quantized is not None:
        with replace_modules(interface.model, layers):
            exactness = compare(use, references(interface, *chosen))
        _check(exactness, TOLERANCE, "the quantized model", "")
    comparison = compare(use, expected)
    if tolerance is None:
        tolerance = TOLERANCE if quantize is None else INT8_TOLERANCE
    _check(comparison, tolerance, "the model", " (--tolerance)")
    card = model_card(
        path.name,
        to,
        about,
        comparison,
        config=run.config_text(),
        record=record,
        summary=asdict(ended) if ended else None,
        quantized=quantized,
        exactness=exactness,
        changes=trained.changes,
    )
    card_path = path.with_name(f"{path.name}.md")
    try:
        make_directory(path.parent)
        write_atomically(path, content)
        write_atomically(card_path, card.encode())
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error
    notes = []
    if record["data"]["fingerprint"] != fingerprint(data):
        notes.append(f"checked on {data.source}, which is not the data that the run was trained on")
    return Exported(
        path=str(path),
        card=str(card_path),
        format=to,
        bytes=len(content),
        checkpoint=str(trained.checkpoint),
        inputs=about["inputs"],
        outputs=about["outputs"],
        comparison=comparison,
        tolerance=tolerance,
        quantized=quantized,
        exactness=exactness,
        notes=notes,
    )


def read_exported(path: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """Load the model from a safetensors file of `export`.

    Returns:
        A module from raw inputs to predictions, in evaluation mode, and the file's description.

    Raises:
        RunError: The file is no safetensors file of `export`.
        ConfigError: A component of the run is not registered.
    """
    try:
        content = read_named(path)
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror or error}") from error
    try:
        weights, about = read_safetensors(content)
        config, spec = about["config"], spec_from_json(about["spec"])
        int8_names = list(about["quantized"]["layers"]) if "quantized" in about else []
    except Exception as error:  # bytes of an unknown file may raise anything
        raise RunError(f"{path}: no safetensors file of dltrain export") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(config, encoding="utf-8")
        experiment = load(file, ["train.device=cpu", "metrics=[]", "train.compile=false"])
    runtime = build_runtime(experiment)
    task = build_task(experiment, spec, runtime)
    interface = interface_of(task, spec, runtime.precision.dtype)
    insert_int8_layers(interface.model, int8_names)
    try:
        check_tensors("model", weights, task.model.state_dict())
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error
    task.model.load_state_dict(weights)
    return interface.eval().requires_grad_(False), about


def _path(run_dir: Path | str, to: Format, output: Path | str | None) -> Path:
    path = Path(run_dir, "exports", f"model.{to}") if output is None else Path(output)
    if path.suffix != f".{to}":
        raise UsageError(f"{path}: --to {to} writes a .{to} file")
    return path


def _loaded(run: Run, checkpoint: str | None) -> Trained:
    """Load a run's model on the CPU, in the precision of its weights."""
    precision = "fp64" if run.experiment().train.precision == "fp64" else "fp32"
    overrides = ["train.compile=false", f"train.precision={precision}"]
    return load_trained(run.directory, checkpoint, "cpu", with_metrics=False, overrides=overrides)


def _interface(trained: Trained) -> Interface:
    interface = interface_of(trained.task, trained.spec, trained.runtime.precision.dtype)
    # Training uses channels-last, which has no meaning in a file.
    interface.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    return interface.eval().requires_grad_(False)


def _num_samples(interface: Interface, quantize: Method | None) -> int:
    """Return how many samples to compare: all predictions are kept; images and texts are large."""
    is_small = interface.outputs.name in ("probabilities", "values")
    return INT8_NUM_SAMPLES if quantize is not None and is_small else NUM_SAMPLES


def _run_description(run: Run, trained: Trained) -> dict[str, Any]:
    """Return the part of a file's description that identifies the run."""
    config = trained.experiment.to_dict()
    return {
        "name": trained.experiment.name,
        "run": str(run.directory),
        "checkpoint": trained.checkpoint.name,
        "task": trained.experiment.task.name,
        "model": config["model"],
    }


def _build_description(run: Run, trained: Trained) -> dict[str, Any]:
    """Return the part of a file's description that is needed to rebuild the network."""
    return {
        "network": str(trained.task.model),
        "spec": spec_to_json(trained.spec),
        "config": run.config_text(),
    }


def _exported(
    trained: Trained, interface: Interface, to: Format, about: dict[str, Any], example: Tensor
) -> tuple[bytes, RunFile]:
    """Return the file's bytes, and its model as a function."""
    if to == "onnx":
        content = to_onnx(interface, example, about)
        return content, run_onnx(content)
    if to == "pt2":
        content = to_pt2(interface, example, about)
        return content, run_pt2(content)
    content = to_safetensors(trained.task.model, about)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        file.write_bytes(content)
        return content, read_exported(file)[0]


def _check(comparison: Comparison, allowed: float, model: str, option: str) -> None:
    if not comparison.largest_difference <= allowed:
        raise RunError(
            f"nothing written: the file would differ from {model} by "
            f"{comparison.largest_difference:.2e}, and {allowed:g} is allowed{option}"
        )
