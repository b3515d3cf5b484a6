"""Other names, other sites, and what a browser may do with an answer."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tests.serve.test_app import refused
from vitscope.serve.guard import HEADERS, Guard, Hosts


def answer(hosts, host, method="GET", origin=None):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"secret"})

    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    return TestClient(Guard(app, hosts)).request(method, "/", headers=headers)


LOCAL, NAMED, OPEN = Hosts(), Hosts("192.168.1.7", ["Lab.example."]), Hosts("0.0.0.0")


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        (LOCAL, "localhost"),
        (LOCAL, "localhost:8000"),
        (LOCAL, "LOCALHOST.:8000"),
        (LOCAL, "127.0.0.1:8000"),
        (LOCAL, "[::1]:8000"),
        (NAMED, "192.168.1.7:8000"),
        (NAMED, "lab.example"),
        (NAMED, "localhost"),
        (OPEN, "10.1.2.3:8000"),
        (OPEN, "[fe80::1]:8000"),
    ],
)
def test_own_names_are_served(hosts, host):
    reply = answer(hosts, host)
    assert reply.text == "secret"
    assert all(reply.headers[name] == value for name, value in HEADERS.items())


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        (LOCAL, "evil.example"),
        (LOCAL, "evil.example:8000"),
        (LOCAL, "localhost.evil.example"),
        (LOCAL, "127.0.0.1.evil.example"),
        (LOCAL, "evil@localhost"),
        (LOCAL, "localhost/evil"),
        (LOCAL, "192.168.1.7"),
        (LOCAL, "0.0.0.0"),
        (LOCAL, ""),
        (LOCAL, "[::1"),
        (LOCAL, "[::1]x"),
        (NAMED, "192.168.1.8"),
        (OPEN, "evil.example"),
    ],
)
def test_a_name_that_somebody_else_points_here_is_refused(hosts, host):
    refused(answer(hosts, host), 400, "is no name of this server")


def test_two_names_at_once():
    reply = TestClient(Guard(None, LOCAL)).get("/", headers=[("host", "localhost"), ("host", "evil.example")])
    refused(reply, 400, "is no name of this server")


@pytest.mark.parametrize("origin", [None, "http://localhost:8000", "http://LOCALHOST:8000"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_the_servers_own_page_may_ask(method, origin):
    assert answer(LOCAL, "localhost:8000", method, origin).text == "secret"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://localhost:9000", "http://localhost"])
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_another_sites_page_may_not(method, origin):
    refused(answer(LOCAL, "localhost:8000", method, origin), 400, "may not ask this server")


def test_no_answer_may_be_read_by_another_site():
    assert not any(name.lower().startswith("access-control") for name in answer(LOCAL, "localhost").headers)
