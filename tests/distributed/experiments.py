"""Small experiments in float64 for several ranks, with batches that do not divide evenly.

103 images in batches of 34 leave a last batch of one sample, for two ranks and for four.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from small_data import write_color_images, write_images, write_text

COMMON = {
    "checkpoint": {"every": "3 steps"},
    "recording": {"log_every": 1, "images": 5},
    "schedule": {"name": "one_cycle", "warmup": 0.3},
}
TRAIN = {"epochs": 2, "batch_size": 34, "device": "cpu", "precision": "fp64", "evaluate": "2 steps"}
IMAGES = {"name": "idx", "root": "images", "validation": 30}
ADAM = {"name": "adamw", "lr": 0.01}
TEXT = {"name": "text_file", "path": "text.txt", "window": 16, "validation": 0.1}

CLASSIFIER: dict[str, Any] = {
    "model": {"name": "cnn", "channels": [4], "dropout": 0.0},
    "data": {**IMAGES, "augment": {"shift": 2, "flip": True}},
    "loss": {"name": "cross_entropy", "class_weights": "balanced"},
    "optimizer": ADAM,
    "metrics": ["accuracy", "f1", "auroc", "confusion_matrix"],
    "train": {**TRAIN, "micro_batch": 4, "ema": 0.9, "clip_norm": 0.5},
    "checkpoint": {"every": "3 steps", "best": "val/f1"},
}
GPT: dict[str, Any] = {
    "task": "language_model",
    "model": {"name": "gpt", "layers": 2, "width": 16, "heads": 2, "dropout": 0.0},
    "data": TEXT,
    "loss": "cross_entropy",
    "optimizer": ADAM,
    "metrics": ["accuracy"],
    "train": {**TRAIN, "batch_size": 10},
}
FOUR = {
    "classifier": CLASSIFIER,
    "recurrent": {
        **GPT,
        "model": {"name": "text_generator", "hidden_size": 8, "dropout": 0.0},
        "optimizer": {"name": "sgd", "lr": 0.1},
    },
    "gan": {
        "task": "gan",
        "model": {"name": "dcgan", "latent": 4, "channels": [6, 4], "norm": "group"},
        "data": IMAGES,
        "loss": "wasserstein",
        "optimizer": {"name": "adam", "lr": 0.003, "betas": [0.0, 0.9]},
        "phases": {"discriminator": {"optimizer": {"lr": 0.006}, "clip_norm": 1.0}},
        "train": {**TRAIN, "ema": 0.9},
    },
}
# Batches of 101 leave a last batch of two samples: two of four ranks have none.
FOUR |= {
    "normalised": {
        **CLASSIFIER,
        "model": {"name": "mlp", "hidden": [8, 8], "batch_norm": True},
        "train": {**TRAIN, "batch_size": 101, "ema": 0.9},
    },
    "normalised_images": {
        **CLASSIFIER,
        "model": {"name": "cnn", "channels": [4], "dropout": 0.0, "batch_norm": True},
        "train": {**TRAIN, "batch_size": 101},
    },
    "normalised_gan": {
        **FOUR["gan"],
        "model": {"name": "dcgan", "latent": 4, "channels": [6, 4], "norm": "batch"},
        "train": {**TRAIN, "batch_size": 101},
    },
}
# Weight decay would shrink the unused layer if its gradient were 0 instead of None.
PARTIAL: dict[str, Any] = {
    "data": {"name": "toy_spirals", "samples": 80},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.5},
    "metrics": ["accuracy", "f1"],
    "train": {**TRAIN, "batch_size": 9},
}
TWO = {
    **FOUR,
    **{
        f"partial_{used}".replace(" ", "_"): {**PARTIAL, "model": {"name": "partial", "used": used}}
        for used in ("never", "every other step", "for some samples")
    },
    "partial_slices": {
        **PARTIAL,
        "model": {"name": "partial", "used": "for some samples"},
        "train": {**PARTIAL["train"], "micro_batch": 2},
    },
    "sharded_partial": {
        **PARTIAL,
        "model": {"name": "partial", "used": "never"},
        "train": {**PARTIAL["train"], "distributed": "fsdp"},
    },
    "sharded_normalised": {
        **FOUR["normalised"],
        "train": {**TRAIN, "batch_size": 101, "distributed": "fsdp"},
    },
    "digits": {
        "task": "seq2seq",
        "model": {"name": "seq2seq_lstm", "hidden_size": 8},
        "data": {"name": "toy_digits", "samples": 140},
        "loss": "cross_entropy",
        "optimizer": ADAM,
        "metrics": ["accuracy"],
        "train": {**TRAIN, "micro_batch": 5},
    },
    "codes": {
        "task": "autoencoder",
        "model": {"name": "autoencoder", "variational": True},
        "data": IMAGES,
        "loss": "mse",
        "optimizer": ADAM,
        "metrics": ["mae"],
        "train": TRAIN,
    },
    "streamed": {
        "model": {"name": "mlp", "hidden": [8]},
        "data": {"name": "image_folder", "root": "my_images", "size": 12, "workers": 0},
        "loss": "bce",
        "optimizer": ADAM,
        "metrics": ["accuracy"],
        "train": {**TRAIN, "batch_size": 7},
    },
    "sharded_classifier": {
        **CLASSIFIER,
        "train": {**CLASSIFIER["train"], "distributed": "fsdp"},
    },
    "sharded_gpt": {**GPT, "train": {**GPT["train"], "distributed": "fsdp"}},
    "sharded_sgd": {
        **CLASSIFIER,
        "optimizer": {"name": "sgd", "lr": 0.1},
        "train": {**CLASSIFIER["train"], "distributed": "fsdp"},
    },
}


def write(folder: Path) -> None:
    """Write the data, `two/NAME.yaml` for two ranks and `four/NAME.yaml` for four."""
    write_images(folder / "images", train=133, test=40, side=8, classes=3)
    write_color_images(folder / "my_images", 20)
    write_text(folder / "text.txt", 60)
    for name, configs in (("two", TWO), ("four", FOUR)):
        (folder / name).mkdir()
        for key, config in configs.items():
            (folder / name / f"{key}.yaml").write_text(yaml.safe_dump({**COMMON, **config}))
