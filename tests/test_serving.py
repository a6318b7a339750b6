"""What a service answers is what `dltrain.predict` says; what it can't answer, it explains."""

import asyncio
import base64
import io
import json
import re
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from openapi_spec_validator import validate
from PIL import Image
from small_data import write_sentences
from small_runs import CONFIG, write_folder

import dltrain
from dltrain.commands.predict import Prediction, Predictor
from dltrain.errors import visible
from dltrain.plugins import register_builtins
from dltrain.serving.app import About, make_app
from dltrain.serving.limits import Limits
from dltrain.serving.metrics import Metrics
from dltrain.serving.page import try_page
from dltrain.serving.reading import Reader
from dltrain.spec import Column, DataSpec, TableInputs

SMALL = {"optimizer": {"name": "adamw", "lr": 0.02}, "recording": {"tensorboard": False}}
TEXTS = SMALL | {
    "model": {"name": "text_lstm", "hidden_size": 8, "layers": 1, "dropout": 0.0},
    "data": {"name": "sst2", "root": "sst2"},
    "loss": "cross_entropy",
    "train": {"epochs": 1, "batch_size": 8, "device": "cpu"},
}
ROWS = SMALL | {
    "model": "linear",
    "data": {"name": "csv", "path": "rows.csv", "target": "price", "target_kind": "value"},
    "loss": "mse",
    "train": {"epochs": 1, "batch_size": 32, "device": "cpu"},
}


CODES = ["00501", "501", "9007199254740993", "9007199254740992", "1.5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs that learnt from `pictures`, `texts` and `rows`."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register_builtins()
        write_folder(folder)
        write_sentences(folder / "sst2")
        random = np.random.default_rng(0)
        lines = ["weight,colour,price"]
        for _ in range(100):
            colour = random.choice(["red", "green", "blue"])
            lines.append(f"{random.normal(70, 10):.3f},{colour},{random.normal(1e3, 50):.2f}")
        Path("rows.csv").write_text("\n".join(lines))
        lines = ["zip,flag,weight,price"]
        for number in range(120):
            zip_code, flag = CODES[number % len(CODES)], str(number % 2 == 0)
            lines.append(f"{zip_code},{flag},{number % 7},{number % len(CODES) * 10}")
        Path("codes.csv").write_text("\n".join(lines))
        codes = ROWS | {"data": ROWS["data"] | {"path": "codes.csv"}}
        configs = {"pictures": CONFIG, "texts": TEXTS, "rows": ROWS, "codes": codes}
        for name, config in configs.items():
            Path("config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            dltrain.train(dltrain.load("config.yaml"), run_dir=Path(name), quiet=True)
        yield folder


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def models(folder):
    return {name: Predictor(folder / name) for name in ("pictures", "texts", "rows", "codes")}


@pytest.fixture
def service(models):
    """Makes an application for a run, or for another model."""

    def make(model, hosts=None, metrics=None, **limits):
        model = models[model] if isinstance(model, str) else model
        about = About("run", "step-1", "supervised", "cpu")
        return make_app(model, about, Limits(**limits), metrics or Metrics(), hosts)

    return make


def ask(app, *requests: dict) -> list[httpx.Response]:
    """Sends requests, all at once: POST to /predict if nothing else is said."""

    async def send():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
        ):
            return await asyncio.gather(
                *(
                    client.request(**{"method": "POST", "url": "/predict"} | request)
                    for request in requests
                )
            )

    return asyncio.run(asyncio.wait_for(send(), 60))


def get(app, path: str, **words) -> httpx.Response:
    return ask(app, {"method": "GET", "url": path, **words})[0]


def predictions(response: httpx.Response) -> list[Prediction]:
    assert response.status_code == 200, response.text
    return [Prediction(**item) for item in response.json()["predictions"]]


def assert_same(found: list[Prediction], expected: list[Prediction]) -> None:
    """But for their names, and for what the other samples of a batch do to rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.label, one.text) == (other.label, other.text)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        if other.values is None:
            assert one.values is None
        else:
            assert one.values == pytest.approx(other.values, rel=1e-5)


def picture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def blank(*size: int) -> bytes:
    """A picture whose file is far smaller than its pixels."""
    written = io.BytesIO()
    Image.new("1", size).save(written, "PNG")
    return written.getvalue()


# ---------------------------------------------------------------- answers


def test_pictures_as_files_as_base64_and_as_pixels(service, there, tmp_path):
    """Of the model's size, of another, and in colour."""
    drawn = [picture((8, 8)), picture((20, 13), 1), picture((9, 30, 3), 2)]
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for path, pixels in zip(files, drawn, strict=True):
        path.write_bytes(png(pixels))
    expected = dltrain.predict(Path("pictures"), files)
    encoded = [base64.b64encode(path.read_bytes()).decode() for path in files]
    uploaded, *others = ask(
        service("pictures"),
        {"files": [("files", (path.name, path.read_bytes())) for path in files]},
        {"json": {"images": encoded}},
        {"json": {"images": [f"data:image/png;base64,{text}" for text in encoded]}},
        {"json": {"images": [pixels.tolist() for pixels in drawn]}},
    )
    assert [item.input for item in predictions(uploaded)] == ["0.png", "1.png", "2.png"]
    for response in (uploaded, *others):
        assert_same(predictions(response), expected)
    assert predictions(others[0])[2].input == "images[2]"


def test_texts(service, there):
    texts = ["a fine film of 3 hours", "dull", "words never seen", "two\nlines"]
    (response,) = ask(service("texts"), {"json": {"texts": texts}})
    assert [item.input for item in predictions(response)] == texts
    assert_same(predictions(response), dltrain.predict(Path("texts"), texts))


def test_rows(service, there, tmp_path):
    """One has a category that training did not have, one a column too many."""
    rows = [(55, "red"), (80.5, "blue"), (70.25, "violet")]
    lines = [f"{colour},{weight}" for weight, colour in rows]
    (tmp_path / "new.csv").write_text("\n".join(["colour,weight", *lines]))
    asked = [{"weight": weight, "colour": colour, "note": "x"} for weight, colour in rows]
    (response,) = ask(service("rows"), {"json": {"rows": asked}})
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
def test_a_category_is_the_text_that_a_cell_has(service, there, models, tmp_path, given, cells):
    (tmp_path / "new.csv").write_text(f"zip,flag,weight\n{cells},3\n")
    (expected,) = dltrain.predict("codes", [tmp_path / "new.csv"])
    body = f'{{"rows": [{{"zip": {given}, "weight": 3}}]}}'
    headers = {"Content-Type": "application/json"}
    (response,) = ask(service("codes"), {"content": body, "headers": headers})
    assert_same(predictions(response), [expected])
    features = models["codes"].spec.inputs.columns
    assert [len(column.categories) for column in features] == [5, 2, 0]
    # A category that counts as none would be seen: each has a price of its own.
    prices = {
        dltrain.Run.load("codes").model()({"zip": c, "flag": "True", "weight": 3}).values[0]
        for c in [*CODES, "none"]
    }
    assert len(prices) == len(CODES) + 1


@pytest.mark.parametrize("cell", ["null", '""', '" "', '"NA"', '"?"', "NaN", "[]", "{}"])
def test_a_category_without_a_value_is_refused_as_in_a_file(service, cell):
    body = f'{{"rows": [{{"zip": {cell}, "flag": "True", "weight": 3}}]}}'
    headers = {"Content-Type": "application/json"}
    (response,) = ask(service("codes"), {"content": body, "headers": headers})
    assert response.status_code == 422
    (problem,) = response.json()["errors"]
    assert problem["item"] == 0
    assert "zip" in problem["message"]


def test_requests_that_come_together_are_computed_together(service, models):
    metrics, pixels = Metrics(), [picture((8, 8), seed) for seed in range(200)]
    app = service("pictures", metrics=metrics, wait_seconds=0.05)
    found = ask(app, *({"json": {"images": [item.tolist()]}} for item in pixels))
    reader = [png(item) for item in pixels]
    (whole,) = ask(
        service("pictures"),
        {"json": {"images": [base64.b64encode(item).decode() for item in reader]}},
    )
    for response, expected in zip(found, predictions(whole), strict=True):
        assert_same(predictions(response), [expected])
    assert (metrics.requests, metrics.predictions) == (200, 200)
    assert metrics.batches < 100


async def later(content: bytes, seconds: float):
    yield content[:10]
    await asyncio.sleep(seconds)
    yield content[10:]


@pytest.mark.parametrize("slow_ones", [0, 1])
def test_a_request_waits_neither_alone_nor_for_a_client_that_sends_slowly(service, slow_ones):
    """A wait of an hour would be seen."""
    metrics, hour = Metrics(), 3600
    app = service("pictures", metrics=metrics, wait_seconds=hour)
    told = json.dumps({"images": [picture((8, 8)).tolist()]}).encode()
    slow = {"content": later(told, 0.3), "headers": {"Content-Type": "application/json"}}
    found = ask(app, {"json": json.loads(told)}, *[slow] * slow_ones)
    assert [response.status_code for response in found] == [200] * (1 + slow_ones)
    assert metrics.batches == 1 + slow_ones


def test_a_batch_waits_for_a_request_that_is_being_read(service, monkeypatch):
    metrics, hour, reading = Metrics(), 3600, threading.Event()
    app = service("pictures", metrics=metrics, wait_seconds=hour, max_batch=2)
    of_json = Reader.of_json

    def slow_second(reader, body):
        if reading.is_set():
            time.sleep(0.3)
        reading.set()
        return of_json(reader, body)

    monkeypatch.setattr(Reader, "of_json", slow_second)
    found = ask(app, *[{"json": {"images": [picture((8, 8)).tolist()]}}] * 2)
    assert [response.status_code for response in found] == [200, 200]
    assert metrics.batches == 1


def test_a_batch_is_no_larger_than_was_asked_for(service):
    metrics = Metrics()
    app = service("pictures", metrics=metrics, max_batch=3)
    images = [picture((8, 8), seed).tolist() for seed in range(8)]
    (response,) = ask(app, {"json": {"images": images}})
    assert len(predictions(response)) == 8
    assert metrics.batches == 3


class Fickle:
    """A model that fails at samples of one name, and may wait before it answers."""

    def __init__(self, like: Predictor) -> None:
        self.spec, self.gives = like.spec, like.gives
        self.may_go = threading.Event()
        self.may_go.set()

    def of_tensor(self, inputs, names):
        self.may_go.wait(30)
        if "bad.png" in names:
            raise RuntimeError("secret")
        return [Prediction(name, label="0", probabilities={}) for name in names]


def upload(name: str = "good.png") -> dict:
    return {"files": [("files", (name, png(picture((8, 8)))))]}


def test_what_fails_fails_alone_and_keeps_its_reason_to_itself(service, models):
    app = service(Fickle(models["pictures"]), wait_seconds=0.2)
    found = ask(app, upload(), upload("bad.png"), upload())
    assert [response.status_code for response in found] == [200, 500, 200]
    assert "secret" not in found[1].text
    assert "log" in found[1].json()["errors"][0]["message"]


def test_more_than_can_be_worked_on_are_told_to_come_again(service, models):
    model, metrics = Fickle(models["pictures"]), Metrics()
    model.may_go.clear()
    threading.Timer(0.5, model.may_go.set).start()
    found = ask(service(model, metrics=metrics, max_requests=2), *[upload()] * 5)
    assert sorted(response.status_code for response in found) == [200, 200, 503, 503, 503]
    refused = next(response for response in found if response.status_code == 503)
    assert int(refused.headers["Retry-After"]) >= 1
    assert "come again" in refused.json()["errors"][0]["message"]
    assert b"dltrain_requests_in_progress 0.0" in metrics.text()


# ---------------------------------------------------------------- what can't be answered

SIZED = {"max_items": 3, "max_pixels": 1000, "max_characters": 20, "max_body": 5000}
GOOD = [[0, 1], [2, 255]]


@pytest.mark.parametrize(
    ("run", "request_", "status", "told"),
    [
        ("pictures", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "text/pl"),
        ("pictures", {"content": b"{}"}, 415, "missing"),
        ("pictures", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, ""),
        ("pictures", {"json": []}, 422, "object"),
        ("pictures", {"json": {}}, 422, "images: is missing"),
        ("pictures", {"json": {"texts": ["a"], "images": [GOOD]}}, 422, "'images' alone"),
        ("pictures", {"json": {"images": []}}, 422, "images: "),
        ("pictures", {"json": {"images": [GOOD] * 4}}, 422, "at most 3"),
        ("pictures", {"json": {"images": [GOOD, None]}}, 422, "images[1]: wanted"),
        ("pictures", {"json": {"images": [GOOD, [[0, 256]]]}}, 422, "images[1]: pixels"),
        ("pictures", {"json": {"images": [[[0.5]]]}}, 422, "images[0]: wanted"),
        ("pictures", {"json": {"images": [[[0, 1], [2]]]}}, 422, "images[0]: its rows differ"),
        ("pictures", {"json": {"images": [[[]]]}}, 422, "images[0]: wanted"),
        ("pictures", {"json": {"images": [[[10**30]]]}}, 422, "images[0]: wanted"),
        ("pictures", {"json": {"images": ["%%%"]}}, 422, "images[0]: not base64"),
        ("pictures", {"json": {"images": ["aGVsbG8="]}}, 422, "images[0]: not an image"),
        ("pictures", {"json": {"images": [[[0] * 1001]]}}, 422, "images[0]: 1001 x 1 pixels"),
        ("pictures", {"files": [("f", ("a.png", b"no"))]}, 422, "a.png: not an image"),
        ("pictures", {"files": [("f", ("a.png", blank(40, 40)))]}, 422, "a.png: 40 x 40 pixels"),
        (
            "pictures",
            {"files": [("f", ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"))]},
            *(422, "none of BMP, GIF, JPEG"),
        ),
        ("pictures", {"files": [("f", (f"{n}.png", b"")) for n in range(4)]}, 400, "files"),
        ("pictures", {"files": [("f", ("a.png", bytes(6000)))]}, 413, "5,000 bytes"),
        ("pictures", {"json": {"images": ["A" * 6000]}}, 413, "5,000 bytes"),
        (
            "pictures",
            {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}},
            *(400, "boundary"),
        ),
        ("texts", {"json": {"texts": ["fine", 7]}}, 422, "texts[1]: "),
        ("texts", {"json": {"texts": ["fine", " \n"]}}, 422, "texts[1]: has no text"),
        ("texts", {"json": {"texts": ["x" * 21]}}, 422, "at most 20 characters"),
        ("texts", {"files": [("f", ("a.png", b""))]}, 415, "wanted: application/json"),
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
def test_malformed_requests(service, run, request_, status, told):
    (response,) = ask(service(run, **SIZED), request_)
    assert response.status_code == status
    (problem,) = response.json()["errors"]
    assert told in problem["message"]


def test_every_item_that_is_wrong_is_told(service):
    (response,) = ask(service("pictures"), {"json": {"images": [None, GOOD, "%"]}})
    assert [problem["item"] for problem in response.json()["errors"]] == [0, 2]


def test_a_picture_that_would_fill_the_memory(service):
    """Pillow's own limit holds where ours is set higher."""
    bomb = blank(20_000, 20_000)
    assert len(bomb) < 100_000
    for most in (2**24, 2**40):
        (response,) = ask(service("pictures", max_pixels=most), {"files": {"f": ("a.png", bomb)}})
        assert response.status_code == 422
        assert "pixels" in response.json()["errors"][0]["message"]


def test_a_body_that_does_not_arrive(service):
    async def trickle():
        yield b"{"
        await asyncio.sleep(30)

    headers = {"Content-Type": "application/json"}
    app = service("texts", read_seconds=0.1)
    slow, quick = ask(
        app, {"content": trickle(), "headers": headers}, {"json": {"texts": ["fine"]}}
    )
    assert (slow.status_code, quick.status_code) == (408, 200)
    assert slow.headers["Connection"] == "close"
    assert "0.1 s" in slow.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("stranger.example", 421),
        ("127.0.0.1.stranger.example:8000", 421),
        ("0x7f.1", 421),
        ("127.0.0.1:8000@stranger.example", 400),
        ("stranger.example@127.0.0.1:8000", 400),
        ("localhost:0", 400),
        ("localhost:65536", 400),
        ("localhost:port", 400),
        ("localhost:", 400),
        ("localhost:80:80", 400),
        ("localhost.", 400),
        ("local host", 400),
        ("localhost/", 400),
        ("localhost,stranger.example", 400),
        ("-localhost", 400),
        ("::1", 400),
        ("[::1", 400),
        ("[127.0.0.1]", 400),
        ("[::1%lo]", 400),
        ("[0:0:0:0:0:0:0:1]:8000", 200),
        ("[", 400),
        ("", 400),
    ],
)
def test_a_page_elsewhere_can_t_reach_it_under_a_name_of_its_own(service, host, status):
    app = service("texts", hosts={"localhost", "127.0.0.1", "::1"})
    response = get(app, "/healthz", headers={"Host": host})
    assert response.status_code == status
    assert "errors" in response.json() or status == 200


@pytest.mark.parametrize("hosts", [None, {"localhost"}])
@pytest.mark.parametrize(
    "headers",
    [
        [("Host", "localhost"), ("Host", "localhost")],
        [("Host", "localhost"), ("Host", "stranger.example")],
        [],
    ],
)
def test_there_must_be_one_host(service, hosts, headers):
    async def send():
        sent = []
        scope = {"type": "http", "method": "GET", "path": "/healthz", "query_string": b""}
        scope["headers"] = [(n.lower().encode(), v.encode()) for n, v in headers]

        async def say(message):
            sent.append(message)

        await service("texts", hosts=hosts)(scope, None, say)
        return sent

    start, body = asyncio.run(send())
    assert start["status"] == 400
    assert "Host" in json.loads(body["body"])["errors"][0]["message"]


def test_any_well_formed_host_where_others_may_ask(service):
    for host, status in {"some.name:80": 200, "some name": 400, "user@some.name": 400}.items():
        response = get(service("texts"), "/healthz", headers={"Host": host})
        assert response.status_code == status


# ---------------------------------------------------------------- large and slow requests


@pytest.mark.parametrize("kind", ["files", "base64", "pixels"])
def test_images_are_counted_together_before_one_is_decoded(service, monkeypatch, kind):
    """Each is small enough; the last of them is one too many."""

    def refuse(*_):
        raise AssertionError("decoded")

    shapes = [(20, 30), (10, 40), (1, 1)]
    drawn = [picture(shape) for shape in shapes]

    def request(images) -> dict:
        if kind == "files":
            return {"files": [("f", (f"{n}.png", png(image))) for n, image in enumerate(images)]}
        if kind == "base64":
            return {"json": {"images": [base64.b64encode(png(i)).decode() for i in images]}}
        return {"json": {"images": [image.tolist() for image in images]}}

    app = service("pictures", max_pixels=600, max_request_pixels=1000)
    (response,) = ask(app, request(drawn[:2]))
    assert response.status_code == 200
    monkeypatch.setattr(Reader, "_decoded", refuse)
    app = service("pictures", max_pixels=600, max_request_pixels=1000)
    (response,) = ask(app, request(drawn))
    assert response.status_code == 413
    (problem,) = response.json()["errors"]
    assert problem["message"] == (
        "the request has 3 images of 1,001 pixels together; at most 1,000 are taken"
    )


def test_a_request_that_is_read_holds_up_no_other(service, monkeypatch):
    """One waits in the middle of its images until another has been answered."""
    answered, of_json = threading.Event(), Reader.of_json

    def slow(reader, body):
        if b"slow" in body:
            assert answered.wait(30)
        return of_json(reader, body)

    monkeypatch.setattr(Reader, "of_json", slow)
    app = service("texts")

    async def send():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
        ):
            slow_one = asyncio.create_task(client.post("/predict", json={"texts": ["slow"]}))
            await asyncio.sleep(0.1)
            for _ in range(3):
                quick = await client.post("/predict", json={"texts": ["quick"]})
                assert quick.status_code == 200
            assert not slow_one.done()
            answered.set()
            assert (await slow_one).status_code == 200

    asyncio.run(asyncio.wait_for(send(), 60))


def test_requests_that_are_arriving_take_no_place(service):
    """As many as may be in work send slowly; another is answered meanwhile."""
    told = json.dumps({"texts": ["fine"]}).encode()
    app, complete = service("texts", max_requests=2), asyncio.Event()

    async def slow():
        yield told[:5]
        await complete.wait()
        yield told[5:]

    async def send():
        transport = httpx.ASGITransport(app)
        headers = {"Content-Type": "application/json"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
        ):
            slow_ones = [
                asyncio.create_task(client.post("/predict", content=slow(), headers=headers))
                for _ in range(4)
            ]
            await asyncio.sleep(0.1)
            quick = await client.post("/predict", content=told, headers=headers)
            assert quick.status_code == 200
            complete.set()
            return [response.status_code for response in await asyncio.gather(*slow_ones)]

    found = asyncio.run(asyncio.wait_for(send(), 60))
    assert set(found) <= {200, 503}
    assert 200 in found


def test_bodies_that_are_arriving_hold_no_more_than_those_in_work(service):
    told = json.dumps({"texts": ["x" * 300]}).encode()
    app = service("texts", max_requests=1, max_body=500)
    headers = {"Content-Type": "application/json"}
    found = ask(app, *({"content": later(told, 0.3), "headers": headers} for _ in range(100)))
    refused = [response for response in found if response.status_code == 503]
    assert refused
    assert any("bytes" in one.json()["errors"][0]["message"] for one in refused)


# ---------------------------------------------------------------- what it says of itself


def test_metrics_count(service):
    metrics = Metrics()
    app = service("texts", metrics=metrics)
    ask(app, {"json": {"texts": ["a", "b"]}}, {"json": {}}, {"url": "/a"}, {"url": "/b"})
    response = get(service("texts", metrics=metrics), "/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    lines = response.text.splitlines()
    for line in (
        'dltrain_requests_total{path="/predict",status="200"} 1.0',
        'dltrain_requests_total{path="/predict",status="422"} 1.0',
        'dltrain_requests_total{path="other",status="404"} 2.0',
        'dltrain_request_seconds_count{path="/predict"} 2.0',
        "dltrain_batch_size_sum 2.0",
    ):
        assert line in lines


@pytest.mark.parametrize("run", ["pictures", "texts", "rows"])
def test_the_description_is_openapi_and_its_example_is_answered(service, run):
    app = service(run)
    description = get(app, "/openapi.json").json()
    validate(description)
    body = description["paths"]["/predict"]["post"]["requestBody"]["content"]
    (response,) = ask(service(run), {"json": body["application/json"]["example"]})
    assert len(predictions(response)) == 1
    page = get(service(run), "/docs")
    assert "curl http://127.0.0.1:8000/predict --json" in page.text


@pytest.mark.parametrize("path", ["/", "/docs", "/static/try.js", "/static/try.css"])
def test_pages_load_nothing_from_elsewhere(service, path):
    response = get(service("rows"), path)
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "//" not in response.text.replace("http://127.0.0.1:8000", "").replace("// ", "")


class Named:
    """A model that is certain of the first class."""

    gives = "label"

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec

    def of_tensor(self, inputs, names):
        first, *others = self.spec.class_names
        shares = {first: 1.0, **dict.fromkeys(others, 0.0)}
        return [Prediction(name, first, shares, None, None) for name in names]


def test_pages_show_a_hostile_name_and_send_it_as_it_is():
    name = "<b>\x1b[31m\u202e"
    columns = (Column(name), Column("kind", categories=(name, " a ")))
    spec = DataSpec(
        (3,), 2, TableInputs(columns), class_names=(f"{name}\udcff", "b"), class_counts=(1, 1)
    )
    page = try_page(spec, name, name)
    exact = name.replace("<b>", "&lt;b&gt;")
    assert f'<option value="{exact}">{visible(exact)}</option>' in page
    assert '<option value=" a "> a </option>' in page
    assert f'data-column="{exact}"' in page
    read = re.sub("<[^>]*>", "", page)
    assert "\x1b" not in read
    assert "\u202e" not in read

    def app():
        return make_app(Named(spec), About(name, name, "supervised", "cpu"), Limits(), Metrics())

    assert get(app(), "/").status_code == 200
    document = get(app(), "/docs").text
    assert "&lt;b&gt;" in document
    assert not {"\x1b", "\u202e"} & set(document)
    assert get(app(), "/openapi.json").json()["info"]["title"]
    (response,) = ask(app(), {"json": {"rows": [{name: 1.0, "kind": " a "}]}})
    assert response.json()["predictions"][0]["label"] == f"{name}\udcff"


def test_health(service):
    assert get(service("rows"), "/healthz").json() == {
        "status": "ok",
        "run": "run",
        "checkpoint": "step-1",
        "task": "supervised",
        "device": "cpu",
    }
