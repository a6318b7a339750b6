"""Control headless Chromium through the DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

SECONDS = 60
CONSOLE_EVENTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


class Tab:
    """A page of the browser.

    Attributes:
        console_messages: Events of console output, log entries and uncaught exceptions.
    """

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=SECONDS, suppress_origin=True)
        self._numbers = itertools.count()
        self.console_messages: list[dict] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def close(self) -> None:
        """Disconnect from the page."""
        self._socket.close()

    def do(self, method: str, **parameters: Any) -> dict:
        """Send a command and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("method") in CONSOLE_EVENTS:
                self.console_messages.append(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def value(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self.do("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + SECONDS
        while not (value := self.value(script)):
            assert time.monotonic() < deadline, f"still false after {SECONDS} s: {script}"
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        """Navigate to a page and wait until it has loaded."""
        self.do("Page.navigate", url=url)
        self.wait_for(f"location.href === {url!r} && document.readyState === 'complete'")

    def drag(self, points: Sequence[tuple[float, float]]) -> None:
        """Press the mouse button at the first point, move through the others, and release it."""
        for number, (x, y) in enumerate(points):
            self._mouse("mouseMoved" if number else "mousePressed", x, y)
        self._mouse("mouseReleased", *points[-1])

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key, which may enter a text."""
        code = {"Tab": 9, "Enter": 13}[key]
        self.do(
            "Input.dispatchKeyEvent",
            **{"type": "keyDown", "key": key, "windowsVirtualKeyCode": code, "text": text},
        )
        self.do("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self.do(
            "Input.dispatchMouseEvent",
            **{"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1},
        )

    def screenshot(self, path: Path) -> None:
        """Save the visible part of the page as a PNG file."""
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """Start a browser with one empty page and its profile in the folder."""
    profile = folder / "profile"
    words = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
    )
    with (folder / "chromium.log").open("w") as log:
        process = subprocess.Popen(
            ["chromium", *words], stdout=log, stderr=log, env=dict(os.environ, HOME=str(folder))
        )
    try:
        tab = Tab(_address(process, profile / "DevToolsActivePort"))
        try:
            yield tab
        finally:
            tab.close()
    finally:
        process.terminate()
        process.wait(SECONDS)


def _address(process: subprocess.Popen, written: Path) -> str:
    """Return the debugger URL of the page, once the browser has written its port."""
    deadline = time.monotonic() + SECONDS
    while not (written.exists() and written.read_text()):
        assert process.poll() is None, "chromium exited"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    port = written.read_text().splitlines()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as response:
        return next(t["webSocketDebuggerUrl"] for t in json.load(response) if t["type"] == "page")
