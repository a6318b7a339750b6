"""GPU measurements of scripts/gpu_check.py, each compared with a hand-written loop.

    python -m bench.gpu NAME DATA_ROOT

Each function yields its figures one by one, so that they are kept if the process is killed.
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
from bench.gpu_plan import ROWS
from bench.subprocesses import TAIL_LINES, emit
from dltrain.build import build_data, build_runtime, build_task, build_trainer
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.data_spec import PADDING
from dltrain.core.protocols import Data, DataContext
from dltrain.data.images import in_memory_images
from dltrain.training.trainer import Trainer

SCRIPTS = Path(__file__).parents[1]
CONFIGS = SCRIPTS.parent / "configs"
EPOCHS = 4

LONG_RUN = (
    *("train.ema=null", "train.clip_norm=null", "train.steps=null", "train.epochs=1000"),
    *("train.evaluate=1000 epochs", "checkpoint.best=null", "checkpoint.every=1000 epochs"),
)
"""Overrides for a run that does not end, evaluate or save while it is measured."""

Figures = Iterator[dict[str, float]]


class UnavailableError(Exception):
    """A measurement is not possible on this machine, which does not count as a failure."""


@dataclass(frozen=True)
class Setting:
    """Data and device of a measurement.

    Attributes:
        root: Folder with MNIST, or with random images in files of the same format.
        device: `cuda`, or `cpu` as a stand-in.
    """

    root: Path
    device: str

    @property
    def is_stand_in(self) -> bool:
        """Whether the CPU replaces the GPU: workloads are tiny and CUDA graphs are not used."""
        return self.device == "cpu"

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.is_stand_in:
            torch.cuda.synchronize()

    def require(self, precision: str) -> None:
        """Raise UnavailableError if the device does not support the precision."""
        if precision != "bf16" or self.is_stand_in:
            return
        if torch.cuda.get_device_capability() < (8, 0):
            raise UnavailableError("bf16 needs compute capability 8.0")


def seconds_per_epoch(setting: Setting, epochs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the median seconds of interleaved epochs, without a warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for repeat in range(2 if setting.is_stand_in else EPOCHS + 1):
        for name, epoch in epochs.items():
            setting.synchronize()
            start = time.perf_counter()
            epoch()
            setting.synchronize()
            if repeat > 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _trainer(
    setting: Setting, config: str, data: Data | None, folder: Path, *overrides: str
) -> Trainer:
    """Return a trainer on the device, with the given data or that of the config."""
    common = (*LONG_RUN, f"train.device={setting.device}", *overrides)
    experiment = dltrain.load(CONFIGS / f"{config}.yaml", common)
    runtime = build_runtime(experiment)
    data = data or build_data(experiment, runtime, print)
    task = build_task(experiment, data.spec, runtime)
    return build_trainer(experiment, data, task, runtime, CheckpointStore(folder))


class HandwrittenLoop:
    """Loop over tensors with the network, optimizer and precision of a trainer.

    Args:
        trainer: Trainer whose model and data are used; its own loop is not run.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.model = trainer.task.model.train()
        (self.optimizer,) = trainer.task.phases[0].optimizers
        device = trainer.device
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = device.type == "cuda"
        split = next(trainer.data.train.batches(len(trainer.data.train)))
        assert split.inputs.device.type == device.type
        self.inputs, self.targets = split.inputs, split.targets
        self.ignore_index = PADDING if self.targets.ndim > 1 else -100
        self.autocast, self.size = trainer.precision.autocast, trainer.settings.batch_size
        self.index = torch.zeros(self.size, dtype=torch.int64, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self, index: Tensor) -> None:
        """Run the forward and backward pass and the optimizer step for the samples at `index`."""
        with self.autocast():
            outputs = self.model(self.inputs[index]).flatten(0, -2)
            loss = F.cross_entropy(
                outputs, self.targets[index].flatten(), ignore_index=self.ignore_index
            )
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _shuffled_batches(self) -> tuple[Tensor, ...]:
        """Return the sample indices of each step of a shuffled epoch."""
        return torch.randperm(len(self.targets), device=self.index.device).split(self.size)

    def epoch(self) -> None:
        """Train for an epoch."""
        for index in self._shuffled_batches():
            self.step(index)

    def graph_epoch(self) -> None:
        """Train for an epoch with a CUDA graph of the step; a smaller last batch runs eagerly."""
        if self.graph is None:
            self._capture()
        assert self.graph is not None
        for index in self._shuffled_batches():
            if len(index) == self.size:
                self.index.copy_(index)
                self.graph.replay()
            else:
                self.step(index)

    def _capture(self) -> None:
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
    """Compare dltrain and the hand-written loop, each with and without a CUDA graph."""
    setting.require(precision)
    common = (
        *(f"train.precision={precision}", f"data.root={setting.root}", "data.validation=0"),
        *("data.augment=null", "data.offline=error", "optimizer={name: adamw, lr: 1e-3}"),
    )
    graphs = {"dltrain": "off"}
    if not setting.is_stand_in:
        graphs = {"dltrain graph": "on", **graphs}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            name: _trainer(
                *(setting, network, None, Path(folder) / name, *common),
                f"train.cuda_graph={graph}",
            )
            for name, graph in graphs.items()
        }
        epochs = {name: trainer.train_epoch for name, trainer in trainers.items()}
        eager, captured = (
            HandwrittenLoop(_trainer(setting, network, None, Path(folder) / "handwritten", *common))
            for _ in range(2)
        )
        epochs["hand-written"] = eager.epoch
        if not setting.is_stand_in:
            epochs["hand-written graph"] = captured.graph_epoch
        seconds = seconds_per_epoch(setting, epochs)
        steps = trainers["dltrain"].steps_per_epoch
    title = f"{network} {precision}"
    for name, value in seconds.items():
        yield {f"{title}: {name}, s/epoch": value, f"{title}: {name}, steps/s": steps / value}
    for name in graphs:
        for other in ("hand-written", "hand-written graph"):
            if other in seconds:
                yield {f"{title}: {name} / {other}, steps/s": seconds[other] / seconds[name]}


def residual_network(setting: Setting, compiled: bool) -> Figures:
    """Measure ResNet-18 in bf16 on random images of 32x32 pixels, batches of 512, channels last."""
    setting.require("bf16")
    samples, size = (16, 8) if setting.is_stand_in else (25_600, 512)
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
        theirs = HandwrittenLoop(_trainer(setting, "cifar10_resnet", data, Path(folder), *common))
        # The hand-written loop gathers from normalized float images, which are computed once.
        epochs = {"dltrain": ours.train_epoch, "hand-written": theirs.epoch}
        seconds = seconds_per_epoch(setting, epochs)
    name = "resnet18 bf16" + " compiled" * compiled
    inputs = torch.randn((size, 3, 32, 32), device=setting.device)
    flops = _flops(setting, ours.task.model, inputs) * samples / size
    yield from _compared(name, seconds, samples, "images/s")
    yield from _compute(setting, name, flops / seconds["dltrain"])


def transformer(setting: Setting, compiled: bool) -> Figures:
    """Measure the model of configs/shakespeare_gpt.yaml on Python's documentation, in bf16."""
    setting.require("bf16")
    common = [
        *("data={name: python_docs, window: 256, validation: 0.1}", "train.precision=bf16"),
        *("schedule=constant", "metrics=[]", f"train.compile={compiled}".lower()),
    ]
    if setting.is_stand_in:
        common.append("model={name: gpt, layers: 1, heads: 1, width: 8}")
    with tempfile.TemporaryDirectory() as folder:
        ours = _trainer(setting, "shakespeare_gpt", None, Path(folder), *common)
        theirs = HandwrittenLoop(
            _trainer(setting, "shakespeare_gpt", ours.data, Path(folder), *common)
        )
        epochs = {"dltrain": ours.train_epoch, "hand-written": theirs.epoch}
        seconds = seconds_per_epoch(setting, epochs)
    name = "gpt bf16" + " compiled" * compiled
    windows = len(ours.data.train)
    flops = _flops(setting, ours.task.model, theirs.inputs[:8]) * windows / 8
    yield from _compared(name, seconds, windows * theirs.inputs.shape[1], "tokens/s")
    yield from _compute(setting, name, flops / seconds["dltrain"])


def _compared(name: str, seconds: dict[str, float], count: int, unit: str) -> Figures:
    """Yield the throughput of both loops, and their ratio."""
    for loop, value in seconds.items():
        yield {f"{name}: {loop}, {unit}": count / value}
    ratio = seconds["hand-written"] / seconds["dltrain"]
    yield {f"{name}: dltrain / hand-written, {unit}": ratio}


def _compute(setting: Setting, name: str, flops_per_second: float) -> Figures:
    """Yield the FLOP/s of training, of a large matrix product, and their ratio."""
    yield {f"{name}: dltrain, TFLOP/s": flops_per_second / 1e12}
    peak = matrix_peak(setting)
    yield {f"{name}: bf16 matrix product, TFLOP/s": peak / 1e12}
    yield {f"{name}: fraction of the matrix product's FLOP/s": flops_per_second / peak}


def _flops(setting: Setting, model: nn.Module, inputs: Tensor) -> int:
    """Count the FLOP of the forward and backward pass for a batch."""
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
    """Return the FLOP/s of a large product of bf16 matrices."""
    size, repeats = (64, 2) if setting.is_stand_in else (8192, 50)
    left, right = (
        torch.randn(size, size, device=setting.device, dtype=torch.bfloat16) for _ in range(2)
    )
    for _ in range(5):
        left @ right
    setting.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    setting.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def trained(setting: Setting, config: str, overrides: tuple[str, ...]) -> Figures:
    """Measure the seconds of a training run with evaluations, and its test accuracy."""
    common = [f"train.device={setting.device}", f"data.root={setting.root}", "data.offline=error"]
    if setting.is_stand_in:
        gpu_only = ("cuda_graph", "precision=fp16")
        overrides = tuple(word for word in overrides if not any(name in word for name in gpu_only))
        common += ["train.epochs=1", "data.validation=0", "checkpoint.best=null"]
    with tempfile.TemporaryDirectory() as folder:
        experiment = dltrain.load(CONFIGS / f"{config}.yaml", [*common, *overrides])
        summary = dltrain.train(experiment, run_dir=Path(folder) / "run", quiet=True)
    accuracy = summary.metrics["test/accuracy"]
    assert accuracy is not None
    name = " ".join([config, *(word.removeprefix("train.") for word in overrides)])
    yield {f"{name}: s": summary.seconds, f"{name}: test accuracy": accuracy}


def lightning(setting: Setting) -> Figures:
    """Measure the seconds per epoch of mnist_cnn in Lightning with a DataLoader."""
    if find_spec("lightning") is None:
        raise UnavailableError("lightning is not installed")
    from bench.dataset_files import prepare
    from bench.lightning import train
    from bench.workloads import Timer, Workload

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        prepare(setting.root, root, None, sources=("mnist",))
        timer = Timer(time.time(), setting.device)
        train(Workload("mnist_cnn", "tutorial", 2, setting.device, root), timer)
    yield {"mnist_cnn: Lightning, tutorial's data, s/epoch": statistics.median(timer.epochs)}


def main(name: str, root: Path, device: str) -> None:
    """Run the measurement of a row and emit its figures and outcome."""
    (row,) = [row for row in ROWS if row.name == name]
    try:
        nonfinite = []
        for figures in globals()[row.function](Setting(root, device), **row.arguments):
            nonfinite += [key for key, value in figures.items() if not math.isfinite(value)]
            emit(figures={k: v if math.isfinite(v) else None for k, v in figures.items()})
        if nonfinite:
            emit(outcome="failed", message="not finite: " + ", ".join(nonfinite), traceback=[])
        else:
            emit(outcome="passed")
    except UnavailableError as error:
        emit(outcome="not run", message=str(error))
    except BaseException as error:  # every failure is recorded in the result, then raised
        message = f"{type(error).__name__}: {error}"[:2000]
        lines = traceback.format_exc().splitlines()[-TAIL_LINES:]
        emit(outcome="failed", message=message, traceback=lines)
        raise


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "cpu" if "--stand-in-cpu" in sys.argv else "cuda")
