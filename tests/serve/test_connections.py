"""Clients that are slow on purpose, too many, or too large in what no route sees."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest
import uvicorn

from vitscope.serve import Limits, create_app
from vitscope.serve.connections import Connection

pytestmark = pytest.mark.integration


class Impatient(Connection):
    head_seconds = 0.5
    answer_seconds = 0.5
    most = 8


@pytest.fixture
def impatient(explainer) -> Iterator[tuple[str, int]]:
    """A server of whose clients little patience is asked, with a page that fills any buffer."""
    app = create_app({"scenes": explainer}, Limits(), page="x" * 40_000_000)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=Impatient, log_level="critical", timeout_keep_alive=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()
    server.should_exit = True
    thread.join()


def ended(connection: socket.socket, within: float = 5.0) -> bool:
    """Whether the server closes it within so many seconds."""
    connection.settimeout(within)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def served(address: tuple[str, int]) -> bool:
    return httpx2.get(f"http://127.0.0.1:{address[1]}/api/limits", timeout=20).status_code == 200


def test_a_connection_that_says_nothing_is_closed(impatient):
    with socket.create_connection(impatient) as connection:
        assert ended(connection)
    assert served(impatient)


def test_a_head_that_never_ends_is_cut_off(impatient):
    """Slow loris: a byte now and then does not begin the time anew."""
    with socket.create_connection(impatient) as connection:
        start = time.monotonic()
        with contextlib.suppress(OSError):
            for letter in b"GET /api/limits HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 100:
                connection.send(bytes([letter]))
                time.sleep(0.1)
        assert time.monotonic() - start < 5
    assert served(impatient)


def test_so_is_the_head_of_a_second_request(impatient):
    with socket.create_connection(impatient) as connection:
        connection.sendall(b"GET /api/limits HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.settimeout(5)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /api/limits HTTP/1.1\r\n")
        start = time.monotonic()
        assert ended(connection)
        assert time.monotonic() - start < 4, "not by the time for idle connections, which is 5 seconds"
    assert served(impatient)


def test_a_connection_is_used_again_after_a_while(impatient):
    """Time passes between two requests, more than a head may take."""
    streams = set()
    with httpx2.Client(base_url=f"http://127.0.0.1:{impatient[1]}", timeout=20) as client:
        for _ in range(2):
            reply = client.get("/api/limits")
            assert reply.status_code == 200
            streams.add(reply.extensions["network_stream"].get_extra_info("client_addr"))
            time.sleep(0.8)
    assert len(streams) == 1


def test_an_answer_that_nobody_reads_is_given_up(impatient):
    with socket.create_connection(impatient) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(2)
        connection.settimeout(5)
        got = 0
        with contextlib.suppress(OSError):
            while part := connection.recv(2**20):
                got += len(part)
        assert got < 40_000_000
    assert served(impatient)


def test_who_reads_gets_all_of_it(impatient):
    assert len(httpx2.get(f"http://127.0.0.1:{impatient[1]}/", timeout=20).content) == 40_000_000


def test_too_many_connections_are_closed_and_the_others_go_on(impatient):
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(socket.create_connection(impatient)) for _ in range(30)]
        time.sleep(0.2)
        assert sum(ended(connection, 0.01) for connection in many) >= 30 - 8
        time.sleep(1)  # the silent ones are closed, too
        assert served(impatient)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 2_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(100_000)) + b"\r\n",
        b"\x16\x03\x01" + bytes(range(256)) * 300,
    ],
    ids=["header", "path", "headers", "TLS"],
)
def test_a_head_that_is_too_large_or_none_is_refused(head, impatient):
    with socket.create_connection(impatient) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head)
        connection.settimeout(5)
        answer = b""
        with contextlib.suppress(OSError):
            answer = connection.recv(65536)
        assert answer == b"" or b" 400 " in answer[:20]
        assert ended(connection)
    assert served(impatient)
