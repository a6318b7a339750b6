"""Pydantic models of requests and responses, generated from the spec of the training data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import floor, isfinite, log10
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SkipValidation,
    WithJsonSchema,
    create_model,
)

from dltrain.core.data_spec import Column, DataSpec, ImageInputs, TableInputs
from dltrain.core.errors import shorten
from dltrain.data.columns import cell_text
from dltrain.data.tokenization import decode
from dltrain.serving.limits import Limits

ITEMS_KEYS = {"image": "images", "table": "rows", "text": "texts"}
"""Kind of inputs to the only key of a request's JSON object."""

Output = Literal["label", "values", "text"]
"""What a model predicts: a class with probabilities, target values, or a text."""

Base64 = Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]


def request_model(spec: DataSpec, limits: Limits) -> type[BaseModel]:
    """Return the model of a request's JSON object, which validates strictly.

    Images are not validated here: numpy checks an array of pixels in a fraction of the time.
    """
    match spec.inputs:
        case TableInputs(columns=columns):
            item: Any = _row_model(columns)
        case ImageInputs():
            low, high = pixel_range(spec.inputs)
            value = Annotated[int, Field(ge=low, le=high)]
            pixel: Any = value if spec.inputs.deep else value | tuple[value, value, value]
            item = SkipValidation[Base64 | list[list[pixel]]]
        case _:
            item = Annotated[str, Field(min_length=1, max_length=limits.max_characters)]
    items = Annotated[list[item], Field(min_length=1, max_length=limits.max_items)]
    fields: dict[str, Any] = {ITEMS_KEYS[spec.inputs.kind]: (items, ...)}
    return create_model("Inputs", __config__=ConfigDict(strict=True, extra="forbid"), **fields)


def pixel_range(inputs: ImageInputs) -> tuple[int, int]:
    """Return the lowest and the highest pixel value that a request may contain."""
    return (-(2**31), 2**31 - 1) if inputs.deep else (0, 255)


def _row_model(columns: Sequence[Column]) -> type[BaseModel]:
    """Return the model of a table's row: one key per column; other keys are ignored."""
    fields: dict[str, Any] = {}
    for number, column in enumerate(columns):
        if column.categories:
            known = shorten(", ".join(column.categories), 1000)
            description = (
                f"A category of the training data: {known}; any other counts as none of them. "
                "A number or a boolean counts as text."
            )
            kind: Any = Annotated[
                str,
                BeforeValidator(partial(_category, column)),
                WithJsonSchema(
                    {"type": ["string", "number", "boolean"], "description": description}
                ),
            ]
        else:
            kind = Annotated[float, Field(allow_inf_nan=False)]
        fields[f"column_{number}"] = (kind, Field(alias=column.name))
    return create_model("Row", __config__=ConfigDict(strict=True, extra="ignore"), **fields)


def _category(column: Column, value: Any) -> Any:
    """Return the text that a table's cell would contain for a category given as a number."""
    if isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return cell_text(column, value)
    return value


def example(spec: DataSpec) -> dict[str, Any]:
    """Return a request that the model can answer."""
    if isinstance(spec.inputs, TableInputs):
        row = {
            column.name: column.categories[0] if column.categories else typical_value(column)
            for column in spec.inputs.columns
        }
        return {"rows": [row]}
    if spec.inputs.kind == "text":
        ids = range(len(spec.inputs.vocabulary))
        words = [n for n in ids if n not in (spec.inputs.padding, spec.inputs.unknown)][:4]
        return {"texts": [decode(spec.inputs, words)]}
    return {"images": [[[0, 128], [255, 64]]]}


def typical_value(column: Column) -> float:
    """Return the mean of a numeric column, rounded to 2 digits of its standard deviation."""
    return round(column.mean, 1 - floor(log10(column.std)))


def response_model(spec: DataSpec, output: Output) -> type[BaseModel]:
    """Return the model of the response to a valid request; outputs of other tasks are null."""
    number = Annotated[float | None, Field(description="null where it is not finite")]
    # Names of classes may contain surrogates, which pydantic does not accept in a Literal.
    names: dict[str, Any] = {"enum": list(spec.class_names)}
    probabilities = Field(json_schema_extra={"propertyNames": names})
    outputs: dict[str, dict[str, Any]] = {
        "label": {
            "label": Annotated[str, WithJsonSchema(names)],
            "probabilities": Annotated[dict[str, number], probabilities],
        },
        "values": {"values": list[number]},
        "text": {"text": str},
    }
    place = Annotated[str, Field(description="The text, the name of the file, or the position.")]
    kinds = dict.fromkeys(("label", "probabilities", "values", "text")) | outputs[output]
    fields: dict[str, Any] = {name: (kind, ...) for name, kind in kinds.items()}
    predictions: Any = list[create_model("Prediction", input=(place, ...), **fields)]
    return create_model("Predictions", predictions=(predictions, ...))
