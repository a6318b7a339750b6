"""Write a model in each file format, and run it from the bytes of the file."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from dltrain.checkpoints.snapshot import to_saveable
from dltrain.core.errors import RunError, UsageError, describe_error
from dltrain.exporting.interface import Interface
from dltrain.exporting.lstm import LoopedLstm, OnnxLstm, replaced_lstms
from dltrain.exporting.module_replacement import replace_modules
from dltrain.exporting.quantization import Int8Linear, OnnxInt8Linear

Format = Literal["onnx", "pt2", "safetensors"]
RunFile = Callable[[Tensor], Tensor]
"""Function that maps raw inputs to the predictions of a file."""

KEY = "dltrain"
"""Metadata key of a file's description, JSON."""


def to_pt2(interface: Interface, example: Tensor, about: Mapping[str, Any]) -> bytes:
    """Export a model with `torch.export.save`.

    Args:
        interface: Model in evaluation mode.
        example: Raw inputs of several samples.
        about: Description of the file.

    Returns:
        The content of the file.

    Raises:
        RunError: PyTorch can't export the model.
    """
    with replaced_lstms(interface.model, LoopedLstm):
        program = _program(interface, example)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={f"{KEY}.json": json.dumps(about)})
    return buffer.getvalue()


def run_pt2(content: bytes) -> RunFile:
    """Return a function that runs a file of `to_pt2`."""
    with warnings.catch_warnings():
        # torch 2.9 reads the weights from immutable bytes, and never writes to them.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return torch.export.load(io.BytesIO(content)).module()


def to_onnx(interface: Interface, example: Tensor, about: Mapping[str, Any]) -> bytes:
    """Export a model as ONNX; see `to_pt2`.

    Raises:
        RunError: PyTorch can't export the model, or ONNX lacks an operator.
        UsageError: A library is not installed.
    """
    require_onnx()
    int8_layers = {
        name: OnnxInt8Linear(layer)
        for name, layer in interface.model.named_modules()
        if isinstance(layer, Int8Linear)
    }
    with replaced_lstms(interface.model, OnnxLstm), replace_modules(interface.model, int8_layers):
        program = _program(interface, example)
    with _errors_as("ONNX can't represent this model"):
        exported = torch.onnx.export(
            program,
            input_names=[interface.inputs.name],
            output_names=[interface.outputs.name],
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    proto.metadata_props.add(key=KEY, value=json.dumps(about))
    return proto.SerializeToString()


def run_onnx(content: bytes) -> RunFile:
    """Return a function that runs a file of `to_onnx` in onnxruntime on the CPU."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; it warns of its own simplifications
    with _errors_as("onnxruntime can't read the exported file"):
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()

    def run(raw: Tensor) -> Tensor:
        (outputs,) = session.run(None, {port.name: raw.numpy()})
        return torch.from_numpy(outputs)

    return run


def require_onnx() -> None:
    """Raise a UsageError if a library for ONNX files is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401

        onnxruntime.disable_telemetry_events()
    except ImportError as error:
        raise UsageError(
            f"ONNX files need {error.name or 'more libraries'}: pip install 'dltrain[export]'"
        ) from error


def to_safetensors(model: nn.Module, about: Mapping[str, Any]) -> bytes:
    """Write a model's weights by name, with the description as metadata."""
    tensors = dict(to_saveable(model.state_dict()))
    return safetensors.torch.save(tensors, metadata={KEY: json.dumps(about)})


def read_safetensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and description from a file of `to_safetensors`."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return safetensors.torch.load(content), json.loads(header["__metadata__"][KEY])


def _program(interface: Interface, example: Tensor) -> torch.export.ExportedProgram:
    """Trace a model for batches of any size and texts of any length."""
    sizes = {
        number: torch.export.Dim(size, max=interface.inputs.longest if number else None)
        for number, size in enumerate(interface.inputs.shape)
        if isinstance(size, str)
    }
    # On failure, the exporter writes to standard error what the exception says too.
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    fast_attention, quiet = torch.backends.mha.get_fastpath_enabled(), log.disabled
    torch.backends.mha.set_fastpath_enabled(False)  # uses an operator that ONNX lacks
    log.disabled = True
    try:
        with (
            torch.no_grad(),
            redirect_stderr(io.StringIO()),
            _errors_as("PyTorch can't export this model"),
        ):
            return torch.export.export(interface, (example,), dynamic_shapes=(sizes,))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        log.disabled = quiet


@contextmanager
def _errors_as(message: str) -> Iterator[None]:
    """Convert any exception to a RunError with a message and the exception's first line."""
    try:
        yield
    except Exception as error:  # exporters may raise any exception
        first = describe_error(error).strip().partition("\n")[0]
        raise RunError(f"{message}: {first}") from error
