"""Configs of small experiments on the GPU."""

import os

STAND_IN = os.environ.get("DLTRAIN_GPU_STAND_IN") == "cpu"
"""Whether the CPU replaces the GPU to test the tests themselves; see `stand_in.py`."""

DEVICE = "cpu" if STAND_IN else "cuda"

CONFIG = {
    "seed": 3,
    "model": {"name": "mlp", "hidden": [32]},
    "data": {"name": "toy_blobs", "samples": 400, "validation": 50, "test": 50},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "one_cycle", "warmup": 0.2},
    "metrics": ["accuracy"],
    "train": {"epochs": 3, "batch_size": 64, "device": DEVICE, "precision": "fp32"},
    "recording": {"log_every": 1000, "tensorboard": False},
}
"""300 training samples: five steps per epoch, with a smaller last batch."""

IMAGES = CONFIG | {
    "model": {"name": "cnn", "channels": [4, 8], "dropout": 0.3},
    "data": {
        "name": "idx",
        "root": "images",
        "validation": 33,
        "augment": {"crop": 1, "flip": True, "shift": 2, "rotate": 10, "cutout": 3},
    },
}
"""300 training images from the fixture `images`, with every augmentation and dropout."""

TEXT = CONFIG | {
    "model": {"name": "text_lstm", "embedding_size": 8, "hidden_size": 8, "dropout": 0.3},
    "data": {"name": "toy_text", "samples": 400, "validation": 50, "test": 50},
}
"""Sentences of different lengths in length buckets."""

LANGUAGE = CONFIG | {
    "task": "language_model",
    "model": {"name": "text_generator", "hidden_size": 16, "layers": 2, "dropout": 0.3},
    "data": {"name": "python_docs", "window": 16, "validation": 0.01},
    "metrics": [],
    "train": {**CONFIG["train"], "steps": 15, "epochs": None},
}
"""Windows of Python's help topics."""

SEQ2SEQ = CONFIG | {
    "task": "seq2seq",
    "model": {"name": "seq2seq_lstm", "hidden_size": 16, "dropout": 0.3},
    "data": {"name": "toy_digits", "samples": 600},
}
"""Pairs of digit sequences in length buckets."""
