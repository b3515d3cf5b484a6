"""One bundled model, pictures as files, and the application under a client, or live on a port of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs the extra web")

import uvicorn
from benchmarks.serve import encoded
from fastapi.testclient import TestClient

from vitscope import Explainer
from vitscope.datasets import Scenes
from vitscope.serve import Limits, create_app

Files = list[tuple[str, tuple[str, bytes]]]


@pytest.fixture(scope="session")
def explainer() -> Explainer:
    return Explainer("scenes")


@pytest.fixture(scope="session")
def scene() -> Callable[[int], Image.Image]:
    """The picture of a number."""
    scenes = Scenes(200, "two", seed=int(np.random.default_rng().integers(10**6)))
    return lambda number: Image.fromarray(scenes[number].image)


@pytest.fixture
def files(scene) -> Callable[..., Files]:
    """The fields of so many pictures."""
    return lambda count=1, first=0, field="images": [
        (field, (f"{number}.png", encoded(scene(number)))) for number in range(first, first + count)
    ]


Opened = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def opened(explainer) -> Opened:
    """A client of an application with these limits."""

    @contextmanager
    def open_client(batch_size: int = 8, explainers=None, page=None, **limits) -> Iterator[TestClient]:
        app = create_app(explainers or {"scenes": explainer}, Limits(**limits), page, batch_size=batch_size)
        with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
            yield client

    return open_client


@pytest.fixture
def client(opened) -> Iterator[TestClient]:
    with opened() as client:
        yield client


@pytest.fixture
def live(explainer) -> Callable[..., AbstractContextManager[str]]:
    """The address of a server with these limits, in a thread."""

    @contextmanager
    def start(**limits) -> Iterator[str]:
        app = create_app({"scenes": explainer}, Limits(**limits))
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, http="h11", log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()

    return start


class Held:
    """Holds the worker inside an explanation until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.calls: list[int] = []

    def __call__(self, batch: object) -> None:
        self.calls.append(len(batch))  # type: ignore[arg-type]
        self.entered.set()
        assert self.go.wait(60)


@pytest.fixture
def held(explainer, monkeypatch) -> Iterator[Held]:
    hold = Held()
    whole = Explainer.__call__

    def call(self, images, *rest, **options):
        hold(images)
        return whole(self, images, *rest, **options)

    monkeypatch.setattr(Explainer, "__call__", call)
    yield hold
    hold.go.set()
