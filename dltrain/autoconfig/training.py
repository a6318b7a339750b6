"""How long to train, in which batches, and how many samples to hold out: rules of thumb."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dltrain.autoconfig.config_draft import Explained
from dltrain.core.errors import DataError, shorten

MIN_SAMPLES = 10
MIN_SAMPLES_PER_CLASS = 3
"""One to train on, one to validate on, one to test on."""
IMBALANCE_RATIO = 3.0
"""The largest class has so many times the samples of the smallest."""


def holdout_fraction(samples: int) -> float:
    """The share of the samples to validate on, and to test on: small data needs more of it."""
    if samples < 500:
        return 0.2
    return 0.15 if samples < 2000 else 0.1


def holdout_options(
    samples: int, noun: str, *, apart: Collection[str] = ()
) -> tuple[dict[str, Any], int]:
    """The options `test` and `validation`, and how many samples they leave to train on.

    Args:
        samples: To cut from.
        noun: What a sample is called, such as `pictures`.
        apart: Splits that are not cut, such as those with a folder of their own.
    """
    share, kept = holdout_fraction(samples), samples
    options: dict[str, Any] = {}
    for name, use in (
        ("test", "are read once, at the end"),
        ("validation", "choose the best epoch"),
    ):
        if name not in apart:
            count = round(share * kept)
            kept -= count
            options[name] = Explained(share, f"{count:,} {noun} {use}")
    return options, kept


def training_length(samples: int, *, steps: int, max_epochs: int) -> dict[str, Any]:
    """`train` and `early_stop`, as far as the number of training samples decides them.

    Args:
        samples: To train on.
        steps: To aim at.
        most_epochs: The limit, for data so small that it would be seen too often.
    """
    batch_size = next(
        (size for limit, size in ((500, 16), (5_000, 32), (50_000, 64)) if samples < limit), 128
    )
    steps_per_epoch = max(1, -(-samples // batch_size))
    epochs = min(max_epochs, max(5, round(steps / steps_per_epoch)))
    each = "1 step" if steps_per_epoch == 1 else f"{steps_per_epoch:,} steps"
    return {
        "epochs": Explained(epochs, f"{each} each, {epochs * steps_per_epoch:,} in all"),
        "batch_size": Explained(batch_size, f"for {samples:,} samples to train on"),
    }


def model_selection(metric: str, epochs: int) -> dict[str, Any]:
    """`checkpoint` and `early_stop`, by a scalar of the validation split."""
    patience = max(5, epochs // 3)
    return {
        "checkpoint": {"best": Explained(metric, "the weights of the best epoch are kept")},
        "early_stop": Explained(
            {"monitor": metric, "patience": patience},
            f"ends the run after {patience} epochs without a better value",
        ),
    }


def classification(counts: Mapping[str, int], noun: str) -> dict[str, Any]:
    """Loss, metrics and the scalar that chooses, for classes.

    Args:
        counts: Class to samples.
        noun: What a sample is called.
    """
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    names = ["accuracy", "f1", "confusion_matrix"]
    if not is_imbalanced(counts):
        why = "accuracy is telling, for the classes are about equally frequent"
        return {
            "loss": "cross_entropy",
            "metrics": Explained(names, why),
            "best": "val/accuracy",
        }
    share = counts[most] / sum(counts.values())
    if len(counts) == 2:
        names.insert(2, "auroc")
    return {
        "loss": Explained(
            {"name": "cross_entropy", "class_weights": "balanced"},
            f"{shorten(least)!r} has {counts[least]} {noun} and {shorten(most)!r} {counts[most]}: "
            "each class counts alike",
        ),
        "metrics": Explained(
            names,
            f"to say {shorten(most)!r} always would be {share:.0%} accurate; "
            "f1 is the mean over classes, so look at that",
        ),
        "best": "val/f1",
    }


def is_imbalanced(counts: Mapping[str, int]) -> bool:
    """Whether accuracy says little."""
    return max(counts.values()) >= IMBALANCE_RATIO * min(counts.values())


def format_class_counts(counts: Mapping[str, int], noun: str) -> str:
    """`3 classes (cat, dog, horse), 120 to 140 pictures each`."""
    names = shorten(", ".join(shorten(name, 30) for name in counts), 120)
    least, most = min(counts.values()), max(counts.values())
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{len(counts)} classes ({names}), {each} {noun} each"


def require_enough(source: object, counts: Mapping[str, int], noun: str) -> None:
    """Raises DataError where a class has too few samples to be cut three ways."""
    rare = [name for name in counts if counts[name] < MIN_SAMPLES_PER_CLASS]
    if rare:
        told = shorten(", ".join(f"{shorten(name)!r} {counts[name]}" for name in rare), 200)
        raise DataError(
            f"{source}: each class needs {MIN_SAMPLES_PER_CLASS} {noun}, for training, validation "
            f"and test; too few: {told}; remove these classes, merge them, or add {noun}"
        )


def require_samples(source: object, samples: int, noun: str) -> None:
    """Raises DataError where there is too little to learn from."""
    if samples < MIN_SAMPLES:
        raise DataError(
            f"{source}: has {samples} {noun}; {MIN_SAMPLES} at least are wanted, "
            "and some hundreds make sense"
        )


def format_range(values: Sequence[float]) -> str:
    """`12 to 900`, or the value if it is one."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
