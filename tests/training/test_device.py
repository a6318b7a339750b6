"""Process-wide settings, out-of-memory errors, and what an Apple GPU lacks."""

from types import SimpleNamespace

import pytest
import torch
from small_data import write_images
from small_runs import CONFIG
from torch.utils._pytree import tree_map

import dltrain
from dltrain.core.data_spec import Column, DataSpec, TableInputs
from dltrain.core.errors import InterruptedRunError
from dltrain.core.registry import METRICS
from dltrain.loggers import Logger
from dltrain.metrics.generation import Moments, frechet_distance
from dltrain.reporting.analysis import Calibration, ClassificationAnalysis
from dltrain.tasks import language_model
from dltrain.training.device import is_out_of_memory, make_deterministic


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"),
        MemoryError(),
        *map(
            RuntimeError,
            (
                "CUDA error: out of memory\nCUDA kernel errors might be reported later",
                "CUDA driver error: out of memory",
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
                "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`",
                "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED",
                "NCCL error: unhandled cuda error: Cuda failure 2 'out of memory'",
                "MPS backend out of memory (MPS allocated: 8.00 GB)",
                "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory",
                "std::bad_alloc",
            ),
        ),
    ],
    ids=str,
)
def test_every_library_may_run_out_of_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("out of memory"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


@pytest.fixture
def settings():
    """What torch has in this process: deterministic, benchmark, matmul precision."""

    def read():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.get_float32_matmul_precision(),
        )

    before = read()
    yield read
    make_deterministic(before[0])
    torch.backends.cudnn.benchmark = before[1]
    torch.set_float32_matmul_precision(before[2])


class Watching(Logger):
    """Reads the settings while training."""

    def __init__(self, read):
        self.read, self.seen = read, set()

    def on_step_end(self, step):
        self.seen.add(self.read())


def test_a_run_has_settings_of_its_own_and_puts_back_those_of_the_process(
    experiment, tmp_path, settings
):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    for options, wanted in (
        (("train.matmul_precision=high",), (False, True, "high")),
        ((), (False, True, "highest")),
        (("train.deterministic=true",), (True, False, "highest")),
    ):
        watching = Watching(settings)
        run = tmp_path / f"run-{wanted}"
        dltrain.train(experiment(CONFIG, *options), run_dir=run, quiet=True, loggers=[watching])
        assert watching.seen == {wanted}
        assert settings() == (False, True, "medium")
        assert f"matmul_precision: {wanted[2]}" in (run / "config.yaml").read_text()


def test_the_settings_are_put_back_after_a_failure_and_by_resume(experiment, tmp_path, settings):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    before = settings()
    config = CONFIG | {"model": {"name": "stochastic", "stop_at": 4}}
    chosen = experiment(config, "train.matmul_precision=high")
    with pytest.raises(InterruptedRunError):
        dltrain.train(chosen, run_dir=tmp_path / "run", quiet=True)
    assert settings() == before
    assert dltrain.resume(tmp_path / "run", quiet=True).status == "done"
    assert settings() == before


@pytest.mark.parametrize(
    ("model", "data", "benchmarks"),
    [
        ({"name": "cnn", "channels": [4]}, CONFIG["data"], True),
        ({"name": "text_cnn", "channels": 4}, {"name": "toy_text", "samples": 200}, False),
    ],
)
def test_convolutions_are_tried_out_for_inputs_of_one_shape_only(
    experiment, tmp_path, settings, model, data, benchmarks
):
    write_images(tmp_path / "images", train=133, test=40, side=8, classes=3)
    torch.backends.cudnn.benchmark = not benchmarks
    watching = Watching(settings)
    chosen = experiment(CONFIG | {"model": model, "data": data})
    dltrain.train(chosen, run_dir=tmp_path / "run", quiet=True, loggers=[watching])
    assert {benchmark for _, benchmark, _ in watching.seen} == {benchmarks}


class OnApple(torch.Tensor):
    """A tensor on an Apple GPU, as far as Python sees: there is no float64 there."""

    @staticmethod
    def __new__(cls, held):
        if held.dtype in (torch.float64, torch.complex128):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device="meta"
        )

    @property
    def device(self):
        return torch.device("mps")

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        def inner(value):
            if isinstance(value, torch.device):
                return torch.device("cpu")
            return value.held if isinstance(value, OnApple) else value

        def outer(value):
            return OnApple(value) if isinstance(value, torch.Tensor) else value

        to = (kwargs or {}).get("device")
        results = operation(*tree_map(inner, args), **tree_map(inner, kwargs or {}))
        return results if to is not None and to.type == "cpu" else tree_map(outer, results)


CLASSES = DataSpec((3,), 3, TableInputs(tuple(map(Column, "abc"))), ("x", "y", "z"), (5, 5, 5))
VALUES = DataSpec((3,), 1, TableInputs(tuple(map(Column, "abc"))))
PREDICTED = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.3, 0.4, 0.3]])
TARGETS = torch.tensor([0, 1, 1, 2])


def test_the_double_of_an_apple_gpu_has_no_float64():
    with pytest.raises(TypeError, match="float64"):
        OnApple(torch.ones(2)).double()
    assert OnApple(torch.ones(2)).cpu().double().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *((name, CLASSES) for name in ("auroc", "top_k")),
        *((name, VALUES) for name in ("mae", "mse", "r2")),
    ],
)
def test_metrics_need_no_float64_of_the_device(name, spec):
    values = []
    for place in (lambda tensor: tensor, OnApple):
        options = {"k": 2} if name == "top_k" else {}
        metric = METRICS[name].builder(spec, **options)
        of_values = (PREDICTED[:, :1], PREDICTED[:, 1:2])
        for part in (slice(0, 3), slice(3, 4)):
            pair = of_values if spec is VALUES else (PREDICTED, TARGETS)
            metric.update(*(place(tensor[part].clone()) for tensor in pair))
        values.append(metric.compute())
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_reports_and_samples_need_no_float64_of_the_device():
    one, other = Moments(), Moments()
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    one.add(OnApple(features))
    other.add(features)
    assert frechet_distance(one, other) == pytest.approx(0.0, abs=1e-9)
    calibration, wanted = Calibration(), Calibration()
    calibration.update(OnApple(PREDICTED), OnApple(TARGETS))
    wanted.update(PREDICTED, TARGETS)
    assert torch.equal(calibration.sums, wanted.sums)
    judged, expected = ClassificationAnalysis(CLASSES, 3), ClassificationAnalysis(CLASSES, 3)
    for side in (judged, expected):
        side.confusion = SimpleNamespace(update=lambda *_: None)  # makes tensors on the device
    index = torch.arange(4)
    judged.update(*map(OnApple, (PREDICTED, PREDICTED, TARGETS, index)))
    expected.update(PREDICTED, PREDICTED, TARGETS, index)
    assert [m.size for m in judged.largest.found] == [m.size for m in expected.largest.found]
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[[0.0, 0.0, 50.0, 0.0]]])
    model = torch.nn.Identity()
    model.step = lambda inputs, state: (OnApple(logits), state)
    assert next(_generated(model, generator)) == 2


def _generated(model, generator):
    task = object.__new__(language_model.LanguageModel)
    task.spec, task.model = DataSpec((4,), 4, TableInputs(())), model
    task.inputs = SimpleNamespace(padding=0, unknown=1)
    model.weight = torch.nn.Parameter(torch.zeros(1))
    return task.generate([2], 1, 1.0, None, generator)
