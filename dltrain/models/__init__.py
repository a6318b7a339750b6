"""Models, one family a file; importing this package registers them all."""

from dltrain.models import cnn, gan, linear, mlp, text, text_generator, torchvision_models

__all__ = ["cnn", "gan", "linear", "mlp", "text", "text_generator", "torchvision_models"]
