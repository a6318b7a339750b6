"""In float64, several ranks compute the same results as one process."""

import contextlib
import math
from pathlib import Path
from typing import Any

import experiments
import pytest
import rank_training
import torch
from launching import ended, in_ranks
from processes import ChildProcess

from dltrain.config.plugins import load_plugin
from dltrain.core.protocols import ProcessGroup

RESUMED = ["classifier", "gan", "sharded_classifier"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """Outcome of each experiment by number of processes."""
    folder = tmp_path_factory.mktemp("equality")
    experiments.write(folder)
    load_plugin(Path(__file__).parent / "partial_plugin.py")
    found = {}
    for processes, configs in ((1, "two"), (2, "two"), (4, "four")):
        out = folder / f"{processes}.pt"
        arguments = (rank_training.main, folder / configs, out)
        if processes == 1:
            outcome = ended(ChildProcess("alone", folder, *arguments))
        else:
            outcome = in_ranks(folder, processes, *arguments)
        for code, _, err in outcome:
            assert code == 0, err
        found[processes] = torch.load(out)
    for name in RESUMED:
        path, checkpoint = folder / "two" / f"{name}.yaml", folder / f"{name}2" / "step-0000000003"
        with contextlib.chdir(folder):
            outcome = rank_training.outcome(
                path, ProcessGroup(), folder / f"{name}1 from 2", checkpoint
            )
        found[1][f"{name} from 2"] = outcome
    return found


@pytest.mark.parametrize(
    ("processes", "name"),
    [*((2, name) for name in experiments.TWO), *((4, name) for name in experiments.FOUR)],
)
def test_losses_metrics_and_weights_equal_those_of_one_process(outcomes, processes, name):
    assert_equal(outcomes[1][name], outcomes[processes][name])


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_resumes_with_another_number_of_processes(outcomes, name):
    assert_equal(outcomes[1][name], outcomes[2][f"{name} from 1"])
    assert_equal(outcomes[1][name], outcomes[1][f"{name} from 2"])


def assert_equal(one: dict[str, Any], several: dict[str, Any]) -> None:
    """Assert that scalars and weights agree to ten digits."""
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
