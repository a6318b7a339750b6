"""Requests need one Host header that names this machine."""

import asyncio
import json

import pytest
from services import (
    get,
)


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
def test_only_names_of_this_machine_are_accepted_on_loopback(service, host, status):
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
def test_exactly_one_host_header_is_required(service, hosts, headers):
    async def send_all():
        sent = []
        scope = {"type": "http", "method": "GET", "path": "/healthz", "query_string": b""}
        scope["headers"] = [(n.lower().encode(), v.encode()) for n, v in headers]

        async def record(message):
            sent.append(message)

        await service("texts", hosts=hosts)(scope, None, record)
        return sent

    start, body = asyncio.run(send_all())
    assert start["status"] == 400
    assert "Host" in json.loads(body["body"])["errors"][0]["message"]


def test_any_well_formed_host_where_others_may_send(service):
    for host, status in {"some.name:80": 200, "some name": 400, "user@some.name": 400}.items():
        response = get(service("texts"), "/healthz", headers={"Host": host})
        assert response.status_code == status
