"""What scripts/gpu_check.py measures on a GPU, each against code written by hand.

    python -m bench.gpu ROW DATA_ROOT

Each function gives its figures one after another, so that those of a process that is killed stay.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dltrain
from bench.children import TAIL_LINES, emit
from bench.gpu_plan import ROWS
from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.data_spec import PADDING
from dltrain.core.protocols import Data, DataContext
from dltrain.data.images import in_memory_images
from dltrain.training.trainer import Trainer

SCRIPTS = Path(__file__).parents[1]
CONFIGS = SCRIPTS.parent / "configs"
EPOCHS = 4

ENDLESS = (
    *("train.ema=null", "train.clip_norm=null", "train.steps=null", "train.epochs=1000"),
    *("train.evaluate=1000 epochs", "checkpoint.best=null", "checkpoint.every=1000 epochs"),
)

Figures = Iterator[dict[str, float]]


class UnavailableError(Exception):
    """A measurement that this machine can't make, which is no failure."""


@dataclass(frozen=True)
class Setting:
    """Where to measure.

    Attributes:
        root: Holds MNIST, or random images in its files.
        device: `cuda`, or `cpu` where it stands in.
    """

    root: Path
    device: str

    @property
    def stands_in(self) -> bool:
        """Whether the CPU stands in: all is made small, and nothing is recorded as a graph."""
        return self.device == "cpu"

    def synchronize(self) -> None:
        """Waits for the device."""
        if not self.stands_in:
            torch.cuda.synchronize()

    def require(self, precision: str) -> None:
        """UnavailableError where the device has no such precision."""
        if precision != "bf16" or self.stands_in:
            return
        if torch.cuda.get_device_capability() < (8, 0):
            raise UnavailableError("bf16 needs compute capability 8.0")


def seconds_per_epoch(setting: Setting, epochs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Medians over epochs taken in turn; the first round, which warms up, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for round_ in range(2 if setting.stands_in else EPOCHS + 1):
        for name, epoch in epochs.items():
            setting.synchronize()
            before = time.perf_counter()
            epoch()
            setting.synchronize()
            if round_ > 0:
                times[name].append(time.perf_counter() - before)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _trainer(
    setting: Setting, config: str, data: Data | None, folder: Path, *overrides: str
) -> Trainer:
    """On the device, with data of its own unless there is some already."""
    common = (*ENDLESS, f"train.device={setting.device}", *overrides)
    experiment = dltrain.load(CONFIGS / f"{config}.yaml", common)
    runtime = build_runtime(experiment)
    data = data or build_data(experiment, runtime, print)
    task = build_task(experiment, data.spec, runtime)
    return build_trainer(experiment, data, task, runtime, CheckpointStore(folder))


class ByHand:
    """The same network, optimizer and precision as a trainer's, in a loop over tensors."""

    def __init__(self, trainer: Trainer) -> None:
        self.model = trainer.task.model.train()
        (self.optimizer,) = trainer.task.phases[0].optimizers
        device = trainer.device
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = device.type == "cuda"
        whole = next(trainer.data.train.batches(len(trainer.data.train)))
        assert whole.inputs.device.type == device.type
        self.inputs, self.targets = whole.inputs, whole.targets
        self.ignored = PADDING if self.targets.ndim > 1 else -100
        self.autocast, self.size = trainer.precision.autocast, trainer.settings.batch_size
        self.index = torch.zeros(self.size, dtype=torch.int64, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self, index: Tensor) -> None:
        """Forward, backward, update."""
        with self.autocast():
            outputs = self.model(self.inputs[index]).flatten(0, -2)
            loss = F.cross_entropy(
                outputs, self.targets[index].flatten(), ignore_index=self.ignored
            )
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _parts(self) -> tuple[Tensor, ...]:
        """The samples of each step, in a new order."""
        return torch.randperm(len(self.targets), device=self.index.device).split(self.size)

    def epoch(self) -> None:
        """In a new order."""
        for index in self._parts():
            self.step(index)

    def replayed_epoch(self) -> None:
        """The same by a graph of the whole step; a smaller last batch runs without."""
        if self.graph is None:
            self._record()
        assert self.graph is not None
        for index in self._parts():
            if len(index) == self.size:
                self.index.copy_(index)
                self.graph.replay()
            else:
                self.step(index)

    def _record(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(self.index)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self.step(self.index)


def small_network(setting: Setting, network: str, precision: str) -> Figures:
    """Steady epochs of dltrain with and without a graph, and of the loop by hand likewise."""
    setting.require(precision)
    common = (
        *(f"train.precision={precision}", f"data.root={setting.root}", "data.validation=0"),
        *("data.augment=null", "data.offline=error", "optimizer={name: adamw, lr: 1e-3}"),
    )
    graphs = {"dltrain": "off"} if setting.stands_in else {"dltrain graph": "on", "dltrain": "off"}
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            name: _trainer(
                *(setting, network, None, Path(folder) / name, *common),
                f"train.cuda_graph={graph}",
            )
            for name, graph in graphs.items()
        }
        epochs = {name: trainer.train_epoch for name, trainer in ways.items()}
        eager, replayed = (
            ByHand(_trainer(setting, network, None, Path(folder) / "by-hand", *common))
            for _ in range(2)
        )
        epochs["by hand"] = eager.epoch
        if not setting.stands_in:
            epochs["by hand graph"] = replayed.replayed_epoch
        seconds = seconds_per_epoch(setting, epochs)
        steps = ways["dltrain"].steps_per_epoch
    name = f"{network} {precision}"
    for way, value in seconds.items():
        yield {f"{name}: {way}, s/epoch": value, f"{name}: {way}, steps/s": steps / value}
    for way in graphs:
        for other in ("by hand", "by hand graph"):
            if other in seconds:
                yield {f"{name}: {way} / {other}, steps/s": seconds[other] / seconds[way]}


def residual_network(setting: Setting, compiled: bool) -> Figures:
    """ResNet-18 on random images of 32 by 32, batches of 512, bf16, channels last."""
    setting.require("bf16")
    samples, size = (16, 8) if setting.stands_in else (25_600, 512)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (samples, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(samples) % 10
    data = in_memory_images(
        DataContext(Path(), device=torch.device(setting.device)),
        *((pixels, labels), None),
        class_names=tuple("0123456789"),
        validation=0,
        augment=None,
        source="random images",
        files=(),
    )
    common = (
        *("train.precision=bf16", f"train.batch_size={size}", f"train.compile={compiled}".lower()),
        *("schedule=constant", "loss=cross_entropy", "metrics=[]"),
    )
    with tempfile.TemporaryDirectory() as folder:
        ours = _trainer(setting, "cifar10_resnet", data, Path(folder), *common)
        theirs = ByHand(_trainer(setting, "cifar10_resnet", data, Path(folder), *common))
        # The loop by hand takes its images from floats in memory, made once.
        epochs = {"dltrain": ours.train_epoch, "by hand": theirs.epoch}
        seconds = seconds_per_epoch(setting, epochs)
    name = "resnet18 bf16" + " compiled" * compiled
    inputs = torch.randn((size, 3, 32, 32), device=setting.device)
    flops = _flops(setting, ours.task.model, inputs) * samples / size
    yield from _compared(name, seconds, samples, "images/s")
    yield from _compute(setting, name, flops / seconds["dltrain"])


def transformer(setting: Setting, compiled: bool) -> Figures:
    """The transformer of configs/shakespeare_gpt.yaml on Python's documentation, in bf16."""
    setting.require("bf16")
    common = [
        *("data={name: python_docs, window: 256, validation: 0.1}", "train.precision=bf16"),
        *("schedule=constant", "metrics=[]", f"train.compile={compiled}".lower()),
    ]
    if setting.stands_in:
        common.append("model={name: gpt, layers: 1, heads: 1, width: 8}")
    with tempfile.TemporaryDirectory() as folder:
        ours = _trainer(setting, "shakespeare_gpt", None, Path(folder), *common)
        theirs = ByHand(_trainer(setting, "shakespeare_gpt", ours.data, Path(folder), *common))
        epochs = {"dltrain": ours.train_epoch, "by hand": theirs.epoch}
        seconds = seconds_per_epoch(setting, epochs)
    name = "gpt bf16" + " compiled" * compiled
    windows = len(ours.data.train)
    flops = _flops(setting, ours.task.model, theirs.inputs[:8]) * windows / 8
    yield from _compared(name, seconds, windows * theirs.inputs.shape[1], "tokens/s")
    yield from _compute(setting, name, flops / seconds["dltrain"])


def _compared(name: str, seconds: dict[str, float], count: int, unit: str) -> Figures:
    for way, value in seconds.items():
        yield {f"{name}: {way}, {unit}": count / value}
    yield {f"{name}: dltrain / by hand, {unit}": seconds["by hand"] / seconds["dltrain"]}


def _compute(setting: Setting, name: str, flops_per_second: float) -> Figures:
    """Its arithmetic, beside what a large matrix product reaches."""
    yield {f"{name}: dltrain, TFLOP/s": flops_per_second / 1e12}
    peak = matrix_peak(setting)
    yield {f"{name}: bf16 matrix product, TFLOP/s": peak / 1e12}
    yield {f"{name}: fraction of the matrix product's": flops_per_second / peak}


def _flops(setting: Setting, model: nn.Module, inputs: Tensor) -> int:
    """Of a step with these inputs, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        with (
            torch.autocast(setting.device, dtype=torch.bfloat16),
            torch.compiler.set_stance("force_eager"),
        ):
            outputs = model(inputs)
        outputs.float().sum().backward()
    model.zero_grad()
    return counter.get_total_flops()


def matrix_peak(setting: Setting) -> float:
    """Operations per second of a large product of bf16 matrices."""
    size, repeats = (64, 2) if setting.stands_in else (8192, 50)
    left, right = (
        torch.randn(size, size, device=setting.device, dtype=torch.bfloat16) for _ in range(2)
    )
    for _ in range(5):
        left @ right
    setting.synchronize()
    before = time.perf_counter()
    for _ in range(repeats):
        left @ right
    setting.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - before)


def trained(setting: Setting, config: str, overrides: tuple[str, ...]) -> Figures:
    """Seconds of a whole training with its evaluations, and the accuracy on MNIST's test split."""
    common = [f"train.device={setting.device}", f"data.root={setting.root}", "data.offline=error"]
    if setting.stands_in:
        ours = ("cuda_graph", "precision=fp16")
        overrides = tuple(word for word in overrides if not any(name in word for name in ours))
        common += ["train.epochs=1", "data.validation=0", "checkpoint.best=null"]
    with tempfile.TemporaryDirectory() as folder:
        experiment = dltrain.load(CONFIGS / f"{config}.yaml", [*common, *overrides])
        summary = dltrain.train(experiment, run_dir=Path(folder) / "run", quiet=True)
    accuracy = summary.metrics["test/accuracy"]
    assert accuracy is not None
    name = " ".join([config, *(word.removeprefix("train.") for word in overrides)])
    yield {f"{name}: s": summary.seconds, f"{name}: test accuracy": accuracy}


def lightning(setting: Setting) -> Figures:
    """Seconds per epoch of mnist_cnn in Lightning with its usual pipeline."""
    if find_spec("lightning") is None:
        raise UnavailableError("lightning is not installed")
    from bench.inputs import prepare
    from bench.lightning import train
    from bench.work import Clock, Work

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        prepare(setting.root, root, None, sources=("mnist",))
        clock = Clock(time.time(), setting.device)
        train(Work("mnist_cnn", "tutorial", 2, setting.device, root), clock)
    yield {"mnist_cnn: Lightning, its usual pipeline, s/epoch": statistics.median(clock.epochs)}


def main(name: str, root: Path, device: str) -> None:
    """Measures a row and emits what comes of it."""
    (row,) = [row for row in ROWS if row.name == name]
    try:
        missing = []
        for figures in globals()[row.function](Setting(root, device), **row.arguments):
            missing += [key for key, value in figures.items() if not math.isfinite(value)]
            emit(figures={k: v if math.isfinite(v) else None for k, v in figures.items()})
        if missing:
            emit(outcome="failed", message="not finite: " + ", ".join(missing), traceback=[])
        else:
            emit(outcome="passed")
    except UnavailableError as error:
        emit(outcome="not run", message=str(error))
    except BaseException as error:  # whatever it is, it belongs into the result
        message = f"{type(error).__name__}: {error}"[:2000]
        lines = traceback.format_exc().splitlines()[-TAIL_LINES:]
        emit(outcome="failed", message=message, traceback=lines)
        raise


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "cpu" if "--stand-in-cpu" in sys.argv else "cuda")
