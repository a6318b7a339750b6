"""Models, one module per family; importing this package registers all of them."""

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
