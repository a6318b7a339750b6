"""Predictions of a service are those of `dltrain.predict`."""

import base64
from pathlib import Path

import pytest
from services import (
    CODES,
    assert_same,
    png,
    predictions,
    random_image,
    send,
)

import dltrain


def test_images_as_files_as_base64_and_as_pixels(service, in_folder, tmp_path):
    """Images of the model's size, of another size, and in colour."""
    images = [random_image((8, 8)), random_image((20, 13), 1), random_image((9, 30, 3), 2)]
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for path, pixels in zip(files, images, strict=True):
        path.write_bytes(png(pixels))
    expected = dltrain.predict(Path("images"), files)
    encoded = [base64.b64encode(path.read_bytes()).decode() for path in files]
    uploaded, *others = send(
        service("images"),
        {"files": [("files", (path.name, path.read_bytes())) for path in files]},
        {"json": {"images": encoded}},
        {"json": {"images": [f"data:image/png;base64,{text}" for text in encoded]}},
        {"json": {"images": [pixels.tolist() for pixels in images]}},
    )
    assert [item.input for item in predictions(uploaded)] == ["0.png", "1.png", "2.png"]
    for response in (uploaded, *others):
        assert_same(predictions(response), expected)
    assert predictions(others[0])[2].input == "images[2]"


def test_texts(service, in_folder):
    texts = ["a fine film of 3 hours", "dull", "words never seen", "two\nlines"]
    (response,) = send(service("texts"), {"json": {"texts": texts}})
    assert [item.input for item in predictions(response)] == texts
    assert_same(predictions(response), dltrain.predict(Path("texts"), texts))


def test_rows(service, in_folder, tmp_path):
    """A category that the training data did not contain, and a surplus column."""
    rows = [(55, "red"), (80.5, "blue"), (70.25, "violet")]
    lines = [f"{colour},{weight}" for weight, colour in rows]
    (tmp_path / "new.csv").write_text("\n".join(["colour,weight", *lines]))
    body = [{"weight": weight, "colour": colour, "note": "x"} for weight, colour in rows]
    (response,) = send(service("rows"), {"json": {"rows": body}})
    assert_same(predictions(response), dltrain.predict(Path("rows"), [tmp_path / "new.csv"]))


@pytest.mark.parametrize(
    ("given", "cells"),
    [
        ('"00501", "flag": "True"', "00501,True"),
        ('" 00501 ", "flag": true', "00501,True"),
        ('"501", "flag": false', "501,False"),
        ('501, "flag": "False"', "501,False"),
        ('9007199254740993, "flag": true', "9007199254740993,True"),
        ('9007199254740992, "flag": true', "9007199254740992,True"),
        ('1.5, "flag": true', "1.5,True"),
        ('"1.50", "flag": 1', "1.50,1"),
        ('"elsewhere", "flag": "true"', "elsewhere,true"),
    ],
)
def test_a_category_equals_the_text_of_a_cell(service, in_folder, models, tmp_path, given, cells):
    (tmp_path / "new.csv").write_text(f"zip,flag,weight\n{cells},3\n")
    (expected,) = dltrain.predict("codes", [tmp_path / "new.csv"])
    body = f'{{"rows": [{{"zip": {given}, "weight": 3}}]}}'
    headers = {"Content-Type": "application/json"}
    (response,) = send(service("codes"), {"content": body, "headers": headers})
    assert_same(predictions(response), [expected])
    features = models["codes"].spec.inputs.columns
    assert [len(column.categories) for column in features] == [5, 2, 0]
    # Each category has a price of its own, so an unknown category would be noticed.
    prices = {
        dltrain.Run.load("codes").model()({"zip": c, "flag": "True", "weight": 3}).values[0]
        for c in [*CODES, "none"]
    }
    assert len(prices) == len(CODES) + 1


@pytest.mark.parametrize("cell", ["null", '""', '" "', '"NA"', '"?"', "NaN", "[]", "{}"])
def test_a_missing_category_is_refused_as_in_a_file(service, cell):
    body = f'{{"rows": [{{"zip": {cell}, "flag": "True", "weight": 3}}]}}'
    headers = {"Content-Type": "application/json"}
    (response,) = send(service("codes"), {"content": body, "headers": headers})
    assert response.status_code == 422
    (problem,) = response.json()["errors"]
    assert problem["item"] == 0
    assert "zip" in problem["message"]
