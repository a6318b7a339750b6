"""Throughput of a folder of images: streaming, cached, in memory, and decoding alone."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

NUM_IMAGES, FILE_SIDE, SIDE, BATCH_SIZE, NUM_WORKERS = 3000, 200, 64, 50, 2


def write_images(folder: Path) -> None:
    """Write JPEG files of smooth noise in ten classes, about 10 kB each."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        coarse = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        path = folder / str(number % 10) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = (FILE_SIDE, FILE_SIDE)
        Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC).save(path)


def image_throughput(quick: bool) -> dict[str, float]:
    """Measure images per second of training epochs and of decoding alone.

    The model is a single linear layer, so that the input pipeline dominates.
    """
    from dltrain.training.threads import wait_briefly

    wait_briefly()
    import torch
    from torch.utils.data import DataLoader

    import dltrain
    from dltrain.build import build_data, build_runtime, build_task, build_trainer
    from dltrain.checkpoints.store import CheckpointStore
    from dltrain.data.in_memory import InMemory
    from dltrain.data.streaming import Streaming

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        write_images(root)
        config = Path(folder) / "config.yaml"
        config.write_text(
            f"{{name: images, model: linear, loss: cross_entropy, optimizer: adamw,"
            f" data: {{name: image_folder, root: {root}, size: {SIDE}, validation: 0, test: 0,"
            f" workers: {NUM_WORKERS}}},"
            f" train: {{epochs: 100, batch_size: {BATCH_SIZE}, device: cpu}}}}"
        )

        def make_trainer(*overrides: str):
            experiment = dltrain.load(config, overrides)
            runtime = build_runtime(experiment)
            data = build_data(experiment, runtime, print)
            task = build_task(experiment, data.spec, runtime)
            return build_trainer(
                experiment, data, task, runtime, CheckpointStore(Path(folder) / "checkpoints")
            )

        def throughput(epoch: Callable[[], None]) -> float:
            start = time.perf_counter()
            epoch()
            return NUM_IMAGES / (time.perf_counter() - start)

        streaming, cached, in_memory = (
            make_trainer(),
            make_trainer("data.cache=memory"),
            make_trainer(),
        )
        split = streaming.data.train
        assert isinstance(split, Streaming)
        dataset = _DecodedImages(split.read)
        pixels = torch.stack([dataset[number] for number in range(NUM_IMAGES)])
        object.__setattr__(
            in_memory.data,
            "train",
            InMemory(pixels, split.targets, seed=0, transform=split.transform),
        )
        loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=NUM_WORKERS)

        def decode() -> None:
            for _ in loader:
                pass

        epochs = {
            "DataLoader, decoding alone": decode,
            "dltrain, streaming": streaming.train_epoch,
            "dltrain, cache: memory, from the second epoch on": cached.train_epoch,
            "dltrain, in memory": in_memory.train_epoch,
        }
        rates: dict[str, list[float]] = {name: [] for name in epochs}
        for repeat in range(2 if quick else 6):
            for name, epoch in epochs.items():
                rate = throughput(epoch)
                if repeat > 0:  # the first epoch warms up and fills the cache
                    rates[name].append(rate)
    medians = {name: statistics.median_high(values) for name, values in rates.items()}
    decoding, streamed, cache, memory = medians.values()
    return {
        **{f"images/s: {name}": value for name, value in medians.items()},
        "streaming / decoding alone": streamed / decoding,
        "in memory / cache": memory / cache,
    }


class _DecodedImages:
    """Map-style data set of decoded images for torch's DataLoader."""

    def __init__(self, read) -> None:
        self.read = read

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int):
        return self.read(index)
