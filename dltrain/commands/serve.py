"""A trained model over HTTP."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dltrain.commands.predict import Predictor
from dltrain.errors import RunError, UsageError, tell
from dltrain.serving.limits import DEFAULTS, Limits

if TYPE_CHECKING:
    from uvicorn import Server

LIBRARIES = ("prometheus_client", "python_multipart", "starlette", "uvicorn")
CONNECTIONS_WAITING = 512
GRACE_SECONDS = 10
"""How long answers that are being worked on may take after the service was told to stop."""


@dataclass(frozen=True)
class Served:
    """What a service did until it was told to stop.

    Attributes:
        url: Where it was.
        requests: Answered, whatever the answer was.
        predictions: Items computed.
        batches: In that many calls of the model.
    """

    url: str
    requests: int
    predictions: int
    batches: int


def serve(
    run_dir: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    checkpoint: str | None = None,
    device: str | None = None,
    limits: Limits = DEFAULTS,
    say: Callable[[str], None] = tell,
) -> Served:
    """Answers requests for predictions until SIGINT or SIGTERM, or, in a thread, for ever.

    Args:
        run_dir: The run.
        host: The address to listen on; there is no authentication.
        port: 0 for any that is free.
        checkpoint: See `load_trained`.
        device: Instead of the config's.
        limits: How much may be asked.
        say: Is told where the service is, once the model is loaded, and what to be careful of.

    Raises:
        RunError: There is no such checkpoint, or the port is taken.
        UsageError: The run's task gives no predictions, or a library is missing.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise UsageError(f"serving needs {missing[0]}: pip install 'dltrain[serve]'")
    import uvicorn

    from dltrain.serving.app import About, make_app
    from dltrain.serving.connections import connection_class
    from dltrain.serving.metrics import Metrics

    with _listening(host, port) as listener:
        predictor = Predictor(run_dir, checkpoint=checkpoint, device=device, warn=say)
        trained, metrics = predictor.trained, Metrics()
        about = About(
            run=str(run_dir),
            checkpoint=trained.checkpoint.name,
            task=trained.experiment.task.name,
            device=str(trained.machine.device),
        )
        address, url = listener.getsockname()[0], _url(listener)
        local = ipaddress.ip_address(address).is_loopback
        hosts = {"localhost", "127.0.0.1", "::1", address, host.lower()} if local else None
        config = uvicorn.Config(
            make_app(predictor, about, limits, metrics, hosts),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            http=connection_class(limits),
            ws="none",
            backlog=CONNECTIONS_WAITING,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        server = uvicorn.Server(config)
        with _stopped_by_signals(server):
            if not local:
                say(
                    f"warning: {host} is not loopback: whoever reaches {url} can ask, "
                    "for there is no authentication"
                )
            say(f"{run_dir} ({about.checkpoint}) on {url}")
            server.run(sockets=[listener])
    return Served(url, metrics.requests, metrics.predictions, metrics.batches)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; who connects before the model is loaded waits.

    Raises:
        RunError: The address is no address of this machine, or the port is taken.
    """
    place = f"{host}:{port}"
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise RunError(f"{place}: no such address: {error}") from error
    try:
        return socket.create_server(address, family=family, backlog=CONNECTIONS_WAITING)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RunError(
            f"{place}: can't be listened on: {reason}; --port chooses another, 0 any"
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    """Being told to stop is how a service ends, not how it fails.

    The server stops at a signal, and raises it again at the end, for whoever had it before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # whoever called has the signals
        return

    def stop(number: int, frame: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
