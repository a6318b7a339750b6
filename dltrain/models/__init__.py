"""Models, one family a file; importing this package registers them all."""

from dltrain.models import (
    autoencoder,
    cnn,
    gan,
    linear,
    mlp,
    seq2seq,
    text,
    text_generator,
    torchvision_models,
)

__all__ = [
    "autoencoder",
    "cnn",
    "gan",
    "linear",
    "mlp",
    "seq2seq",
    "text",
    "text_generator",
    "torchvision_models",
]
