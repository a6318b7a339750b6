"""What one step computes, one file a kind of task."""

from dltrain.tasks import autoencoder, gan, language_model, seq2seq, supervised

__all__ = ["autoencoder", "gan", "language_model", "seq2seq", "supervised"]
