"""Serve a trained model over HTTP."""

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
from dltrain.core.errors import RunError, UsageError, print_warning
from dltrain.serving.limits import DEFAULTS, Limits

if TYPE_CHECKING:
    from uvicorn import Server

LIBRARIES = ("fastapi", "prometheus_client", "python_multipart", "uvicorn")
BACKLOG = 512
"""Maximum number of connections that wait to be accepted."""

SHUTDOWN_SECONDS = 10
"""Maximum time in which requests in progress are answered after a signal to stop."""

DEFAULT_TARGETS = {"label": "class", "values": "value", "text": "text"}
"""Output of a model to the name of its target, where the data source does not name it."""


@dataclass(frozen=True)
class ServeTotals:
    """Totals of a service that has stopped.

    Attributes:
        url: Address of the service.
        requests: Number of requests answered, with any status.
        predictions: Number of items predicted.
        batches: Number of batches computed.
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
    notify: Callable[[str], None] = print_warning,
) -> ServeTotals:
    """Answer requests for predictions until SIGINT or SIGTERM; in a thread, without end.

    Args:
        run_dir: The run directory.
        host: Address to listen on. There is no authentication.
        port: Port to listen on; 0 selects a free one.
        checkpoint: See `load_trained`.
        device: Device to compute on, instead of the config's.
        limits: Limits on requests.
        notify: Receives the address once the model is loaded, and warnings.

    Returns:
        Totals of the requests answered.

    Raises:
        RunError: The checkpoint does not exist, or the port is in use.
        UsageError: The task of the run gives no predictions, or a library is missing.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise UsageError(f"serving needs {missing[0]}: pip install 'dltrain[serve]'")
    import uvicorn

    from dltrain.serving.app import make_app
    from dltrain.serving.connections import connection_class
    from dltrain.serving.metrics import Metrics
    from dltrain.serving.pages import ModelInfo

    with _listen(host, port) as listener:
        predictor = Predictor(run_dir, checkpoint=checkpoint, device=device, warn=notify)
        trained, metrics = predictor.trained, Metrics()
        experiment = trained.experiment
        info = ModelInfo(
            name=experiment.name,
            run=str(run_dir),
            checkpoint=trained.checkpoint.name,
            task=experiment.task.name,
            device=str(trained.runtime.device),
            target=str(experiment.data.options.get("target", DEFAULT_TARGETS[predictor.gives])),
        )
        address, url = listener.getsockname()[0], _url(listener)
        is_local = ipaddress.ip_address(address).is_loopback
        hosts = {"localhost", "127.0.0.1", "::1", address, host.lower()} if is_local else None
        config = uvicorn.Config(
            make_app(predictor, info, limits, metrics, hosts),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            http=connection_class(limits),
            ws="none",
            backlog=BACKLOG,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        server = uvicorn.Server(config)
        with _stop_on_signals(server):
            if not is_local:
                notify(
                    f"warning: {host} is not a loopback address: anyone who can reach {url} can "
                    "send requests, because there is no authentication"
                )
            notify(f"{run_dir} ({info.checkpoint}) on {url}")
            server.run(sockets=[listener])
    return ServeTotals(url, metrics.requests, metrics.predictions, metrics.batches)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; clients that connect before the model is loaded wait.

    Raises:
        RunError: The address is not one of this machine, or the port is in use.
    """
    place = f"{host}:{port}"
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise RunError(f"{place}: no such address: {error}") from error
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RunError(
            f"{place}: cannot listen: {reason}; choose another port with --port, or a free one "
            "with --port 0"
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stop_on_signals(server: Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the server without failing the process.

    Uvicorn stops at a signal and raises it again at the end, for the handler that was set before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set signal handlers
        return

    def stop(number: int, frame: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
