"""The machine and its packages, as events for scripts/gpu_check.py."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import subprocess
import sys
from typing import Any

from bench.children import emit

REQUIRED = {
    "click": "click",
    "numpy": "numpy",
    "PIL": "pillow",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "typing_extensions": "typing-extensions",
    "yaml": "pyyaml",
    "safetensors": "safetensors",
    "tensorboard": "tensorboard",
    "torch": "torch",
    "torchvision": "torchvision",
    "tqdm": "tqdm",
    "pytest": "pytest",
    "dltrain": "this checkout",
    "dltrain.build": "this checkout",
}
"""Module to import -> package to install."""

OPTIONAL = ("lightning", "timm", "transformers", "torchmetrics", "sklearn")


def missing_packages() -> dict[str, str]:
    """Each required module that can't be imported, with the package to install and the error."""
    missing = {}
    for module, package in REQUIRED.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a package that is too old may raise anything
            missing[module] = f"install {package}: {type(error).__name__}: {error}"
    return missing


def describe(stand_in: bool) -> dict[str, Any]:
    """The device and the versions."""
    import torch

    import dltrain

    versions = {
        "dltrain": dltrain.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "optional": [name for name in OPTIONAL if importlib.util.find_spec(name)],
    }
    if stand_in:
        return {"device": "cpu stand-in", **versions}
    return {
        "device": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "driver": driver_version(),
        "cudnn": torch.backends.cudnn.version(),
        **versions,
    }


def driver_version() -> str | None:
    """The version that nvidia-smi prints; None where it is not installed or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 else None


def main(stand_in: bool) -> None:
    """Emits `missing`, or `machine`, or `no_device`."""
    if missing := missing_packages():
        emit(missing=missing)
        return
    import torch

    if not stand_in and not torch.cuda.is_available():
        emit(no_device=f"torch {torch.__version__} sees no CUDA device")
        return
    emit(machine=describe(stand_in))


if __name__ == "__main__":
    main("--stand-in-cpu" in sys.argv)
