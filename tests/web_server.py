"""A web server on this machine that does wrong what it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves some bytes under every address.

    Attributes:
        url: Its own address.
        content: The bytes.
        etag: Their entity tag.
        redirect: Where `/redirect` leads to.
        ranges: Whether it can send a part.
        ignores_if_range: Whether it sends a part of another file than the one asked for.
        cuts: After how many bytes of its body each of the next answers breaks off.
        faults: What answers the next requests instead.
        requests: The path and the range of each request.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content, self.etag, self.redirect = content, '"v1"', ""
        self.ranges, self.ignores_if_range = True, False
        self.cuts: list[int] = []
        self.faults: list[Callable[[Handler], None]] = []
        self.requests: list[tuple[str, str | None]] = []

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no error of the server's."""


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    """A server, in a thread."""
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content`, and does wrong what the server says."""

    server: Server

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append((self.path, asked))
        if server.faults:
            return server.faults.pop(0)(self)
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return None
        start = 0
        same = self.headers.get("If-Range") == server.etag or server.ignores_if_range
        if asked and server.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                return self.send_error(416)
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        if start:
            end = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(server.content)}")
        self.end_headers()
        if server.cuts:
            body = body[: server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        return None

    def log_message(self, *_):
        pass
