"""`dltrain serve` as a process: its responses, how it starts and how it stops."""

import base64
import json
import math
import re
import select
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from browser import chromium
from PIL import Image
from processes import ChildProcess, command_line
from small_runs import CONFIG, write_folder

import dltrain
from dltrain.commands import serve as command
from dltrain.config.plugins import register_builtins

ROWS = {
    "name": "car_prices",
    "model": "linear",
    "data": {"name": "csv", "path": "rows.csv", "target": "price", "target_kind": "value"},
    "loss": "mse",
    "optimizer": {"name": "adamw", "lr": 0.02},
    "train": {"epochs": 1, "batch_size": 16, "device": "cpu"},
    "recording": {"tensorboard": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and 200 other images."""
    folder = tmp_path_factory.mktemp("serve")
    random = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register_builtins()
        write_folder(folder)
        Path("config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
        dltrain.train(dltrain.load("config.yaml"), run_dir=Path("run"), quiet=True)
        lines = [f"{n % 7},{'red' if n % 2 else 'blue'},{3 * (n % 7) + n % 2}" for n in range(60)]
        Path("rows.csv").write_text("\n".join(["weight,colour,price", *lines]))
        Path("rows.yaml").write_text(yaml.safe_dump(ROWS))
        dltrain.train(dltrain.load("rows.yaml"), run_dir=Path("rows"), quiet=True)
    for number in range(200):
        pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def start(folder, tmp_path):
    """Starts a service on a free port; returns its process and its address."""
    processes = []

    def start(*words: object, run: Path = folder / "run") -> tuple[ChildProcess, str]:
        name = tmp_path.name + str(len(processes))
        line = ("serve", run, "--port", 0, *words)
        process = ChildProcess(name, folder, command_line, *line)
        processes.append(process)
        deadline = time.monotonic() + 600
        while not (found := re.search(r"on (http://\S+)\n", _err(process))):
            assert process.running, _err(process)
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process, found[1]

    yield start
    for process in processes:
        process.end()


def _err(process: ChildProcess) -> str:
    try:
        return process.err
    except FileNotFoundError:  # it has not opened it yet
        return ""


def image_file(path: Path) -> dict:
    return {"files": {"files": (str(path), path.read_bytes())}}


def test_two_hundred_concurrent_requests_receive_the_predictions_of_predict(start, folder):
    process, url = start("--json")
    paths = [folder / f"{number}.png" for number in range(200)]
    expected = dltrain.predict(folder / "run", paths)
    with httpx.Client() as client, ThreadPoolExecutor(50) as threads:
        responses = [
            *threads.map(lambda path: client.post(f"{url}/predict", **image_file(path)), paths)
        ]
    for response, reference in zip(responses, expected, strict=True):
        assert response.status_code == 200
        (prediction,) = response.json()["predictions"]
        assert (prediction["input"], prediction["label"]) == (reference.input, reference.label)
        assert prediction["probabilities"] == pytest.approx(reference.probabilities, abs=1e-6)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    totals = json.loads(process.out)
    assert (totals["url"], totals["requests"], totals["predictions"]) == (url, 200, 200)
    assert 1 <= totals["batches"] < 200
    assert process.err == f"{folder / 'run'} (step-0000000010) on {url}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_service_after_requests_in_progress(start, folder, number):
    process, url = start()
    signalled = threading.Event()
    request = httpx.Request("POST", f"{url}/predict", **image_file(folder / "0.png"))
    body = request.read()

    def half_and_the_rest():
        yield body[:100]
        signalled.wait(30)
        yield body[100:]

    headers = {"Content-Type": request.headers["Content-Type"]}
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(
            *(httpx.post, f"{url}/predict"), content=half_and_the_rest(), headers=headers
        )
        while "in_progress 1.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.02)
        process.signal(number)
        signalled.set()
        assert answer.result().status_code == 200
    assert process.wait() == 0
    assert "predictions: 1, in batches: 1" in process.out
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_client_that_stops_sending_receives_status_408(start):
    """Other clients are answered meanwhile, and the connection is closed in the end."""
    process, url = start("--read-seconds", 0.5)
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=30) as slow:
        slow.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"images"'
        )
        assert httpx.get(f"{url}/healthz").status_code == 200
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    process.signal(signal.SIGINT)
    assert process.wait() == 0


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = HEAD + b'Content-Length: 1000\r\n\r\n{"images"'


def connected(url: str) -> socket.socket:
    address = httpx.URL(url)
    return socket.create_connection((address.host, address.port), timeout=30)


def receive_all(client: socket.socket) -> bytes:
    """Everything that arrives until the service closes the connection."""
    with suppress(ConnectionResetError):
        return b"".join(iter(lambda: client.recv(4096), b""))
    return b""


@pytest.mark.parametrize(
    ("partial", "status"),
    [
        (b"", b""),
        (b"GET /heal", b"HTTP/1.1 408 "),
        (HEAD, b"HTTP/1.1 408 "),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET", b"HTTP/1.1 200 "),
        (BODY, b"HTTP/1.1 408 "),
        (
            b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
            b"HTTP/1.1 404 ",
        ),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"HTTP/1.1 400 "),
    ],
)
def test_a_connection_is_closed_if_a_request_does_not_arrive(start, partial, status):
    """The client is silent, or sends a byte now and then."""
    _, url = start("--header-seconds", 0.5, "--read-seconds", 0.5)
    with connected(url) as silent, connected(url) as dripping:
        silent.sendall(partial)
        dripping.sendall(partial)
        with suppress(OSError):  # until it is closed
            for _ in range(600):
                dripping.sendall(b"x" if b"\r\n\r\n" in partial else b"X-a: b\r\n")
                if select.select([dripping], [], [], 0.1)[0] and not dripping.recv(4096):
                    break
            else:
                raise AssertionError("it was never closed")
        assert receive_all(silent).startswith(status)
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_slow_clients_do_not_block_others(start, folder):
    """More clients than the limit of concurrent requests have sent half a request."""
    _, url = start("--max-requests", 2)
    with ExitStack() as stack:
        for half in [BODY, HEAD, b"GET"] * 5:
            stack.enter_context(connected(url)).sendall(half)
        while "in_progress 5.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.02)
        response = httpx.post(f"{url}/predict", **image_file(folder / "0.png"))
        assert response.status_code == 200


def test_open_connections_are_bounded(start):
    _, url = start("--max-connections", 3)
    with ExitStack() as stack:
        for _ in range(3):
            one = stack.enter_context(connected(url))
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert one.recv(4096).startswith(b"HTTP/1.1 200 ")
        refused = receive_all(stack.enter_context(connected(url)))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"3 connections are open" in refused
    while True:  # the service notices closed connections with a delay
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/healthz").status_code == 200:
                break
        time.sleep(0.02)


def test_a_warning_on_addresses_that_others_can_reach(start):
    process, url = start("--host", "0.0.0.0")
    port = httpx.URL(url).port
    response = httpx.get(f"http://127.0.0.1:{port}/healthz", headers={"Host": "some.name"})
    assert response.status_code == 200
    assert "warning: 0.0.0.0 is not a loopback address" in process.err
    assert "no authentication" in process.err


def test_quiet_prints_errors_only(folder, tmp_path, call):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = call("serve", folder / "run", "--port", port, "--quiet")
        assert (ended.code, ended.out) == (1, "")
        assert "Address already in use" in ended.err
    words = ("serve", folder / "run", "--port", port, "--quiet")
    process = ChildProcess("quiet", tmp_path, command_line, *words)
    address, deadline = f"http://127.0.0.1:{port}/healthz", time.monotonic() + 600
    while True:
        with suppress(httpx.TransportError):
            assert httpx.get(address).status_code == 200
            break
        assert process.running
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.signal(signal.SIGTERM)
    assert (process.wait(), process.out, process.err) == (0, "", "")


def test_a_port_in_use(call, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = call("serve", folder / "run", "--port", port)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert f"127.0.0.1:{port}: cannot listen: Address already in use" in ended.err


def test_an_address_of_another_machine(call, folder):
    ended = call("serve", folder / "run", "--host", "192.0.2.1")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "192.0.2.1:8000: cannot listen" in ended.err


def test_a_directory_without_a_run(call, folder):
    ended = call("serve", folder / "images", "--port", 0)
    assert (ended.code, ended.err.count("\n")) == (1, 1)


def test_a_missing_library(call, folder, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else name)
    ended = call("serve", folder / "run")
    assert (ended.code, ended.out) == (2, "")
    assert "serving needs uvicorn: pip install 'dltrain[serve]'" in ended.err


# ---------------------------------------------------------------- the page

needs_chromium = pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")


def draw(tab, points: list[tuple[float, float]]) -> str:
    """Draws with the mouse, at fractions of the canvas; returns the predicted label."""
    tab.value("document.getElementById('clear').click()")
    box = tab.value("(({x, y, width}) => [x, y, width])(canvas.getBoundingClientRect())")
    left, top, width = box
    tab.drag([(left + x * width, top + y * width) for x, y in points])
    return tab.wait_for("document.querySelector('#result .label')?.textContent")


@needs_chromium
def test_the_demo_page_shows_the_prediction_of_a_drawing(start, folder, tmp_path):
    _, url = start()
    with chromium(tmp_path) as tab:
        tab.open(f"{url}/")
        # Record the requests of the page, to repeat the prediction.
        tab.value(
            "sent = []; fetched = fetch; fetch = (path, words) => "
            "{ sent.push(words.body); return fetched(path, words); }; null"
        )
        label = draw(tab, [(0.3, 0.2), (0.6, 0.5), (0.6, 0.8)])
        rows = tab.value(
            "[...document.querySelectorAll('.probabilities tr')].map((r) => r.innerText)"
        )
        (body,) = tab.value("sent")
        tab.open(f"{url}/docs")
        assert tab.console_messages == []
    (image,) = json.loads(body)["images"]
    (tmp_path / "drawn.png").write_bytes(base64.b64decode(image.partition(",")[2]))
    (expected,) = dltrain.predict(folder / "run", [tmp_path / "drawn.png"])
    assert label == expected.label
    assert len(rows) == len(expected.probabilities)
    assert f"{100 * expected.probabilities[label]:.1f}%" in rows[0]


@needs_chromium
@pytest.mark.parametrize("width", [400, 1600])
def test_a_row_is_predicted_with_the_keyboard(start, folder, tmp_path, width):
    """The first field is reached with Tab; Enter sends the row; the result names the target."""
    _, url = start(run=folder / "rows")
    (tmp_path / "new.csv").write_text("weight,colour\n5,blue\n")
    (expected,) = dltrain.predict(folder / "rows", [tmp_path / "new.csv"])
    with chromium(tmp_path) as tab:
        tab.do(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 300, "deviceScaleFactor": 1, "mobile": False},
        )
        tab.open(f"{url}/")
        assert tab.value("document.title") == "car_prices"
        assert tab.value("document.querySelector('h1').innerText") == "car_prices"
        tab.press("Tab")
        assert tab.value("document.activeElement.labels[0].innerText") == "weight"
        assert tab.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        tab.do("Input.insertText", text="5")
        tab.press("Enter", text="\r")
        label = tab.wait_for("document.querySelector('#result .label')?.innerText")
        assert float(label) == pytest.approx(expected.values[0], rel=1e-5)
        (heading,) = tab.value("[...document.querySelectorAll('.result h2')].map(h => h.innerText)")
        assert heading == "Predicted price"
        bottom = tab.value("document.querySelector('.label').getBoundingClientRect().bottom")
        assert bottom <= 300, "the result is not visible"
        assert tab.value("document.documentElement.scrollWidth") <= width
        assert tab.console_messages == []


@needs_chromium
def test_digits_drawn_with_the_mouse_are_recognized(start, tmp_path, mnist_root):
    config = dltrain.load(
        Path(__file__).parents[2] / "configs" / "mnist_mlp.yaml",
        [f"data.root={mnist_root}", "train.epochs=1", "recording.tensorboard=false"],
    )
    dltrain.train(config, run_dir=tmp_path / "digits", quiet=True)
    _, url = start(run=tmp_path / "digits")
    with chromium(tmp_path) as tab:
        tab.open(f"{url}/")
        ring = [
            (0.5 + 0.22 * math.sin(n * math.pi / 12), 0.5 - 0.35 * math.cos(n * math.pi / 12))
            for n in range(25)
        ]
        assert draw(tab, ring) == "0"
        assert draw(tab, [(0.5, 0.15), (0.5, 0.5), (0.5, 0.85)]) == "1"
        assert draw(tab, [(0.25, 0.2), (0.75, 0.2), (0.6, 0.5), (0.45, 0.85)]) == "7"
        assert tab.console_messages == []
