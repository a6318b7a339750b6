from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

import dltrain.metrics  # noqa: F401  (registers them)
from dltrain.core.data_spec import Column, DataSpec, TableInputs
from dltrain.core.errors import UsageError
from dltrain.core.protocols import Metric
from dltrain.core.registry import METRICS
from dltrain.metrics.generation import GeneratorMetric, JudgeOutputs

NAMES = ("ant", "bee", "cat", "dog", "elk")
INPUTS = TableInputs((Column("x"),))
FIVE = DataSpec((1,), 5, INPUTS, NAMES)
TWO = DataSpec((1,), 2, INPUTS, ("no", "yes"))
VALUES = DataSpec((1,), 3, INPUTS)
REGRESSION = ("mse", "mae", "r2")
BATCH_SIZES = [1, 7, 64, 150]
batch_sizes = pytest.mark.parametrize("batch_size", BATCH_SIZES)


# Those of generators compare nothing with targets; they are tested on their own.
COMPARING = [
    name
    for name, metric in METRICS.items()
    if not (isinstance(metric.builder, type) and issubclass(metric.builder, GeneratorMetric))
]


def of(name: str, spec: DataSpec, **options: Any) -> Metric:
    return METRICS[name].builder(spec, **options)


def fed(metric: Metric, predictions: Tensor, targets: Tensor, batch_size: int) -> dict[str, float]:
    metric.reset()
    for p, t in zip(predictions.split(batch_size), targets.split(batch_size), strict=True):
        metric.update(p, t)
    return metric.compute()


def classified(case: str) -> tuple[Tensor, Tensor]:
    """150 samples of five classes: probabilities, and targets that agree with most of them."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(5, (150,), generator=generator)
    scores = torch.randn(150, 5, generator=generator)
    if case == "never true":
        targets[targets == 2] = 0
    elif case == "never predicted":
        scores[:, 2] = -50
    elif case == "absent":
        targets[targets == 2] = 0
        scores[:, 2] = -50
    scores[torch.arange(150), targets] += 1
    return scores.softmax(dim=1), targets


@batch_sizes
@pytest.mark.parametrize("case", ["all", "never true", "never predicted", "absent"])
def test_counts_give_scikit_learns_figures(case: str, batch_size: int) -> None:
    predictions, targets = classified(case)
    labels = predictions.argmax(dim=1)
    accuracy = fed(of("accuracy", FIVE), predictions, targets, batch_size)
    assert accuracy == {"accuracy": pytest.approx(sklearn_metrics.accuracy_score(targets, labels))}
    for name in ("precision", "recall", "f1"):
        reference = getattr(sklearn_metrics, f"{name}_score")
        for average in ("macro", "micro"):
            given = fed(of(name, FIVE, average=average), predictions, targets, batch_size)
            wanted = reference(targets, labels, average=average, zero_division=0)
            assert given == {name: pytest.approx(wanted)}
        given = fed(of(name, FIVE, average="none"), predictions, targets, batch_size)
        wanted = reference(targets, labels, labels=range(5), average=None, zero_division=math.nan)
        assert given == {
            f"{name}/{c}": pytest.approx(w, nan_ok=True) for c, w in zip(NAMES, wanted, strict=True)
        }
    confusion: Any = of("confusion_matrix", FIVE)
    assert fed(confusion, predictions, targets, batch_size) == {}
    wanted = sklearn_metrics.confusion_matrix(targets, labels, labels=range(5))
    assert confusion.matrix.dtype is torch.int64
    assert torch.equal(confusion.matrix, torch.from_numpy(wanted))


@batch_sizes
@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_is_scikit_learns(k: int, batch_size: int) -> None:
    predictions, targets = classified("all")
    wanted = sklearn_metrics.top_k_accuracy_score(targets, predictions, k=k, labels=range(5))
    given = fed(of("top_k", FIVE, k=k), predictions, targets, batch_size)
    assert given == {f"top_{k}": pytest.approx(wanted)}


@batch_sizes
@pytest.mark.parametrize("digits", [1, 8])
def test_auroc_is_scikit_learns_with_and_without_ties(digits: int, batch_size: int) -> None:
    predictions, targets = classified("all")
    predictions = predictions.double().round(decimals=digits)
    given = fed(of("auroc", FIVE), predictions, targets, batch_size)
    areas = [sklearn_metrics.roc_auc_score(targets == c, predictions[:, c]) for c in range(5)]
    assert given == {"auroc": pytest.approx(np.mean(areas), abs=1e-12)}
    scores, positive = predictions[:, 3], (targets == 3).long()
    binary = fed(of("auroc", TWO), torch.stack([1 - scores, scores], 1), positive, batch_size)
    wanted = sklearn_metrics.roc_auc_score(positive, scores)
    assert binary == {"auroc": pytest.approx(wanted, abs=1e-12)}


def test_auroc_leaves_out_classes_without_samples_and_is_nan_with_one_class() -> None:
    predictions, targets = classified("never true")
    areas = [sklearn_metrics.roc_auc_score(targets == c, predictions[:, c]) for c in (0, 1, 3, 4)]
    given = fed(of("auroc", FIVE), predictions, targets, 64)
    assert given == {"auroc": pytest.approx(np.mean(areas))}
    alone = fed(of("auroc", TWO), torch.rand(4, 2), torch.ones(4, dtype=torch.int64), 4)
    assert math.isnan(alone["auroc"])


@batch_sizes
@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_regression_metrics_are_scikit_learns(mean: float, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(150, 3, generator=generator, dtype=torch.float64) + mean
    predictions = targets + torch.randn(150, 3, generator=generator, dtype=torch.float64) / 2
    references = {
        "mse": sklearn_metrics.mean_squared_error,
        "mae": sklearn_metrics.mean_absolute_error,
        "r2": sklearn_metrics.r2_score,
    }
    for name, reference in references.items():
        given = fed(of(name, VALUES), predictions, targets, batch_size)
        assert given == {name: pytest.approx(reference(targets, predictions), rel=1e-9)}


@pytest.mark.parametrize("samples", [1, 9])
def test_r2_of_constant_targets_is_undefined(samples: int) -> None:
    targets = torch.full((samples, 3), 0.1)
    assert math.isnan(fed(of("r2", VALUES), torch.rand(samples, 3), targets, 2)["r2"])


@pytest.mark.parametrize("name", COMPARING)
def test_without_samples_every_scalar_is_nan_and_reset_forgets(name: str) -> None:
    spec = VALUES if name in REGRESSION else FIVE
    metric = of(name, spec)
    empty = metric.compute()
    assert set(empty) == set(metric.scalars)
    assert all(math.isnan(value) for value in empty.values())
    predictions, targets = classified("all")
    if name in REGRESSION:
        predictions, targets = predictions[:, :3], predictions[:, 2:]
    first = fed(metric, predictions, targets, 64)
    fed(metric, predictions.flip(0), targets, 64)
    assert fed(metric, predictions, targets, 64) == first
    assert set(first) == set(metric.scalars)
    assert all(isinstance(value, float) for value in first.values())


@pytest.mark.parametrize("name", COMPARING)
def test_metrics_refuse_data_of_the_other_kind(name: str) -> None:
    with pytest.raises(UsageError, match=f"metric '{name}' expected .* use '"):
        of(name, FIVE if name in REGRESSION else VALUES)


def test_errors_are_lower_is_better() -> None:
    assert of("mse", VALUES).scalars == {"mse": False}
    assert of("mae", VALUES).scalars == {"mae": False}
    assert of("r2", VALUES).scalars == {"r2": True}
    assert of("f1", TWO, average="none").scalars == {"f1/no": True, "f1/yes": True}


def test_top_k_of_all_classes_is_1_and_of_more_is_refused() -> None:
    assert fed(of("top_k", FIVE, k=5), *classified("all"), 64) == {"top_5": 1.0}
    with pytest.raises(UsageError, match=r"expected k of at most 5 \(classes\), got 6"):
        of("top_k", FIVE, k=6)


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("rows", [slice(None), slice(80, 81)], ids=["all", "one"])
@pytest.mark.parametrize("columns", [slice(None), slice(2, 3)], ids=["all", "one"])
def test_a_prediction_that_is_nan_makes_every_scalar_nan(
    name: str, rows: slice, columns: slice
) -> None:
    spec = VALUES if name in REGRESSION else FIVE
    predictions, targets = classified("all")
    if name in REGRESSION:
        predictions, targets = predictions[:, :3], predictions[:, 2:]
    spoilt = predictions.clone()
    spoilt[rows, columns] = math.nan
    metric = of(name, spec)
    found = fed(metric, spoilt, targets, 64)
    assert set(found) == set(metric.scalars)
    assert all(math.isnan(value) for value in found.values())
    assert all(map(math.isfinite, fed(metric, predictions, targets, 64).values()))


def test_the_confusion_matrix_leaves_out_samples_whose_scores_are_nan() -> None:
    predictions, targets = classified("all")
    predictions[targets == 1] = math.nan
    metric: Any = of("confusion_matrix", FIVE)
    fed(metric, predictions, targets, 64)
    kept = targets != 1
    wanted = sklearn_metrics.confusion_matrix(
        targets[kept], predictions[kept].argmax(dim=1), labels=range(5)
    )
    assert torch.equal(metric.matrix, torch.from_numpy(wanted))


def test_what_a_judge_cannot_tell_of_made_samples_is_nan() -> None:
    generator = torch.Generator().manual_seed(0)
    real = JudgeOutputs(
        torch.rand(20, 5, generator=generator).softmax(1), torch.rand(20, 3, generator=generator)
    )
    bad = JudgeOutputs(real.probabilities.clone(), real.features.clone())
    bad.probabilities[3] = math.nan
    bad.features[3] = math.nan
    for name in ("classifier_confidence", "class_coverage", "frechet_distance"):
        metric = METRICS[name].builder(FIVE)
        metric.update(bad, real)
        assert all(map(math.isnan, metric.compute().values())), name
        metric.reset()
        metric.update(real, real)
        assert all(map(math.isfinite, metric.compute().values())), name
