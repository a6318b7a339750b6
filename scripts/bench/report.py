"""Measurements to figures, and figures to tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.work import COMPETITORS, NETWORKS

Row = dict[str, Any]
NOTES = """\
Everyone trains the same layers with AdamW at 1e-3 on normalised inputs: 60,000 digits or 6,920
sentences, shuffled, no augmentation; the accuracy is that of the test split. dltrain runs as
`dltrain train` does, with scalars, TensorBoard and a checkpoint each epoch; the frameworks run
without progress bars, logs and checkpoints. dltrain asks torch for the fused AdamW and does not
decay biases; the others have the framework's default form. "Tensors" are normalised in memory and
handed over in the framework's own way; "tutorial's data" is a torchvision data set (or a list of
sentences, padded batch by batch) in a DataLoader. For sentences, "tensors" are batches of about
equal length, the same as dltrain's, and everyone but dltrain packs them; Keras, the Hugging Face
Trainer and skorch take no part there, and with batches of 32 no framework reads the tutorial's
data. s/epoch is training alone, after a first epoch that is not counted; "first step" is from the
command to the end of the first optimizer step; the peak is the process's (on a GPU, its
allocator's)."""

BEGIN, END = "<!-- benchmark -->", "<!-- /benchmark -->"


def row(network: str, competitor: str, samples: int, measurements: Sequence[Row]) -> Row:
    """One competitor's medians on one network.

    Args:
        network: See `NETWORKS`.
        competitor: See `COMPETITORS`.
        samples: Of the training split.
        measurements: What each process told: `epochs`, seconds of each counted one; `first_step`,
            seconds; `peak_bytes`; `accuracy`. Or `error`, and nothing else.
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
        "learned": median("accuracy") >= NETWORKS[network].floor,
        "measurements": list(measurements),
    }


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Each row with `times_dltrain`: its epoch as a multiple of dltrain's on that network."""
    base = {r["network"]: r.get("seconds_per_epoch") for r in rows if r["competitor"] == "dltrain"}
    found = []
    for one in rows:
        ours, theirs = base.get(one["network"]), one.get("seconds_per_epoch")
        found.append({**one, "times_dltrain": theirs / ours if ours and theirs else None})
    return found


def table(rows: Sequence[Row]) -> str:
    """Markdown: a table a network, the fastest first; a row that has not learned is at the end."""
    text = []
    for name in NETWORKS:
        mine = [one for one in rows if one["network"] == name]
        if mine:
            text += [f"**{NETWORKS[name].title}, batches of {NETWORKS[name].batch_size}**", ""]
            text += ["| | s/epoch | / dltrain | µs/step | first step, s | peak, MB | accuracy |"]
            text += ["| --- | --- | --- | --- | --- | --- | --- |"]
            text += [_line(one) for one in sorted(mine, key=_order)]
            text += [""]
    return "\n".join(text)


def _order(one: Row) -> tuple[bool, float]:
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


def about(result: Mapping[str, Any]) -> str:
    """What was measured, where and with what."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    device = result["device"]
    where = f"{device['name']}, {device['threads']} threads"
    measured = f"{result['date']}, {where}, medians of {result['repeats']} repeats. {versions}."
    return f"{NOTES.replace(chr(10), ' ')}\n\n{measured}"


def update_page(page: Path, text: str) -> None:
    """Puts a text between the markers of a page."""
    content = page.read_text(encoding="utf-8")
    before, _, rest = content.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")
