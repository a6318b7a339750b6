"""Small experiments on the GPU."""

CONFIG = {
    "seed": 3,
    "model": {"name": "mlp", "hidden": [32]},
    "data": {"name": "toy_blobs", "samples": 400, "validation": 50, "test": 50},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "one_cycle", "warmup": 0.2},
    "metrics": ["accuracy"],
    "train": {"epochs": 3, "batch_size": 64, "device": "cuda", "precision": "fp32"},
    "recording": {"log_every": 1000, "tensorboard": False},
}
"""300 training samples: five steps an epoch, the last batch smaller."""

IMAGES = CONFIG | {
    "model": {"name": "cnn", "channels": [4, 8], "dropout": 0.3},
    "data": {
        "name": "idx",
        "root": "images",
        "validation": 33,
        "augment": {"crop": 1, "flip": True, "shift": 2, "rotate": 10, "cutout": 3},
    },
}
"""The same number of pictures, from the fixture `images`, with every augmentation and dropout."""
