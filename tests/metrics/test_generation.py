"""What a judge's metrics say, against closed forms and SciPy."""

import math

import numpy as np
import pytest
import torch

import dltrain.metrics  # noqa: F401  (registers them)
from dltrain.core.data_spec import DataSpec, ImageInputs
from dltrain.core.registry import METRICS
from dltrain.metrics.generation import JudgeOutputs, Moments, frechet_distance

SPEC = DataSpec((1, 4, 4), 1, ImageInputs((0.0,), (1.0,)), ("a", "b", "c"))


def judged(*classes: int, features: torch.Tensor | None = None) -> JudgeOutputs:
    """Certain of these classes."""
    probabilities = torch.eye(4)[list(classes)]
    return JudgeOutputs(
        probabilities, torch.zeros(len(classes), 2) if features is None else features
    )


def moments(samples: torch.Tensor) -> Moments:
    result = Moments()
    result.add(samples)
    return result


def test_the_frechet_distance_equals_scipys_formula():
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(0)
    one = torch.randn(200, 7, generator=generator) @ torch.randn(7, 7, generator=generator)
    other = 2 + torch.randn(150, 7, generator=generator) @ torch.randn(7, 7, generator=generator)
    a, b = one.double().numpy(), other.double().numpy()
    c, d = np.cov(a.T), np.cov(b.T)
    root = sqrtm(c @ d).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c + d - 2 * root)
    assert frechet_distance(moments(one), moments(other)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments(other), moments(one)) == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_of_scaled_and_moved_samples():
    """Covariance s^2 C against C, means apart by m: |m|^2 + (s - 1)^2 trace C."""
    samples = torch.randn(500, 5, generator=torch.Generator().manual_seed(1)).double()
    samples = samples - samples.mean(0)
    spread = torch.cov(samples.T).trace()
    moved = 3 * samples + 2
    expected = 5 * 4 + 4 * float(spread)
    assert frechet_distance(moments(samples), moments(moved)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments(samples), moments(samples)) == pytest.approx(0, abs=1e-9)


def test_fewer_samples_than_features_are_no_trouble():
    few, many = torch.randn(5, 40), torch.randn(300, 40)
    assert math.isfinite(frechet_distance(moments(few), moments(many)))
    assert frechet_distance(moments(few), moments(few)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["classifier_confidence", "class_coverage", "frechet_distance"])
def test_batches_can_be_cut_anywhere(name):
    metric = METRICS[name].builder(SPEC)
    generator = torch.Generator().manual_seed(2)
    both = [
        JudgeOutputs(
            torch.rand(57, 4, generator=generator), torch.randn(57, 3, generator=generator)
        )
        for _ in range(2)
    ]
    assert all(math.isnan(value) for value in metric.compute().values())
    results = []
    for size in (57, 10, 1):
        metric.reset()
        for start in range(0, 57, size):
            part = slice(start, start + size)
            metric.update(*(JudgeOutputs(j.probabilities[part], j.features[part]) for j in both))
        results.append(metric.compute())
    assert results[0].keys() == metric.scalars.keys()
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-6)


def test_confidence_is_the_mean_of_the_highest_probability():
    metric = METRICS["classifier_confidence"].builder(SPEC)
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    metric.update(JudgeOutputs(probabilities, torch.zeros(2, 1)), judged(0, 1))
    assert metric.compute() == {"classifier_confidence": pytest.approx(0.65)}


@pytest.mark.parametrize(
    ("classes", "coverage", "smallest", "largest"),
    [
        ((0, 1, 2, 3), 1.0, 0.25, 0.25),
        ((0, 0, 2, 2), 0.5, 0.0, 0.5),
        ((3, 3, 3), 0.25, 0.0, 1.0),
        ((0, 0, 1, 2), math.exp(1.5 * math.log(2)) / 4, 0.0, 0.5),
    ],
)
def test_coverage_counts_the_classes_that_are_there(classes, coverage, smallest, largest):
    metric = METRICS["class_coverage"].builder(SPEC)
    metric.update(judged(*classes), judged(*classes))
    assert metric.compute() == {
        "class_coverage": pytest.approx(coverage),
        "smallest_class_share": smallest,
        "largest_class_share": largest,
    }
