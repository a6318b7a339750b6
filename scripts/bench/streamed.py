"""A folder of pictures: against the decoder alone, and from a cache against pictures in memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

PICTURES, SIDE, SIZE, BATCH, WORKERS = 3000, 200, 64, 50, 2


def write_pictures(folder: Path) -> None:
    """JPEG files of smooth noise in ten classes, about 10 kB each."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        place = folder / str(number % 10) / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place)


def streamed(quick: bool) -> dict[str, float]:
    """Pictures a second of a steady epoch, and what they are compared with.

    The model is one linear layer, so that what is measured is the way of the data.
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

    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "pictures"
        write_pictures(root)
        config = Path(place) / "config.yaml"
        config.write_text(
            f"{{name: pictures, model: linear, loss: cross_entropy, optimizer: adamw,"
            f" data: {{name: image_folder, root: {root}, size: {SIZE}, validation: 0, test: 0,"
            f" workers: {WORKERS}}}, train: {{epochs: 100, batch_size: {BATCH}, device: cpu}}}}"
        )

        def trainer(*overrides: str):
            experiment = dltrain.load(config, overrides)
            runtime = build_runtime(experiment)
            data = build_data(experiment, runtime, print)
            task = build_task(experiment, data.spec, runtime)
            return build_trainer(
                experiment, data, task, runtime, CheckpointStore(Path(place) / "c")
            )

        def rate(epoch) -> float:
            before = time.perf_counter()
            epoch()
            return PICTURES / (time.perf_counter() - before)

        plain, cached, resident = trainer(), trainer("data.cache=memory"), trainer()
        split = plain.data.train
        assert isinstance(split, Streaming)
        dataset = _Decoded(split.read)
        pixels = torch.stack([dataset[number] for number in range(PICTURES)])
        object.__setattr__(
            resident.data,
            "train",
            InMemory(pixels, split.targets, seed=0, transform=split.transform),
        )
        loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS)

        def decode() -> None:
            for _ in loader:
                pass

        ways = {
            "DataLoader, decoding alone": decode,
            "dltrain, streamed": plain.train_epoch,
            "dltrain, cache: memory, second epoch on": cached.train_epoch,
            "dltrain, in memory": resident.train_epoch,
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(2 if quick else 6):
            for name, epoch in ways.items():
                found = rate(epoch)
                if round_:
                    rates[name].append(found)
    medians = {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
    decoding, ours, cache, memory = medians.values()
    return {
        **{f"pictures/s: {name}": value for name, value in medians.items()},
        "streamed / decoding alone": ours / decoding,
        "in memory / cache": memory / cache,
    }


class _Decoded:
    """A data set of decoded pictures, as torch's loader takes them."""

    def __init__(self, read) -> None:
        self.read = read

    def __len__(self) -> int:
        return PICTURES

    def __getitem__(self, number: int):
        return self.read(number)
