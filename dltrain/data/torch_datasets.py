"""Data from a user's map-style `torch.utils.data.Dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from dltrain.core.data_spec import Column, DataSpec, ImageInputs, TableInputs
from dltrain.core.errors import OptionError, UsageError
from dltrain.core.protocols import Data, DataContext
from dltrain.data.cache import free_bytes
from dltrain.data.images import ImageTransform
from dltrain.data.in_memory import class_counts, fingerprint, in_memory_data
from dltrain.data.splits import TEST_SEED, hold_out, split_fingerprint

SPLITS = ("train", "validation", "test")
HOLDOUT_FRACTION = 0.1
"""Fraction of the samples for validation, and for test, if there is one dataset for all splits."""


def as_data(built: Any, context: DataContext, source: str) -> Data | None:
    """Return a dataset, or one for each split, as `Data`; None if it is something else.

    All samples are read once, into memory. Inputs are not preprocessed: floats (features,), or
    images (channels, height, width) of uint8 or floats from 0 to 1, so that `predict` can read new
    ones from files in the same way. Targets are integers, which are classes, or floats. Class
    names are those of the dataset's attribute `classes`, if it has one.

    Args:
        built: A map-style dataset of pairs (input, target), of which 10% are used for validation
            and 10% for test; or a mapping from train, validation and test, of which only train is
            required, to such datasets, which are not split.
        context: Context of the data source.
        source: Description of the samples' source for the user.

    Raises:
        UsageError: A dataset has samples of another kind.
    """
    datasets = _datasets(built)
    if datasets is None:
        return None
    parts = {name: _read_samples(name, dataset) for name, dataset in datasets.items()}
    inputs, targets = parts["train"]
    for name, (others, other_targets) in parts.items():
        for what, ours, own in (("inputs", others, inputs), ("targets", other_targets, targets)):
            if (ours.dtype, ours.shape[1:]) != (own.dtype, own.shape[1:]):
                raise UsageError(
                    f"{what} of {name} are {_describe(ours)}, those of train {_describe(own)}"
                )
    names = _class_names(datasets, [targets for _, targets in parts.values()])

    whole = fingerprint(*(tensor for part in parts.values() for tensor in part))
    cut = ""
    if isinstance(built, Dataset):
        parts, cut = _split(inputs, targets, context)
        sizes = ", ".join(f"{len(targets)} {name}" for name, (_, targets) in parts.items())
        context.warn(
            f"one dataset for all splits is cut at random: {sizes}; return a mapping with the keys "
            "train, validation and test to choose"
        )
    spec = DataSpec(
        input_shape=tuple(inputs.shape[1:]),
        num_outputs=len(names) or targets.shape[1],
        inputs=_describe_inputs(inputs),
        class_names=names,
        class_counts=class_counts(parts["train"][1], len(names)) if names else (),
    )
    if isinstance(spec.inputs, ImageInputs):
        context.warn(
            f"predict and serve scale an image file to {' x '.join(map(str, spec.input_shape[1:]))}"
            " pixels and divide by 255; no other transform of the dataset is repeated there"
        )
    transform = None
    if isinstance(spec.inputs, ImageInputs) and inputs.dtype == torch.uint8:
        transform = ImageTransform(spec.inputs, dtype=context.dtype, device=context.device)
    else:
        parts = {name: (x.to(context.dtype), y) for name, (x, y) in parts.items()}
    if not names:
        parts = {name: (x, y.to(context.dtype)) for name, (x, y) in parts.items()}
    return in_memory_data(
        context,
        spec,
        parts,
        source=source,
        transform=transform,
        fingerprint=whole,
        split_fingerprint=cut,
    )


def _datasets(built: Any) -> dict[str, Dataset[Any]] | None:
    """Return the datasets by split; None if they are something else.

    Raises:
        UsageError: The keys are not those of splits.
    """
    if isinstance(built, Dataset):
        return {"train": built}
    if not isinstance(built, Mapping) or not built:
        return None
    if not all(isinstance(dataset, Dataset) for dataset in built.values()):
        return None
    if "train" not in built or built.keys() - set(SPLITS):
        raise UsageError(
            f"the keys of the datasets are {', '.join(map(str, built))}; "
            "they must be train and, if wanted, validation and test"
        )
    return {name: built[name] for name in SPLITS if name in built}


def _read_samples(split: str, dataset: Dataset[Any]) -> tuple[Tensor, Tensor]:
    """Read all inputs, (samples, ...), and targets, (samples,) int64 or (samples, values) float.

    Raises:
        UsageError: A sample is not what `as_data` describes, or differs when it is read again.
    """
    size = getattr(dataset, "__len__", lambda: -1)()
    if isinstance(dataset, IterableDataset) or size < 0:
        raise UsageError(
            f"{type(dataset).__name__} of {split} has no length or no samples by number; it must "
            "be a map-style dataset, with __len__ and __getitem__"
        )
    if size == 0:
        raise UsageError(f"the dataset of {split} has no samples")
    first, first_target = _sample(split, dataset, 0)
    if not torch.equal(first, _sample(split, dataset, 0)[0]):
        raise UsageError(
            f"sample 0 of {split} differs when it is read again: random transforms would not be "
            "repeated by a resumed run; leave them out"
        )
    needed, free = size * first.nbytes, free_bytes(torch.device("cpu"))
    if free is not None and needed > free * 3 / 4:
        raise UsageError(
            f"the dataset of {split} takes {needed / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} GiB are free; give smaller inputs, of images uint8"
        )
    inputs = torch.empty((size, *first.shape), dtype=first.dtype)
    targets: list[Tensor] = []
    for number in range(size):
        sample, target = _sample(split, dataset, number)
        for what, ours, own in (("input", sample, first), ("target", target, first_target)):
            if (ours.dtype, ours.shape) != (own.dtype, own.shape):
                raise UsageError(
                    f"the {what} of sample {number} of {split} is {_describe(ours)}, "
                    f"that of sample 0 is {_describe(own)}"
                )
        inputs[number] = sample
        targets.append(target)
    if inputs.ndim == 4 and inputs.is_floating_point():
        low, high = (value.item() for value in inputs.aminmax())
        if not (low >= 0 and high <= 1):
            raise UsageError(
                f"images of {split} have values from {low:g} to {high:g}; give uint8, or floats "
                "from 0 to 1 without Normalize, so that predict reads new images in the same way"
            )
    return inputs, torch.stack(targets)


def _sample(split: str, dataset: Dataset[Any], number: int) -> tuple[Tensor, Tensor]:
    """Return a sample's input and target: () int64, or (values,) float."""
    place = f"sample {number} of {split}"
    pair = dataset[number]
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UsageError(f"{place} is {_describe(pair)}; it must be a pair (input, target)")
    values, target = (_tensor(value) for value in pair)
    if values is not None and values.dtype.is_floating_point:
        values = _float32_or_float64(values)
    elif values is not None and (values.dtype != torch.uint8 or values.ndim != 3):
        values = None
    if values is None or not (values.ndim == 1 or (values.ndim == 3 and values.shape[0] in (1, 3))):
        raise UsageError(
            f"the input of {place} is {_describe(pair[0])}; expected a float tensor (features,), "
            "or an image (1 or 3 channels, height, width) of uint8 or floats, as from ToTensor"
        )
    if target is not None and target.ndim == 0 and not target.is_floating_point():
        if target < 0:
            raise UsageError(f"the target of {place} is {int(target)}; classes are counted from 0")
        return values, target.to(torch.int64)
    if target is None or target.ndim > 1 or not target.is_floating_point():
        raise UsageError(
            f"the target of {place} is {_describe(pair[1])}; it must be a class, which is a whole "
            "number, or a float or a tensor of floats (values,)"
        )
    return values, _float32_or_float64(target).reshape(-1)


def _float32_or_float64(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.to(torch.float32)


def _tensor(value: Any) -> Tensor | None:
    """Return a tensor, an array or a number as a tensor; None if it is something else."""
    if not isinstance(value, Tensor):
        if not isinstance(value, int | float) and not hasattr(value, "__array_interface__"):
            return None
        if hasattr(value, "getbands"):  # an image of Pillow, whose channels come last
            return None
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            return None
    return None if value.is_complex() else value.detach().cpu()


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__module__}.{type(value).__name__}"


def _class_names(datasets: Mapping[str, Dataset[Any]], targets: list[Tensor]) -> tuple[str, ...]:
    """Return the names of the classes; none where targets are values.

    Raises:
        UsageError: A sample has a class that has no name.
    """
    if targets[0].is_floating_point():
        return ()
    number = 1 + max(int(classes.max()) for classes in targets)
    dataset: Any = datasets["train"]
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset  # a Subset, of random_split, say
    named = getattr(dataset, "classes", None)
    names = tuple(map(str, range(max(number, 2)) if named is None else named))
    if number > len(names) or len(set(names)) < len(names):
        raise UsageError(f"the classes are {', '.join(names)}, and a sample has class {number - 1}")
    return names


def _split(
    inputs: Tensor, targets: Tensor, context: DataContext
) -> tuple[dict[str, tuple[Tensor, Tensor]], str]:
    """Split samples; the returned fingerprint identifies the samples of each split."""
    try:
        rest, test = hold_out(targets, HOLDOUT_FRACTION, TEST_SEED, name="test")
        kept, held = hold_out(targets[rest], HOLDOUT_FRACTION, context.seed, name="validation")
    except OptionError as error:
        raise UsageError(f"{error}; or return a mapping of datasets by split") from error
    index = {"train": rest[kept], "validation": rest[held], "test": test}
    parts = {name: (inputs[samples], targets[samples]) for name, samples in index.items()}
    return parts, split_fingerprint(**index)


def _describe_inputs(inputs: Tensor) -> ImageInputs | TableInputs:
    """Return the input spec: no preprocessing except the scaling of pixels."""
    if inputs.ndim == 2:
        return TableInputs(tuple(Column(str(number)) for number in range(inputs.shape[1])))
    channels = inputs.shape[1]
    return ImageInputs((0.0,) * channels, (1.0,) * channels)
