"""The model card: what a file is, how it came about, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dltrain.core.errors import escape_control_characters
from dltrain.core.jsonable import format_decimal, format_value
from dltrain.exporting.description import listed
from dltrain.exporting.formats import Format
from dltrain.exporting.preprocessing import Port
from dltrain.exporting.quantization import Quantized
from dltrain.exporting.verification import Comparison

NEEDED = {
    "onnx": "`pip install onnxruntime numpy`",
    "pt2": "`pip install torch`",
    "safetensors": "dltrain, since the file has weights and no network",
}


def model_card(
    file: str,
    to: Format,
    about: Mapping[str, Any],
    comparison: Comparison,
    *,
    config: str,
    record: Mapping[str, Any],
    summary: Mapping[str, Any] | None,
    quantized: Quantized | None,
    exactness: Comparison | None,
    changes: Sequence[str],
) -> str:
    """Markdown.

    Args:
        file: The file's name.
        to: Its format.
        about: See `description`.
        comparison: Of the file with the model as it was trained.
        config: Of the run, YAML.
        record: Of the run; see `run.Record`.
        summary: How the run ended; None while it has not.
        quantized: What is in eight bits; None where that was not wanted.
        exactness: Of the file with the quantised model; None where there is none.
        changes: What of config and code is not as in training: metrics are not listed then.
    """
    inputs, outputs = Port(**about["inputs"]), Port(**about["outputs"])
    sections = {
        "Model": _model(about, comparison, quantized, exactness),
        "Inputs and outputs": _ports(inputs, outputs, about),
        "How to use it": f"Needs {NEEDED[to]}.\n\n```python\n{example(file, to, about)}```",
        "Data": _data(record["data"]),
        "Training": _training(record, summary, config),
        "Metrics": _metrics(summary, about["checkpoint"], quantized is not None, changes),
        "Limits": _limits(about, inputs),
    }
    parts = [f"# {about['name']}", *(f"## {title}\n\n{text}" for title, text in sections.items())]
    return escape_control_characters("\n\n".join(parts) + "\n")


def example(file: str, to: Format, about: Mapping[str, Any]) -> str:
    """Python that runs in the file's folder and prints what the file makes of one input."""
    inputs, outputs = Port(**about["inputs"]), Port(**about["outputs"])
    shape = tuple(
        8 if size == "tokens" else 1 if isinstance(size, str) else size for size in inputs.shape
    )
    if to == "onnx":
        lines = [
            "import json, numpy, onnxruntime",
            "",
            "onnxruntime.disable_telemetry_events()",
            f'session = onnxruntime.InferenceSession("{file}")',
            'about = json.loads(session.get_modelmeta().custom_metadata_map["dltrain"])',
            f'{inputs.name} = numpy.ones({shape}, dtype="{inputs.dtype}")  # yours instead',
            f'({outputs.name},) = session.run(None, {{"{inputs.name}": {inputs.name}}})',
        ]
    elif to == "pt2":
        lines = [
            "import json, torch",
            "",
            'extra = {"dltrain.json": ""}',
            f'model = torch.export.load("{file}", extra_files=extra).module()',
            'about = json.loads(extra["dltrain.json"])',
            f"{inputs.name} = torch.ones({shape}, dtype=torch.{inputs.dtype})  # yours instead",
            f"{outputs.name} = model({inputs.name})",
        ]
    else:
        lines = [
            "import torch",
            "from dltrain.commands.export import read_exported",
            "",
            f'model, about = read_exported("{file}")',
            f"{inputs.name} = torch.ones({shape}, dtype=torch.{inputs.dtype})  # yours instead",
            f"{outputs.name} = model({inputs.name})",
        ]
    printed = f"{outputs.name}.shape"
    if outputs.name == "probabilities":
        printed = f'about["class_names"][{outputs.name}[0].argmax()]'
    return "\n".join([*lines, f"print({printed})", ""])


def _model(
    about: Mapping[str, Any],
    comparison: Comparison,
    quantized: Quantized | None,
    exactness: Comparison | None,
) -> str:
    options = ", ".join(f"{k}: {v}" for k, v in about["model"].items() if k != "name")
    sizes = ", ".join(map(str, comparison.batch_sizes))
    checked, model = (exactness or comparison), "quantised model" if exactness else "model"
    lines = [
        f"- network: `{about['model']['name']}`" + (f" ({options})" if options else ""),
        f"- task: `{about['task']}`",
        f"- weights: `{about['checkpoint']}` of the run `{about['run']}`",
        f"- made by: dltrain {about['dltrain']}",
        f"- checked: {checked.samples:,} samples in batches of {sizes}; the file differs from the "
        f"{model} by {checked.largest_difference:.1e} at most, as a share of the largest value",
    ]
    if quantized is not None:
        lines += [f"- {quantized.method}: {quantized.told()}", f"- cost of it: {comparison.cost()}"]
    return "\n".join(lines)


def _ports(inputs: Port, outputs: Port, about: Mapping[str, Any]) -> str:
    lines = ["| | name | type | shape | what |", "| --- | --- | --- | --- | --- |"]
    for kind, port in (("input", inputs), ("output", outputs)):
        shape = " x ".join(map(str, port.shape))
        lines.append(f"| {kind} | `{port.name}` | {port.dtype} | {shape} | {port.meaning} |")
    text = "\n".join(lines)
    if names := about.get("class_names"):
        text += f"\n\nClasses, in order: {listed(names)}."
    if columns := about.get("columns"):
        described = [
            f"{column['name']} ({listed(column['categories'])})"
            if column["categories"]
            else column["name"]
            for column in columns
        ]
        text += f"\n\nColumns, in order: {listed(described)}."
    if tokenizer := about.get("tokenizer"):
        how = {
            "word": f"the matches of `{tokenizer['pattern']}`",
            "character": "its characters",
            "file": "what the tokenizers library makes of `tokenizer.definition`",
        }[tokenizer["kind"]]
        lowered = "in lower case, " if tokenizer["lowercase"] else ""
        cut = f"; at most {tokenizer['max_tokens']}" if tokenizer["max_tokens"] else ""
        text += (
            f"\n\nTokens of a text: {lowered}{how}{cut}. The vocabulary has "
            f"{len(about['vocabulary']):,}; 0 is padding, and 1 stands for any other token."
        )
    return text + "\n\nThe file's own description, JSON under `dltrain`, has all of this."


def _data(data: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{count:,} {name}" for name, count in data["sizes"].items())
    lines = [
        f"- source: `{data['name']}`, from {data['source']}",
        f"- samples: {sizes}",
        f"- fingerprint: SHA-256 {data['fingerprint']}",
        *(f"- note: {notice}" for notice in data["notices"]),
    ]
    return "\n".join(lines)


def _training(record: Mapping[str, Any], summary: Mapping[str, Any] | None, config: str) -> str:
    device, versions = record["device"], record["versions"]
    made_with = {name: versions.get(name) or "unknown" for name in ("torch", "python")}
    lines = [
        f"- begun: {record['started']}",
        f"- on: {device['name']}, {device['precision']}, processes: {device.get('processes', 1)}",
        f"- with: torch {made_with['torch']}, Python {made_with['python']}",
    ]
    if record["git"] is not None:
        changed = ", with changes" if record["git"]["diff"] else ""
        lines.append(f"- code: commit {record['git']['commit']}{changed}")
    if summary is not None:
        took = f"{format_decimal(summary['epoch'])} epochs in {summary['seconds']:.0f} s"
        lines.append(f"- ended: {summary['status']} after {summary['step']} steps, {took}")
    return "\n".join(lines) + f"\n\nThe config:\n\n```yaml\n{config}```"


def _metrics(
    summary: Mapping[str, Any] | None, checkpoint: str, quantized: bool, changes: Sequence[str]
) -> str:
    """Those of the exported weights alone."""
    if changes:
        lines = "\n".join(f"- {change}" for change in changes)
        return (
            "The metrics of the run are not listed: they were measured with another config or "
            f"other code.\n\n{lines}"
        )
    shown = _of_checkpoint(summary, checkpoint) if summary else {}
    if not shown:
        return "The run has not recorded any of these weights."
    rows = "\n".join(f"| {name} | {format_value(value)} |" for name, value in shown.items())
    text = f"| metric | value |\n| --- | --- |\n{rows}"
    return text + ("\n\nAll were measured before the weights were quantised." if quantized else "")


def _of_checkpoint(summary: Mapping[str, Any], checkpoint: str) -> dict[str, float | None]:
    """The validation and test metrics that were measured with a checkpoint's weights."""
    step, best = int(checkpoint.removeprefix("step-")), summary["best"]
    val = {n: v for n, v in summary["metrics"].items() if n.startswith("val/")}
    test = {n: v for n, v in summary["metrics"].items() if n.startswith("test/")}
    is_last, tested = step == summary["step"], summary["tested_weights"]
    found = val if is_last else {}
    if best and best["step"] == step:
        found = dict(summary["best_metrics"])
    is_tested = tested == checkpoint or (is_last and tested in ("averaged", "final"))
    return {**found, **(test if is_tested else {})}


def _limits(about: Mapping[str, Any], inputs: Port) -> str:
    lines = [
        "- It was measured on the data above alone; on other data it may be wrong more often.",
        "- Probabilities are the model's own and need not be calibrated."
        if about["outputs"]["name"] == "probabilities"
        else "- It says nothing of how sure it is.",
    ]
    if inputs.name == "pixels":
        lines.append("- Pictures must have exactly this size; the file scales and cuts nothing.")
        if inputs.dtype == "uint8":
            ground = about["background"]
            lines.append(f"- Transparent parts must be filled with grey level {ground} before.")
    if inputs.name == "tokens":
        limit = f" more than {inputs.longest} tokens, nor" if inputs.longest else ""
        lines.append(f"- It takes no{limit} text: tokens must be made outside.")
    if inputs.name == "rows":
        lines.append("- Missing values are not handled.")
    return "\n".join(lines)
