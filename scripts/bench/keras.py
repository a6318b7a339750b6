"""Keras 3 on torch without its progress bar; channels first, which is torch's default layout."""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import initializers, layers

from bench import data, mnist, networks
from bench.workloads import Timer, Workload


class AdamW(keras.optimizers.AdamW):
    """The optimizer that all frameworks share, which reports its steps to a timer."""

    timer: Timer

    def apply(self, grads: Sequence, trainable_variables: Sequence | None = None) -> None:
        """Take an optimizer step."""
        super().apply(grads, trainable_variables)
        self.timer.end_step()


class EpochTimer(keras.callbacks.Callback):
    """Callback that ends the epoch of a timer."""

    def __init__(self, timer: Timer) -> None:
        super().__init__()
        self.timer = timer

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """End the epoch."""
        self.timer.end_epoch()


def train(workload: Workload, timer: Timer) -> float:
    """Train the network and return the accuracy on the test split."""
    keras.config.set_image_data_format("channels_first")
    keras.utils.set_random_seed(0)
    with keras.device(workload.device):
        model = keras.Sequential([layers.Input((1, 28, 28)), *LAYERS[workload.config]()])
        optimizer = AdamW(networks.LEARNING_RATE, weight_decay=0.01, epsilon=1e-8)
        optimizer.timer = timer
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        options = {"epochs": workload.epochs, "verbose": 0, "callbacks": [EpochTimer(timer)]}
        if workload.pipeline == "tensors":
            images, labels = mnist.tensors(workload.root, train=True)
            model.fit(images.numpy(), labels.numpy(), batch_size=workload.batch_size, **options)
        else:
            model.fit(data.loader(workload), **options)
        return data.accuracy(workload, lambda inputs: model(inputs, training=False))


def _torch_initializers(fan_in: int) -> dict[str, initializers.Initializer]:
    """Return torch's default initializers, uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return {
        "kernel_initializer": initializers.RandomUniform(-bound, bound),
        "bias_initializer": initializers.RandomUniform(-bound, bound),
    }


LAYERS = {
    "mnist_mlp": lambda: (
        layers.Flatten(),
        layers.Dense(128, "relu", **_torch_initializers(784)),
        layers.Dense(10, **_torch_initializers(128)),
    ),
    "mnist_cnn": lambda: (
        layers.Conv2D(32, 3, activation="relu", **_torch_initializers(9)),
        layers.MaxPooling2D(2),
        layers.Conv2D(64, 3, activation="relu", **_torch_initializers(9 * 32)),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.25),
        layers.Dense(10, **_torch_initializers(1600)),
    ),
}
