"""Keras 3 on torch, without its progress bar; channels first, which is torch's own layout."""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import initializers, layers

from bench import data, networks, pictures
from bench.work import Clock, Work


class AdamW(keras.optimizers.AdamW):
    """Everyone's optimizer; tells the clock of its steps."""

    clock: Clock

    def apply(self, grads: Sequence, trainable_variables: Sequence | None = None) -> None:
        """Keras' name for a step."""
        super().apply(grads, trainable_variables)
        self.clock.step()


class Laps(keras.callbacks.Callback):
    """Tells the clock of each epoch."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras' name for it."""
        self.clock.lap()


def train(work: Work, clock: Clock) -> float:
    """Trains; the accuracy on the test split."""
    keras.config.set_image_data_format("channels_first")
    keras.utils.set_random_seed(0)
    with keras.device(work.device):
        model = keras.Sequential([layers.Input((1, 28, 28)), *LAYERS[work.config]()])
        optimizer = AdamW(networks.LEARNING_RATE, weight_decay=0.01, epsilon=1e-8)
        optimizer.clock = clock
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        options = {"epochs": work.epochs, "verbose": 0, "callbacks": [Laps(clock)]}
        if work.pipeline == "tensors":
            images, labels = pictures.tensors(work.root, train=True)
            model.fit(images.numpy(), labels.numpy(), batch_size=work.batch_size, **options)
        else:
            model.fit(data.loader(work), **options)
        return data.accuracy(work, lambda inputs: model(inputs, training=False))


def _like_torch(fan_in: int) -> dict[str, initializers.Initializer]:
    """Weights and biases of a layer, uniform within 1 / sqrt(inputs of a unit)."""
    bound = fan_in**-0.5
    return {
        "kernel_initializer": initializers.RandomUniform(-bound, bound),
        "bias_initializer": initializers.RandomUniform(-bound, bound),
    }


LAYERS = {
    "mnist_mlp": lambda: (
        layers.Flatten(),
        layers.Dense(128, "relu", **_like_torch(784)),
        layers.Dense(10, **_like_torch(128)),
    ),
    "mnist_cnn": lambda: (
        layers.Conv2D(32, 3, activation="relu", **_like_torch(9)),
        layers.MaxPooling2D(2),
        layers.Conv2D(64, 3, activation="relu", **_like_torch(9 * 32)),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.25),
        layers.Dense(10, **_like_torch(1600)),
    ),
}
