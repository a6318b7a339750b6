"""Compare the Fréchet distance of a trained GAN with an untrained one and with a lower bound.

    python scripts/judge_gan.py RUN [--samples 10000] [--json]

The lower bound ("floor") is the distance of equally many training images to the test split: a
generator of new images from the same distribution is not expected to reach a smaller one. All
distances are computed in the feature space of the run's judge.
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

JUDGE_METRICS = ("classifier_confidence", "class_coverage", "frechet_distance")


def measure(run: Path, samples: int) -> dict[str, float]:
    """Return the metrics of the run's generator and the distances to compare with.

    Args:
        run: Run directory of a GAN.
        samples: Size of the test split, and the number of training images for the floor.
    """
    trained = load_trained(run)
    task = trained.task
    if not isinstance(task, Gan) or task.judge is None:
        raise SystemExit(f"{run}: expected a run of task 'gan' with a judge")
    data = build_data(
        trained.experiment, trained.runtime, lambda text: print(text, file=sys.stderr)
    )
    if data.test is None or len(data.test) != samples:
        actual = 0 if data.test is None else len(data.test)
        raise SystemExit(f"{run}: expected {samples} test samples, got {actual}")
    task.metrics = [METRICS[name].builder(trained.spec) for name in JUDGE_METRICS]
    size = trained.experiment.train.samples_at_once
    with torch.inference_mode():
        values = task.evaluate(data.test.batches(size))
        untrained = build_task(trained.experiment, trained.spec, trained.runtime)
        assert isinstance(untrained, Gan)
        untrained.model.eval()
        untrained.metrics = [METRICS["frechet_distance"].builder(trained.spec)]
        untrained_distance = untrained.evaluate(data.test.batches(size))["frechet_distance"]
        test, train = Moments(), Moments()
        for batch in data.test.batches(size):
            test.add(task.judge(batch.inputs).features)
        for batch in data.train.batches(size):
            train.add(task.judge(batch.inputs[: samples - train.count]).features)
            if train.count == samples:
                break
    return {
        **values,
        "untrained_frechet_distance": untrained_distance,
        "floor_frechet_distance": frechet_distance(train, test),
        "fraction_of_untrained": values["frechet_distance"] / untrained_distance,
    }


def main() -> None:
    """Print the metrics as text or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run directory of a GAN")
    parser.add_argument(
        "--samples",
        type=int,
        default=10000,
        help="size of the test split; as many training images set the floor (default: 10000)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON (default: text)")
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
