"""Configs of runs whose steps can be captured as CUDA graphs, with all features of a step."""

CLASSIFIER = {
    "seed": 3,
    "model": {"name": "cnn", "channels": [4], "dropout": 0.3},
    "data": {
        "name": "idx",
        "root": "images",
        "validation": 30,
        "augment": {"crop": 1, "flip": True, "shift": 2, "rotate": 10, "cutout": 3},
    },
    "loss": {"name": "cross_entropy", "class_weights": "balanced"},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "one_cycle", "warmup": 0.3},
    "metrics": ["accuracy"],
    "train": {
        **{"epochs": 8, "batch_size": 32, "micro_batch": 20, "cuda_graph": "auto"},
        **{"ema": 0.9, "clip_norm": 1.0, "evaluate": "5 steps", "device": "cpu"},
    },
    "checkpoint": {"every": "3 steps", "best": "val/loss"},
    "recording": {"log_every": 2, "tensorboard": False},
}
"""Config with 103 training images: four steps per epoch, the last with seven images."""

RUNS = {
    "classifier": CLASSIFIER,
    "one micro-batch, no class weights": CLASSIFIER
    | {"loss": "cross_entropy", "train": {**CLASSIFIER["train"], "micro_batch": None}},
    "sgd": CLASSIFIER | {"optimizer": {"name": "sgd", "lr": 0.05}},
    "variational autoencoder": CLASSIFIER
    | {
        "task": "autoencoder",
        "model": {"name": "autoencoder", "latent": 3, "variational": True, "hidden": [16]},
        "loss": "mse",
        "metrics": [],
    },
    "GAN": CLASSIFIER
    | {
        "task": "gan",
        "model": {"name": "dcgan", "latent": 4, "channels": [6, 4], "dropout": 0.3},
        "loss": "wasserstein",
        "optimizer": {"name": "adam", "lr": 0.003, "betas": [0.0, 0.9]},
        "phases": {"discriminator": {"optimizer": {"lr": 0.006}}},
        "metrics": [],
        "checkpoint": {"every": "3 steps"},
    },
}
