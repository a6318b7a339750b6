"""A sweep's file: what it says, and every mistake in it at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import write_folder

from dltrain.config import ConfigError
from dltrain.core.errors import UsageError
from dltrain.sweeps.plan import read_plan
from dltrain.sweeps.search_space import boundary_values

HEAD = "metric: val/loss\ntrials: 4\nspace:\n"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Reads a plan from the text of a sweep's file."""
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)

    def plan(text: str, *overrides: str):
        (tmp_path / "sweep.yaml").write_text(text)
        return read_plan(tmp_path / "config.yaml", tmp_path / "sweep.yaml", overrides)

    return plan


def test_what_is_not_said_is_by_default_and_the_metric_the_configs(plan):
    found = plan("trials: 3\nspace:\n  optimizer.lr: {float: [1e-4, 1], log: true}\n")
    assert (found.metric, found.trials, found.storage) == ("val/accuracy", 3, "sqlite")
    assert (found.sampler.name, found.pruner.name) == ("tpe", "median")


def test_values_lie_over_the_config_and_its_overrides(plan):
    found = plan(
        HEAD + "  optimizer.name: {choice: [sgd, adamw]}\n"
        "  optimizer.lr: {float: [1e-4, 0.5]}\n"
        "  model.hidden: {choice: [[8], [4, 4]]}\n"
        "  model.hidden.0: {int: [3, 5]}\n",
        "train.steps=7",
    )
    values = {"optimizer.name": "sgd", "optimizer.lr": 0.25, "model.hidden": "[4, 4]"}
    experiment = found.experiment({**values, "model.hidden.0": 5})
    assert experiment.optimizer.name == "sgd"
    assert experiment.optimizer.options["lr"] == 0.25
    assert experiment.model.options["hidden"] == (5, 4)
    assert experiment.train.steps == 7
    assert experiment.checkpoint.best == "val/loss"


def test_every_bound_and_choice_is_tried_with_what_it_is_drawn_with(plan):
    found = plan(
        HEAD + "  optimizer.name: {choice: [adamw, sgd, adam]}\n"
        "  optimizer.momentum: {float: [0.0, 0.9], when: {optimizer.name: sgd}}\n"
        "  optimizer.nesterov: {choice: [false], when: {optimizer.name: [sgd]}}\n"
        "  optimizer.weight_decay: {float: [0.0, 0.1], when: {optimizer.name: [adamw, adam]}}\n"
    )
    tried = boundary_values(found.dimensions)
    for dimension in found.dimensions:
        assert {t[dimension.key] for t in tried if dimension.key in t} == set(dimension.extremes)
    for values in tried:
        assert ("optimizer.momentum" in values) == (values["optimizer.name"] == "sgd")
        assert ("optimizer.weight_decay" in values) == (values["optimizer.name"] != "sgd")


def test_conditions_are_the_same_in_every_process_and_in_any_order(plan):
    keys = [f"model.hidden.{number}" for number in range(6)]
    choices = "".join(f"  {key}: {{choice: [4, 8]}}\n" for key in keys)
    texts = [
        HEAD + "  model.hidden: {choice: [[4, 4, 4, 4, 4, 4]]}\n" + choices + "  "
        f"optimizer.lr: {{float: [0.1, 0.2], when: {{{', '.join(f'{key}: 4' for key in order)}}}}}"
        for order in (keys, keys[::-1])
    ]
    one, other = map(plan, texts)
    assert list(one.dimensions[-1].when) == keys
    assert list(other.dimensions[-1].when) == keys[::-1]
    assert one.identity() == other.identity()


def test_a_grid_counts_its_own_trials(plan):
    found = plan(
        "sampler: grid\nspace:\n"
        "  optimizer.lr: {float: [0.1, 0.5], step: 0.1}\n"
        "  train.batch_size: {int: [16, 18]}\n"
        "  model.hidden: {choice: [[4], [8]]}\n"
    )
    assert found.trials == 5 * 3 * 2
    assert found.grid["optimizer.lr"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


MISTAKES = {
    "a key of the config": (
        "  optimizer.lrr: {float: [0.1, 0.2]}",
        "4:3: optimizer.lrr: unknown option of optimizer 'adamw'; did you mean 'lr'?",
    ),
    "a section of the config": (
        "  optimiser.lr: {float: [0.1, 0.2]}",
        "4:3: optimiser: unknown key; did you mean 'optimizer'?",
    ),
    "a bound that the config refuses": (
        "  optimizer.lr: {float: [-1, 0.2]}",
        "4:26: optimizer.lr: expected a number above 0, got -1.0",
    ),
    "the upper bound": (
        "  model.dropout: {float: [0.0, 1.5]}",
        "4:32: model.dropout: expected a number of at least 0 and below 1, got 1.5",
    ),
    "a choice that the config refuses": (
        "  train.precision: {choice: [fp32, fp31]}",
        "4:36: train.precision: expected one of auto, fp32, bf16, fp16, fp64, got 'fp31'",
    ),
    "inside a choice": (
        "  model.hidden: {choice: [[8], [8, 0]]}",
        "4:36: model.hidden.1: expected a whole number above 0, got 0",
    ),
    "numbers that are not whole": (
        "  train.batch_size: {float: [16, 32]}",
        "4:30: train.batch_size: expected a whole number above 0, got 16.0",
    ),
    "bounds in the wrong order": (
        "  train.batch_size: {int: [32, 16]}",
        "4:27: space.train.batch_size.int: expected a lower bound below the upper bound 16, got 32",
    ),
    "a bound that is no number": (
        "  optimizer.lr: {float: [0.1, high]}",
        "4:31: space.optimizer.lr.float.1: expected a number, got 'high'",
    ),
    "one bound": (
        "  optimizer.lr: {float: [0.1]}",
        "4:25: space.optimizer.lr.float",
    ),
    "a logarithm of zero": (
        "  optimizer.lr: {float: [0, 1], log: true}",
        "4:26: space.optimizer.lr.float: expected a lower bound above 0 with `log`, got 0",
    ),
    "steps of a logarithm": (
        "  optimizer.lr: {float: [0.1, 1], log: true, step: 0.1}",
        "4:46: space.optimizer.lr.step: `log` and `step` exclude each other",
    ),
    "steps that lead past the bound": (
        "  train.batch_size: {int: [16, 32], step: 10}",
        "4:43: space.train.batch_size.step: expected a divisor of 16, got 10",
    ),
    "no kind": (
        "  optimizer.lr: {flot: [0.1, 0.2]}",
        "4:17: space.optimizer.lr: expected one of `float: [low, high]`",
    ),
    "an option of a range": (
        "  optimizer.lr: {float: [0.1, 0.2], lgo: true}",
        "4:37: space.optimizer.lr.lgo: unknown option of a `float`; did you mean 'log'?",
    ),
    "no choice": (
        "  optimizer.lr: {choice: []}",
        "4:26: space.optimizer.lr.choice: expected a list",
    ),
    "a choice twice": (
        "  optimizer.lr: {choice: [0.1, 0.1]}",
        "4:32: space.optimizer.lr.choice: duplicate value 0.1",
    ),
    "a condition on what is not drawn": (
        "  optimizer.lr: {float: [0.1, 0.2], when: {optimizer.name: sgd}}",
        "4:44: space.optimizer.lr.when.optimizer.name: unknown choice above this one",
    ),
    "a condition that never holds": (
        "  optimizer.name: {choice: [adam, adamw]}\n"
        "  optimizer.lr: {float: [0.1, 0.2], when: {optimizer.name: sgd}}",
        "5:60: space.optimizer.lr.when.optimizer.name: expected one of",
    ),
    "what the metric chooses": (
        "  checkpoint.best: {choice: [val/loss, val/accuracy]}",
        "4:3: space.checkpoint.best: not allowed: the sweep's metric selects the best checkpoint",
    ),
    "another file": ("  extends: {choice: [a.yaml]}", "4:3: space.extends: expected a key"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_space_is_told_at_its_place(plan, name):
    text, message = MISTAKES[name]
    with pytest.raises(ConfigError) as error:
        plan(HEAD + text)
    assert any(f"sweep.yaml:{message}" in str(problem) for problem in error.value.problems), error


def test_all_mistakes_are_told_at_once(plan):
    with pytest.raises(ConfigError) as error:
        plan(
            "trails: 4\nsampler: {name: tpe, startup: 0}\npruner: medain\nstorage: redis\n"
            "space:\n  optimizer.lr: {float: [0, 1]}\n  model.hiden: {choice: [1]}\n"
        )
    assert [
        str(problem).split(": ")[0].rpartition("sweep.yaml:")[2] for problem in error.value.problems
    ] == ["1:1", "2:31", "3:9", "4:10", "6:26", "7:3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space:\n  optimizer.lr: {float: [0.1, 1]}\n", "trials: missing"),
        ("trials: 1\n", "space: missing"),
        ("trials: 1\nspace: []\n", "2:8: space: expected keys of the config"),
        ("sampler: grid\nspace:\n  optimizer.lr: {float: [0.1, 1]}\n", "3:3: .* needs a `step`"),
        ("- 1\n", "expected `key: value` lines"),
    ],
)
def test_what_is_missing(plan, text, message):
    with pytest.raises(ConfigError, match=message):
        plan(text)


def test_a_config_that_chooses_nothing_needs_a_metric(plan):
    with pytest.raises(ConfigError, match=r"sweep\.yaml:1:1: metric: missing"):
        plan("trials: 1\nspace:\n  optimizer.lr: {float: [0.1, 1]}\n", "checkpoint.best=null")


def test_a_file_that_is_not_there(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(UsageError, match="can't read"):
        read_plan(tmp_path / "config.yaml", tmp_path / "none.yaml")


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_shipped_sweep_fits_the_config_of_its_name(path):
    found = read_plan(CONFIGS / path.name, path)
    assert found.metric == found.experiment(found.first_values).checkpoint.best
