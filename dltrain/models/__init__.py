"""Models, one family a file; importing this package registers them all."""

from dltrain.models import (
    autoencoder,
    cnn,
    gan,
    language_models,
    linear,
    mlp,
    seq2seq,
    text,
    torchvision_models,
)

__all__ = [
    "autoencoder",
    "cnn",
    "gan",
    "language_models",
    "linear",
    "mlp",
    "seq2seq",
    "text",
    "torchvision_models",
]
