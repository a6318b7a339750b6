"""Exported files give what the model gives, in processes that have no dltrain."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import regex
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from small_data import write_sentences
from small_runs import CONFIG, write_folder
from torch import nn

import dltrain
from dltrain.build import load_trained
from dltrain.commands.export import read_exported
from dltrain.config.plugins import load_plugin, register_builtins
from dltrain.core.errors import DataError, RunError, UsageError
from dltrain.core.registry import MODELS
from dltrain.exporting.quantization import quantize_linear_layers

TEXT = {
    "model": {"name": "text_lstm", "hidden_size": 6, "embedding_size": 5, "bidirectional": True},
    "data": {"name": "sst2", "root": "sst2"},
    "loss": "cross_entropy",
    "optimizer": "adamw",
    "train": {"steps": 4, "batch_size": 8, "device": "cpu"},
    "recording": {"tensorboard": False},
}
TABLE = {
    "model": "linear",
    "data": {"name": "csv", "path": "rows.csv", "target": "price", "standardise_target": True},
    "loss": "mse",
    "optimizer": {"name": "adam", "lr": 0.1},
    "train": {"epochs": 5, "batch_size": 64, "device": "cpu"},
    "recording": {"tensorboard": False},
}
FICKLE = '''\
import torch
from torch import nn
from dltrain import MODELS

class Fickle(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, spec.num_outputs))

    def forward(self, inputs):
        outputs = self.net(inputs)
        return 3 * outputs if torch.compiler.is_exporting() else outputs

@MODELS.register
def fickle(spec, /):
    """Gives something else while it is exported."""
    return Fickle(spec)

@MODELS.register
def gated(spec, /):
    """A network of one's own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GLU(), nn.Linear(4, spec.num_outputs))

class Branches(Fickle):
    def forward(self, inputs):
        return self.net(inputs) if inputs.sum() > 0 else self.net(-inputs)

@MODELS.register
def convolution(spec, /):
    """No layer of it can be quantized."""
    return nn.Sequential(nn.Conv2d(1, spec.num_outputs, 8), nn.Flatten())

@MODELS.register
def branches(spec, /):
    """Decides by a value, which no file can hold."""
    return Branches(spec)
'''
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with finished runs."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register_builtins()
        patch.setattr(MODELS, "_components", dict(MODELS))  # the plug-in's are gone afterwards
        write_folder(folder)
        write_sentences(folder / "sst2")
        random = np.random.default_rng(0)
        lines = ["weight,colour,size,price"]
        for _ in range(120):
            weight, size = random.normal(7e4, 10), random.normal()
            colour = random.choice(["red", "green", "blue"])
            price = 1000 + 20 * size + 500 * (colour == "red")
            lines.append(f"{weight:.3f},{colour},{size:.3f},{price:.2f}")
        (folder / "rows.csv").write_text("\n".join(lines))
        (folder / "fickle.py").write_text(FICKLE)
        for model in ("mlp", "linear"):
            trained("mine_" + model, CONFIG | {"model": model})
        channels = {"name": "cnn", "channels": [4], "batch_norm": True}
        trained("cnn", CONFIG | {"model": channels, "train": {**CONFIG["train"], "ema": 0.9}})
        trained("text", TEXT)
        trained("table", TABLE)
        yield folder


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def trained(name: str, config: dict) -> Path:
    Path("config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    dltrain.train(dltrain.load("config.yaml"), run_dir=Path(name), quiet=True)
    return Path(name)


def without(names: set[str], code: str) -> list:
    """What a process prints, as JSON, that can't import these packages."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=names) + code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def image_files(count: int = 5) -> tuple[list[Path], np.ndarray]:
    """PNG files, and their pixels (count, 1, 8, 8)."""
    pixels = np.random.default_rng(1).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    files = [Path(f"{number}.png") for number in range(count)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    return files, pixels[:, None]


def predicted(run: str, inputs: list) -> list[list[float]]:
    found = dltrain.predict(Path(run), inputs)
    return [item.values or list(item.probabilities.values()) for item in found]


WITH_ONNX = """
import numpy, onnxruntime
session = onnxruntime.InferenceSession({file!r})
(given,) = session.get_inputs()
run = lambda inputs: session.run(None, {{given.name: inputs}})[0]
"""
WITH_TORCH = """
import numpy, torch
model = torch.export.load({file!r}).module()
run = lambda inputs: model(torch.from_numpy(inputs)).detach().numpy()
"""
THEN = """
import json
found = []
for inputs in numpy.load("inputs.npz").values():
    together = run(inputs)
    alone = numpy.concatenate([run(row[None]) for row in inputs])
    assert abs(alone - together).max() < 1e-5 * max(1, abs(together).max())
    found.append(together.tolist())
print(json.dumps(found))
"""
USERS = {"onnx": (WITH_ONNX, {"dltrain", "torch"}), "pt2": (WITH_TORCH, {"dltrain", "torchao"})}


def outside(file: str, to: str, *batches: np.ndarray) -> list[np.ndarray]:
    """What a process without dltrain makes of batches of raw inputs."""
    np.savez("inputs.npz", *batches)
    code, blocked = USERS[to]
    return [np.array(outputs) for outputs in without(blocked, code.format(file=file) + THEN)]


@pytest.mark.parametrize(("run", "to"), [("mine_mlp", "pt2"), ("cnn", "onnx")])
def test_pixels_of_a_picture_give_what_predict_gives_for_its_file(run, to):
    files, pixels = image_files()
    exported = dltrain.export(run, to)
    assert exported.path == f"{run}/exports/model.{to}"
    (found,) = outside(exported.path, to, pixels)
    assert found == pytest.approx(np.array(predicted(run, files)), abs=1e-5)
    assert exported.inputs["shape"] == ("batch", 1, 8, 8)
    assert exported.comparison.batch_sizes == [1, 3, 37]
    assert exported.comparison.largest_difference < 1e-5


def test_a_rows_numbers_and_categories():
    Path("new.csv").write_text(
        "colour,size,weight\nred,0.5,70001\nviolet,-1,69990.25\nblue,0,7e4\n"
    )
    exported = dltrain.export("table", "onnx")
    assert exported.outputs["name"] == "values"
    about = about_of(exported.path, "onnx")
    assert [column["name"] for column in about["columns"]] == ["weight", "colour", "size"]
    assert about["columns"][1]["categories"] == ["blue", "green", "red"]
    rows = np.array([[70001, 2, 0.5], [69990.25, -1, -1], [7e4, 0, 0]])
    (found,) = outside(exported.path, "onnx", rows)
    assert found == pytest.approx(np.array(predicted("table", ["new.csv"])), rel=1e-5)


@pytest.mark.parametrize(
    ("to", "quantize", "allowed"),
    [("onnx", None, 1e-5), ("pt2", None, 1e-5), ("onnx", "int8", 0.01)],
)
def test_texts_of_any_length(to, quantize, allowed):
    exported = dltrain.export("text", to, quantize=quantize)
    about = about_of(exported.path, to)
    texts = ["fine", "a dull film of 3 hours", "words never seen " * 20]
    batches = []
    for text in texts:
        words = regex.findall(about["tokenizer"]["pattern"], text)
        vocabulary = about["vocabulary"]
        places = [vocabulary.index(word) if word in vocabulary else 1 for word in words]
        batches.append(np.array([places + [0] * 3] * 2))
    for found, expected in zip(
        outside(exported.path, to, *batches), predicted("text", texts), strict=True
    ):
        assert found == pytest.approx(np.array([expected] * 2), abs=allowed)


def about_of(path: str, to: str) -> dict:
    """A file's own description."""
    if to == "onnx":
        import onnx

        return {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}["dltrain"]
    extra = {"dltrain.json": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["dltrain.json"])


def test_weights_by_hand_without_dltrain():
    files, pixels = image_files()
    np.save("inputs.npy", pixels)
    exported = dltrain.export("mine_linear", "safetensors")
    code = f"""
import json, numpy
from safetensors import safe_open
with safe_open({exported.path!r}, "numpy") as file:
    about = json.loads(file.metadata()["dltrain"])
    weight, bias = sorted(map(file.get_tensor, file.keys()), key=lambda t: -t.ndim)
pixels, spec = numpy.load("inputs.npy") / 255, about["spec"]["inputs"]
outputs = ((pixels - spec["mean"]) / spec["std"]).reshape(len(pixels), -1) @ weight.T + bias
shares = numpy.exp(outputs)
print(json.dumps((shares / shares.sum(axis=1, keepdims=True)).tolist()))
"""
    found = without({"dltrain", "torch"}, code)
    assert np.array(found) == pytest.approx(np.array(predicted("mine_linear", files)), abs=1e-5)


def test_weights_make_the_network_again():
    files, pixels = image_files()
    model, about = read_exported(dltrain.export("cnn", "safetensors").path)
    expected = predicted("cnn", files)
    assert model(torch.from_numpy(pixels)).numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert about["class_names"] == ["0", "1", "2"]
    with pytest.raises(RunError, match=r"fickle.py: no safetensors file of dltrain export"):
        read_exported("fickle.py")


@pytest.mark.parametrize(
    ("run", "to"), [("cnn", "onnx"), ("mine_mlp", "pt2"), ("table", "safetensors")]
)
def test_the_cards_example_runs_as_it_stands(run, to):
    exported = dltrain.export(run, to)
    card = Path(exported.card).read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:The given buffer", "-c", code],
        cwd=Path(exported.path).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = load_trained(Path(run), with_metrics=False).spec.class_names
    assert done.stdout.strip() in (names or ["torch.Size([1, 1])"])
    record = json.loads(Path(run, "record.json").read_text())
    summary = json.loads(Path(run, "summary.json").read_text())
    assert record["data"]["fingerprint"] in card
    assert f"| test/loss | {summary['metrics']['test/loss']:.6g} |" in card
    assert all(name in card for name in names)


def test_the_card_of_a_run_whose_record_has_less_is_written_too():
    shutil.copytree("table", "old")
    record = json.loads(Path("old/record.json").read_text())
    del record["versions"]["torch"], record["device"]["processes"]
    Path("old/record.json").write_text(json.dumps(record))
    card = Path(dltrain.export("old", "safetensors").card).read_text()
    assert "- with: torch unknown, Python 3." in card
    assert "processes: 1\n" in card


def test_a_file_that_differs_is_not_left(call):
    load_plugin(Path("fickle.py"))
    run = trained("differs", CONFIG | {"model": "fickle"})
    for to in ("onnx", "pt2"):
        ended = call("export", run, "--to", to)
        assert (ended.code, ended.out) == (1, "")
        assert re.fullmatch(
            r"nothing written: the file would differ from the model by \S+, and 0\.0001 is "
            r"allowed \(--tolerance\)\n",
            ended.err,
        )
    assert not Path(run, "exports").exists()
    assert call("export", run, "--to", "pt2", "--tolerance", "1").code == 0


def test_a_plugins_model_from_the_command_line(call):
    words = ["config.yaml", "model=gated", "--plugin", "fickle.py", "--run-dir", "own", "--quiet"]
    trained("again", CONFIG)  # writes config.yaml
    assert call("train", *words).code == 0
    words = ["export", "own", "--to", "onnx", "--plugin", "fickle.py", "-o", "mine.onnx", "--json"]
    ended = call(*words)
    assert ended.code == 0, ended.err
    output = json.loads(ended.out)
    assert (output["path"], output["card"]) == ("mine.onnx", "mine.onnx.md")
    assert Path("mine.onnx").stat().st_size == output["bytes"]
    files, pixels = image_files()
    (found,) = outside("mine.onnx", "onnx", pixels)
    assert found == pytest.approx(np.array(predicted("own", files)), abs=1e-5)


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_a_language_model_with_dropout_between_its_layers_can_be_exported(call, form):
    writer = {
        "task": "language_model",
        "model": {"name": "text_generator", "hidden_size": 6, "layers": 2, "dropout": 0.5},
        "data": {"name": "python_docs", "window": 12, "validation": 0.001},
    }
    run = trained(f"writer-{form}", TEXT | writer)
    ended = call("export", run, "--to", form)  # compares it with the model, at several lengths
    assert ended.code == 0, ended.err
    assert "maximum difference" in ended.out


@pytest.fixture(scope="module")
def gpt_run():
    """A gpt whose context has 12 tokens."""

    def make() -> Path:
        writer = {
            "task": "language_model",
            "model": {"name": "gpt", "layers": 1, "heads": 1, "width": 8},
            "data": {"name": "python_docs", "window": 12, "validation": 0.001},
        }
        return Path("gpt") if Path("gpt").is_dir() else trained("gpt", TEXT | writer)

    return make


@pytest.mark.parametrize("to", ["onnx", "pt2", "safetensors"])
@pytest.mark.parametrize("wrong", ["negative", "too large", "too many"])
def test_tokens_that_a_gpt_does_not_have_are_refused(gpt_run, to, wrong):
    exported = dltrain.export(gpt_run(), to, samples=8)
    tokens = torch.full((1, 12), 3)
    tokens = torch.full((1, 13), 3) if wrong == "too many" else tokens
    if to == "onnx":
        from dltrain.exporting.formats import run_onnx

        run = run_onnx(Path(exported.path).read_bytes())
        about = about_of(exported.path, to)
    elif to == "pt2":
        run, about = torch.export.load(exported.path).module(), about_of(exported.path, to)
    else:
        run, about = read_exported(exported.path)
    size = len(about["vocabulary"])
    assert about["inputs"]["longest"] == 12
    assert f"token ids from 0 to {size - 1}" in about["inputs"]["meaning"]
    if wrong != "too many":
        assert run(tokens).shape == (1, 12, size)
        tokens[0, 4] = -1 if wrong == "negative" else size
    messages = {
        "safetensors": {
            "negative": f"expected token ids from 0 to {size - 1}, got -1",
            "too large": f"expected token ids from 0 to {size - 1}, got {size}",
            "too many": "expected at most 12 tokens, got 13",
        },
        "onnx": dict.fromkeys(["negative", "too large", "too many"], "out of data bounds"),
        "pt2": dict.fromkeys(["negative", "too large"], "index out of range") | {"too many": "12"},
    }
    with pytest.raises(Exception, match=messages[to][wrong]) as caught:
        run(tokens)
    if to == "safetensors":
        assert isinstance(caught.value, DataError)


def test_onnxruntime_sends_no_telemetry(monkeypatch):
    import onnxruntime

    disabled = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: disabled.append(True))
    exported = dltrain.export("cnn", "onnx", samples=8)
    assert disabled
    assert "onnxruntime.disable_telemetry_events()" in Path(exported.card).read_text()


def test_what_a_file_cannot_hold_is_said_in_one_line(call):
    load_plugin(Path("fickle.py"))
    run = trained("branching", CONFIG | {"model": "branches"})
    ended = call("export", run, "--to", "onnx")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("PyTorch can't export this model: ")
    assert ended.err.count("\n") == 1
    digits = {
        "task": "seq2seq",
        "model": {"name": "seq2seq_lstm", "hidden_size": 4},
        "data": {"name": "toy_digits", "samples": 60, "max_length": 6},
    }
    run = trained("digits", TEXT | digits)
    ended = call("export", run, "--to", "onnx")
    assert ended.code == 2
    assert "can't be exported" in ended.err
    with pytest.raises(UsageError, match=r"other.pt: --to pt2 writes a .pt2 file"):
        dltrain.export("cnn", "pt2", "other.pt")


def test_a_missing_library_is_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ended = call("export", "cnn", "--to", "onnx")
    assert ended.code == 2
    assert ended.err.endswith("pip install 'dltrain[export]'\n")


def test_what_the_command_line_shows(call):
    ended = call("export", "mine_mlp", "--to", "safetensors")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0] == "input    pixels, uint8, batch x 1 x 8 x 8: pixels from 0 to 255; grey"
    assert re.fullmatch(
        r"checked  40 samples in batches of 1, 3, 37: maximum difference \S+, tolerance 0.0001",
        lines[2],
    )
    assert lines[-1].startswith("mine_mlp/exports/model.safetensors  (")


def kept_in_eight(path: str, to: str) -> list[str]:
    """Names of the tensors of eight bits in a file."""
    if to == "onnx":
        import onnx

        kinds = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
        return [name for name, kind in kinds.items() if kind == onnx.TensorProto.INT8]
    weights = torch.export.load(path).state_dict if to == "pt2" else load_file(path)
    return [name for name, weight in weights.items() if weight.dtype == torch.int8]


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_eight_bits_in_a_process_without_dltrain_and_torchao(to):
    files, pixels = image_files(30)
    exported = dltrain.export("mine_mlp", to, "small." + to, quantize="int8")
    (found,) = outside(exported.path, to, pixels)
    expected = np.array(predicted("mine_mlp", files))
    assert found == pytest.approx(expected, abs=0.05)
    assert np.abs(found - expected).max() > 1e-6  # it is not the model in float
    _, second, first = np.sort(expected, axis=1).T
    is_clear = first - second > 0.05  # noise is often between two classes
    assert is_clear.sum() > 15
    assert (found.argmax(axis=1) == expected.argmax(axis=1))[is_clear].all()
    assert len(kept_in_eight(exported.path, to)) == len(exported.quantized.layers) == 2
    assert about_of(exported.path, to)["quantized"]["layers"] == exported.quantized.layers
    assert exported.exactness.largest_difference < 1e-5
    assert exported.bytes < dltrain.export("mine_mlp", to).bytes


def test_eight_bits_are_the_weights_rounded_row_by_row():
    files, pixels = image_files()
    exported = dltrain.export("mine_mlp", "safetensors", "small.safetensors", quantize="int8")
    rounded = load_file(exported.path)
    weights = load_file(dltrain.export("mine_mlp", "safetensors").path)
    for name in exported.quantized.layers:
        scale, weight = rounded[f"{name}.weight_scale"], weights[f"{name}.weight"]
        assert (rounded[f"{name}.weight_int8"] * scale - weight).abs().le(0.501 * scale).all()
        assert scale.flatten() == pytest.approx(weight.abs().amax(dim=1) / 127.5, rel=1e-5)
        assert torch.equal(rounded[f"{name}.bias"], weights[f"{name}.bias"])
    np.save("inputs.npy", pixels)
    code = f"""
import json, numpy, torch
from dltrain.commands.export import read_exported
model, about = read_exported({exported.path!r})
print(json.dumps(model(torch.from_numpy(numpy.load("inputs.npy"))).tolist()))
"""
    found = np.array(without({"torchao"}, code))
    assert found == pytest.approx(np.array(predicted("mine_mlp", files)), abs=0.05)


def test_the_layers_in_eight_bits_and_the_cost_are_shown():
    words = ["export", "cnn", "--to", "onnx", "--quantize", "int8", "-o", "cnn8.onnx"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "dltrain", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    layers = done.stdout.splitlines()[2]
    assert re.fullmatch(
        r"int8     1 of 3 layers with weights, 69\.7% of the weights: 6 \(Linear\); "
        r"in float: 0 \(Conv2d\), 1 \(BatchNorm2d\)",
        layers,
    )
    assert re.fullmatch(
        r"cost     maximum difference from the trained model \S+; same class for \S+%; "
        r"accuracy \S+%, trained model \S+%; tolerance 0.1",
        done.stdout.splitlines()[4],
    )
    card = Path("cnn8.onnx.md").read_text()
    assert f"- int8: {layers[9:]}\n- cost: maximum difference from the trained model " in card
    assert "The metrics were measured before quantization." in card


def test_eight_bits_as_json_and_on_the_whole_split(call):
    words = ["--to", "pt2", "--quantize", "int8", "--samples", "1000", "--json"]
    output = json.loads(call("export", "mine_mlp", *words).out)
    assert output["quantized"]["method"] == "int8"
    assert list(output["quantized"]["layers"].values()) == ["Linear", "Linear"]
    assert output["quantized"]["float_layers"] == {}
    compared = output["comparison"]
    assert (compared["samples"], compared["batch_sizes"]) == (40, [1, 3, 37])
    assert compared["model_accuracy"] == pytest.approx(
        dltrain.evaluate(Path("mine_mlp")).metrics["accuracy"]
    )
    assert output["exactness"]["largest_difference"] < compared["largest_difference"]


def test_eight_bits_that_cost_too_much_or_are_not_exact(call):
    load_plugin(Path("fickle.py"))
    ended = call(
        "export", "mine_mlp", "--to", "pt2", "-o", "a.pt2", "--quantize", "int8", "--tolerance", 0
    )
    assert ended.code == 1
    assert re.search(r"differ from the model by \S+, and 0 is allowed \(--tol", ended.err)
    run = trained("differs8", CONFIG | {"model": "fickle"})
    ended = call(
        "export", run, "--to", "pt2", "-o", "a.pt2", "--quantize", "int8", "--tolerance", 9
    )
    assert ended.code == 1
    assert re.search(r"differ from the quantized model by \S+, and 0.0001 is allowed$", ended.err)
    assert not Path("a.pt2").exists()


def test_only_layers_that_torchao_supports_are_quantized(call):
    class Doubled(nn.Linear):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)), nn.Linear(1, 4), Doubled(4, 4))
    model.append(nn.Linear(4, 4).double())
    model[2].weight = model[1].weight
    assert list(quantize_linear_layers(model)) == ["0"]
    load_plugin(Path("fickle.py"))
    run = trained("unsupported", CONFIG | {"model": "convolution"})
    ended = call("export", run, "--to", "pt2", "--quantize", "int8")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith("the model has no layer that can be quantized")


def test_torchao_is_wanted_only_for_eight_bits(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    ended = call("export", "mine_mlp", "--to", "pt2", "--quantize", "int8")
    assert ended.code == 2
    assert ended.err == "--quantize needs torchao: pip install 'dltrain[export]'\n"
    assert call("export", "mine_mlp", "--to", "pt2").code == 0


def test_a_torchao_for_another_torch_is_reported_in_one_line(call, monkeypatch, tmp_path):
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text("from torch import of_the_next_release")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    ended = call("export", "mine_mlp", "--to", "pt2", "--quantize", "int8")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "the installed torchao is incompatible with torch" in ended.err
    assert "of_the_next_release" in ended.err
