"""Small synthetic data, to check that a model learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dltrain.core.data_spec import Column, DataSpec, TableInputs
from dltrain.core.errors import OptionError
from dltrain.core.option_types import NonNegativeFloat, PositiveInt
from dltrain.core.protocols import Data, DataContext
from dltrain.core.registry import DATA
from dltrain.data.in_memory import class_counts, fingerprint, in_memory_data
from dltrain.data.seeding import derive_seed
from dltrain.data.splits import TEST_SEED, HoldoutSize, hold_out, split_fingerprint


@DATA.register
def toy_line(
    context: DataContext,
    /,
    *,
    samples: PositiveInt = 1000,
    noise: NonNegativeFloat = 0.1,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0.2,
) -> Data:
    """A straight line: y = 2 x + 1 plus noise, x uniform in [-1, 1).

    >>> from pathlib import Path
    >>> from dltrain.core.protocols import DataContext
    >>> data = toy_line(DataContext(Path("data")), noise=0.0)
    >>> batch = next(data.train.batches(2))
    >>> torch.allclose(batch.targets, 2 * batch.inputs + 1)
    True

    Args:
        samples: Total number of samples.
        noise: Standard deviation of the noise.
        validation: Validation samples, taken from the training set: a number, or a fraction.
        test: Test samples: a number, or a fraction.
    """
    draw = _generator(context)
    x = torch.rand(samples, 1, generator=draw, dtype=torch.float64) * 2 - 1
    y = 2 * x + 1 + noise * torch.randn(samples, 1, generator=draw, dtype=torch.float64)
    return _toy_data(context, x, y, formula="y = 2 x + 1", validation=validation, test=test)


@DATA.register
def toy_sine(
    context: DataContext,
    /,
    *,
    samples: PositiveInt = 1000,
    noise: NonNegativeFloat = 0.1,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0.2,
) -> Data:
    """A sine wave: y = sin(x) plus noise, x uniform in [-pi, pi).

    >>> from pathlib import Path
    >>> from dltrain.core.protocols import DataContext
    >>> data = toy_sine(DataContext(Path("data")), noise=0.0)
    >>> batch = next(data.train.batches(2))
    >>> torch.allclose(batch.targets, batch.inputs.sin(), atol=1e-6)
    True

    Args:
        samples: Total number of samples.
        noise: Standard deviation of the noise.
        validation: Validation samples, taken from the training set: a number, or a fraction.
        test: Test samples: a number, or a fraction.
    """
    draw = _generator(context)
    x = (torch.rand(samples, 1, generator=draw, dtype=torch.float64) * 2 - 1) * math.pi
    y = x.sin() + noise * torch.randn(samples, 1, generator=draw, dtype=torch.float64)
    return _toy_data(context, x, y, formula="y = sin x", validation=validation, test=test)


@DATA.register
def toy_blobs(
    context: DataContext,
    /,
    *,
    samples: PositiveInt = 1000,
    classes: PositiveInt = 3,
    noise: NonNegativeFloat = 0.2,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0.2,
) -> Data:
    """Gaussian clusters in the plane, one per class, with centers evenly spaced on the unit circle.

    >>> from pathlib import Path
    >>> from dltrain.core.protocols import DataContext
    >>> data = toy_blobs(DataContext(Path("data")), classes=4)
    >>> data.spec.input_shape, data.spec.class_counts, len(data.test)
    ((2,), (180, 180, 180, 180), 200)

    Args:
        samples: Total number of samples, divided evenly among the classes.
        classes: Number of clusters.
        noise: Standard deviation of each cluster along each axis.
        validation: Validation samples, taken from the training set: a number, or a fraction.
        test: Test samples: a number, or a fraction.

    Raises:
        OptionError: There are more classes than samples.
    """
    draw = _generator(context)
    target = torch.arange(samples) % classes
    angle = target.double() * (2 * math.pi / classes)
    centre = torch.stack([angle.cos(), angle.sin()], 1)
    x = centre + noise * torch.randn(samples, 2, generator=draw, dtype=torch.float64)
    return _toy_data(
        context,
        x,
        target,
        formula="clusters on a circle",
        class_names=_class_names(classes, samples),
        validation=validation,
        test=test,
    )


@DATA.register
def toy_spirals(
    context: DataContext,
    /,
    *,
    samples: PositiveInt = 1000,
    classes: PositiveInt = 2,
    turns: NonNegativeFloat = 1.0,
    noise: NonNegativeFloat = 0.02,
    validation: HoldoutSize = 0.1,
    test: HoldoutSize = 0.2,
) -> Data:
    """Interleaved spirals within the unit circle, one arm per class.

    >>> from pathlib import Path
    >>> from dltrain.core.protocols import DataContext
    >>> data = toy_spirals(DataContext(Path("data")), classes=3, samples=300)
    >>> data.spec.input_shape, len(data.train), len(data.validation), len(data.test)
    ((2,), 216, 24, 60)

    Args:
        samples: Total number of samples, divided evenly among the classes.
        classes: Number of arms.
        turns: Number of turns of each arm.
        noise: Standard deviation of the noise along each axis.
        validation: Validation samples, taken from the training set: a number, or a fraction.
        test: Test samples: a number, or a fraction.

    Raises:
        OptionError: There are more classes than samples.
    """
    draw = _generator(context)
    target = torch.arange(samples) % classes
    radius = torch.rand(samples, generator=draw, dtype=torch.float64).sqrt()  # even along the arm
    angle = 2 * math.pi * (turns * radius + target / classes)
    x = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    x = x + noise * torch.randn(samples, 2, generator=draw, dtype=torch.float64)
    return _toy_data(
        context,
        x,
        target,
        formula="spirals",
        class_names=_class_names(classes, samples),
        validation=validation,
        test=test,
    )


def _generator(context: DataContext) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(context.seed))


def _class_names(classes: int, samples: int) -> tuple[str, ...]:
    if classes > samples:
        raise OptionError(
            "classes", f"expected at most {samples}, the number of samples, got {classes}"
        )
    return tuple(str(number) for number in range(classes))


def _toy_data(
    context: DataContext,
    x: Tensor,
    y: Tensor,
    *,
    formula: str,
    validation: float,
    test: float,
    class_names: tuple[str, ...] = (),
) -> Data:
    """Split samples, (samples, features), and targets, without preprocessing."""
    content = fingerprint(x, y)
    x = x.to(context.dtype)
    y = y if class_names else y.to(context.dtype)
    seen, tested = hold_out(y, test, TEST_SEED, name="test")
    kept, held = hold_out(y[seen], validation, context.seed, name="validation")
    train, held = seen[kept], seen[held]
    spec = DataSpec(
        input_shape=(x.shape[1],),
        num_outputs=len(class_names) or y.shape[1],
        inputs=TableInputs(tuple(Column(f"x{number}") for number in range(x.shape[1]))),
        class_names=class_names,
        class_counts=class_counts(y[train], len(class_names)) if class_names else (),
    )
    parts = {
        name: (x[index], y[index])
        for name, index in {"train": train, "validation": held, "test": tested}.items()
    }
    return in_memory_data(
        context,
        spec,
        parts,
        source=f"formula: {formula}",
        fingerprint=content,
        split_fingerprint=split_fingerprint(train=train, validation=held, test=tested),
    )
