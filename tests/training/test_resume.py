"""An interrupted run resumes with bitwise identical results, which needs every saved field."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from small_data import write_images
from small_runs import rewrite_config

import dltrain
from dltrain import resume, train
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.checkpoints.store import CheckpointStore
from dltrain.core.errors import InterruptedRunError, RunError
from dltrain.loggers import Logger
from dltrain.rundir.directory import Run

# Shuffling, dropout, augmentation, EMA, a schedule, clipping and micro-batches are all on.
CONFIG = {
    "seed": 1,
    "model": "stochastic",
    "data": {
        "name": "idx",
        "root": "images",
        "validation": 30,
        "augment": {"shift": 2, "rotate": 10, "flip": True, "cutout": 3},
    },
    "loss": {"name": "cross_entropy", "label_smoothing": 0.1},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "one_cycle", "warmup": 0.3},
    "metrics": ["accuracy", "auroc"],
    "train": {
        "epochs": 3,
        "batch_size": 32,
        "micro_batch": 10,
        "ema": 0.9,
        "clip_norm": 1.0,
        "evaluate": "3 steps",
        "evaluate_batch_size": 10,
        "device": "cpu",
    },
    "checkpoint": {"every": "4 steps", "best": "val/accuracy"},
    "recording": {"log_every": 2, "tensorboard": False},
}


def write_data(folder: Path) -> None:
    write_images(folder, train=133, test=40, side=8, classes=3)


def scalars(run: Path) -> list[tuple]:
    """All that was recorded, less what the clock decides."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line.values()) for line in lines if line["split"] != "system"]


def outcome(summary, run: Path) -> dict:
    """What two runs of one experiment must agree in."""
    checkpoints = CheckpointStore(run / "checkpoints")
    last = load_checkpoint(checkpoints.all()[0])
    state = {k: v for k, v in last.state["trainer"].items() if k not in ("seconds", "last")}
    return {
        "weights": summary.weights_sha256,
        "scalars": scalars(run),
        "metrics": {k: v for k, v in summary.metrics.items() if not k.startswith("system/")},
        "best": (summary.best, summary.best_metrics),
        "tested": summary.tested_weights,
        "step": summary.step,
        "skipped": summary.skipped_steps,
        "state": state,
        "rng": {name: value.tolist() for name, value in last.rng.items()},
        "optimizer": {name: value.tolist() for name, value in last.optimizer.items()},
        "averaged": {name: value.tolist() for name, value in last.averaged.items()},
    }


@pytest.fixture
def make(experiment, tmp_path):
    write_data(tmp_path / "images")
    return lambda *overrides: experiment(CONFIG, *overrides)


UNINTERRUPTED: dict[str, dict] = {}


def uninterrupted(chosen, run: Path) -> dict:
    """The outcome of a whole run of an experiment; the same for each test, so trained once."""
    key = chosen.to_yaml()
    if key not in UNINTERRUPTED:
        UNINTERRUPTED[key] = outcome(train(chosen, run_dir=run, quiet=True), run)
    return UNINTERRUPTED[key]


@pytest.fixture
def whole(make, tmp_path):
    return uninterrupted(make(), tmp_path / "whole")


def stopped(chosen, run: Path) -> None:
    """Trains until the model's signal; the same experiment without it resumes afterwards."""
    with pytest.raises(InterruptedRunError) as error:
        train(chosen, run_dir=run, quiet=True)
    assert error.value.exit_code == 143
    assert Run.open(run).summary().status == "stopped"


def disarm(run: Path) -> None:
    """Lets the model of a stopped run behave from now on."""
    set_option(run, stop_at=0, signal_at_evaluation=0)


def set_option(run: Path, **options: int) -> None:
    """Changes options of a run's model, as if it had been started with them."""
    config = dltrain.load(run / "config.yaml").to_dict()["model"]
    lines = [(f"  {k}: {config[k]}\n", f"  {k}: {value}\n") for k, value in options.items()]
    rewrite_config(run, *lines)


# A forward pass of training sees a micro-batch of at most 10 samples: the stops fall at the first,
# second, … pass of steps in all three epochs.
@pytest.mark.parametrize("stop_at", [1, 4, 8, 13, 14, 20, 30, 39])
def test_a_stopped_run_ends_as_if_it_had_not_stopped(make, tmp_path, whole, stop_at):
    run = tmp_path / "stopped"
    stopped(make(f"model.stop_at={stop_at}"), run)
    disarm(run)
    assert outcome(resume(run, quiet=True), run) == whole


@pytest.mark.parametrize("evaluation", [1, 2])
def test_a_run_stopped_while_it_evaluates_does_it_again(make, tmp_path, whole, evaluation):
    run = tmp_path / "stopped"
    chosen = make(f"model.signal_at_evaluation={evaluation}")
    stopped(chosen, run)
    disarm(run)
    assert outcome(resume(run, quiet=True), run) == whole


def test_a_run_can_be_stopped_again_and_again(make, tmp_path, whole):
    run = tmp_path / "stopped"
    stopped(make("model.stop_at=5"), run)
    for stop_at in (9, 22, 35):
        set_option(run, stop_at=stop_at)
        with pytest.raises(InterruptedRunError):
            resume(run, quiet=True)
    disarm(run)
    assert outcome(resume(run, quiet=True), run) == whole


def test_what_was_recorded_after_the_checkpoint_is_forgotten(make, tmp_path, whole):
    run = tmp_path / "killed"
    stopped(make("model.stop_at=30"), run)
    shutil.rmtree(CheckpointStore(run / "checkpoints").all()[0])  # as if killed before it was saved
    disarm(run)
    assert outcome(resume(run, quiet=True), run) == whole


class Killed(Logger):
    """Ends the process as it begins, without a word of how."""

    def on_fit_start(self, step: int, total_steps: int, batch_size: int) -> None:
        raise SystemExit


def test_a_stopped_run_that_is_killed_as_it_goes_on_does_not_say_that_it_stopped(
    make, tmp_path, whole
):
    run = tmp_path / "run"
    stopped(make("model.stop_at=30"), run)
    disarm(run)
    with pytest.raises(SystemExit):
        resume(run, quiet=True, loggers=[Killed()])
    assert (Run.open(run).state, Run.open(run).summary()) == ("killed", None)
    assert outcome(resume(run, quiet=True), run) == whole


def test_a_finished_run_is_not_trained_again(make, tmp_path):
    run = tmp_path / "run"
    first = train(make(), run_dir=run, quiet=True)
    before = scalars(run)
    assert resume(run, quiet=True) == first
    assert scalars(run) == before


def forget(name: str):
    """Puts a field of the trainer's state back to what it is at the start."""
    from dltrain.training.state import TrainerState

    def change(snapshot):
        fresh = TrainerState().to_json()[name]
        trainer = {**snapshot.state["trainer"], name: fresh}
        assert trainer[name] != snapshot.state["trainer"][name], f"{name} says nothing at this stop"
        return dataclasses.replace(snapshot, state={**snapshot.state, "trainer": trainer})

    return change


def spoil(kind: str, part: str):
    """Replaces tensors whose name has `part` by what a new run would have."""

    def change(snapshot):
        tensors = dict(getattr(snapshot, kind))
        hit = [name for name in tensors if part in name]
        assert hit, f"{kind} has no {part!r}"
        fresh = {"torch": torch.get_rng_state(), **FRESH_RNG} if kind == "rng" else {}
        for name in hit:
            tensors[name] = fresh[name] if kind == "rng" else torch.zeros_like(tensors[name])
        return dataclasses.replace(snapshot, **{kind: tensors})

    return change


def drop(kind: str):
    """Leaves a whole group of tensors out."""
    return lambda snapshot: dataclasses.replace(snapshot, **{kind: {}})


def new_generators():
    from dltrain.training.device import random_state, seed_everything

    seed_everything(1)
    return random_state()


FRESH_RNG = new_generators()

EARLY_STOP = {"early_stop": {"monitor": "val/accuracy", "patience": 3, "min_delta": 0.9}}
FIELDS = {
    **{name: forget(name) for name in ("step", "updates", "windows", "last")},
    **{name: forget(name) for name in ("best", "best_metrics")},
    **{name: forget(name) for name in ("stop_best", "evaluations_without_better")},
    **{name: forget(name) for name in ("skipped", "evaluation_due")},
    **{f"rng.{name}": spoil("rng", name) for name in ("torch", "python", "numpy")},
    **{f"optimizer.{name}": spoil("optimizer", name) for name in ("exp_avg", "exp_avg_sq")},
    "optimizer.step": spoil("optimizer", "/step"),
    "optimizer": drop("optimizer"),
    "averaged": spoil("averaged", "net.1.weight"),
    "model.weight": spoil("model", "net.1.weight"),
    "model.running_mean": spoil("model", "running_mean"),
    "model.calls": spoil("model", "calls"),
}


# The stops: in the middle of the second epoch with sums that are not recorded yet, in the third
# evaluation, and in the evaluation of the test split at the end.
STOPS = {
    "evaluation_due": "model.signal_at_evaluation=8",
    "last": "model.signal_at_evaluation=13",
    "best": "model.signal_at_evaluation=13",
    "best_metrics": "model.signal_at_evaluation=13",
}


@pytest.mark.parametrize("field", FIELDS)
def test_each_saved_field_is_needed(experiment, tmp_path, field):
    """Deleting it makes the resumed run differ, or fail."""
    write_data(tmp_path / "images")
    config = CONFIG | EARLY_STOP
    nan = ["model.nan_at=[6, 30]", "train.on_nonfinite=skip"]
    expected = uninterrupted(experiment(config, *nan), tmp_path / "whole")
    run = tmp_path / "stopped"
    stopped(experiment(config, *nan, STOPS.get(field, "model.stop_at=23")), run)
    disarm(run)
    checkpoints = CheckpointStore(run / "checkpoints", keep=100)
    path, snapshot, _ = checkpoints.newest()
    checkpoints.save(int(path.name[5:]), FIELDS[field](snapshot))
    try:
        different = outcome(resume(run, quiet=True), run) != expected
    except (KeyError, RuntimeError, RunError):
        different = True
    assert different, f"a run without {field} resumes with identical results"


@pytest.mark.parametrize("stop", sorted({*STOPS.values(), "model.stop_at=23"}))
def test_with_every_field_the_outcome_is_the_same(experiment, tmp_path, stop):
    write_data(tmp_path / "images")
    config, run = CONFIG | EARLY_STOP, tmp_path / "stopped"
    nan = ["model.nan_at=[6, 30]", "train.on_nonfinite=skip"]
    expected = uninterrupted(experiment(config, *nan), tmp_path / "whole")
    stopped(experiment(config, *nan, stop), run)
    disarm(run)
    assert outcome(resume(run, quiet=True), run) == expected


def test_every_field_of_the_state_is_covered():
    from dltrain.training.state import TrainerState

    names = {field.name for field in dataclasses.fields(TrainerState)}
    # How long it took decides nothing; two are tested on their own.
    assert names - set(FIELDS) == {"seconds", "skipped_in_a_row", "micro_batch"}


def test_the_row_of_skipped_steps_goes_on(make, tmp_path):

    run = tmp_path / "stopped"
    skip = ["model.nan_at=[9,10,11,12,13]", "train.on_nonfinite=skip", "train.max_skipped=1"]
    # Passes 9 to 12 are the third step's, the stop falls into it; 13 is the fourth step's first.
    stopped(make("model.stop_at=9", *skip), run)
    disarm(run)
    with pytest.raises(RunError, match="step 4"):
        resume(run, quiet=True)
