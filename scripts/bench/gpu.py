"""What scripts/gpu_check.py measures on a GPU, each against code written by hand."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn import functional as F

import dltrain
from dltrain.build import build_data, build_machine, build_task, build_trainer
from dltrain.checkpoint import Checkpoints
from dltrain.data.images import resident_images
from dltrain.spec import Data, DataContext
from dltrain.trainer import Trainer

SCRIPTS = Path(__file__).parents[1]
CONFIGS = SCRIPTS.parent / "configs"
EPOCHS = 6

ENDLESS = (
    *("train.device=cuda", "train.ema=null", "train.clip_norm=null", "train.epochs=1000"),
    *("train.evaluate=1000 epochs", "checkpoint.best=null", "checkpoint.every=1000 epochs"),
)


def seconds_an_epoch(epochs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Medians over epochs taken in turn; the first two rounds are not counted."""
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for round_ in range(EPOCHS + 2):
        for name, epoch in epochs.items():
            torch.cuda.synchronize()
            before = time.perf_counter()
            epoch()
            torch.cuda.synchronize()
            if round_ > 1:
                times[name].append(time.perf_counter() - before)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _trainer(config: str, data: Data | None, folder: Path, *overrides: str) -> Trainer:
    """On the GPU, with data of its own unless there is some already."""
    experiment = dltrain.load(CONFIGS / f"{config}.yaml", [*ENDLESS, *overrides])
    machine = build_machine(experiment)
    data = data or build_data(experiment, machine, print)
    task = build_task(experiment, data.spec, machine)
    return build_trainer(experiment, data, task, machine, Checkpoints(folder))


class ByHand:
    """The same network, optimizer and precision as a trainer's, in a loop over tensors."""

    def __init__(self, trainer: Trainer) -> None:
        self.model = trainer.task.model.train()
        (self.optimizer,) = trainer.task.phases[0].optimizers
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True
        whole = next(trainer.data.train.batches(len(trainer.data.train)))
        assert whole.inputs.is_cuda
        self.inputs, self.targets, self.autocast = (
            whole.inputs,
            whole.targets,
            trainer.numerics.autocast,
        )
        self.size = trainer.settings.batch_size
        self.index = torch.zeros(self.size, dtype=torch.int64, device="cuda")
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self, index: torch.Tensor) -> None:
        """Forward, backward, update."""
        with self.autocast():
            loss = F.cross_entropy(self.model(self.inputs[index]), self.targets[index])
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def epoch(self) -> None:
        """In a new order."""
        for index in torch.randperm(len(self.targets), device="cuda").split(self.size):
            self.step(index)

    def replayed_epoch(self) -> None:
        """The same by a graph of the whole step; a smaller last batch as always."""
        if self.graph is None:
            self._record()
        assert self.graph is not None
        for index in torch.randperm(len(self.targets), device="cuda").split(self.size):
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


def small_networks(network: str, precision: str, root: Path) -> dict[str, float]:
    """Steady epochs of dltrain with and without a graph, and of the loop by hand likewise."""
    common = (
        *(f"train.precision={precision}", f"data.root={root}", "data.validation=0"),
        *("data.augment=null", "data.offline=error", "optimizer={name: adamw, lr: 1e-3}"),
    )
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            name: _trainer(network, None, Path(folder) / name, *common, f"train.cuda_graph={graph}")
            for name, graph in {"dltrain, graph": "on", "dltrain": "off"}.items()
        }
        eager, replayed = (
            ByHand(_trainer(network, None, Path(folder) / "by-hand", *common)) for _ in range(2)
        )
        seconds = seconds_an_epoch(
            {
                **{name: trainer.train_epoch for name, trainer in ways.items()},
                "by hand": eager.epoch,
                "by hand, graph": replayed.replayed_epoch,
            }
        )
        steps = ways["dltrain"].steps_per_epoch
    name = f"{network}, {precision}"
    return {
        **{f"{name}: {way}, s/epoch": value for way, value in seconds.items()},
        **{f"{name}: {way}, steps/s": steps / value for way, value in seconds.items()},
        f"{name}: dltrain / by hand": seconds["dltrain"] / seconds["by hand"],
        f"{name}: steps/s, dltrain's graph to by hand": seconds["by hand"]
        / seconds["dltrain, graph"],
        f"{name}: steps/s, dltrain's graph to a graph by hand": seconds["by hand, graph"]
        / seconds["dltrain, graph"],
    }


def residual_network(samples: int = 25_600) -> dict[str, float]:
    """A compiled ResNet-18 on made pictures of 32 by 32, batches of 512, bf16, channels last."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (samples, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(samples) % 10
    context = DataContext(Path(), device=torch.device("cuda"))
    names = tuple("0123456789")
    data = resident_images(
        context,
        *((pixels, labels), None),
        **{"class_names": names, "validation": 0, "augment": None, "source": "made"},
    )
    common = (
        *("train.precision=bf16", "train.batch_size=512", "train.compile=true"),
        *("schedule=constant", "loss=cross_entropy", "metrics=[]"),
    )
    with tempfile.TemporaryDirectory() as folder:
        ours = _trainer("cifar10_resnet", data, Path(folder), *common)
        theirs = ByHand(_trainer("cifar10_resnet", data, Path(folder), *common))
        # The loop by hand takes its pictures from floats in memory, made once.
        seconds = seconds_an_epoch({"dltrain": ours.train_epoch, "by hand": theirs.epoch})
    flops = _flops(ours.task.model, (512, 3, 32, 32)) * samples / 512
    peak = matrix_peak()
    return {
        "resnet18, bf16, compiled: dltrain, samples/s": samples / seconds["dltrain"],
        "resnet18, bf16, compiled: by hand, samples/s": samples / seconds["by hand"],
        "resnet18: by hand / dltrain": seconds["by hand"] / seconds["dltrain"],
        "resnet18: dltrain, TFLOP/s": flops / seconds["dltrain"] / 1e12,
        "bf16 matrix product, TFLOP/s": peak / 1e12,
        "resnet18: share of the matrix product's": flops / seconds["dltrain"] / peak,
    }


def _flops(model: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Of a step, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        with torch.autocast("cuda", dtype=torch.bfloat16), torch.compiler.set_stance("force_eager"):
            outputs = model(torch.randn(shape, device="cuda"))
        outputs.float().sum().backward()
    model.zero_grad()
    return counter.get_total_flops()


def matrix_peak(size: int = 8192, repeats: int = 50) -> float:
    """Operations a second of a large product of bf16 matrices."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        left @ right
    torch.cuda.synchronize()
    before = time.perf_counter()
    for _ in range(repeats):
        left @ right
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - before)


def accuracies(root: Path) -> dict[str, float]:
    """mnist_cnn's test accuracy in each precision, and what mnist_fast needs to 99 %."""
    figures = {}
    for precision in ("fp32", "bf16", "fp16"):
        seconds, accuracy = _trained("mnist_cnn", root, f"train.precision={precision}")
        figures[f"mnist_cnn, {precision}: test accuracy"] = accuracy
        figures[f"mnist_cnn, {precision}: s"] = seconds
    for graph in ("off", "on"):
        options = ("train.deterministic=true", f"train.cuda_graph={graph}")
        seconds, _ = _trained("mnist_cnn", root, "train.precision=bf16", *options)
        figures[f"mnist_cnn, bf16, deterministic, graph {graph}: s"] = seconds
    for graph in ("off", "on"):
        options = ("train.precision=bf16", f"train.cuda_graph={graph}")
        seconds, accuracy = _trained("mnist_fast", root, *options)
        figures[f"mnist_fast, graph {graph}: s"] = seconds
        figures[f"mnist_fast, graph {graph}: test accuracy"] = accuracy
    return figures


def _trained(config: str, root: Path, *overrides: str) -> tuple[float, float]:
    """Seconds of training with its evaluations, and the test accuracy."""
    common = ["train.device=cuda", f"data.root={root}", "data.offline=error"]
    with tempfile.TemporaryDirectory() as folder:
        experiment = dltrain.load(CONFIGS / f"{config}.yaml", [*common, *overrides])
        summary = dltrain.train(experiment, run_dir=Path(folder) / "run", quiet=True)
    return summary.seconds, summary.metrics["test/accuracy"] or 0.0


def lightning() -> dict[str, float]:
    """Seconds an epoch of mnist_cnn in Lightning with its usual pipeline, where it is installed."""
    if find_spec("lightning") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.json"
        words = ("--only", "mnist_cnn", "lightning-tutorial", "--device", "cuda", "--quick")
        command = [sys.executable, str(SCRIPTS / "benchmark.py"), *words, "--output", str(output)]
        done = subprocess.run(command, check=False, timeout=150)
        if done.returncode or not output.exists():
            return {}
        (row,) = json.loads(output.read_text())["rows"]
    return {"mnist_cnn: Lightning, its usual pipeline, s/epoch": row["seconds_per_epoch"]}
