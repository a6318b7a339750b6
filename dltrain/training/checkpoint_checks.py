"""Tensors of a checkpoint, compared with what the model and its optimizers expect.

A checkpoint may come from a stranger. A tensor of another shape than its parameter ends a fused
optimizer by a segmentation fault, or is broadcast without a word; so names, shapes and dtypes are
compared before anything is loaded. What the numbers are like is not judged, but for counters.
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

MOST_RANDOM_BYTES = 2**16
"""Of a generator's state."""

_Kind = tuple[torch.dtype, torch.Size]
_RANK = re.compile(r"rank[0-9]{1,9}/")
_CUDA = re.compile(r"cuda(\.[0-9]{1,4})?")
_CUDA_BYTES = 16
"""Seed and offset, which Philox counts in fours."""

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
    """Refuses tensors that have not the names, shapes and dtypes of others.

    Args:
        what: Of what they are, for the message.
        found: In a checkpoint, whole.
        expected: What they are to be loaded into; may be shards, which tell the whole shape.

    Raises:
        ValueError: A tensor is missing, nobody's, or another; the message names the first one.
    """
    kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in expected.items()}
    _compare(what, found, kinds)


def check_optimizers(phases: Iterable[Phase], packed: Mapping[str, Tensor]) -> None:
    """Refuses states that the optimizers of some phases would not have made.

    The state of a parameter is whole, or absent where the optimizer has not made it yet.

    Args:
        phases: With their optimizers.
        packed: What `checkpoint.pack_optimizers` gave.

    Raises:
        ValueError: See `check_tensors`; or a counter of steps is no such number.
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
    """Refuses what are not the states of random generators, of each process.

    Raises:
        ValueError: A state is missing, nobody's, or no state; the message names it.
    """
    names = {"torch", "python", "numpy"}
    prefixes = {found[0] if (found := _RANK.match(name)) else "" for name in states} | {""}
    for prefix in sorted(prefixes):
        for name in sorted(names):
            if prefix + name not in states:
                raise ValueError(f"random state {prefix}{name} is missing")
    for full, tensor in states.items():
        name = _RANK.sub("", full, count=1)
        shown = shorten(full, 60)
        if name not in names and name != "mps" and not _CUDA.fullmatch(name):
            raise ValueError(f"random state {shown} belongs to no generator")
        if tensor.dtype != torch.uint8 or tensor.ndim != 1 or len(tensor) > MOST_RANDOM_BYTES:
            kind = _told((tensor.dtype, tensor.shape))
            raise ValueError(f"random state {shown} is {kind}; expected uint8 (bytes)")
        try:
            _check_state(name, tensor)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ValueError(f"random state {shown}: {shorten(str(error))}") from error


def _compare(what: str, found: Mapping[str, Tensor], expected: Mapping[str, _Kind | None]) -> None:
    for name, kind in expected.items():
        if name not in found:
            told = f"; expected {_told(kind)}" if kind else ""
            raise ValueError(f"{what}: {shorten(name)} is missing{told}")
        own = (found[name].dtype, found[name].shape)
        if kind is not None and own != kind:
            raise ValueError(f"{what}: {shorten(name)} is {_told(own)}; expected {_told(kind)}")
    for name, tensor in found.items():
        if name not in expected:
            own = _told((tensor.dtype, tensor.shape))
            raise ValueError(f"{what}: {shorten(name)} is {own}; expected no tensor of this name")


def _told(kind: _Kind) -> str:
    dtype, shape = kind
    sizes = [*map(str, shape[:8]), *(["..."] if len(shape) > 8 else [])]
    return f"{str(dtype).removeprefix('torch.')} ({', '.join(sizes)})"


def _check_counter(name: str, tensor: Tensor) -> None:
    if tensor.numel() != 1 or tensor.is_complex():
        return  # of a user's own optimizer, which means something else by it
    value = float(tensor)
    if not value >= 0 or value != value // 1:  # NaN and infinity too
        raise ValueError(
            f"optimizer state: {shorten(name)} is {value:g}; expected a number of steps"
        )


def _check_state(name: str, tensor: Tensor) -> None:
    """Tries a generator's state on a generator that nobody uses."""
    match name:
        case "torch":
            torch.Generator().set_state(tensor)
        case "python":
            version, words, gauss = parse_json(tensor.numpy().tobytes(), _Python)
            validated(words, _PythonWords)
            if version != 3 or words[-1] > 624 or not (gauss is None or type(gauss) is float):
                raise ValueError("no state of Python's generator")
        case "numpy":
            parse_json(tensor.numpy().tobytes(), _Numpy)
        case "mps":
            pass  # torch compares its length
        case _:
            if len(tensor) != _CUDA_BYTES:
                raise ValueError(f"has {len(tensor)} bytes; expected {_CUDA_BYTES}")
            offset = int.from_bytes(tensor[8:].numpy().tobytes(), "little", signed=True)
            if offset < 0 or offset % 4:
                raise ValueError(f"offset {offset}; expected a multiple of 4")


# ----------------------------------------------------------------------- what optimizers keep


def _states(optimizer: Optimizer) -> list[tuple[Tensor, dict[str, _Kind] | None]]:
    """Each parameter of an optimizer, and what its state is to hold; None where it can't be told.

    Of torch's own optimizers it is known; another takes a step in a copy.
    """
    parameters = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    if _is_known(optimizer):
        return [(parameter, _known(optimizer, group, parameter)) for parameter, group in parameters]
    tried = _tried(optimizer)
    return [(parameter, tried.get(place)) for place, (parameter, _) in enumerate(parameters)]


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
"""Tensors like the parameter, beside those that an option of the optimizer asks for."""

_OPTIONS = {"amsgrad": "max_exp_avg_sq", "momentum": "momentum_buffer", "centered": "grad_avg"}


def _is_known(optimizer: Optimizer) -> bool:
    """Whether it is one of these, or `optimizers._unwrapped` of it; a user's own may keep more."""
    kind = type(optimizer)
    return kind in _LIKE or (
        kind.__bases__[0] in _LIKE and kind.__module__ == "dltrain.optim.optimizers"
    )


def _known(optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor) -> dict[str, _Kind]:
    kind = type(optimizer) if type(optimizer) in _LIKE else type(optimizer).__bases__[0]
    like = [*_LIKE[kind], *(key for option, key in _OPTIONS.items() if group.get(option))]
    kinds = dict.fromkeys(like, (parameter.dtype, parameter.shape))
    if kind not in (torch.optim.SGD, torch.optim.Muon):
        kinds["step"] = (torch.float32, torch.Size())
    return kinds


def _tried(optimizer: Optimizer) -> dict[int, dict[str, _Kind]]:
    """What a step leaves in a copy, by the parameter's place; nothing where no copy can be made."""
    random = generator_states()
    try:
        other = copy.deepcopy(optimizer)
        parameters = [p for group in other.param_groups for p in group["params"]]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        other.step()
    except Exception:  # code of a user's own, or a copy that torch refuses: nothing is known of it
        return {}
    finally:
        for put_back, state in random:
            put_back(state)
    return {
        place: {
            key: (value.dtype, value.shape)
            for key, value in other.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        for place, parameter in enumerate(parameters)
    }
