"""`dltrain.Run.load`: a run's figures as a table, and its model asked from Python."""

import json

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from small_runs import CONFIG, write_folder

import dltrain
from dltrain.core.errors import DataError, RunError, UsageError


@pytest.fixture
def image_run(experiment, tmp_path):
    """A finished run of a classifier of small gray images."""
    write_folder(tmp_path)
    chosen = experiment(CONFIG, "train.steps=40")
    dltrain.train(chosen, run_dir=str(tmp_path / "run"), quiet=True)
    return tmp_path / "run"


def train(experiment, tmp_path, data: dict, *overrides: str):
    config = CONFIG | {"data": data, "metrics": [], "checkpoint": {}}
    dltrain.train(experiment(config, *overrides), run_dir=tmp_path / "run", quiet=True)
    return dltrain.Run.load(tmp_path / "run")


def test_metrics_are_a_table_with_every_line_of_the_file(image_run):
    table = dltrain.Run.load(image_run).metrics
    lines = [json.loads(line) for line in (image_run / "metrics.jsonl").read_text().splitlines()]
    assert isinstance(table, pandas.DataFrame)
    assert table.index.name == "step"
    assert table.index.is_monotonic_increasing
    assert table.count().sum() == len(lines)
    for line in lines:
        assert table.loc[line["step"], f"{line['split']}/{line['name']}"] == line["value"]
    assert table["val/accuracy"].dropna().index.tolist() == list(range(5, 41, 5))


def test_a_value_that_was_not_finite_is_nan(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    line = '{"step": 1, "epoch": 1.0, "split": "val", "name": "r2", "value": null}\n'
    (tmp_path / "metrics.jsonl").write_text(line)
    table = dltrain.Run.load(tmp_path).metrics
    assert table["val/r2"].isna().tolist() == [True]


def test_summary_and_config_are_those_of_the_files(image_run):
    run = dltrain.Run.load(str(image_run))
    assert run.state == "done"
    assert run.summary is not None
    assert run.summary.metrics == json.loads((image_run / "summary.json").read_text())["metrics"]
    assert run.config["model"]["hidden"] == [8]
    assert run.config["train"]["steps"] == 40
    (image_run / "summary.json").unlink()
    assert (run.summary, run.state) == (None, "killed")


def test_a_directory_without_a_run_is_told(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        dltrain.Run.load(tmp_path)


def test_an_input_is_the_same_from_a_file_an_image_and_an_array(image_run, tmp_path):
    pixels = torch.randint(0, 256, (8, 8), generator=torch.Generator().manual_seed(0))
    array = pixels.to(torch.uint8).numpy()
    image = Image.fromarray(array)
    image.save(tmp_path / "a.png")
    model = dltrain.Run.load(image_run).model()
    (expected,) = dltrain.predict(image_run, [tmp_path / "a.png"])
    given = [tmp_path / "a.png", str(tmp_path / "a.png"), image, array, array[..., None]]
    given += [np.repeat(array[..., None], 3, axis=2), image.convert("RGB")]
    found = model(given)
    for answer in found:
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
        assert answer.label == expected.label
    assert found[0].input == str(tmp_path / "a.png")
    assert model(image).label == expected.label
    assert [answer.label for answer in model(np.stack(2 * [array[..., None]]))] == 2 * [
        expected.label
    ]
    assert model([]) == []


def test_a_resumed_run_may_be_named_by_a_str(image_run):
    assert dltrain.resume(str(image_run), quiet=True).status == "done"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros((8, 8)), "expected an array of uint8, 0 to 255, got float64"),
        (np.zeros((2, 8, 8), np.uint8), r"an array of shape \(2, 8, 8\)"),
        (np.zeros((0, 8), np.uint8), "an array of shape"),
        ({"x": 1}, "a dict; expected a path, a Pillow image"),
        ("nowhere.png", "nowhere.png: not an image"),
    ],
)
def test_what_is_no_image_is_refused(image_run, item, message):
    with pytest.raises(DataError, match=message):
        dltrain.Run.load(image_run).model()([item])


def test_rows_of_a_table_as_mappings_or_a_frame(experiment, tmp_path):
    rows = [{"size": n, "kind": "ab"[n % 2], "price": 2 * n + n % 2} for n in range(60)]
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "houses.csv", index=False)
    data = {"name": "csv", "path": "houses.csv", "target": "price"}
    run = train(experiment, tmp_path, data, "loss=mse")
    expected = [answer.values for answer in dltrain.predict(run.directory, ["houses.csv"])]
    model = run.model()
    assert [answer.values for answer in model(rows)] == expected
    assert [answer.values for answer in model(frame)] == expected
    assert model(rows[7]).values == pytest.approx(expected[7])
    with pytest.raises(DataError, match="input 1: has no 'kind'; it has size"):
        model([rows[0], {"size": 1}])
    with pytest.raises(DataError, match="input 0: expected a value of 'size', got nan"):
        model([{"size": float("nan"), "kind": "a"}])
    with pytest.raises(DataError, match="expected a number in 'size', got 'big'"):
        model([{"size": "big", "kind": "a"}])
    with pytest.raises(DataError, match="input 0: a str; expected a mapping"):
        model("big")


def test_texts_even_one_that_is_called_like_a_file(experiment, tmp_path):
    data = {"name": "toy_text", "samples": 100}
    overrides = ["model={name: text_lstm, hidden_size: 4}", "train.steps=2"]
    run = train(experiment, tmp_path, data, *overrides)
    model = run.model(device="cpu")
    (tmp_path / "config").write_text("nothing of it")
    text = "the cat sees the dog"
    one, other = model([text, "config"])
    assert one.input == text
    assert model(text).probabilities == pytest.approx(one.probabilities)
    assert one.label in run.model().predictor.spec.class_names
    assert other.input == "config"
    with pytest.raises(DataError, match="input 0: a int; expected a text"):
        model([3])


def test_a_run_that_gives_no_predictions_says_so(experiment, tmp_path):
    write_folder(tmp_path)
    config = CONFIG | {"metrics": [], "checkpoint": {}, "loss": "mse", "task": "autoencoder"}
    config |= {"model": {"name": "autoencoder", "latent": 2, "hidden": [4]}}
    dltrain.train(experiment(config, "train.steps=1"), run_dir=tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match="task 'autoencoder' gives no predictions"):
        dltrain.Run.load(tmp_path / "run").model()


def test_without_pandas_it_says_what_to_install(image_run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(UsageError, match=r"pip install 'dltrain\[notebook\]'"):
        _ = dltrain.Run.load(image_run).metrics
