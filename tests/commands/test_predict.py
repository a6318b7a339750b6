"""Predictions for new files are those of the model called by hand."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from small_data import write_images, write_sentences
from small_runs import CONFIG, write_folder

import dltrain
from dltrain.commands.predict import Predictor
from dltrain.core.errors import DataError, RunError
from dltrain.data.input_readers import read_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(folder, config: dict) -> dict[str, torch.Tensor]:
    """Trains in `run`, and gives the final weights as the checkpoint's file has them."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    dltrain.train(dltrain.load("config.yaml"), run_dir=folder / "run", quiet=True)
    (last,) = sorted((folder / "run" / "checkpoints").glob("step-*"))[-1:]
    return safetensors.torch.load_file(last / "model.safetensors")


def state(folder) -> dict:
    """The spec that the newest checkpoint holds."""
    (last,) = sorted((folder / "run" / "checkpoints").glob("step-*"))[-1:]
    return json.loads((last / "state.json").read_text())["spec"]


def by_hand(weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """A linear layer; its two tensors differ in their dimensions."""
    by_dimensions = {tensor.ndim: tensor for tensor in weights.values()}
    return inputs @ by_dimensions[2].T + by_dimensions[1]


LINEAR = CONFIG | {"model": "linear", "checkpoint": {"every": "10 steps"}}


def test_pictures(folder):
    """Of another size or in colour: made grey, scaled to cover 8 x 8, the centre cut out."""
    write_folder(folder)
    weights = trained(folder, LINEAR)
    random = np.random.default_rng(0)
    files = {}
    for name, shape in {
        "same": (8, 8),
        "wide": (16, 40),
        "tall": (30, 11),
        "small": (4, 5),
    }.items():
        files[name] = random.integers(0, 256, shape, dtype=np.uint8)
    files["colour"] = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    shutil.rmtree(folder / "images")  # predictions need no training data
    inputs = []
    for name, pixels in files.items():
        Image.fromarray(pixels).save(f"{name}.png")
        image = Image.fromarray(pixels).convert("L")
        scale = 8 / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        if size != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - 8) // 2, (size[1] - 8) // 2
        grey = np.array(image.crop((left, top, left + 8, top + 8)), dtype=np.float64) / 255
        inputs.append((grey - state(folder)["inputs"]["mean"]) / state(folder)["inputs"]["std"])
    expected = by_hand(weights, torch.from_numpy(np.stack(inputs)).float().flatten(1)).softmax(1)
    found = dltrain.predict(folder / "run", [folder / f"{name}.png" for name in files])
    assert [item.input for item in found] == [str(folder / f"{name}.png") for name in files]
    for item, probabilities in zip(found, expected.tolist(), strict=True):
        assert list(item.probabilities) == ["0", "1", "2"]
        assert list(item.probabilities.values()) == pytest.approx(probabilities, abs=1e-5)
        assert item.label == "012"[int(np.argmax(probabilities))]
        assert item.values is None


def test_more_pictures_than_one_evaluation_batch(folder):
    write_folder(folder)
    trained(folder, LINEAR | {"train": {**CONFIG["train"], "evaluate_batch_size": 2}})
    names = [folder / f"{i}.png" for i in range(5)]
    for i, name in enumerate(names):
        Image.new("L", (8, 8), 40 * i).save(name)
    together = dltrain.predict(folder / "run", names)
    for name, item in zip(names, together, strict=True):
        (alone,) = dltrain.predict(folder / "run", [name])
        assert alone.probabilities == pytest.approx(item.probabilities, abs=1e-6)


def test_a_predictor_reads_the_run_once(folder):
    """Asked again after the run is gone, for files or for what was read from them."""
    write_folder(folder)
    trained(folder, LINEAR)
    names = [folder / f"{i}.png" for i in range(3)]
    for i, name in enumerate(names):
        Image.new("L", (8, 8), 40 * i).save(name)
    expected = dltrain.predict(folder / "run", names)
    predictor = Predictor(folder / "run", device="cpu")
    shutil.rmtree(folder / "run")
    assert predictor(names) == predictor(names) == expected
    tensor, read = read_inputs(predictor.spec, names)
    assert predictor.of_tensor(tensor, read) == expected
    assert predictor.of_tensor(tensor, ["a", "b", "c"])[1].input == "b"


def test_nan_is_no_class(folder):
    write_folder(folder)
    trained(folder, LINEAR)
    predictor = Predictor(folder / "run", device="cpu")
    inputs = torch.zeros(2, 1, 8, 8)
    inputs[1] = math.nan
    with pytest.raises(RunError, match=r"^b: the model's probabilities are NaN"):
        predictor.of_tensor(inputs, ["a", "b"])


def table(folder, target) -> None:
    """300 rows of a number and a category, from which the target follows."""
    random = np.random.default_rng(0)
    lines = ["weight,colour,target"]
    for _ in range(300):
        weight, colour = random.normal(70, 10), random.choice(["red", "green", "blue"])
        lines.append(f"{weight:.3f},{colour},{target(weight, colour)}")
    (folder / "rows.csv").write_text("\n".join(lines))


NEW_ROWS = [(55.0, "red"), (80.5, "blue"), (70.0, "violet"), (91.0, "green")]


def write_new_rows(folder) -> None:
    """In another order of columns, with one more; violet was never seen."""
    lines = [f"x,{colour},{weight}" for weight, colour in NEW_ROWS]
    (folder / "new.csv").write_text("\n".join(["note,colour,weight", *lines]))


def features(folder) -> torch.Tensor:
    columns = {column["name"]: column for column in state(folder)["inputs"]["columns"]}
    weight, categories = columns["weight"], columns["colour"]["categories"]
    assert categories == ["blue", "green", "red"]
    rows = [
        [(value - weight["mean"]) / weight["std"], *(float(colour == c) for c in categories)]
        for value, colour in NEW_ROWS
    ]
    return torch.tensor(rows)


TABLE = {
    "model": "linear",
    "data": {"name": "csv", "path": "rows.csv", "target": "target"},
    "loss": "cross_entropy",
    "optimizer": {"name": "adam", "lr": 0.1},
    "train": {"epochs": 30, "batch_size": 64, "device": "cpu"},
    "checkpoint": {"every": "30 epochs"},
    "recording": {"tensorboard": False},
}


def test_rows_with_a_category_that_training_did_not_have(folder):
    table(folder, lambda weight, colour: "heavy" if weight > 70 else "light")
    weights = trained(folder, TABLE)
    write_new_rows(folder)
    (folder / "rows.csv").unlink()
    found = dltrain.predict(folder / "run", [folder / "new.csv"])
    assert [item.input for item in found] == [
        f"{folder / 'new.csv'}:{line}" for line in (2, 3, 4, 5)
    ]
    expected = by_hand(weights, features(folder)).softmax(1)
    for item, probabilities in zip(found, expected.tolist(), strict=True):
        assert list(item.probabilities) == ["heavy", "light"]
        assert list(item.probabilities.values()) == pytest.approx(probabilities, abs=1e-5)
    assert [found[0].label, found[3].label] == ["light", "heavy"]


@pytest.mark.parametrize("standardise", [True, False])
def test_values_are_in_the_targets_own_unit(folder, standardise):
    def price(weight, colour):
        return 1000 + 20 * weight + (500 if colour == "red" else 0)

    table(folder, price)
    config = TABLE | {"loss": "mse", "train": {**TABLE["train"], "epochs": 200}}
    config["data"] = TABLE["data"] | {"standardise_target": standardise, "target_kind": "value"}
    config["optimizer"] = {"name": "adam", "lr": 0.1 if standardise else 20.0}
    weights = trained(folder, config | {"checkpoint": {"every": "200 epochs"}})
    write_new_rows(folder)
    found = dltrain.predict(folder / "run", [folder / "new.csv"])
    assert all(item.label is None and item.probabilities is None for item in found)
    values = [item.values[0] for item in found]
    spec = state(folder)
    assert (spec["target_std"] > 100) == standardise
    expected = by_hand(weights, features(folder)) * spec["target_std"] + spec["target_mean"]
    assert values == pytest.approx(expected.flatten().tolist(), rel=1e-5)
    for (weight, colour), value in zip(NEW_ROWS, values, strict=True):
        if colour != "violet":
            assert value == pytest.approx(price(weight, colour), rel=0.02)


def test_files_that_do_not_fit(call, folder):
    write_images(folder / "images", train=133, test=40, side=8, classes=3)
    trained(folder, LINEAR)
    (folder / "rows.csv").write_text("a,b\n1,2\n")
    for name in ("rows.csv", "missing.png"):
        ended = call("predict", "run", name)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith(f"{name}: ")
    table(folder, lambda weight, colour: "heavy" if weight > 70 else "light")
    shutil.rmtree(folder / "run")
    trained(folder, TABLE)
    (folder / "other.csv").write_text("colour\nred\n")
    with pytest.raises(DataError, match=r"other.csv: has no column 'weight'"):
        dltrain.predict(folder / "run", [folder / "other.csv"])


SENTENCES = {
    "seed": 0,
    "model": {"name": "text_lstm", "hidden_size": 16, "layers": 1, "dropout": 0.0},
    "data": {"name": "sst2", "root": "sst2"},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.02},
    "train": {"epochs": 12, "batch_size": 8, "device": "cpu"},
    "recording": {"tensorboard": False},
}


def test_sentences_from_the_command_line_a_file_and_standard_input(experiment, tmp_path):
    write_sentences(tmp_path / "sst2")
    dltrain.train(experiment(SENTENCES), run_dir=tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "sst2")  # the checkpoint knows the vocabulary
    texts = ["a fine film of 3 hours", "A DULL film", "words never seen"]
    (tmp_path / "mine.txt").write_text("\n".join(texts) + "\n")
    by_word = dltrain.predict(tmp_path / "run", texts)
    from_file = dltrain.predict(tmp_path / "run", [Path("mine.txt")])
    assert by_word == from_file
    assert [p.input for p in by_word] == texts
    assert [p.label for p in by_word[:2]] == ["positive", "negative"]
    for prediction in by_word:
        assert set(prediction.probabilities) == {"negative", "positive"}
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
    piped = subprocess.run(
        [sys.executable, "-m", "dltrain", "predict", "run", "-", "--json"],
        input="\n".join(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    assert [p["label"] for p in json.loads(piped.stdout)] == [p.label for p in by_word]


def test_texts_of_a_table_by_the_columns_of_training(folder, experiment):
    """Labels are not read, and each row has an answer."""
    rows = [
        f"a {'fine' if n % 2 else 'dull'} film {n},{n},{'pos' if n % 2 else 'neg'}"
        for n in range(60)
    ]
    (folder / "reviews.csv").write_text("\n".join(["review,number,stars", *rows]))
    data = {"name": "text_csv", "path": "reviews.csv", "text": ["review"], "label": "stars"}
    dltrain.train(experiment(SENTENCES | {"data": data}), run_dir=folder / "run", quiet=True)
    (folder / "new.csv").write_text("stars,review\nneg,a fine film\npos,\nneg,a dull film\n")
    texts = ["a fine film", "", "a dull film"]
    by_row = dltrain.predict(folder / "run", ["new.csv"])
    assert [item.input for item in by_row] == texts
    assert by_row == dltrain.predict(folder / "run", texts)
    assert [item.label for item in by_row[::2]] == ["pos", "neg"]
    for missing in ("no_such_file.txt", "."):
        ended = subprocess.run(
            [sys.executable, "-m", "dltrain", "predict", "run", missing],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (1, "", 1)
