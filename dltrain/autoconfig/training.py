"""Rules of thumb for training length, batch size, holdout sizes, loss and metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dltrain.autoconfig.config_draft import Explained
from dltrain.core.errors import DataError, shorten

MIN_SAMPLES = 10
MIN_SAMPLES_PER_CLASS = 3
"""One each for training, validation and test."""
IMBALANCE_RATIO = 3.0
"""Ratio of the largest to the smallest class's samples from which classes are imbalanced."""


def holdout_fraction(samples: int) -> float:
    """Return the fraction of samples for validation, and for test; larger for small data."""
    if samples < 500:
        return 0.2
    return 0.15 if samples < 2000 else 0.1


def holdout_options(
    samples: int, noun: str, *, apart: Collection[str] = ()
) -> tuple[dict[str, Any], int]:
    """Return the options `test` and `validation`, and the number of remaining training samples.

    Args:
        samples: Number of samples.
        noun: Plural name of a sample, such as `images`.
        apart: Splits that are not taken from these samples, such as those in a separate folder.
    """
    fraction, kept = holdout_fraction(samples), samples
    options: dict[str, Any] = {}
    for name, use in (
        ("test", "for the final evaluation"),
        ("validation", "to select the best epoch"),
    ):
        if name not in apart:
            count = round(fraction * kept)
            kept -= count
            options[name] = Explained(fraction, f"{count:,} {noun} {use}")
    return options, kept


def training_length(samples: int, *, steps: int, max_epochs: int) -> dict[str, Any]:
    """Return the options `epochs` and `batch_size` of `train`.

    Args:
        samples: Number of training samples.
        steps: Desired number of optimizer steps.
        max_epochs: Maximum number of epochs, for small data.
    """
    batch_size = next(
        (size for limit, size in ((500, 16), (5_000, 32), (50_000, 64)) if samples < limit), 128
    )
    steps_per_epoch = max(1, -(-samples // batch_size))
    epochs = min(max_epochs, max(5, round(steps / steps_per_epoch)))
    each = "1 step" if steps_per_epoch == 1 else f"{steps_per_epoch:,} steps"
    return {
        "epochs": Explained(epochs, f"{each} per epoch, {epochs * steps_per_epoch:,} in total"),
        "batch_size": Explained(batch_size, f"for {samples:,} training samples"),
    }


def model_selection(metric: str, epochs: int) -> dict[str, Any]:
    """Return `checkpoint` and `early_stop` for a scalar of the validation split."""
    patience = max(5, epochs // 3)
    return {
        "checkpoint": {"best": Explained(metric, "keeps the weights of the best epoch")},
        "early_stop": Explained(
            {"monitor": metric, "patience": patience},
            f"ends the run after {patience} epochs without improvement",
        ),
    }


def classification(counts: Mapping[str, int], noun: str) -> dict[str, Any]:
    """Return loss, metrics and the scalar that selects the best checkpoint, for classes.

    Args:
        counts: Number of samples of each class.
        noun: Plural name of a sample.
    """
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    names = ["accuracy", "f1", "confusion_matrix"]
    if not is_imbalanced(counts):
        return {
            "loss": "cross_entropy",
            "metrics": Explained(names, "accuracy is meaningful: the classes are balanced"),
            "best": "val/accuracy",
        }
    fraction = counts[most] / sum(counts.values())
    if len(counts) == 2:
        names.insert(2, "auroc")
    return {
        "loss": Explained(
            {"name": "cross_entropy", "class_weights": "balanced"},
            f"{shorten(least)!r} has {counts[least]} {noun} and {shorten(most)!r} {counts[most]}: "
            "classes are weighted equally",
        ),
        "metrics": Explained(
            names,
            f"always predicting {shorten(most)!r} would be {fraction:.0%} accurate; f1, the mean "
            "over classes, is more meaningful",
        ),
        "best": "val/f1",
    }


def is_imbalanced(counts: Mapping[str, int]) -> bool:
    """Return whether the classes are so imbalanced that accuracy is not meaningful."""
    return max(counts.values()) >= IMBALANCE_RATIO * min(counts.values())


def format_class_counts(counts: Mapping[str, int], noun: str) -> str:
    """Format counts as `3 classes (cat, dog, horse), 120 to 140 images each`."""
    names = shorten(", ".join(shorten(name, 30) for name in counts), 120)
    least, most = min(counts.values()), max(counts.values())
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{len(counts)} classes ({names}), {each} {noun} each"


def require_enough(source: object, counts: Mapping[str, int], noun: str) -> None:
    """Raise DataError if a class has too few samples for three splits."""
    rare = [name for name in counts if counts[name] < MIN_SAMPLES_PER_CLASS]
    if rare:
        few = shorten(", ".join(f"{shorten(name)!r} {counts[name]}" for name in rare), 200)
        raise DataError(
            f"{source}: each class needs {MIN_SAMPLES_PER_CLASS} {noun}, for training, validation "
            f"and test; too few: {few}; remove these classes, merge them, or add {noun}"
        )


def require_samples(source: object, samples: int, noun: str) -> None:
    """Raise DataError if there are too few samples."""
    if samples < MIN_SAMPLES:
        raise DataError(
            f"{source}: has {samples} {noun}; expected at least {MIN_SAMPLES}, preferably some "
            "hundreds"
        )


def format_range(values: Sequence[float]) -> str:
    """Format the range of values as `12 to 900`, or as one number if they are equal."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
