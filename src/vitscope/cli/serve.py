"""`vitscope serve`: a page and an API over HTTP, on this machine unless told otherwise."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitscope.cli import common
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from vitscope.explainer import Explainer

DEFAULT_PORT = 8000
_GRACE = 3
"""Seconds that answers under way have when the server stops."""

_CONNECTIONS = 256
"""At the same time; one more is answered 503."""

Models = Annotated[
    list[str],
    typer.Option("--model", "-m", help="A name, e.g. timm/vit_tiny_patch16_224, or a directory; again for another."),
]


def serve(
    model: Models,
    weights: common.Weights = None,
    weights_key: common.WeightsKey = None,
    labels: common.Labels = None,
    activation: common.ActivationOption = None,
    device: common.Device = "cpu",
    precision: common.Precision = "float32",
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="A further name under which the server is asked; again for another."),
    ] = None,
    batch_size: common.BatchSize = 8,
    memory_limit: common.MemoryLimit = None,
    max_megabytes: Annotated[float, typer.Option("--max-megabytes", min=0.001, help="MiB of a request.")] = 32,
    max_megapixels: Annotated[float, typer.Option("--max-megapixels", min=0.01, help="Of a picture.")] = 50,
    max_pictures: Annotated[int, typer.Option("--max-pictures", min=1, help="To explain, in a request.")] = 8,
    max_waiting: Annotated[int, typer.Option("--max-waiting", min=1, help="Jobs in the queue.")] = 32,
    max_seconds: Annotated[float, typer.Option("--max-seconds", min=1, help="For a job to wait and run.")] = 120,
    max_forwards: Annotated[
        int, typer.Option("--max-forwards", min=1, help="Of a picture, for each method that samples altered pictures.")
    ] = 512,
) -> None:
    """Serve a page and an API: a picture in, its maps out, with models that stay loaded."""
    applied = common.activation_of(activation)
    running, limit = common.running_of(precision), common.bounded(memory_limit)
    try:
        import python_multipart  # noqa: F401  which the framework looks for when a form comes, not before
        import uvicorn

        from vitscope import serve as web
        from vitscope.serve.connections import Connection
    except ImportError as error:
        raise VitscopeError(f'serve needs {error.name}; pip install "vitscope[web]"') from error
    from vitscope.explainer import Explainer

    limits = web.Limits(
        body_bytes=int(max_megabytes * 2**20),
        picture_pixels=int(max_megapixels * 1e6),
        pictures=max_pictures,
        jobs_waiting=max_waiting,
        job_seconds=max_seconds,
        max_forwards=max_forwards,
    )
    listening = _listen(host, port)
    made = partial(
        Explainer,
        weights=weights,
        labels=labels,
        activation=applied,
        device=device,
        running=running,
        memory_limit=limit,
        weights_key=weights_key,
    )
    explainers = _load(model, one_only=any((weights, labels, activation)), make=made)
    app = web.create_app(explainers, limits, hosts=web.Hosts(host, allow_host or ()), batch_size=batch_size)
    _quieten()
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE,
    )
    if host not in web.LOOPBACK:
        common.say(f"--host {host}: whoever reaches this machine can use the server; it asks for no password")
    common.tell(f"{_address(listening, host)}  (Ctrl-C ends it)")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    common.say("stopped")
    _leave(app)


def _quieten() -> None:
    """What is wrong with a request is told to its sender, and not to whoever started the server."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        VitscopeError: it cannot.
    """
    try:
        ((family, *_, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        known = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0) if known else error.strerror or str(error)
        raise VitscopeError(
            f"cannot listen on {host}, port {port} ({reason.lower()}); give another --port, 0 for a free one, or --host"
        ) from error


def _load(models: list[str], one_only: bool, make: Callable[[str], Explainer]) -> dict[str, Explainer]:
    """The explainers, by the models' names; a directory's by its last part alone, since clients read it.

    Args:
        models: as they were given.
        one_only: whether something is given that belongs to one model.
        make: an explainer of one.

    Raises:
        VitscopeError: a model cannot be loaded, two have one name, or what belongs to one model is given for several.
    """
    if len(models) > 1 and one_only:
        raise VitscopeError(
            "--weights, --labels and --activation are of one model; serve several without them, or each by itself"
        )
    explainers: dict[str, Explainer] = {}
    for given in models:
        name = Path(given).resolve().name if Path(given).is_dir() else given
        if name in explainers:
            raise VitscopeError(f"two models are called {name}; name each once")
        common.say(f"loading {given}")
        explainers[name] = make(given)
    return explainers


def _address(listening: socket.socket, host: str) -> str:
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _leave(app: FastAPI) -> None:
    """End the process also where a pass is under way that cannot be stopped."""
    if not app.state.server.stopped:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
