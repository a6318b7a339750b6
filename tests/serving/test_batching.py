"""Batches of concurrent requests."""

import base64
import json
import threading
import time

import pytest
from services import (
    UnreliableModel,
    assert_same,
    later,
    png,
    predictions,
    random_image,
    send,
    upload,
)

from dltrain.serving.metrics import Metrics
from dltrain.serving.request_parsing import RequestParser


def test_concurrent_requests_share_batches(service, models):
    metrics, pixels = Metrics(), [random_image((8, 8), seed) for seed in range(200)]
    app = service("images", metrics=metrics, wait_seconds=0.05)
    responses = send(app, *({"json": {"images": [item.tolist()]}} for item in pixels))
    files = [png(item) for item in pixels]
    (whole,) = send(
        service("images"),
        {"json": {"images": [base64.b64encode(item).decode() for item in files]}},
    )
    for response, expected in zip(responses, predictions(whole), strict=True):
        assert_same(predictions(response), [expected])
    assert (metrics.requests, metrics.predictions) == (200, 200)
    assert metrics.batches < 100


@pytest.mark.parametrize("slow_ones", [0, 1])
def test_a_request_waits_neither_alone_nor_for_a_slow_client(service, slow_ones):
    """A wait of an hour would exceed the time limit."""
    metrics, hour = Metrics(), 3600
    app = service("images", metrics=metrics, wait_seconds=hour)
    body = json.dumps({"images": [random_image((8, 8)).tolist()]}).encode()
    slow = {"content": later(body, 0.3), "headers": {"Content-Type": "application/json"}}
    responses = send(app, {"json": json.loads(body)}, *[slow] * slow_ones)
    assert [response.status_code for response in responses] == [200] * (1 + slow_ones)
    assert metrics.batches == 1 + slow_ones


def test_a_batch_waits_for_a_request_that_is_being_parsed(service, monkeypatch):
    metrics, hour, parsing = Metrics(), 3600, threading.Event()
    app = service("images", metrics=metrics, wait_seconds=hour, max_batch=2)
    parse_json = RequestParser.parse_json

    def slow_second(parser, body):
        if parsing.is_set():
            time.sleep(0.3)
        parsing.set()
        return parse_json(parser, body)

    monkeypatch.setattr(RequestParser, "parse_json", slow_second)
    responses = send(app, *[{"json": {"images": [random_image((8, 8)).tolist()]}}] * 2)
    assert [response.status_code for response in responses] == [200, 200]
    assert metrics.batches == 1


def test_a_batch_is_limited_to_its_maximum_size(service):
    metrics = Metrics()
    app = service("images", metrics=metrics, max_batch=3)
    images = [random_image((8, 8), seed).tolist() for seed in range(8)]
    (response,) = send(app, {"json": {"images": images}})
    assert len(predictions(response)) == 8
    assert metrics.batches == 3


def test_a_failing_request_fails_alone_without_showing_its_reason(service, models):
    app = service(UnreliableModel(models["images"]), wait_seconds=0.2)
    responses = send(app, upload(), upload("bad.png"), upload())
    assert [response.status_code for response in responses] == [200, 500, 200]
    assert "secret" not in responses[1].text
    assert "log" in responses[1].json()["errors"][0]["message"]


def test_requests_beyond_the_limit_receive_status_503(service, models):
    model, metrics = UnreliableModel(models["images"]), Metrics()
    model.unblocked.clear()
    threading.Timer(0.5, model.unblocked.set).start()
    responses = send(service(model, metrics=metrics, max_requests=2), *[upload()] * 5)
    assert sorted(response.status_code for response in responses) == [200, 200, 503, 503, 503]
    refused = next(response for response in responses if response.status_code == 503)
    assert int(refused.headers["Retry-After"]) >= 1
    assert "retry later" in refused.json()["errors"][0]["message"]
    assert b"dltrain_requests_in_progress 0.0" in metrics.text()
