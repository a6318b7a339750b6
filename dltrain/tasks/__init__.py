"""Tasks, which compute what a training step needs, one module per kind."""

from dltrain.tasks import autoencoder, gan, language_model, seq2seq, supervised

__all__ = ["autoencoder", "gan", "language_model", "seq2seq", "supervised"]
