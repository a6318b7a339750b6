"""Responses to malformed requests name each problem."""

import pytest
from services import blank, send

SIZED = {"max_items": 3, "max_pixels": 1000, "max_characters": 20, "max_body": 5000}
GOOD = [[0, 1], [2, 255]]


@pytest.mark.parametrize(
    ("run", "request_", "status", "expected"),
    [
        ("images", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "text/pl"),
        ("images", {"content": b"{}"}, 415, "got none"),
        ("images", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, ""),
        ("images", {"json": []}, 422, "object"),
        ("images", {"json": {}}, 422, "images: is missing"),
        ("images", {"json": {"texts": ["a"], "images": [GOOD]}}, 422, "expected 'images' only"),
        ("images", {"json": {"images": []}}, 422, "images: "),
        ("images", {"json": {"images": [GOOD] * 4}}, 422, "at most 3"),
        ("images", {"json": {"images": [GOOD, None]}}, 422, "images[1]: expected"),
        ("images", {"json": {"images": [GOOD, [[0, 256]]]}}, 422, "images[1]: got pixels"),
        ("images", {"json": {"images": [[[0.5]]]}}, 422, "images[0]: expected"),
        ("images", {"json": {"images": [[[0, 1], [2]]]}}, 422, "images[0]: the rows differ"),
        ("images", {"json": {"images": [[[]]]}}, 422, "images[0]: expected"),
        ("images", {"json": {"images": [[[10**30]]]}}, 422, "images[0]: expected"),
        ("images", {"json": {"images": ["%%%"]}}, 422, "images[0]: expected base64"),
        ("images", {"json": {"images": ["aGVsbG8="]}}, 422, "images[0]: not an image"),
        ("images", {"json": {"images": [[[0] * 1001]]}}, 422, "images[0]: 1001 x 1 pixels"),
        ("images", {"files": [("f", ("a.png", b"no"))]}, 422, "a.png: not an image"),
        ("images", {"files": [("f", ("a.png", blank(40, 40)))]}, 422, "a.png: 40 x 40 pixels"),
        (
            "images",
            {"files": [("f", ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"))]},
            *(422, "expected BMP, GIF, JPEG"),
        ),
        ("images", {"files": [("f", (f"{n}.png", b"")) for n in range(4)]}, 400, "files"),
        ("images", {"files": [("f", ("a.png", bytes(6000)))]}, 413, "5,000 bytes"),
        ("images", {"json": {"images": ["A" * 6000]}}, 413, "5,000 bytes"),
        (
            "images",
            {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}},
            *(400, "boundary"),
        ),
        ("texts", {"json": {"texts": ["fine", 7]}}, 422, "texts[1]: "),
        ("texts", {"json": {"texts": ["fine", " \n"]}}, 422, "texts[1]: the text is empty"),
        ("texts", {"json": {"texts": ["x" * 21]}}, 422, "at most 20 characters"),
        (
            "texts",
            {"files": [("f", ("a.png", b""))]},
            415,
            "expected content type application/json",
        ),
        ("rows", {"json": {"rows": [{"weight": 1}]}}, 422, "rows[0].colour: is missing"),
        ("rows", {"json": {"rows": [{"weight": "1", "colour": "red"}]}}, 422, "rows[0].weight"),
        ("rows", {"json": {"rows": [{"weight": 1, "colour": None}]}}, 422, "rows[0].colour"),
        (
            *("rows", {"json": {"rows": [{"weight": 1e300, "colour": "red"}]}}),
            *(422, "rows[0]: 'weight' is"),
        ),
        (
            "rows",
            {
                "content": b'{"rows": [{"weight": NaN, "colour": "red"}]}',
                "headers": {"Content-Type": "application/json"},
            },
            *(422, "rows[0].weight"),
        ),
        ("rows", {"method": "GET"}, 405, "GET /predict"),
        ("rows", {"url": "/nothing"}, 404, "/nothing"),
    ],
)
def test_malformed_requests(service, run, request_, status, expected):
    (response,) = send(service(run, **SIZED), request_)
    assert response.status_code == status
    (problem,) = response.json()["errors"]
    assert expected in problem["message"]


def test_every_invalid_item_is_reported(service):
    (response,) = send(service("images"), {"json": {"images": [None, GOOD, "%"]}})
    assert [problem["item"] for problem in response.json()["errors"]] == [0, 2]
