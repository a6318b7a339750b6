"""A run of a tenth of a second: 173 small images, a small network, ten steps."""

import json
from pathlib import Path

import yaml
from small_data import write_images

import dltrain

CONFIG = {
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "idx", "root": "images", "validation": 30},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "metrics": ["accuracy", "auroc"],
    "train": {"steps": 10, "batch_size": 32, "evaluate": "5 steps", "device": "cpu"},
    "checkpoint": {"every": "3 steps", "best": "val/accuracy"},
    "recording": {"log_every": 2, "tensorboard": False},
}


def write_folder(folder: Path) -> None:
    """Write `config.yaml` and its data, in `images`."""
    write_images(folder / "images", train=133, test=40, side=8, classes=3)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))


def read_metric_lines(run: Path) -> list[dict]:
    """Return the lines of metrics.jsonl, except those that depend on time."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["split"] != "system"]


def rewrite_config(run: Path, *replacements: tuple[str, str]) -> None:
    """Edit the config of a run as if the run had been started with it."""
    text = (run / "config.yaml").read_text(encoding="utf-8")
    for old, new in replacements:
        text = text.replace(old, new)
    (run / "config.yaml").write_text(text, encoding="utf-8")
    record = json.loads((run / "record.json").read_bytes())
    record["config"] = dltrain.load(run / "config.yaml").to_dict()
    (run / "record.json").write_text(json.dumps(record), encoding="utf-8")
