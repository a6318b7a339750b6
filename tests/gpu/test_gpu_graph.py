"""Steps as CUDA graphs: bitwise identical to eager steps, with bit-exact resume."""

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
def make_experiment(cuda, experiment, tmp_path):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    yield experiment
    make_deterministic(False)


@pytest.fixture
def replays(cuda, monkeypatch):
    """A list that grows by one element with each replay of a captured step."""
    recorder_class = replays_on_cpu.GraphRecorder if STAND_IN else cuda_graph.GraphRecorder
    counted, original_record = [], recorder_class.record

    def record(recorder, work):
        replay = original_record(recorder, work)
        return lambda: (counted.append(None), replay())

    monkeypatch.setattr(recorder_class, "record", record)
    return counted


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", RUNS)
def test_replayed_steps_equal_eager_steps(
    make_experiment, tmp_path, monkeypatch, replays, kind, precision
):
    loaded = make_experiment(RUNS[kind], *GPU, f"train.precision={precision}")
    with monkeypatch.context() as patch:
        patch.setattr(cuda_graph, "WARM_UP_STEPS", math.inf)
        eager = dltrain.train(loaded, run_dir=tmp_path / "eager", quiet=True)
    assert not replays
    replayed = dltrain.train(loaded, run_dir=tmp_path / "replayed", quiet=True)
    assert len(replays) == 26, "32 steps, three of each of the two batch sizes eager"
    assert_equal_outcomes(replayed, eager)
    assert read_metric_lines(tmp_path / "replayed") == read_metric_lines(tmp_path / "eager")


ON_DEVICE_ONLY = pytest.mark.skipif(STAND_IN, reason="torch has no capturable RMSprop on a CPU")
RMSPROP = pytest.param("rmsprop", marks=ON_DEVICE_ONLY)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", RMSPROP])
def test_graphs_change_results_only_by_rounding(make_experiment, tmp_path, replays, optimizer):
    outcomes = []
    for setting in ("on", "off"):
        options = (*GPU, f"optimizer.name={optimizer}", f"train.cuda_graph={setting}")
        trainer = trainer_for(
            make_experiment(CLASSIFIER, *options, "train.precision=fp32"), tmp_path / setting
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
def test_an_interrupted_run_resumes_bitwise_identically(
    make_experiment, tmp_path, monkeypatch, replays, kind, optimizer, step
):
    loaded = make_experiment(RUNS[kind], *GPU, f"optimizer.name={optimizer}")
    uninterrupted = dltrain.train(loaded, run_dir=tmp_path / "uninterrupted", quiet=True)
    assert replays
    resumed = interrupt_and_resume(loaded, tmp_path / "interrupted", step, monkeypatch)
    assert_equal_outcomes(resumed, uninterrupted)
    assert read_metric_lines(tmp_path / "interrupted") == read_metric_lines(
        tmp_path / "uninterrupted"
    )


@pytest.mark.filterwarnings("default")  # advice of the compiler is not relevant here
def test_a_compiled_model_can_be_captured(make_experiment, tmp_path, replays):
    outcomes = []
    for options in ((), ("train.compile=true",)):
        loaded = make_experiment(CONFIG, *GPU, "train.epochs=8", *options)
        trainer = trainer_for(loaded, tmp_path / f"compiled-{len(options)}")
        trainer.fit()
        outcomes.append(weights(trainer.task.model))
    assert replays
    assert torch.allclose(*outcomes, atol=1e-3)


def test_a_step_that_synchronizes_cannot_be_captured(
    make_experiment, requires_cuda, tmp_path, replays
):
    # This model reads a counter from the device in each step.
    loaded = make_experiment(
        CLASSIFIER | {"model": "stochastic"}, *GPU, "train.deterministic=false"
    )
    with pytest.raises(RunError, match="an operation of the step synchronizes with the device"):
        trainer_for(loaded, tmp_path).fit()
    assert not replays


def test_an_error_names_the_nonfinite_step(make_experiment, tmp_path, replays):
    loaded = make_experiment(CONFIG, *GPU, "train.epochs=20", "optimizer={name: sgd, lr: 1e30}")
    trainer = trainer_for(loaded, tmp_path)
    with pytest.raises(RunError, match=r"^step [2-9]: the loss or its gradient is not finite"):
        trainer.fit()
