"""Steps that are recorded and repeated; a CPU stands in for CUDA graphs, see `replays`."""

import math
import re

import pytest
import replays
import torch
from graph_runs import CLASSIFIER, RUNS
from replays import emulate_cuda_graphs
from small_data import write_images
from small_runs import read_metric_lines
from trainers import assert_equal_outcomes, interrupt_and_resume, trainer_for, weights

import dltrain
from dltrain.config import ConfigError
from dltrain.core.errors import RunError
from dltrain.training.device import seed_everything
from dltrain.training.nonfinite import NonFiniteGuard
from dltrain.training.state import TrainerState


@pytest.fixture
def make(experiment, tmp_path):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    return experiment


@pytest.mark.parametrize("kind", RUNS)
def test_repeated_steps_are_those_that_python_would_have_made(make, tmp_path, monkeypatch, kind):
    chosen = make(RUNS[kind])
    with monkeypatch.context() as patch:
        emulate_cuda_graphs(patch, record=False)
        made_by_python = dltrain.train(chosen, run_dir=tmp_path / "python", quiet=True)
    emulate_cuda_graphs(monkeypatch)
    repeated = dltrain.train(chosen, run_dir=tmp_path / "repeated", quiet=True)
    assert_equal_outcomes(repeated, made_by_python)
    assert read_metric_lines(tmp_path / "repeated") == read_metric_lines(tmp_path / "python")


@pytest.mark.parametrize("kind", RUNS)
def test_they_are_those_of_a_run_without_a_graph_to_rounding(make, tmp_path, monkeypatch, kind):
    made = emulate_cuda_graphs(monkeypatch)
    outcomes = []
    for setting in ("auto", "off"):
        trainer = trainer_for(make(RUNS[kind], f"train.cuda_graph={setting}"), tmp_path / setting)
        seed_everything(1)
        trainer.fit()
        outcomes.append((weights(trainer.task.model), trainer.state.last["train/" + LOSS[kind]]))
    (logger,) = made
    # 32 steps: of each of the two sizes three as always, and one that is recorded.
    assert (logger.runs, logger.records, logger.replays) == (6, 2, 26)
    (repeated, loss), (plain, plain_loss) = outcomes
    assert torch.allclose(repeated, plain, rtol=1e-4, atol=1e-5)
    assert math.isclose(loss, plain_loss, rel_tol=1e-4)


LOSS = dict.fromkeys(RUNS, "loss") | {"GAN": "generator_loss"}


@pytest.mark.parametrize("step", [1, 4, 13, 14, 20, 31])
def test_a_stopped_run_goes_on_exactly(make, tmp_path, monkeypatch, step):
    chosen = make(CLASSIFIER)
    emulate_cuda_graphs(monkeypatch)
    whole = dltrain.train(chosen, run_dir=tmp_path / "whole", quiet=True)
    resumed = interrupt_and_resume(chosen, tmp_path / "stopped", step, monkeypatch)
    assert_equal_outcomes(resumed, whole)
    assert read_metric_lines(tmp_path / "stopped") == read_metric_lines(tmp_path / "whole")


def test_a_step_that_waits_for_the_device_goes_on_without_a_graph(make, tmp_path, monkeypatch):
    made = emulate_cuda_graphs(monkeypatch)
    monkeypatch.setattr(
        "replays.GraphRecorder.run", lambda self, work: work() or "a copy to the CPU"
    )
    trainer = trainer_for(make(CLASSIFIER), tmp_path)
    lines = []
    monkeypatch.setattr(trainer, "_log_message", lines.append)
    trainer.fit()
    assert made[0].records == 0
    # Batches of two sizes, and one message.
    assert lines == [
        "no CUDA graph: an operation of the step synchronizes with the device: a copy to the CPU"
    ]
    assert trainer.state.step == 32
    wanted = trainer_for(make(CLASSIFIER, "train.cuda_graph=on"), tmp_path / "on")
    with pytest.raises(
        RunError, match=r"^train.cuda_graph=on: an operation of the step synchronizes"
    ):
        wanted.fit()


CAPTURE_ERROR = "CUDA error: operation not permitted when stream is capturing"


def fail_to_record(monkeypatch, after=0):
    """Of the batches of two sizes, recording succeeds for so many, and then no longer."""
    record, calls = replays.GraphRecorder.record, []

    def fails(logger, work):
        calls.append(work)
        if len(calls) <= after:
            return record(logger, work)
        raise RuntimeError(f"{CAPTURE_ERROR}\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr("replays.GraphRecorder.record", fails)
    return calls


@pytest.mark.parametrize("after", [0, 1])
def test_a_recording_that_fails_is_said_once_and_training_goes_on(
    make, tmp_path, monkeypatch, after
):
    chosen = make(CLASSIFIER)
    with monkeypatch.context() as patch:
        emulate_cuda_graphs(patch, record=False)
        wanted = dltrain.train(chosen, run_dir=tmp_path / "python", quiet=True)
    emulate_cuda_graphs(monkeypatch)
    calls = fail_to_record(monkeypatch, after)
    summary = dltrain.train(chosen, run_dir=tmp_path / "run", quiet=True)
    assert_equal_outcomes(summary, wanted)
    assert read_metric_lines(tmp_path / "run") == read_metric_lines(tmp_path / "python")
    assert len(calls) == after + 1, "and is not tried again"
    lines = (tmp_path / "run" / "log.txt").read_text()
    assert lines.count("no CUDA graph") == 1
    assert re.search(f"no CUDA graph: a step can't be recorded: .*{CAPTURE_ERROR}\n", lines)


def test_a_recording_that_fails_is_an_error_where_a_graph_is_wanted(make, tmp_path, monkeypatch):
    emulate_cuda_graphs(monkeypatch)
    fail_to_record(monkeypatch)
    trainer = trainer_for(make(CLASSIFIER, "train.cuda_graph=on"), tmp_path)
    message = f"^train.cuda_graph=on: a step can't be recorded: .*{CAPTURE_ERROR}$"
    with pytest.raises(RunError, match=message):
        trainer.fit()


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "one_cycle", "step"])
def test_a_warm_up_may_last_the_whole_run(make, tmp_path, monkeypatch, schedule):
    # Seven steps end within the second epoch, and a graph plans the whole of it.
    options = [f"schedule={{name: {schedule}, warmup: 1.0}}", "train.steps=7", "train.epochs=null"]
    outcomes = []
    for setting in ("off", "auto"):
        with monkeypatch.context() as patch:
            emulate_cuda_graphs(patch)
            chosen = make(CLASSIFIER, *options, f"train.cuda_graph={setting}")
            seed_everything(1)
            trainer = trainer_for(chosen, tmp_path / setting)
            trainer.fit()
        outcomes.append(trainer.state.last["train/learning_rate"])
        assert trainer.state.step == 7
    assert outcomes[0] == pytest.approx(outcomes[1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["train.on_nonfinite=skip"], "checks the loss of each step"),
        (["train.micro_batch=auto"], "may change the size of micro-batches"),
        (["optimizer={name: muon}", "model={name: mlp, hidden: [8, 8]}"], "keeps its step counter"),
        (["model=stochastic"], r"the Python code of \w+ may differ between steps"),
    ],
)
def test_what_stands_in_the_way_is_said(make, tmp_path, monkeypatch, change, reason):
    emulate_cuda_graphs(monkeypatch)
    trainer = trainer_for(make(CLASSIFIER, *change), tmp_path)
    lines = []
    monkeypatch.setattr(trainer, "_log_message", lines.append)
    assert trainer.graph is None
    (text,) = lines
    assert text.startswith("no CUDA graph: ")
    assert reason.replace(r"\w+", "Stochastic") in text


def test_wanting_a_graph_without_a_gpu_is_a_mistake_in_the_config(make, tmp_path):
    chosen = make(CLASSIFIER, "train.cuda_graph=on")
    with pytest.raises(ConfigError, match=r"train.cuda_graph: .*needs a CUDA device.*'cpu'"):
        trainer_for(chosen, tmp_path)
    trainer_for(make(CLASSIFIER), tmp_path)  # auto does without


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_is_remembered_on_the_device(bad):
    guard = NonFiniteGuard(torch.device("cpu"), "stop", 0, lambda: "nothing was saved", values=2)
    guard.asks_each_step = False
    guard.start(10)
    for value in (1.0, -2.0, 0.0, 3.0, 1e38, bad, 1.0, bad, 5.0):
        assert guard.allows(TrainerState(), torch.tensor(value))
    with pytest.raises(RunError, match=r"^step 13: "):  # two values per step
        guard.check()
    guard.start(20)
    guard.check()
