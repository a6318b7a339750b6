"""Limits on the size, the number and the duration of requests."""

import asyncio
import base64
import json
import threading

import httpx
import pytest
from services import (
    blank,
    later,
    png,
    random_image,
    send,
)

from dltrain.serving.request_parsing import RequestParser


def test_an_image_that_would_exhaust_memory(service):
    """Pillow's own limit applies where ours is higher."""
    bomb = blank(20_000, 20_000)
    assert len(bomb) < 100_000
    for most in (2**24, 2**40):
        (response,) = send(service("images", max_pixels=most), {"files": {"f": ("a.png", bomb)}})
        assert response.status_code == 422
        assert "pixels" in response.json()["errors"][0]["message"]


def test_a_body_that_does_not_arrive(service):
    async def trickle():
        yield b"{"
        await asyncio.sleep(30)

    headers = {"Content-Type": "application/json"}
    app = service("texts", read_seconds=0.1)
    slow, quick = send(
        app, {"content": trickle(), "headers": headers}, {"json": {"texts": ["fine"]}}
    )
    assert (slow.status_code, quick.status_code) == (408, 200)
    assert slow.headers["Connection"] == "close"
    assert "0.1 s" in slow.json()["errors"][0]["message"]


@pytest.mark.parametrize("kind", ["files", "base64", "pixels"])
def test_the_pixels_of_all_images_are_limited_before_decoding(service, monkeypatch, kind):
    """Each image is small enough; the last one exceeds the limit of the request."""

    def refuse(*_):
        raise AssertionError("decoded")

    shapes = [(20, 30), (10, 40), (1, 1)]
    images = [random_image(shape) for shape in shapes]

    def request(images) -> dict:
        if kind == "files":
            return {"files": [("f", (f"{n}.png", png(image))) for n, image in enumerate(images)]}
        if kind == "base64":
            return {"json": {"images": [base64.b64encode(png(i)).decode() for i in images]}}
        return {"json": {"images": [image.tolist() for image in images]}}

    app = service("images", max_pixels=600, max_request_pixels=1000)
    (response,) = send(app, request(images[:2]))
    assert response.status_code == 200
    monkeypatch.setattr(RequestParser, "_decode", refuse)
    app = service("images", max_pixels=600, max_request_pixels=1000)
    (response,) = send(app, request(images))
    assert response.status_code == 413
    (problem,) = response.json()["errors"]
    assert problem["message"] == (
        "the request has 3 images of 1,001 pixels together; expected at most 1,000"
    )


def test_parsing_a_request_does_not_block_others(service, monkeypatch):
    """The parser of one request waits until another request has been answered."""
    answered, parse_json = threading.Event(), RequestParser.parse_json

    def slow(parser, body):
        if b"slow" in body:
            assert answered.wait(30)
        return parse_json(parser, body)

    monkeypatch.setattr(RequestParser, "parse_json", slow)
    app = service("texts")

    async def send_all():
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

    asyncio.run(asyncio.wait_for(send_all(), 60))


def test_arriving_requests_do_not_count_as_in_progress(service):
    """More clients than the limit send slowly; another one is answered meanwhile."""
    body = json.dumps({"texts": ["fine"]}).encode()
    app, complete = service("texts", max_requests=2), asyncio.Event()

    async def slow():
        yield body[:5]
        await complete.wait()
        yield body[5:]

    async def send_all():
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
            quick = await client.post("/predict", content=body, headers=headers)
            assert quick.status_code == 200
            complete.set()
            return [response.status_code for response in await asyncio.gather(*slow_ones)]

    statuses = asyncio.run(asyncio.wait_for(send_all(), 60))
    assert set(statuses) <= {200, 503}
    assert 200 in statuses


def test_the_memory_of_arriving_bodies_is_limited(service):
    body = json.dumps({"texts": ["x" * 300]}).encode()
    app = service("texts", max_requests=1, max_body=500)
    headers = {"Content-Type": "application/json"}
    responses = send(app, *({"content": later(body, 0.3), "headers": headers} for _ in range(100)))
    refused = [response for response in responses if response.status_code == 503]
    assert refused
    assert any("bytes" in one.json()["errors"][0]["message"] for one in refused)
