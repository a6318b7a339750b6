"""A local web server with configurable faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serve the same bytes for every path.

    Attributes:
        url: Address of the server.
        content: Bytes to serve.
        etag: Entity tag of the content.
        redirect: Target of `/redirect`.
        ranges: Whether range requests are supported.
        ignores_if_range: Whether a range is sent although `If-Range` names another entity tag.
        cuts: Number of body bytes after which each of the next responses is cut.
        faults: Functions that answer the next requests instead.
        requests: Path and range of each request.
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
        """Ignore clients that disconnect."""


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    """Run a server in a thread."""
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """Serve `server.content` with the faults that the server is configured with."""

    server: Server

    def do_GET(self):
        server = self.server
        requested = self.headers.get("Range")
        server.requests.append((self.path, requested))
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
        if requested and server.ranges and same:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
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
