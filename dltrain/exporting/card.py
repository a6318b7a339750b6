"""Write the model card of an exported file: what it is, how it was trained, how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dltrain.core.errors import escape_control_characters
from dltrain.core.jsonable import format_decimal, format_value
from dltrain.exporting.description import join_names
from dltrain.exporting.formats import Format
from dltrain.exporting.preprocessing import Port
from dltrain.exporting.quantization import Quantized
from dltrain.exporting.verification import Comparison

NEEDED = {
    "onnx": "`pip install onnxruntime numpy`",
    "pt2": "`pip install torch`",
    "safetensors": "dltrain, since the file contains the weights only",
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
    """Return the model card as Markdown.

    Args:
        file: Name of the exported file.
        to: Format of the file.
        about: Description of the file; see `description`.
        comparison: Comparison of the file with the trained model.
        config: Config of the run, YAML.
        record: Record of the run; see `rundir.provenance.Record`.
        summary: Summary of the run; None for an unfinished run.
        quantized: The layers with 8-bit weights; None without quantization.
        exactness: Comparison of the file with the quantized model; None without quantization.
        changes: How config and code differ from those of the training; if they do, metrics are
            omitted.
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
    """Return Python code that runs the file on one input and prints the result."""
    inputs, outputs = Port(**about["inputs"]), Port(**about["outputs"])
    shape = tuple(
        8 if size == "tokens" else 1 if isinstance(size, str) else size for size in inputs.shape
    )
    comment = "# replace with your data"
    if to == "onnx":
        lines = [
            "import json, numpy, onnxruntime",
            "",
            "onnxruntime.disable_telemetry_events()",
            f'session = onnxruntime.InferenceSession("{file}")',
            'about = json.loads(session.get_modelmeta().custom_metadata_map["dltrain"])',
            f'{inputs.name} = numpy.ones({shape}, dtype="{inputs.dtype}")  {comment}',
            f'({outputs.name},) = session.run(None, {{"{inputs.name}": {inputs.name}}})',
        ]
    elif to == "pt2":
        lines = [
            "import json, torch",
            "",
            'extra = {"dltrain.json": ""}',
            f'model = torch.export.load("{file}", extra_files=extra).module()',
            'about = json.loads(extra["dltrain.json"])',
            f"{inputs.name} = torch.ones({shape}, dtype=torch.{inputs.dtype})  {comment}",
            f"{outputs.name} = model({inputs.name})",
        ]
    else:
        lines = [
            "import torch",
            "from dltrain.commands.export import read_exported",
            "",
            f'model, about = read_exported("{file}")',
            f"{inputs.name} = torch.ones({shape}, dtype=torch.{inputs.dtype})  {comment}",
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
    checked, model = (exactness or comparison), "quantized model" if exactness else "model"
    lines = [
        f"- network: `{about['model']['name']}`" + (f" ({options})" if options else ""),
        f"- task: `{about['task']}`",
        f"- weights: `{about['checkpoint']}` of the run `{about['run']}`",
        f"- exported by: dltrain {about['dltrain']}",
        f"- checked: {checked.samples:,} samples in batches of {sizes}; maximum difference from "
        f"the {model}, relative to the largest value: {checked.largest_difference:.1e}",
    ]
    if quantized is not None:
        lines += [f"- {quantized.method}: {quantized.describe()}", f"- cost: {comparison.cost()}"]
    return "\n".join(lines)


def _ports(inputs: Port, outputs: Port, about: Mapping[str, Any]) -> str:
    lines = ["| | name | dtype | shape | meaning |", "| --- | --- | --- | --- | --- |"]
    for kind, port in (("input", inputs), ("output", outputs)):
        shape = " x ".join(map(str, port.shape))
        lines.append(f"| {kind} | `{port.name}` | {port.dtype} | {shape} | {port.meaning} |")
    text = "\n".join(lines)
    if names := about.get("class_names"):
        text += f"\n\nClasses, by index: {join_names(names)}."
    if columns := about.get("columns"):
        described = [
            f"{column['name']} ({join_names(column['categories'])})"
            if column["categories"]
            else column["name"]
            for column in columns
        ]
        text += f"\n\nColumns, by index: {join_names(described)}."
    if tokenizer := about.get("tokenizer"):
        how = {
            "word": f"the matches of `{tokenizer['pattern']}`",
            "character": "its characters",
            "file": "the tokens of the tokenizers library for `tokenizer.definition`",
        }[tokenizer["kind"]]
        lowercase = "in lower case, " if tokenizer["lowercase"] else ""
        limit = f"; at most {tokenizer['max_tokens']}" if tokenizer["max_tokens"] else ""
        text += (
            f"\n\nTokens of a text: {lowercase}{how}{limit}. The vocabulary has "
            f"{len(about['vocabulary']):,} tokens; 0 is padding, 1 is any unknown token."
        )
    return text + "\n\nThe file contains all of this as JSON under the key `dltrain`."


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
    used = {name: versions.get(name) or "unknown" for name in ("torch", "python")}
    lines = [
        f"- started: {record['started']}",
        f"- on: {device['name']}, {device['precision']}, processes: {device.get('processes', 1)}",
        f"- with: torch {used['torch']}, Python {used['python']}",
    ]
    if record["git"] is not None:
        changed = ", with uncommitted changes" if record["git"]["diff"] else ""
        lines.append(f"- code: commit {record['git']['commit']}{changed}")
    if summary is not None:
        duration = f"{format_decimal(summary['epoch'])} epochs in {summary['seconds']:.0f} s"
        lines.append(f"- ended: {summary['status']} after {summary['step']} steps, {duration}")
    return "\n".join(lines) + f"\n\nConfig:\n\n```yaml\n{config}```"


def _metrics(
    summary: Mapping[str, Any] | None, checkpoint: str, quantized: bool, changes: Sequence[str]
) -> str:
    """Return the metrics of the exported weights."""
    if changes:
        lines = "\n".join(f"- {change}" for change in changes)
        return (
            "The metrics of the run are omitted, since they were measured with another config or "
            f"other code.\n\n{lines}"
        )
    metrics = _checkpoint_metrics(summary, checkpoint) if summary else {}
    if not metrics:
        return "The run has no recorded metrics of these weights."
    rows = "\n".join(f"| {name} | {format_value(value)} |" for name, value in metrics.items())
    text = f"| metric | value |\n| --- | --- |\n{rows}"
    return text + ("\n\nThe metrics were measured before quantization." if quantized else "")


def _checkpoint_metrics(summary: Mapping[str, Any], checkpoint: str) -> dict[str, float | None]:
    """Return the validation and test metrics of a checkpoint's weights."""
    step, best = int(checkpoint.removeprefix("step-")), summary["best"]
    val = {n: v for n, v in summary["metrics"].items() if n.startswith("val/")}
    test = {n: v for n, v in summary["metrics"].items() if n.startswith("test/")}
    is_last, tested = step == summary["step"], summary["tested_weights"]
    validated = val if is_last else {}
    if best and best["step"] == step:
        validated = dict(summary["best_metrics"])
    is_tested = tested == checkpoint or (is_last and tested in ("averaged", "final"))
    return {**validated, **(test if is_tested else {})}


def _limits(about: Mapping[str, Any], inputs: Port) -> str:
    lines = [
        "- The model was evaluated on the data above only; accuracy on other data may be lower.",
        "- Probabilities may not be calibrated."
        if about["outputs"]["name"] == "probabilities"
        else "- The outputs have no measure of uncertainty.",
    ]
    if inputs.name == "pixels":
        lines.append("- Images must have exactly this size; the file does not resize or crop.")
        if inputs.dtype == "uint8":
            level = about["background"]
            lines.append(f"- Transparent areas must be filled with grey level {level} first.")
    if inputs.name == "tokens":
        lines.append("- The file does not tokenize: its inputs are token ids.")
        if inputs.longest:
            lines.append(f"- A text can have at most {inputs.longest} tokens.")
    if inputs.name == "rows":
        lines.append("- Missing values are not supported.")
    return "\n".join(lines)
