"""Checkpoints with tampered tensors and a matching manifest."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
import yaml
from checkpoint_faults import in_this_process
from PIL import Image
from processes import ChildProcess, command_line
from rows import Row
from small_runs import CONFIG, write_folder
from torch import Tensor

OPTIMIZERS = [
    {"name": "adamw", "lr": 0.01},
    {"name": "sgd", "lr": 0.01},
    {"name": "muon", "lr": 0.01},
    {"name": "adam", "lr": 0.01},
    {"name": "rmsprop", "lr": 0.01},
]
CASES = 12
"""Number of cases per trial."""


def empty(tensor: Tensor, _: random.Random) -> Tensor:
    """Return an empty tensor."""
    return tensor.new_zeros(0)


def one(tensor: Tensor, _: random.Random) -> Tensor:
    """Return a single element with one more dimension."""
    return tensor.new_ones([1] * (tensor.ndim + 1))


def longer(tensor: Tensor, _: random.Random) -> Tensor:
    """Return two stacked copies."""
    return torch.stack([tensor, tensor])


def shorter(tensor: Tensor, draw: random.Random) -> Tensor:
    """Return fewer rows; a scalar becomes a vector."""
    return tensor[: draw.randrange(len(tensor))].clone() if tensor.ndim else tensor[None]


def other_dtype(tensor: Tensor, draw: random.Random) -> Tensor:
    """Return the same shape with another dtype of safetensors."""
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int8, torch.bool)
    return tensor.to(draw.choice([dtype for dtype in dtypes if dtype != tensor.dtype]))


MUTATIONS: list[Callable[[Tensor, random.Random], Tensor]]
MUTATIONS = [empty, one, longer, shorter, other_dtype]


def write_signed(checkpoint: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Write a file of a checkpoint and update the manifest."""
    content = safetensors.torch.save(tensors)
    (checkpoint / name).write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"][name] = entry
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def mutate(tensors: dict[str, Tensor], draw: random.Random) -> tuple[dict[str, Tensor], str]:
    """Return mutated tensors and the name of the changed one."""
    name = draw.choice(sorted(tensors))
    match draw.randrange(7):
        case 0:
            return {n: t for n, t in tensors.items() if n != name}, name
        case 1:
            return {**tensors, "extra.weight": torch.ones(3)}, "extra.weight"
        case number:
            mutation = MUTATIONS[number - 2]
            return {**tensors, name: mutation(tensors[name], draw).contiguous()}, name


def tampered(number: int, folder: Path) -> None:
    """Tamper with single tensors of every file, and run the commands that read it."""
    write_folder(folder)
    optimizer = OPTIMIZERS[number % len(OPTIMIZERS)]
    model = {"name": "mlp", "hidden": [8, 6]}
    config = CONFIG | {"model": model, "optimizer": optimizer, "checkpoint": {"keep": 1}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    Image.new("L", (8, 8)).save(folder / "some.png")
    words = ("train", "config.yaml", "train.ema=0.9", "--run-dir", "run", "--quiet")
    started = ChildProcess("whole", folder, command_line, *words)
    assert started.wait() == 0, started.err
    (folder / "run" / "summary.json").unlink()
    child = ChildProcess("child", folder, _read_tampered, number)
    assert child.wait() == 0, child.err  # no signal, such as SIGSEGV
    broken = json.loads(child.out)
    assert not broken, "\n".join(broken)


def _read_tampered(number: int) -> None:
    """Print, as JSON, what was accepted or refused with a bad message."""
    draw, broken = random.Random(number), []
    (checkpoint,) = Path("run/checkpoints").glob("step-*")
    for case in range(CASES):
        name = ("optimizer", "model", "averaged", "rng")[case % 4] + ".safetensors"
        original = safetensors.torch.load((checkpoint / name).read_bytes())
        tensors, changed = mutate(original, draw)
        write_signed(checkpoint, name, tensors)
        verbs = [["resume", "run"]]
        if name.startswith(("model", "averaged")):
            verbs += [["evaluate", "run"], ["predict", "run", "some.png"]]
        for verb in verbs:
            code, out, err = in_this_process(*verb)
            lines = err.strip().splitlines()
            if (code, out) != (1, "") or len(lines) != 1 or changed not in err:
                broken.append(f"{name}: {changed}: {verb[0]}: {code} {out} {err}")
        write_signed(checkpoint, name, original)
    code, _, err = in_this_process("resume", "run", "--json")
    if code:
        broken.append(f"the restored checkpoint is refused: {err}")
    print(json.dumps(broken))


ROWS = [
    Row(
        name="tampered tensors with a matching manifest",
        promise="refused in one line with the tensor's name, expected and actual; no crash",
        trial=tampered,
        pr=len(OPTIMIZERS),
        release=50,
        cases=CASES,
    ),
]
