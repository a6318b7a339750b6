"""Analysis of predictions, against closed forms and scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from dltrain.core.data_spec import Column, DataSpec, TableInputs
from dltrain.reporting.analysis import Calibration, ClassificationAnalysis, RegressionAnalysis

SPEC = DataSpec((1,), 3, TableInputs((Column("x"),)), class_names=("a", "b", "c"))


def predictions(samples: int = 200):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(samples, 3, generator=generator).mul(2).softmax(dim=1)
    targets = torch.randint(3, (samples,), generator=generator)
    return torch.randn(samples, 1, generator=generator), probabilities, targets


def analyzed(batch_size: int, num_errors: int = 7) -> ClassificationAnalysis:
    found = ClassificationAnalysis(SPEC, num_errors)
    inputs, probabilities, targets = predictions()
    parts = [t.split(batch_size) for t in (inputs, probabilities, targets, torch.arange(200))]
    for part in zip(*parts, strict=True):
        found.update(*part)
    return found


def test_calibration_error_of_a_constant_confidence_is_its_gap_to_the_accuracy():
    calibration = Calibration()
    # Confidence 0.9 and accuracy 0.5, then confidence 0.6 and accuracy 1: both gaps are 0.4.
    calibration.update(torch.tensor([[0.9, 0.1]] * 10), torch.tensor([0, 1] * 5))
    assert calibration.error == pytest.approx(0.4, abs=1e-6)
    calibration.update(torch.tensor([[0.4, 0.6]] * 30), torch.ones(30).long())
    assert calibration.error == pytest.approx((10 * 0.4 + 30 * 0.4) / 40, abs=1e-6)
    assert sum(count for count, _, _ in calibration.bins) == 40


def test_gaps_of_opposite_sign_cancel_within_a_bin_only():
    one_bin = Calibration()
    one_bin.update(torch.tensor([[0.95, 0.05]] * 20), torch.tensor([0] * 19 + [1]))
    assert one_bin.error == pytest.approx(0, abs=1e-6)
    two_bins = Calibration()
    two_bins.update(torch.tensor([[0.95, 0.05], [0.55, 0.45]]), torch.tensor([1, 0]))
    assert two_bins.error == pytest.approx((0.95 + 0.45) / 2, abs=1e-6)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_it():
    calibration = Calibration()
    probabilities = torch.tensor([[1.0, 0.0], [0.6, 0.4]], dtype=torch.float64)
    calibration.update(probabilities, torch.tensor([0, 0]))
    filled = [number for number, (count, _, _) in enumerate(calibration.bins) if count]
    assert filled == [8, 14]  # (8/15, 9/15] and (14/15, 1]


def test_nan_probabilities_are_errors_without_a_class_or_a_confidence():
    inputs, probabilities, targets = predictions()
    targets[5], probabilities[5] = 0, math.nan
    found = ClassificationAnalysis(SPEC, 1)
    found.update(inputs, probabilities, targets, torch.arange(200))
    assert [error.index for error in found.largest.found] == [5]
    assert sum(count for count, _, _ in found.calibration.bins) == 199
    assert math.isfinite(found.calibration.error)
    assert int(found.confusion.matrix.sum()) == 199


def test_without_samples_the_calibration_error_is_0():
    assert Calibration().error == 0


def test_metrics_per_class_equal_those_of_scikit_learn():
    _, probabilities, targets = predictions()
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, probabilities.argmax(dim=1)
    )
    rows = analyzed(64).per_class()
    assert [name for name, *_ in rows] == ["a", "b", "c"]
    for place, expected in enumerate((support, precision, recall, f1), 1):
        assert [row[place] for row in rows] == pytest.approx(list(expected))


def test_the_largest_errors_are_the_wrong_predictions_with_the_highest_loss():
    _, probabilities, targets = predictions()
    losses = -probabilities[torch.arange(200), targets].log()
    losses[probabilities.argmax(dim=1) == targets] = -1
    expected = losses.argsort(descending=True)[:7].tolist()
    for batch_size in (1, 64, 200):
        assert [m.index for m in analyzed(batch_size).largest.found] == expected


def test_a_perfect_model_has_no_errors():
    found = ClassificationAnalysis(SPEC, 5)
    found.update(torch.zeros(3, 1), torch.eye(3), torch.arange(3), torch.arange(3))
    assert found.largest.found == []
    assert found.confusions() == []


def test_the_most_frequent_confusions_come_first():
    found = ClassificationAnalysis(SPEC, 5)
    guesses, targets = torch.tensor([1, 1, 2, 0, 1]), torch.tensor([0, 0, 0, 0, 1])
    found.update(torch.zeros(5, 1), torch.eye(3)[guesses], targets, torch.arange(5))
    assert found.confusions() == [("a", "b", 2), ("a", "c", 1)]


def test_the_largest_errors_of_values():
    found = RegressionAnalysis(2)
    predictions, targets = torch.tensor([[1.0], [5.0], [2.0]]), torch.tensor([[1.0], [2.0], [4.0]])
    found.update(torch.zeros(3, 1), predictions, targets, torch.arange(3))
    assert [(m.index, m.size) for m in found.largest.found] == [(1, 3.0), (2, 2.0)]
    assert found.pairs == [(1, 1), (2, 5), (4, 2)]
