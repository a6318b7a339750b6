"""Small components of each kind, in place of the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from dltrain.core.option_types import PositiveFloat, PositiveInt, Probability
from dltrain.core.registry import Registry

FULL_CONFIG = """\
model: {name: cnn, channels: [8, 16]}
data: digits
loss: cross_entropy
optimizer: {name: sgd, lr: 1e-3}
train: {epochs: 2}
"""


class Order(Enum):
    SORTED = "sorted"
    SHUFFLED = "shuffled"


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Changes.

    Attributes:
        shift: Pixels.
        flip: Mirror.
    """

    shift: PositiveInt
    flip: bool = False


def fill(kinds: dict[str, Registry]) -> None:
    @kinds["models"].register
    def cnn(
        spec: object,
        /,
        *,
        channels: tuple[PositiveInt, ...] = (32, 64),
        activation: Literal["relu", "gelu", "tanh"] = "relu",
        dropout: Probability = 0.5,
        kernel: tuple[PositiveInt, PositiveInt] | PositiveInt = 3,
    ) -> tuple[object, ...]:
        """Convolutions.

        Args:
            channels: Of each layer.
            activation: After each layer.
            dropout: Share of zeros.
            kernel: Size.
        """
        return (spec, channels, activation, dropout, kernel)

    @kinds["models"].register
    def mlp(spec: object, /, *, hidden: tuple[PositiveInt, ...]) -> tuple[object, ...]:
        """Layers.

        Args:
            hidden: Widths.
        """
        return (spec, hidden)

    @kinds["data"].register
    def digits(
        context: object,
        /,
        *,
        root: Path | None = None,
        order: Order = Order.SORTED,
        augment: Augment | None = None,
        label: str = "digit",
        weights: dict[str, float] | Literal["balanced"] | None = None,
    ) -> None:
        """Digits."""

    @kinds["losses"].register
    def cross_entropy(spec: object, /, *, label_smoothing: Probability = 0.0) -> None:
        """Entropy."""

    @kinds["losses"].register
    def mse(spec: object, /) -> None:
        """Squares."""

    @kinds["losses"].register
    def mae(spec: object, /) -> None:
        """Absolutes."""

    @kinds["optimizers"].register
    def sgd(module: object, /, *, lr: PositiveFloat, momentum: float = 0.0) -> None:
        """Descent."""

    @kinds["schedules"].register
    def constant(*, warmup: Probability = 0.0) -> None:
        """Flat."""

    @kinds["metrics"].register
    def accuracy(spec: object, /) -> None:
        """Share of hits."""

    @kinds["metrics"].register
    def f1(spec: object, /, *, average: Literal["macro", "micro"] = "macro") -> None:
        """Harmonic mean."""

    @kinds["tasks"].register
    def supervised(parts: object, /) -> None:
        """Inputs and targets."""
