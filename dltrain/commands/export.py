"""A run's model as a file for other programs, checked against the model itself."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dltrain.build import Trained, build_data, build_machine, build_task, load_trained
from dltrain.config import load
from dltrain.errors import RunError, UsageError
from dltrain.exporting.card import model_card
from dltrain.exporting.checking import Comparison, Reference, compare, references
from dltrain.exporting.description import description
from dltrain.exporting.formats import (
    Format,
    read_safetensors,
    require_onnx,
    run_onnx,
    run_pt2,
    to_onnx,
    to_pt2,
    to_safetensors,
)
from dltrain.exporting.interface import Interface, interface_of
from dltrain.files import make_directory, write_atomically
from dltrain.run import Run
from dltrain.spec import spec_from_json, spec_to_json

TOLERANCE = 1e-4
"""Largest difference from the model, as a share of the largest value: rounding, and no more."""
NUM_BATCHES = 3


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
        comparison: With the model, on real samples.
        tolerance: The largest difference that was allowed.
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
    notes: list[str]


def export(
    run_dir: Path | str,
    to: Format,
    output: Path | str | None = None,
    *,
    checkpoint: str | None = None,
    tolerance: float = TOLERANCE,
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
        tolerance: The largest difference allowed, as a share of the largest prediction, or of 1
            where all are smaller.

    Raises:
        RunError: There is no such checkpoint, the model can't be exported, or the file differs.
        DataError: The run's data is missing.
        UsageError: The task's model can't be exported, a library is missing, or `output` has
            another ending.
    """
    run, path = Run.open(Path(run_dir)), _path(Path(run_dir), to, output)
    if to == "onnx":
        require_onnx()
    trained = _loaded(run, checkpoint)
    interface = _interface(trained)
    data = build_data(trained.experiment, trained.machine, lambda s: print(s, file=sys.stderr))
    split = data.test or data.validation or data.train
    found = references(interface, split, NUM_BATCHES, trained.experiment.seed)
    record, ended = run.record(), run.summary()
    about = description(interface, trained.spec, _of_run(run, trained))
    if to == "safetensors":
        about |= _to_build(run, trained)
    content, comparison = _made(trained, interface, to, about, found)
    if not comparison.largest_difference <= tolerance:
        raise RunError(
            f"nothing written: the file would differ from the model by "
            f"{comparison.largest_difference:.2e}, and {tolerance:g} is allowed (--tolerance)"
        )
    card = model_card(
        path.name,
        to,
        about,
        comparison,
        config=run.config_path.read_text(encoding="utf-8"),
        record=record,
        summary=asdict(ended) if ended else None,
        layers=None,
    )
    place = path.with_name(f"{path.name}.md")
    try:
        make_directory(path.parent)
        write_atomically(path, content)
        write_atomically(place, card.encode())
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error
    notes = []
    if record["data"]["fingerprint"] != data.fingerprint:
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
        content = Path(path).read_bytes()
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror or error}") from error
    try:
        weights, about = read_safetensors(content)
        config, spec = about["config"], spec_from_json(about["spec"])
    except Exception as error:  # a stranger's bytes lead to all kinds of them
        raise RunError(f"{path}: no safetensors file of dltrain export") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(config, encoding="utf-8")
        experiment = load(file, ["train.device=cpu", "metrics=[]", "train.compile=false"])
    machine = build_machine(experiment)
    task = build_task(experiment, spec, machine)
    task.model.load_state_dict(weights)
    interface = interface_of(task, spec, machine.numerics.dtype)
    return interface.eval().requires_grad_(False), about


def _path(run_dir: Path, to: Format, output: Path | str | None) -> Path:
    path = run_dir / "exports" / f"model.{to}" if output is None else Path(output)
    if path.suffix != f".{to}":
        raise UsageError(f"{path}: --to {to} writes a .{to} file")
    return path


def _loaded(run: Run, checkpoint: str | None) -> Trained:
    """On the CPU, in the precision of the weights."""
    precise = run.experiment().train.precision
    changed = ["train.compile=false", f"train.precision={'fp64' if precise == 'fp64' else 'fp32'}"]
    return load_trained(run.directory, checkpoint, "cpu", measures=False, overrides=changed)


def _interface(trained: Trained) -> Interface:
    interface = interface_of(trained.task, trained.spec, trained.machine.numerics.dtype)
    # Channels-last is how they were trained, and means nothing to a file.
    interface.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    return interface.eval().requires_grad_(False)


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
        "config": run.config_path.read_text(encoding="utf-8"),
    }


def _made(
    trained: Trained,
    interface: Interface,
    to: Format,
    about: dict[str, Any],
    found: list[Reference],
) -> tuple[bytes, Comparison]:
    """The file's bytes, and how what they hold compares with the model."""
    example = max((reference.raw for reference in found), key=len)
    if to == "onnx":
        content = to_onnx(interface, example, about)
        return content, compare(run_onnx(content), found)
    if to == "pt2":
        content = to_pt2(interface, example, about)
        return content, compare(run_pt2(content), found)
    content = to_safetensors(trained.task.model, about)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        file.write_bytes(content)
        return content, compare(read_exported(file)[0], found)
