"""Device, precision, states of random generators, and memory."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import random
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dltrain.core.errors import UsageError


def resolve_device(name: str) -> torch.device:
    """Return the device that a name stands for.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        UsageError: This machine does not have the device.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: torch finds {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not mps:
        raise UsageError("device 'mps': torch finds no Apple GPU on this machine")
    return device


@dataclass(frozen=True)
class Precision:
    """Precision of a training step.

    Attributes:
        name: `fp32`, `bf16`, `fp16` or `fp64`.
        dtype: Dtype of the parameters and of the data.
        autocast: Function that returns the context of the forward pass; disabled for fp32 and fp64.
        scaler: Gradient scaler; disabled unless the precision is fp16, so that a step needs no
            branch for it.
    """

    name: str
    dtype: torch.dtype
    autocast: Callable[[], AbstractContextManager[Any]]
    scaler: torch.amp.GradScaler


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Return the precision that a name stands for on a device.

    Args:
        name: `auto`, `fp32`, `bf16`, `fp16` or `fp64`.
        device: Device of the model.

    Raises:
        UsageError: The device does not support the precision.
    """
    if name == "auto":
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        else:
            name = "fp32"
    if name == "fp16" and device.type != "cuda":
        raise UsageError(f"precision 'fp16' needs a CUDA device, not {device.type!r}; use bf16")
    if name == "fp64" and device.type == "mps":
        raise UsageError("precision 'fp64': an Apple GPU has no float64; use fp32")
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    return Precision(
        name=name,
        dtype=torch.float64 if name == "fp64" else torch.float32,
        autocast=partial(torch.autocast, device.type, dtype=half, enabled=half is not None),
        scaler=torch.amp.GradScaler(device.type, enabled=name == "fp16"),
    )


def seed_everything(seed: int) -> None:
    """Seed torch on every device, Python's `random` and NumPy's global generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(this_gpu: bool = False) -> dict[str, Tensor]:
    """Return the states of all global random generators as uint8 tensors, by name.

    Args:
        this_gpu: Whether to include the current GPU only, as when each rank has its own GPU.
    """
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    states = {
        "torch": torch.get_rng_state(),
        "python": _bytes_of(random.getstate()),
        "numpy": _bytes_of(numpy_state),
    }
    if torch.cuda.is_available() and this_gpu:
        states["cuda"] = torch.cuda.get_rng_state()
    elif torch.cuda.is_available():
        states |= {f"cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(states: Mapping[str, Tensor]) -> None:
    """Restore the result of `random_state`; states of devices that do not exist are ignored."""
    torch.set_rng_state(states["torch"])
    version, internal, gauss_next = _value_of(states["python"])
    random.setstate((version, tuple(internal), gauss_next))
    numpy_state = _value_of(states["numpy"])
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda.{i}"], i)
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
    if torch.backends.mps.is_available() and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def generator_states() -> list[tuple[Callable[[Any], Any], Any]]:
    """Return the functions that set the states of all global generators, and the states.

    This is faster than `random_state`, for states that are not written to a file.
    """
    states: list[tuple[Callable[[Any], Any], Any]] = [
        (torch.set_rng_state, torch.get_rng_state()),
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
    ]
    if torch.cuda.is_available():
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if torch.backends.mps.is_available():
        states.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
    return states


_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory"
    r"|\bout of (host |device )?memory\b"
    r"|std::bad_alloc"
    # cuBLAS, cuDNN, cuSPARSE, cuSOLVER and NCCL allocate memory themselves.
    r"|\b\w+_STATUS_ALLOC_FAILED\b"
    r"|\b(CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation)\b",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device, or the machine, is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def _bytes_of(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _value_of(tensor: Tensor) -> Any:
    return json.loads(tensor.numpy().tobytes())


def make_deterministic(wanted: bool) -> None:
    """Make torch refuse nondeterministic operations, or let it choose the fastest ones."""
    if wanted:
        # cuBLAS is deterministic only with a fixed workspace. It reads the variable at its first
        # matrix product (docs.nvidia.com/cuda/cublas, "Results Reproducibility").
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if wanted != torch.are_deterministic_algorithms_enabled():  # the setter imports the compiler
        torch.use_deterministic_algorithms(wanted)


def benchmark_convolutions(wanted: bool) -> None:
    """Let cuDNN measure its algorithms for each new input shape, and use the fastest.

    Measuring takes time for every shape, so use this only for inputs of one shape. With
    deterministic algorithms it has no effect.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = wanted and not deterministic


@contextmanager
def global_settings_restored() -> Iterator[None]:
    """Restore the process-wide settings of torch that a run changes, on leaving the context."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark, precision = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        make_deterministic(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)


def retain_freed_memory() -> None:
    """Make glibc keep large freed blocks instead of returning them to the system.

    Every step frees and allocates the same activations. By default glibc maps each block above a
    threshold anew, and every page of it causes a page fault. Without glibc this has no effect.
    Source of the options: mallopt(3).
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold, one_gib = -1, -3, 1 << 30
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_threshold, one_gib)
    libc.mallopt(m_trim_threshold, one_gib)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory in bytes: of torch's allocator on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # On Linux a child inherits the value of getrusage; it is the process's own once it has grown.
    # The value of proc(5) is always the process's own, but slow to read.
    if sys.platform == "linux" and (peak := _peak_bytes()) > _INHERITED_PEAK:
        return peak
    try:
        match = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        match = None
    if match is not None:
        return int(match[1]) * 1024
    return _peak_bytes()


def _peak_bytes() -> int:
    """Return the peak of getrusage(2), which counts bytes on macOS and KiB elsewhere."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


_INHERITED_PEAK = _peak_bytes()
