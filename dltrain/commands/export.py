"""A run's model as a file for other programs, checked against the model itself."""

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
    Use,
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
    by_torchao,
    described,
    int8_layers,
    require_torchao,
    with_int8_layers,
)
from dltrain.exporting.verification import BATCH_SIZE, Comparison, compare, references
from dltrain.rundir.directory import Run
from dltrain.rundir.provenance import fingerprint
from dltrain.training.checkpoint_checks import check_tensors

TOLERANCE = 1e-4
"""Largest difference from the model, as a share of the largest value: rounding, and no more."""
INT8_TOLERANCE = 0.1
"""Of a quantised file from the trained model, in the same way: what eight bits may cost."""
NUM_SAMPLES = 100
INT8_NUM_SAMPLES = 1000
"""That are compared by default."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        card: The model card beside it, Markdown.
        format: The file's.
        bytes: Its length.
        checkpoint: Where the weights came from.
        inputs: Name, dtype, shape and meaning of what goes in.
        outputs: Of what comes out.
        comparison: With the model as it was trained, on real samples.
        tolerance: The largest difference that was allowed there.
        quantized: What is in eight bits; None without `quantize`.
        exactness: How the file compares with the quantised model, as torchao computes it, where at
            most `TOLERANCE` is allowed; None without `quantize`.
        notes: What to know beside.
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
    """Writes a run's model as a file that takes raw inputs, and a model card beside it.

    Normalisation, and the loss's function from outputs to predictions, are part of the file. It is
    compared with the model on samples of the run's data, in batches of different sizes, before it
    is written: a file that differs is not.

    Args:
        run_dir: The run.
        to: `onnx`, `pt2` for `torch.export.load`, or `safetensors`: weights without the network.
        output: The file, with the format's ending; `exports/model.FORMAT` in the run if not given.
        checkpoint: See `load_trained`.
        quantize: `int8` keeps the weights of linear layers in eight bits; see `by_torchao`.
        tolerance: The largest difference from the trained model that is allowed, as a share of the
            largest prediction, or of 1 where all are smaller; None for `TOLERANCE`, and for
            `INT8_TOLERANCE` with `quantize`.
        samples: How many are compared, at least, of those that the split has; None for
            `NUM_SAMPLES`, and with `quantize` for `INT8_NUM_SAMPLES`, where predictions are classes
            or values.

    Raises:
        RunError: There is no such checkpoint, the model can't be exported, or the file differs.
        DataError: The run's data is missing.
        UsageError: The task's model can't be exported, none of its layers can be quantised, a
            library is missing, or `output` has another ending.
    """
    run, path = Run.open(run_dir), _path(run_dir, to, output)
    if to == "onnx":
        require_onnx()
    if quantize is not None:
        require_torchao()
    trained = _loaded(run, checkpoint)
    interface = _interface(trained)
    of_torchao = by_torchao(interface.model) if quantize else {}
    quantized = described(interface.model, of_torchao) if quantize else None
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
    taken = split, math.ceil(samples / BATCH_SIZE), trained.experiment.seed
    found = references(interface, *taken)
    about = description(interface, trained.spec, _of_run(run, trained))
    if to == "safetensors":
        about |= _to_build(run, trained)
    if quantized is not None:
        about["quantized"] = asdict(quantized)
    example = max((reference.raw for reference in found), key=len)
    with replace_modules(interface.model, int8_layers(of_torchao)):
        content, use = _made(trained, interface, to, about, example)
    exactness = None
    if quantized is not None:
        with replace_modules(interface.model, of_torchao):
            exactness = compare(use, references(interface, *taken))
        _check(exactness, TOLERANCE, "the quantised model", "")
    comparison = compare(use, found)
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
    place = path.with_name(f"{path.name}.md")
    try:
        make_directory(path.parent)
        write_atomically(path, content)
        write_atomically(place, card.encode())
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error
    notes = []
    if record["data"]["fingerprint"] != fingerprint(data):
        notes.append(f"checked on {data.source}, which is not the data that the run was trained on")
    return Exported(
        path=str(path),
        card=str(place),
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
    """The model in a safetensors file of `export`, and the file's description.

    Returns:
        A module from raw inputs to predictions, in evaluation mode, and what the file says.

    Raises:
        RunError: It is no such file.
        ConfigError: A component of the run is not registered here.
    """
    try:
        content = read_named(path)
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror or error}") from error
    try:
        weights, about = read_safetensors(content)
        config, spec = about["config"], spec_from_json(about["spec"])
        in_eight = list(about["quantized"]["layers"]) if "quantized" in about else []
    except Exception as error:  # a stranger's bytes lead to all kinds of them
        raise RunError(f"{path}: no safetensors file of dltrain export") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(config, encoding="utf-8")
        experiment = load(file, ["train.device=cpu", "metrics=[]", "train.compile=false"])
    runtime = build_runtime(experiment)
    task = build_task(experiment, spec, runtime)
    interface = interface_of(task, spec, runtime.precision.dtype)
    with_int8_layers(interface.model, in_eight)
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
    """On the CPU, in the precision of the weights."""
    precise = run.experiment().train.precision
    changed = ["train.compile=false", f"train.precision={'fp64' if precise == 'fp64' else 'fp32'}"]
    return load_trained(run.directory, checkpoint, "cpu", measures=False, overrides=changed)


def _interface(trained: Trained) -> Interface:
    interface = interface_of(trained.task, trained.spec, trained.runtime.precision.dtype)
    # Channels-last is how they were trained, and means nothing to a file.
    interface.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    return interface.eval().requires_grad_(False)


def _num_samples(interface: Interface, quantize: Method | None) -> int:
    """To compare. All predictions are kept, and those that are pictures or texts are large."""
    is_small = interface.outputs.name in ("probabilities", "values")
    return INT8_NUM_SAMPLES if quantize is not None and is_small else NUM_SAMPLES


def _of_run(run: Run, trained: Trained) -> dict[str, Any]:
    """What a file says of the run."""
    config = trained.experiment.to_dict()
    return {
        "name": trained.experiment.name,
        "run": str(run.directory),
        "checkpoint": trained.checkpoint.name,
        "task": trained.experiment.task.name,
        "model": config["model"],
    }


def _to_build(run: Run, trained: Trained) -> dict[str, Any]:
    """What it takes to build the network again."""
    return {
        "network": str(trained.task.model),
        "spec": spec_to_json(trained.spec),
        "config": run.config_text(),
    }


def _made(
    trained: Trained, interface: Interface, to: Format, about: dict[str, Any], example: Tensor
) -> tuple[bytes, Use]:
    """The file's bytes, and what they hold as a function."""
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


def _check(found: Comparison, allowed: float, model: str, option: str) -> None:
    if not found.largest_difference <= allowed:
        raise RunError(
            f"nothing written: the file would differ from {model} by "
            f"{found.largest_difference:.2e}, and {allowed:g} is allowed{option}"
        )
