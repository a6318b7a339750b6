"""Verification of a checkpoint's tensors against the model and its optimizers.

A checkpoint may be untrusted. An optimizer state with a wrong shape crashes a fused optimizer, or
is broadcast silently. So names, shapes and dtypes are compared before anything is loaded. Values
are not checked, except for step counters.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Len
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import TypedDict

from dltrain.checkpoints.untrusted_json import parse_json, validated
from dltrain.core.errors import shorten
from dltrain.core.task import Phase
from dltrain.training.device import generator_states

MAX_RANDOM_BYTES = 2**16
"""Maximum size of the state of a random generator."""

_Kind = tuple[torch.dtype, torch.Size]
_RANK = re.compile(r"rank[0-9]{1,9}/")
_CUDA = re.compile(r"cuda(\.[0-9]{1,4})?")
_CUDA_BYTES = 16
"""Size of seed and offset; the offset of Philox is a multiple of 4."""

_Word = Annotated[int, Field(ge=0, lt=2**32)]
_Position = Annotated[int, Field(ge=0, le=624)]


class _NumpyKey(TypedDict):
    key: Annotated[list[_Word], Len(624, 624)]
    pos: _Position


class _Numpy(TypedDict):
    bit_generator: Literal["MT19937"]
    state: _NumpyKey
    has_gauss: Literal[0, 1]
    gauss: float


_Python = Annotated[list[Any], Len(3, 3)]
_PythonWords = Annotated[list[_Word], Len(625, 625)]


def check_tensors(what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that tensors have the expected names, shapes and dtypes.

    Args:
        what: What the tensors belong to, for the message.
        found: Tensors of a checkpoint.
        expected: Tensors into which they will be loaded. Sharded tensors have the whole shape.

    Raises:
        ValueError: A tensor is missing, unexpected, or differs; the message names the first one.
    """
    kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in expected.items()}
    _compare(what, found, kinds)


def check_optimizers(phases: Iterable[Phase], packed: Mapping[str, Tensor]) -> None:
    """Check that optimizer states have the tensors that the optimizers of some phases create.

    The state of a parameter is complete, or absent before the first step of its optimizer.

    Args:
        phases: Phases with the optimizers.
        packed: Result of `snapshot.pack_optimizers`.

    Raises:
        ValueError: See `check_tensors`; or a step counter is not a number of steps.
    """
    found: dict[str, list[str]] = {}
    for name in packed:
        found.setdefault(name.rpartition("/")[0], []).append(name)
    expected: dict[str, _Kind | None] = {}
    for phase in phases:
        names = {id(p): name for name, p in phase.module.named_parameters()}
        for number, optimizer in enumerate(phase.optimizers):
            for parameter, kinds in _states(optimizer):
                place = f"{phase.name}/{number}/{names[id(parameter)]}"
                own = found.get(place, [])
                if kinds is None:
                    expected |= dict.fromkeys(own)
                elif own or optimizer.state.get(parameter):
                    expected |= {f"{place}/{key}": kind for key, kind in kinds.items()}
    _compare("optimizer state", packed, expected)
    for name, tensor in packed.items():
        if name.endswith("/step"):
            _check_counter(name, tensor)


def check_random_states(states: Mapping[str, Tensor]) -> None:
    """Check that tensors are the states of random generators, for each rank.

    Raises:
        ValueError: A state is missing, unexpected or invalid; the message names it.
    """
    names = {"torch", "python", "numpy"}
    prefixes = {match[0] if (match := _RANK.match(name)) else "" for name in states} | {""}
    for prefix in sorted(prefixes):
        for name in sorted(names):
            if prefix + name not in states:
                raise ValueError(f"random state {prefix}{name} is missing")
    for full, tensor in states.items():
        name = _RANK.sub("", full, count=1)
        shown = shorten(full, 60)
        if name not in names and name != "mps" and not _CUDA.fullmatch(name):
            raise ValueError(f"random state {shown} belongs to no generator")
        if tensor.dtype != torch.uint8 or tensor.ndim != 1 or len(tensor) > MAX_RANDOM_BYTES:
            kind = _describe((tensor.dtype, tensor.shape))
            raise ValueError(f"random state {shown} is {kind}; expected uint8 (bytes)")
        try:
            _check_state(name, tensor)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ValueError(f"random state {shown}: {shorten(str(error))}") from error


def _compare(what: str, found: Mapping[str, Tensor], expected: Mapping[str, _Kind | None]) -> None:
    for name, kind in expected.items():
        if name not in found:
            expectation = f"; expected {_describe(kind)}" if kind else ""
            raise ValueError(f"{what}: {shorten(name)} is missing{expectation}")
        own = (found[name].dtype, found[name].shape)
        if kind is not None and own != kind:
            raise ValueError(
                f"{what}: {shorten(name)} is {_describe(own)}; expected {_describe(kind)}"
            )
    for name, tensor in found.items():
        if name not in expected:
            own = _describe((tensor.dtype, tensor.shape))
            raise ValueError(f"{what}: {shorten(name)} is {own}; expected no tensor of this name")


def _describe(kind: _Kind) -> str:
    dtype, shape = kind
    sizes = [*map(str, shape[:8]), *(["..."] if len(shape) > 8 else [])]
    return f"{str(dtype).removeprefix('torch.')} ({', '.join(sizes)})"


def _check_counter(name: str, tensor: Tensor) -> None:
    if tensor.numel() != 1 or tensor.is_complex():
        return  # a user's own optimizer may use the name for something else
    value = float(tensor)
    if not value >= 0 or value != value // 1:  # NaN and infinity too
        raise ValueError(
            f"optimizer state: {shorten(name)} is {value:g}; expected a number of steps"
        )


def _check_state(name: str, tensor: Tensor) -> None:
    """Check the state of one generator; torch's is loaded into an unused generator."""
    match name:
        case "torch":
            torch.Generator().set_state(tensor)
        case "python":
            version, words, gauss = parse_json(tensor.numpy().tobytes(), _Python)
            validated(words, _PythonWords)
            if version != 3 or words[-1] > 624 or not (gauss is None or type(gauss) is float):
                raise ValueError("expected a state of Python's random.Random")
        case "numpy":
            parse_json(tensor.numpy().tobytes(), _Numpy)
        case "mps":
            pass  # torch checks its length
        case _:
            if len(tensor) != _CUDA_BYTES:
                raise ValueError(f"has {len(tensor)} bytes; expected {_CUDA_BYTES}")
            offset = int.from_bytes(tensor[8:].numpy().tobytes(), "little", signed=True)
            if offset < 0 or offset % 4:
                raise ValueError(f"offset {offset}; expected a multiple of 4")


# ----------------------------------------------------------- expected states of optimizers


def _states(optimizer: Optimizer) -> list[tuple[Tensor, dict[str, _Kind] | None]]:
    """Return the parameters with dtypes and shapes of their states; None where unknown.

    They are known for torch's own optimizers. For others, a copy of the optimizer takes a step.
    """
    parameters = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    if _is_known(optimizer):
        return [
            (parameter, _known_state(optimizer, group, parameter))
            for parameter, group in parameters
        ]
    states = _state_after_step(optimizer)
    return [(parameter, states.get(place)) for place, (parameter, _) in enumerate(parameters)]


_LIKE = {
    torch.optim.Adadelta: ("square_avg", "acc_delta"),
    torch.optim.Adagrad: ("sum",),
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.Adamax: ("exp_avg", "exp_inf"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.Muon: ("momentum_buffer",),
    torch.optim.RMSprop: ("square_avg",),
    torch.optim.SGD: (),
}
"""State tensors with the shape of the parameter, without those that depend on an option."""

_OPTIONS = {"amsgrad": "max_exp_avg_sq", "momentum": "momentum_buffer", "centered": "grad_avg"}


def _is_known(optimizer: Optimizer) -> bool:
    """Return whether the state is known: a user's own subclass may have more."""
    kind = type(optimizer)
    return kind in _LIKE or (
        kind.__bases__[0] in _LIKE and kind.__module__ == "dltrain.optim.optimizers"
    )


def _known_state(
    optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor
) -> dict[str, _Kind]:
    kind = type(optimizer) if type(optimizer) in _LIKE else type(optimizer).__bases__[0]
    like = [*_LIKE[kind], *(key for option, key in _OPTIONS.items() if group.get(option))]
    kinds = dict.fromkeys(like, (parameter.dtype, parameter.shape))
    if kind not in (torch.optim.SGD, torch.optim.Muon):
        kinds["step"] = (torch.float32, torch.Size())
    return kinds


def _state_after_step(optimizer: Optimizer) -> dict[int, dict[str, _Kind]]:
    """Return the state after a step of a copy, by position of the parameter; empty on failure."""
    random = generator_states()
    try:
        other = copy.deepcopy(optimizer)
        parameters = [p for group in other.param_groups for p in group["params"]]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        other.step()
    except Exception:  # a user's own code may raise anything, and torch may refuse the copy
        return {}
    finally:
        for set_state, state in random:
            set_state(state)
    return {
        place: {
            key: (value.dtype, value.shape)
            for key, value in other.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        for place, parameter in enumerate(parameters)
    }
