"""Device and package versions, reported as events to scripts/gpu_check.py."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import subprocess
import sys
from typing import Any

from bench.subprocesses import emit

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
"""Module to import to the package that provides it."""

OPTIONAL = ("lightning", "timm", "transformers", "torchmetrics", "sklearn")


def missing_packages() -> dict[str, str]:
    """Map each required module that cannot be imported to the package to install and the error."""
    missing = {}
    for module, package in REQUIRED.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # an outdated package may raise anything
            missing[module] = f"install {package}: {type(error).__name__}: {error}"
    return missing


def describe(stand_in: bool) -> dict[str, Any]:
    """Return the device and the versions."""
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
    """Return the version that nvidia-smi prints, or None if it is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return None
    return result.stdout.splitlines()[0].strip() if result.returncode == 0 else None


def main(stand_in: bool) -> None:
    """Emit the event `missing`, `no_device` or `machine`."""
    if missing := missing_packages():
        emit(missing=missing)
        return
    import torch

    if not stand_in and not torch.cuda.is_available():
        emit(no_device=f"torch {torch.__version__} finds no CUDA device")
        return
    emit(machine=describe(stand_in))


if __name__ == "__main__":
    main("--stand-in-cpu" in sys.argv)
