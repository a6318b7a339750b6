"""Steps as CUDA graphs: bitwise identical to steps without, and bit-exact resume."""

import math

import pytest
import replays as replays_on_cpu
import torch
from gpu_config import CONFIG, DEVICE, STAND_IN
from graph_runs import CLASSIFIER, RUNS
from small_data import write_images
from small_runs import read_metric_lines
from trainers import assert_equal_outcomes, interrupt_and_resume, trainer_for, weights

import dltrain
from dltrain.core.errors import RunError
from dltrain.training import cuda_graph
from dltrain.training.device import make_deterministic, seed_everything

pytestmark = pytest.mark.gpu

GPU = (f"train.device={DEVICE}", "train.cuda_graph=on", "train.deterministic=true")


@pytest.fixture
def make(cuda, experiment, tmp_path):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    yield experiment
    make_deterministic(False)


@pytest.fixture
def replays(cuda, monkeypatch):
    """How often a recorded step was repeated, by a list that grows."""
    recorder_class = replays_on_cpu.GraphRecorder if STAND_IN else cuda_graph.GraphRecorder
    made, record = [], recorder_class.record

    def counted(logger, work):
        replay = record(logger, work)
        return lambda: (made.append(None), replay())

    monkeypatch.setattr(recorder_class, "record", counted)
    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", RUNS)
def test_repeated_steps_are_those_that_python_would_have_made(
    make, tmp_path, monkeypatch, replays, kind, precision
):
    chosen = make(RUNS[kind], *GPU, f"train.precision={precision}")
    with monkeypatch.context() as patch:
        patch.setattr(cuda_graph, "WARM_UP_STEPS", math.inf)
        made_by_python = dltrain.train(chosen, run_dir=tmp_path / "python", quiet=True)
    assert not replays
    repeated = dltrain.train(chosen, run_dir=tmp_path / "repeated", quiet=True)
    assert len(replays) == 26, "32 steps: of each of the two sizes three as always"
    assert_equal_outcomes(repeated, made_by_python)
    assert read_metric_lines(tmp_path / "repeated") == read_metric_lines(tmp_path / "python")


ON_DEVICE_ONLY = pytest.mark.skipif(STAND_IN, reason="torch has no capturable form for a CPU")
RMSPROP = pytest.param("rmsprop", marks=ON_DEVICE_ONLY)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", RMSPROP])
def test_they_are_those_of_a_run_without_a_graph_to_rounding(make, tmp_path, replays, optimizer):
    outcomes = []
    for setting in ("on", "off"):
        options = (*GPU, f"optimizer.name={optimizer}", f"train.cuda_graph={setting}")
        trainer = trainer_for(
            make(CLASSIFIER, *options, "train.precision=fp32"), tmp_path / setting
        )
        seed_everything(1)
        trainer.fit()
        outcomes.append(weights(trainer.task.model))
    assert len(replays) == 26
    assert torch.allclose(*outcomes, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step", [1, 4, 14, 31])
@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        ("classifier", "adamw"),
        pytest.param("classifier", "rmsprop", marks=ON_DEVICE_ONLY),
        ("GAN", "adam"),
    ],
)
def test_a_stopped_run_goes_on_exactly(make, tmp_path, monkeypatch, replays, kind, optimizer, step):
    chosen = make(RUNS[kind], *GPU, f"optimizer.name={optimizer}")
    whole = dltrain.train(chosen, run_dir=tmp_path / "whole", quiet=True)
    assert replays
    resumed = interrupt_and_resume(chosen, tmp_path / "stopped", step, monkeypatch)
    assert_equal_outcomes(resumed, whole)
    assert read_metric_lines(tmp_path / "stopped") == read_metric_lines(tmp_path / "whole")


@pytest.mark.filterwarnings("default")  # the compiler's advice is not ours to follow
def test_a_compiled_model_can_be_recorded(make, tmp_path, replays):
    outcomes = []
    for options in ((), ("train.compile=true",)):
        chosen = make(CONFIG, *GPU, "train.epochs=8", *options)
        trainer = trainer_for(chosen, tmp_path / f"compiled-{len(options)}")
        trainer.fit()
        outcomes.append(weights(trainer.task.model))
    assert replays
    assert torch.allclose(*outcomes, atol=1e-3)


def test_a_step_that_waits_for_the_gpu_goes_on_without_a_graph(make, only_cuda, tmp_path, replays):
    # This model reads a count on the device at each step.
    chosen = make(CLASSIFIER | {"model": "restless"}, *GPU, "train.deterministic=false")
    with pytest.raises(RunError, match="an operation of the step synchronizes with the device"):
        trainer_for(chosen, tmp_path).fit()
    assert not replays


def test_a_bad_step_is_named(make, tmp_path, replays):
    chosen = make(CONFIG, *GPU, "train.epochs=20", "optimizer={name: sgd, lr: 1e30}")
    trainer = trainer_for(chosen, tmp_path)
    with pytest.raises(RunError, match=r"^step [2-9]: the loss or its gradient is not finite"):
        trainer.fit()
