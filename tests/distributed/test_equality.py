"""In float64, several processes compute what one computes."""

import math
from pathlib import Path
from typing import Any

import experiments
import pytest
import torch
from launching import finish, start, torchrun

TRIALS = Path(__file__).parent / "trials.py"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """Of each number of processes, the outcome of each experiment."""
    folder = tmp_path_factory.mktemp("equality")
    experiments.write(folder)
    found = {}
    for processes, configs in ((1, "two"), (2, "two"), (4, "four")):
        out = folder / f"{processes}.pt"
        words = [TRIALS, configs, out]
        words = words if processes == 1 else torchrun(processes, *words)
        code, _, err = finish(start(folder, *words))
        assert code == 0, err
        found[processes] = torch.load(out)
    return found


@pytest.mark.parametrize(
    ("processes", "name"),
    [*((2, name) for name in experiments.TWO), *((4, name) for name in experiments.FOUR)],
)
def test_losses_metrics_and_weights_are_those_of_one_process(outcomes, processes, name):
    one, several = outcomes[1][name], outcomes[processes][name]
    assert one["scalars"].keys() == several["scalars"].keys()
    assert sum("val/" in scalar for scalar in one["scalars"]) > 3
    for scalar, value in one["scalars"].items():
        other = several["scalars"][scalar]
        assert math.isclose(value, other, rel_tol=1e-10, abs_tol=1e-10), scalar
    for part in ("model", "averaged"):
        assert one[part].keys() == several[part].keys()
        for key, tensor in one[part].items():
            torch.testing.assert_close(several[part][key], tensor, rtol=1e-10, atol=1e-10)


def test_training_changed_the_weights(outcomes):
    one = outcomes[1]["classifier"]
    values = [value for name, value in one["scalars"].items() if name.endswith("train/loss")]
    assert len(set(values)) == len(values) > 5
