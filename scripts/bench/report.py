"""Aggregation of measurements, and their tables in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.workloads import COMPETITORS, NETWORKS

Row = dict[str, Any]

NOTES = """\
All frameworks train the same layers with AdamW at 1e-3 on normalized inputs: 60,000 digits or 6,920
sentences, shuffled, without augmentation; the accuracy is that of the test split. dltrain runs like
`dltrain train`, with scalars, TensorBoard and a checkpoint each epoch; the other frameworks run
without progress bars, logs and checkpoints. dltrain uses the fused AdamW and excludes biases from
weight decay; the others use the framework's default. "Tensors" are normalized in memory and passed
in the framework's own way; "tutorial's data" is a torchvision data set (or a list of sentences,
padded per batch) in a DataLoader. For sentences, "tensors" are length-bucketed batches, the same
for all, which all but dltrain pack; Keras, the Hugging Face Trainer and skorch are not measured
there, and with batches of 32 no framework uses the tutorial's data. s/epoch is training time only,
without the first epoch; "first step" is the time from the command to the end of the first optimizer
step; the peak memory is the process's (on a GPU, the allocator's)."""

BEGIN, END = "<!-- benchmark -->", "<!-- /benchmark -->"


def row(network: str, competitor: str, samples: int, measurements: Sequence[Row]) -> Row:
    """Return the medians of one competitor on one network.

    Args:
        network: Key of `NETWORKS`.
        competitor: Key of `COMPETITORS`.
        samples: Number of training samples.
        measurements: Result of each process: `epochs` (seconds of each epoch but the first),
            `first_step` (seconds), `peak_bytes` and `accuracy`; or only `error`.
    """
    figures: Row = {
        "network": network,
        "competitor": competitor,
        "title": COMPETITORS[competitor].title,
        "batch_size": NETWORKS[network].batch_size,
    }
    errors = [one["error"] for one in measurements if "error" in one]
    if errors:
        return {**figures, "error": errors[0]}

    def median(key: str) -> float:
        return statistics.median(one[key] for one in measurements)

    seconds = statistics.median(second for one in measurements for second in one["epochs"])
    steps = math.ceil(samples / NETWORKS[network].batch_size)
    return {
        **figures,
        "seconds_per_epoch": seconds,
        "microseconds_per_step": seconds / steps * 1e6,
        "first_step_seconds": median("first_step"),
        "peak_bytes": median("peak_bytes"),
        "accuracy": median("accuracy"),
        "epochs_trained": 1 + len(measurements[0]["epochs"]),
        "learned": median("accuracy") >= NETWORKS[network].min_accuracy,
        "measurements": list(measurements),
    }


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Add `times_dltrain` to each row: its epoch as a multiple of dltrain's on that network."""
    base = {r["network"]: r.get("seconds_per_epoch") for r in rows if r["competitor"] == "dltrain"}
    result = []
    for one in rows:
        ours, theirs = base.get(one["network"]), one.get("seconds_per_epoch")
        result.append({**one, "times_dltrain": theirs / ours if ours and theirs else None})
    return result


def table(rows: Sequence[Row]) -> str:
    """Return one table in Markdown per network, fastest first, with failed rows at the end."""
    text = []
    for name in NETWORKS:
        own = [one for one in rows if one["network"] == name]
        if own:
            text += [f"**{NETWORKS[name].title}, batches of {NETWORKS[name].batch_size}**", ""]
            text += ["| | s/epoch | / dltrain | µs/step | first step, s | peak, MB | accuracy |"]
            text += ["| --- | --- | --- | --- | --- | --- | --- |"]
            text += [_line(one) for one in sorted(own, key=_sort_key)]
            text += [""]
    return "\n".join(text)


def _sort_key(one: Row) -> tuple[bool, float]:
    return not one.get("learned", False), one.get("seconds_per_epoch", math.inf)


def _line(one: Row) -> str:
    if "error" in one:
        return f"| {one['title']} | failed | | | | | |"
    accuracy = f"{one['accuracy']:.1%} after {one['epochs_trained']}"
    if not one["learned"]:
        return f"| {one['title']} | did not learn | | | | | {accuracy} |"
    ratio = one["times_dltrain"]
    cells = (
        one["title"],
        f"{one['seconds_per_epoch']:.3g}",
        "" if ratio is None else f"{ratio:.2f}",
        f"{one['microseconds_per_step']:.0f}",
        f"{one['first_step_seconds']:.1f}",
        "" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e6:.0f}",
        accuracy,
    )
    return f"| {' | '.join(cells)} |"


def describe_conditions(result: Mapping[str, Any]) -> str:
    """Return the notes on the measurements, their date, device and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    device = f"{result['device']['name']}, {result['device']['threads']} threads"
    conditions = f"{result['date']}, {device}, medians of {result['repeats']} repeats. {versions}."
    return f"{NOTES.replace(chr(10), ' ')}\n\n{conditions}"


def update_page(page: Path, text: str) -> None:
    """Replace the text between the markers of a page."""
    content = page.read_text(encoding="utf-8")
    before, _, rest = content.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")
