"""Custom components: objects of torch are accepted, errors name the line of the plug-in."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.nn import functional as F

import dltrain
from dltrain.cli import main
from dltrain.config.plugins import load_plugin, register_builtins
from dltrain.core.errors import describe_error
from dltrain.core.registry import REGISTRIES

CONFIG = {
    "model": {"name": "mlp", "hidden": [8]},
    "data": "points",
    "loss": "cross_entropy",
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0},
    "train": {"epochs": 2, "batch_size": 16, "device": "cpu"},
    "recording": {"tensorboard": False},
}

HEADER = """\
import torch
from torch import nn
from torch.utils.data import TensorDataset
from dltrain import DATA, LOSSES, METRICS, MODELS, OPTIMIZERS, SCHEDULES, TASKS

def samples(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 5, generator=generator)
    return inputs, (inputs[:, 0] + inputs[:, 1] > 0).long()

@DATA.register
def points(context, /):
    return {
        "train": TensorDataset(*samples(60)),
        "validation": TensorDataset(*samples(30, 1)),
        "test": TensorDataset(*samples(20, 2)),
    }

@DATA.register
def amounts(context, /):
    inputs, _ = samples(60)
    train = TensorDataset(inputs, inputs[:, :3] @ torch.ones(3, 2))
    return {"train": train, "validation": TensorDataset(*train[:30])}

"""


@pytest.fixture(autouse=True)
def registries():
    register_builtins()
    modules = set(sys.modules)
    before = {name: dict(registry._components) for name, registry in REGISTRIES.items()}
    yield
    for name, registry in REGISTRIES.items():
        registry._components = before[name]
    for name in sys.modules.keys() - modules:
        if name.startswith("dltrain_plugin_"):
            del sys.modules[name]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Function that runs the command line with a plug-in; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))

    def run(code, *words, command="check"):
        Path("mine.py").write_text(HEADER + textwrap.dedent(code))
        line = ["dltrain", command, *(["config.yaml"] if command in ("check", "train") else [])]
        monkeypatch.setattr(sys, "argv", [*line, *words, "--plugin", "mine.py"])
        with pytest.raises(SystemExit) as error:
            main()
        output = capfd.readouterr()
        return error.value.code, output.out, output.err

    return run


def line_of(text):
    """Return the number of the first line of the plug-in that contains a text."""
    lines = Path("mine.py").read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)


def summary():
    (path,) = Path("runs").glob("*/0001/summary.json")
    return json.loads(path.read_bytes())


# -------------------------------------------------------------------------- accepted components


def test_datasets_and_a_torch_loss_train_as_a_manual_loop_does(run):
    code = """
    @LOSSES.register
    def weighted(spec, /):
        return nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]), label_smoothing=0.1)

    @MODELS.register
    def zeros(spec, /):
        model = nn.Linear(5, spec.num_outputs)
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        return model
    """
    steps = ("train={epochs: null, steps: 10, batch_size: 60}", "recording.log_every=1")
    options = ("loss=weighted", "model=zeros", "metrics=[accuracy]", *steps, "checkpoint.best=null")
    code, _, error = run(code, *options, command="train")
    assert code == 0, error

    scope: dict = {}
    exec(HEADER.partition("@DATA")[0], scope)
    (inputs, targets), others = scope["samples"](60), scope["samples"](30, 1)
    model = nn.Linear(5, 2)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]), label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    lines = map(json.loads, Path("runs/config/0001/metrics.jsonl").read_text().splitlines())
    lines = list(lines)
    recorded = [one["value"] for one in lines if (one["split"], one["name"]) == ("train", "loss")]
    assert recorded == pytest.approx(losses, rel=1e-5)
    assert summary()["metrics"]["val/loss"] == pytest.approx(
        loss(model(others[0]), others[1]).item()
    )


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        ("nn.BCEWithLogitsLoss()", lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t)),
        ("nn.functional.cross_entropy", F.cross_entropy),
        ("lambda o, t: nn.functional.cross_entropy(o, t, reduction='none')", F.cross_entropy),
        ("nn.MultiMarginLoss()", F.multi_margin_loss),
    ],
)
def test_losses_of_classes_equal_torchs(builder, expected, tmp_path):
    load_file(tmp_path, f"@LOSSES.register\ndef mine(spec, /):\n    return {builder}\n")
    found, outputs, targets = loss_and_batch(tmp_path, "points")
    wanted = expected(outputs, targets.float() if "BCE" in builder else targets)
    assert (found(outputs, targets).sum() / found.weight(targets)).item() == pytest.approx(
        wanted.item()
    )
    predicted = found.predict(outputs)
    assert predicted.shape == (len(targets), 2)
    torch.testing.assert_close(predicted.sum(dim=1), torch.ones(len(targets)))


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        ("nn.SmoothL1Loss(beta=0.5)", lambda o, t: F.smooth_l1_loss(o, t, beta=0.5)),
        ("lambda o, t: (o - t) ** 4", lambda o, t: ((o - t) ** 4).mean()),
        ("lambda o, t: ((o - t) ** 4).mean(1)", lambda o, t: ((o - t) ** 4).mean()),
    ],
)
def test_losses_of_values_equal_torchs(builder, expected, tmp_path):
    load_file(tmp_path, f"@LOSSES.register\ndef mine(spec, /):\n    return {builder}\n")
    found, outputs, targets = loss_and_batch(tmp_path, "amounts")
    mean = found(outputs, targets).sum() / found.weight(targets)
    assert mean.item() == pytest.approx(expected(outputs, targets).item())
    torch.testing.assert_close(found.predict(outputs), outputs)


def load_file(tmp_path, code):
    path = tmp_path / "mine.py"
    path.write_text(HEADER + code)
    load_plugin(path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"loss": "mine"}))


def loss_and_batch(tmp_path, data):
    from dltrain.build import build_data, build_runtime, build_task

    experiment = dltrain.load(tmp_path / "config.yaml", [f"data={data}"])
    runtime = build_runtime(experiment)
    source = build_data(experiment, runtime, print)
    task = build_task(experiment, source.spec, runtime)
    batch = next(source.train.batches(16))
    with torch.inference_mode():
        return task.loss_function, task.model(batch.inputs), batch.targets


def test_class_weights_and_ignored_classes_are_averaged_as_in_torch():
    from dltrain.core.data_spec import DataSpec, TableInputs
    from dltrain.losses.adapted import TorchLoss

    spec = DataSpec((2,), 3, TableInputs(()), ("a", "b", "c"))
    outputs, targets = torch.randn(9, 3), torch.arange(9) % 3
    for loss in (
        nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 5.0]), ignore_index=1),
        nn.CrossEntropyLoss(ignore_index=2),
        nn.NLLLoss(torch.tensor([1.0, 2.0, 5.0])),
    ):
        values = outputs.log_softmax(1) if isinstance(loss, nn.NLLLoss) else outputs
        ours = TorchLoss(loss, spec)
        mean = ours(values, targets).sum() / ours.weight(targets)
        torch.testing.assert_close(mean, loss(values, targets))
        torch.testing.assert_close(ours.predict(values), outputs.softmax(1))
        assert loss.reduction == "mean"  # the user's object is unchanged


METRICS_CODE = """
@METRICS.register
def by_lambda(spec, /):
    return lambda p, t: (p.argmax(1) == t).float().mean()

@METRICS.register
def itself(predictions, targets):
    return (predictions.argmax(1) == targets).float().mean()

@METRICS.register
def torchmetrics_accuracy(spec, /):
    from torchmetrics.classification import MulticlassAccuracy
    return MulticlassAccuracy(num_classes=spec.num_classes, average="micro")

@METRICS.register
def torchmetrics_auroc(spec, /):
    from torchmetrics.classification import BinaryAUROC
    return BinaryAUROC()
"""
METRIC_NAMES = "accuracy, auroc, by_lambda, itself, torchmetrics_accuracy, torchmetrics_auroc"


def test_functions_and_torchmetrics_equal_the_builtin_metrics(run):
    options = (f"metrics=[{METRIC_NAMES}]", "train.evaluate_batch_size=7")
    best = "checkpoint.best=val/torchmetrics_auroc"
    code, _, error = run(METRICS_CODE, *options, best, command="train")
    assert code == 0, error
    found = summary()["metrics"]
    for split in ("val", "test"):
        values = {name.rpartition("/")[2]: found[name] for name in found if split in name}
        for name in ("by_lambda", "itself", "torchmetrics_accuracy"):
            assert values[name] == pytest.approx(values["accuracy"])
        assert values["torchmetrics_auroc"] == pytest.approx(values["auroc"])


def test_regression_metrics_receive_values(run):
    code = """
    @METRICS.register
    def squared(spec, /):
        from torchmetrics import MeanSquaredError
        return MeanSquaredError(num_outputs=1)

    @METRICS.register
    def squared_too(predictions, targets):
        return (predictions - targets).square().mean()
    """
    code, _, error = run(
        code,
        *("data=amounts", "loss=mse", "metrics=[mse, squared, squared_too]"),
        command="train",
    )
    assert code == 0, error
    last = summary()["metrics"]
    assert last["val/squared"] == pytest.approx(last["val/mse"])
    assert last["val/squared_too"] == pytest.approx(last["val/mse"])


def test_a_metric_without_direction_cannot_select_the_best_checkpoint(run):
    code, _, error = run(METRICS_CODE, "metrics=[itself]", "checkpoint.best=val/itself")
    assert code == 2
    assert "checkpoint.best: it is not known whether a higher 'val/itself' is better" in error
    assert "higher_is_better" in error
    direction = "\nitself.higher_is_better = True\n"
    assert (
        run_again(METRICS_CODE + direction, "metrics=[itself]", "checkpoint.best=val/itself") == ""
    )


def run_again(code, *words):
    """Run `check` in a separate process, since each process loads a plug-in once."""
    Path("again.py").write_text(HEADER + textwrap.dedent(code))
    line = [sys.executable, "-m", "dltrain", "check", "config.yaml", *words, "--plugin", "again.py"]
    return subprocess.run(line, check=False, capture_output=True, text=True).stderr


IMAGES = """
class Squares(torch.utils.data.Dataset):
    classes = ["dark", "light"]

    def __init__(self, number, kind):
        generator = torch.Generator().manual_seed(number)
        self.targets = torch.arange(number) % 2
        noise = torch.randint(0, 100, (number, 3, 8, 8), generator=generator)
        self.images = (noise + 120 * self.targets[:, None, None, None]).to(torch.uint8)
        self.kind = kind

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, number):
        image, target = self.images[number], int(self.targets[number])
        if self.kind == "float":
            image = image / 255
        if self.kind == "numpy":
            image, target = image.numpy(), self.targets.numpy()[number]
        return image, target

@DATA.register
def squares(context, /, *, kind: str = "uint8"):
    dataset = Squares(80, kind)
    return torch.utils.data.Subset(dataset, list(range(60))) if kind == "subset" else dataset
"""


@pytest.mark.parametrize("kind", ["uint8", "float", "numpy", "subset"])
def test_a_dataset_of_images_is_split_and_trained_and_predicts_files(run, kind):
    options = ("model=linear", f"data={{name: squares, kind: {kind}}}", "metrics=[accuracy]")
    code, _, error = run(IMAGES, *options, "train.epochs=20", command="train")
    assert code == 0, error
    sizes = "49 train, 5 validation, 6 test" if kind == "subset" else "65 train, 7 validation, 8 t"
    assert f"is cut at random: {sizes}" in error
    assert summary()["metrics"]["test/accuracy"] == 1.0
    for name, value in (("light", 190), ("dark", 30)):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(f"{name}.png")
    code, out, error = run(
        IMAGES, "runs/config/0001", "light.png", "dark.png", "--json", command="predict"
    )
    assert code == 0, error
    assert [one["label"] for one in json.loads(out)] == ["light", "dark"]


def test_runs_on_datasets_reproduce_bitwise_identical_results(run):
    code, _, error = run(IMAGES, "data=squares", "checkpoint.every=1 epochs", command="train")
    assert code == 0, error
    code, out, error = run(IMAGES, "runs/config/0001", command="reproduce")
    assert code == 0, error
    assert "all identical" in out


TASK = """
from dltrain import Task

@TASKS.register
class least_squares(Task):
    def __init__(self, context, /, *, scale: float = 1.0):
        self.model, self.scale = context.model, scale
        self.scalars = {"loss": False}
        self.phases = (context.make_phase("main", context.model),)

    @staticmethod
    def adapt_spec(spec):
        return spec

    def weight(self, batch, phase):
        return len(batch)

    def loss(self, batch, phase):
        targets = nn.functional.one_hot(batch.targets, 2)
        return self.scale * (self.model(batch.inputs) - targets).square().sum()

    def evaluate(self, batches):
        sums = [(float(self.loss(batch, self.phases[0])), len(batch)) for batch in batches]
        return {"loss": sum(one for one, _ in sums) / sum(size for _, size in sums)}
"""


def test_a_subclass_of_task_trains(run):
    code, _, error = run(TASK, "task=least_squares", "task.scale=0.5", command="train")
    assert code == 0, error
    assert {"train/loss", "val/loss", "test/loss"} <= summary()["metrics"].keys()


@pytest.mark.parametrize(
    ("old", "new", "choice", "expected"),
    [
        ("def evaluate", "def measure", "seed=0", "abstract method"),
        ("self.scalars", "self.named", "seed=0", "a dltrain.Task whose __init__ sets 'scalars'"),
        ('"main"', '"other"', "seed=0", "with the phases of phase_names, main; it returned one"),
        ("self.model,", "self.model,", "phases={other: {}}", "unknown phase of task"),
        (
            "self.model,",
            "self.model,",
            "recording={tensorboard: true, embeddings: 5}",
            "has no points to show",
        ),
    ],
)
def test_missing_parts_of_a_task_are_named(run, old, new, choice, expected):
    code, _, error = run(TASK.replace(old, new), "task=least_squares", choice)
    assert code == 2
    assert expected in error
    assert "Traceback" not in error


# --------------------------------------------------------------------------- refused components


@pytest.mark.parametrize(
    ("registry", "name", "choice", "returned", "expected"),
    [
        (
            "DATA",
            "context",
            "data=other",
            "[1, 2]",
            "a dltrain.Data, a map-style torch Dataset or a mapping of ",
        ),
        ("MODELS", "spec", "model=other", "3", "a torch.nn.Module; it returned int"),
        ("MODELS", "spec", "model=other", "nn.LazyLinear(2)", "parameters of known shape"),
        (
            "LOSSES",
            "spec",
            "loss=other",
            "'mse'",
            "a dltrain.Loss, a torch loss module or a function",
        ),
        (
            "METRICS",
            "spec",
            "metrics=[other]",
            "0.5",
            "a dltrain.Metric, a torchmetrics.Metric or a function",
        ),
        (
            "OPTIMIZERS",
            "module",
            "optimizer=other",
            "torch.optim.SGD",
            "a torch.optim.Optimizer, or a tuple",
        ),
        (
            "SCHEDULES",
            "",
            "schedule=other",
            "0.5",
            "a function of progress, from 0 to 1, to a factor",
        ),
        ("SCHEDULES", "", "schedule=other", "lambda progress: None", "it returned None for 0"),
        (
            "TASKS",
            "context",
            "task=other",
            "nn.Identity()",
            "a dltrain.Task; it returned",
        ),
    ],
)
def test_a_builder_that_returns_something_else_is_named_with_its_line(
    run, registry, name, choice, returned, expected
):
    arguments = f"{name}, /" if name else ""
    code = f"@{registry}.register\ndef other({arguments}):\n    return {returned}\n"
    code, _, error = run(code, choice)
    assert code == 2
    assert f"mine.py:{line_of('def other') - 1}: " in error
    assert "'other' must return" in error
    assert expected in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("TensorDataset(torch.zeros(0, 5), torch.zeros(0).long())", "train has no samples"),
        ("TensorDataset(torch.ones(9, 5))", "sample 0 of train is a tuple of 1; it must be a pair"),
        ("TensorDataset(torch.ones(9, 5).long(), torch.ones(9))", "is int64 of shape (5,)"),
        ("TensorDataset(torch.ones(9, 4, 5), torch.ones(9))", "is float32 of shape (4, 5)"),
        (
            "TensorDataset(torch.full((9, 3, 4, 5), -2.0), torch.ones(9))",
            "values from -2 to -2; give uint8, or floats from 0 to 1 without Normalize",
        ),
        ("TensorDataset(torch.ones(9, 5), torch.arange(9) - 1)", "the target of sample 0 of train"),
        ("TensorDataset(torch.ones(9, 5), torch.ones(9, 2).long())", "it must be a class"),
        ("Listed([(torch.ones(5), 1), (torch.ones(4), 0)])", "the input of sample 1 of train is "),
        ("Listed([(torch.ones(5), 1), (torch.ones(5), 0.5)])", "the target of sample 1 of train"),
        ("Listed([('text', 1)])", "the input of sample 0 of train is a builtins.str"),
        ("Listed([{'x': 1}])", "sample 0 of train is a builtins.dict"),
        ("Listed([(torch.ones(5), 7)] * 9, ['a', 'b'])", "the classes are a, b, and a sample has "),
        ("Augmenting()", "sample 0 of train differs when it is read again"),
        ("Endless()", "must be a map-style dataset"),
        ("{'train': Listed([(torch.ones(5), 1)]), 'dev': Listed([])}", "the keys of the datasets"),
        (
            "{'train': Listed([(torch.ones(5), 1)]), 'test': Listed([(torch.ones(4), 1)])}",
            "inputs of test are float32 of shape (1, 4), those of train float32 of shape (1, 5)",
        ),
    ],
)
def test_an_unusable_dataset_is_refused_with_the_reason(run, dataset, message):
    code = f"""
    class Listed(torch.utils.data.Dataset):
        def __init__(self, pairs, classes=None):
            self.pairs = pairs
            if classes: self.classes = classes
        def __len__(self): return len(self.pairs)
        def __getitem__(self, number): return self.pairs[number]

    class Augmenting(Listed):
        def __init__(self): super().__init__([0] * 9)
        def __getitem__(self, number): return torch.rand(5), 0

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self): yield torch.ones(5), 1

    @DATA.register
    def other(context, /):
        return {dataset}
    """
    code, _, error = run(code, "data=other")
    assert code == 2
    assert message in error
    assert f"mine.py:{line_of('def other') - 1}: data 'other': " in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("loss", "data", "message"),
    [
        ("nn.MSELoss()", "points", "MSELoss does not match this data, which has 2 classes"),
        (
            "nn.CrossEntropyLoss()",
            "amounts",
            "CrossEntropyLoss does not match this data, which has ",
        ),
        ("nn.CrossEntropyLoss(reduction='sum')", "points", "depends on the batch size; use 'mean'"),
        ("nn.KLDivLoss()", "amounts", "how outputs become predictions is unknown for KLDivLoss"),
        ("Learned()", "points", "a loss with trainable parameters is not trained"),
        ("lambda o, t: nn.functional.cross_entropy(o, t)", "points", "must return one value per "),
        ("lambda o, t: (o - t[:, None]) ** 2", "points", "it returned (16, 2)"),
        ("lambda o, t: 0.5", "points", "it returned float"),
        ("plain", "points", "mine.py:33: a loss must return one value per sample"),
    ],
)
def test_a_loss_that_gives_wrong_results_is_refused(run, loss, data, message):
    code = f"""
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
        def forward(self, outputs, targets):
            return self.scale * nn.functional.cross_entropy(outputs, targets, reduction="none")

    def plain(outputs, targets, reduction="mean"):
        return nn.functional.cross_entropy(outputs, targets)

    @LOSSES.register
    def other(spec, /):
        return {loss}
    """
    code, _, error = run(code, "loss=other", f"data={data}")
    assert code == 2
    assert message in error
    assert "mine.py:" in error
    assert "Traceback" not in error


def test_a_subclass_of_loss_that_reduces_is_refused(run):
    """The mean would be divided by the batch size again."""
    code = """
    from dltrain import Loss

    @LOSSES.register
    class Reduced(Loss):
        def __init__(self, spec, /):
            super().__init__()
            self.num_outputs = spec.num_classes
        def forward(self, outputs, targets):
            return nn.functional.cross_entropy(outputs, targets)
    """
    code, _, error = run(code, "loss=Reduced")
    assert code == 2
    assert f"mine.py:{line_of('@LOSSES')}: a loss must return one value per sample" in error


def test_a_metric_with_undeclared_scalars_is_refused(run):
    code = """
    @METRICS.register
    class Other:
        scalars = {"a": True}
        def __init__(self, spec, /): pass
        def reset(self): pass
        def update(self, predictions, targets): pass
        def compute(self): return {"b": 1.0}

    @METRICS.register
    def vector(predictions, targets):
        return predictions.mean(0)
    """
    code, _, error = run(code, "metrics=[Other]")
    assert code == 2
    assert f"mine.py:{line_of('class Other') - 1}: compute must return a dict with " in error
    code, _, error = run("", "metrics=[vector]")
    assert code == 2
    assert "metric 'vector' must return one number, got shape (2,)" in error


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (
            "@MODELS.register\ndef other(spec, hidden=8): pass",
            "TypeError: option 'hidden' of 'other' is not keyword-only: write '*' before",
        ),
        (
            "@MODELS.register\nclass other(nn.Module):\n    def __init__(self): pass",
            "TypeError: model 'other' has 0 positional arguments (none): its builder is called as "
            "other(spec, /, *, option: TYPE = DEFAULT)",
        ),
        (
            "@SCHEDULES.register\ndef other(progress): pass",
            "TypeError: schedule 'other' has 1 positional arguments (progress): its builder is "
            "called as other(*, option: TYPE = DEFAULT)",
        ),
        (
            "LOSSES.register('other')(nn.CrossEntropyLoss)",
            "TypeError: option 'weight' of 'other' is not keyword-only",
        ),
    ],
)
def test_a_builder_with_other_arguments_is_refused_at_its_line(run, definition, message):
    code, _, error = run(definition, "model=other")
    assert code == 2
    line = line_of("LOSSES.register('other')") if "LOSSES" in definition else line_of("other(")
    assert f"plugin mine.py:{line}: {message}" in error or f"mine.py:{line - 1}: {message}" in error
    assert len(error.strip().splitlines()) == 1


def test_a_class_without_spec_parameter_is_named_with_its_line(run):
    code, _, error = run("@MODELS.register\nclass Empty(nn.Module): pass", "model=Empty")
    assert code == 2
    assert f"mine.py:{line_of('class Empty') - 1}: " in error
    assert "positional argument" in error


RAISING = """
@DATA.register
def failing_data(context, /):
    return 1 / 0

class Bad(torch.utils.data.Dataset):
    def __len__(self): return 20
    def __getitem__(self, number): return {}[number]

@DATA.register
def failing_dataset(context, /):
    return Bad()

@MODELS.register
def failing_builder(spec, /):
    return nn.Linear(5, spec.no_such_thing)

class Model(nn.Module):
    def __init__(self, training, steps=0):
        super().__init__()
        self.layer, self.when, self.steps = nn.Linear(5, 2), training, steps
    def forward(self, inputs):
        if self.training == self.when:
            self.steps -= 1
            if self.steps < 0:
                raise KeyError("no such layer")
        return self.layer(inputs)

@MODELS.register
def failing_step(spec, /):
    return Model(True)

@MODELS.register
def failing_later(spec, /):
    return Model(True, steps=5)

@MODELS.register
def failing_evaluation(spec, /):
    return Model(False)

@LOSSES.register
def failing_loss(outputs, targets):
    return outputs[:, 17]

@METRICS.register
def failing_metric(predictions, targets):
    return targets.no_such_method()

@OPTIMIZERS.register
def failing_optimizer(module, /):
    return torch.optim.SGD(module.parameters(), lr="high")

@SCHEDULES.register
def failing_schedule():
    return lambda progress: 1 / progress
"""


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize(
    ("choice", "line", "message"),
    [
        ("data=failing_data", "return 1 / 0", "data: can't be built: mine.py:L: ZeroDivisionError"),
        ("data=failing_dataset", "return {}[number]", "can't be built: mine.py:L: KeyError: 0"),
        ("model=failing_builder", "no_such_thing", "model: can't be built: mine.py:L: AttributeEr"),
        ("model=failing_step", "raise KeyError", "mine.py:L: KeyError: 'no such layer'"),
        ("model=failing_later", "raise KeyError", "mine.py:L: KeyError: 'no such layer'"),
        ("model=failing_evaluation", "raise KeyError", "mine.py:L: KeyError: 'no such layer'"),
        ("loss=failing_loss", "outputs[:, 17]", "mine.py:L: IndexError: index 17 is out of bounds"),
        (
            "metrics=[failing_metric]",
            "no_such_method",
            "mine.py:L: AttributeError: 'Tensor' object",
        ),
        ("optimizer=failing_optimizer", 'lr="high"', "optimizer: can't be built: mine.py:L: "),
        (
            "schedule=failing_schedule",
            "1 / progress",
            "schedule: can't be built: mine.py:L: ZeroDi",
        ),
    ],
)
def test_an_exception_in_a_component_is_reported_with_its_line(run, command, choice, line, message):
    if (command, choice) == ("check", "model=failing_later"):
        pytest.skip("one step is checked")
    code, _, error = run(RAISING, choice, command=command)
    assert code in (1, 2)
    assert message.replace(":L:", f":{line_of(line)}:") in error
    assert "Traceback" not in error


def test_an_exception_in_a_later_command_is_reported_with_its_line(run):
    """`evaluate` runs plug-in code too."""
    code, _, error = run(METRICS_CODE, "metrics=[itself]", command="train")
    assert code == 0, error
    text = Path("mine.py").read_text().replace("(predictions.argmax(1) ==", "(predictions.amx() ==")
    Path("mine.py").write_text(text)
    line = [sys.executable, "-m", "dltrain", "evaluate", "runs/config/0001", "--plugin", "mine.py"]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        f"mine.py:{line_of('amx')}: AttributeError: 'Tensor' object has no attribute" in done.stderr
    )
    assert "Traceback" not in done.stderr
    line.insert(3, "--debug")
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("package", "line"), [("components", 2), ("library", None)])
def test_lines_of_an_installed_package_are_named_if_it_provides_components(
    tmp_path, monkeypatch, package, line
):
    folder = tmp_path / "site-packages" / package
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("def fail():\n    raise ValueError('wrong')\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr("dltrain.core.errors.PLUGIN_PACKAGES", {"components"})
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="wrong") as caught:
        importlib.import_module(package).fail()
    error = caught.value.with_traceback(caught.tb.tb_next)  # the frames below this test
    expected = "ValueError: wrong"
    assert describe_error(error) == (f"__init__.py:{line}: {expected}" if line else expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_in_a_worker_is_reported_with_its_line(tmp_path, workers, monkeypatch):
    from dltrain.core.errors import DataError
    from dltrain.data.streaming import Streaming

    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def read(number):\n    return {}[number]\n")
    scope: dict = {}
    exec(compile(Path("mine.py").read_text(), str(tmp_path / "mine.py"), "exec"), scope)
    split = Streaming(
        scope["read"],
        torch.zeros(4, dtype=torch.int64),
        names=["a", "b", "c", "d"],
        sample_bytes=4,
        seed=0,
        workers=workers,
        timeout=60,
    )
    with pytest.raises(DataError, match=r"a: reading it failed: mine\.py:2: KeyError: 0"):
        next(split.batches(2))
