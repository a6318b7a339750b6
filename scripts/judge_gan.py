"""How far a GAN has come: its distance from the test split, an untrained one's, and the floor.

    python scripts/judge_gan.py RUN [--samples 10000] [--json]

The floor is the distance of as many training images from the test split: no generator that makes
new images of the same kind can be expected to come nearer. All three are in the features of the
run's own judge.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from dltrain.build import build_data, build_task, load_trained
from dltrain.core.errors import DltrainError
from dltrain.core.registry import METRICS
from dltrain.metrics.generation import Moments, frechet_distance
from dltrain.tasks.gan import Gan


def measure(run: Path, samples: int) -> dict[str, float]:
    """Metrics of the run's generator, and the distances to compare its own with."""
    trained = load_trained(run)
    task = trained.task
    if not isinstance(task, Gan) or task.judge is None:
        raise SystemExit(f"{run}: no run of task 'gan' with a judge")
    data = build_data(
        trained.experiment, trained.runtime, lambda text: print(text, file=sys.stderr)
    )
    if data.test is None or len(data.test) != samples:
        raise SystemExit(f"{run}: the test split does not have {samples} samples")
    task.metrics = [component.builder(trained.spec) for component in _judging()]
    size = trained.experiment.train.samples_at_once
    with torch.inference_mode():
        values = task.evaluate(data.test.batches(size))
        untrained = build_task(trained.experiment, trained.spec, trained.runtime)
        assert isinstance(untrained, Gan)
        untrained.model.eval()
        untrained.metrics = [METRICS["frechet_distance"].builder(trained.spec)]
        start = untrained.evaluate(data.test.batches(size))["frechet_distance"]
        real, other = Moments(), Moments()
        for batch in data.test.batches(size):
            real.add(task.judge(batch.inputs).features)
        for batch in data.train.batches(size):
            other.add(task.judge(batch.inputs[: samples - other.count]).features)
            if other.count == samples:
                break
    return {
        **values,
        "untrained_frechet_distance": start,
        "floor_frechet_distance": frechet_distance(other, real),
        "share_of_untrained": values["frechet_distance"] / start,
    }


def _judging():
    return [METRICS[n] for n in ("classifier_confidence", "class_coverage", "frechet_distance")]


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=10000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        values = measure(arguments.run, arguments.samples)
    except DltrainError as error:
        raise SystemExit(str(error)) from error
    if arguments.json:
        print(json.dumps(values, indent=1))
        return
    for name, value in values.items():
        print(f"{name:28} {value:.6g}")


if __name__ == "__main__":
    main()
