"""A model that uses one layer never, in some steps, or for some samples."""

from typing import Literal

from torch import Tensor, nn

from dltrain import MODELS, DataSpec

When = Literal["never", "every other step", "for some samples"]


class Partial(nn.Module):
    def __init__(self, spec: DataSpec, used: When) -> None:
        super().__init__()
        self.first = nn.Linear(spec.input_shape[0], 16)
        self.extra = nn.Linear(16, 16)
        self.last = nn.Linear(16, spec.num_outputs)
        self.used, self.steps = used, 0

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs).relu()
        if self.used == "every other step" and self.training:
            self.steps += 1
            hidden = self.extra(hidden) if self.steps % 2 else hidden
        if self.used == "for some samples":
            chosen = inputs[:, 0] > 1.0
            if chosen.any():
                hidden = hidden.clone()
                hidden[chosen] = self.extra(hidden[chosen])
        return self.last(hidden)


@MODELS.register
def partial(spec: DataSpec, /, *, used: When = "never") -> nn.Module:
    """Build a network with a layer that is not always used.

    Args:
        used: Condition under which the layer is used.
    """
    return Partial(spec, used)
