"""What only a real connection shows: bodies that stream, stall or break off, many clients at once, another process."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from benchmarks.serve import METHODS, Cases, Judge, Live

from tests.serve.test_app import refused, until
from vitscope.serve.body import BoundedBody
from vitscope.serve.errors import RefusedError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MIB = 2**20


def form(files, **data):
    """A form's bytes and its header."""
    request = httpx2.Request("POST", "http://x/", files=files, data=data)
    return request.read(), {"content-type": request.headers["content-type"]}


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_too_large_is_answered_while_it_is_sent(announced, live, files):
    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        for _ in range(40):
            yield bytes(MIB)

    with live(body_bytes=2 * MIB) as address, httpx2.Client(base_url=address) as client:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        headers |= {"content-length": str(40 * MIB + 72)} if announced else {}
        refused(client.post("/api/explain", content=chunks(), headers=headers), 413, "larger than 2 MiB")
        assert client.post("/api/explain", files=files()).status_code == 200


def test_a_body_too_large_is_not_held():
    """Of an endless body no more is taken than the limit and one piece."""
    asked = 0

    async def endless():
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": bytes(MIB), "more_body": True}

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass

    async def send(message):
        raise AssertionError(message)

    serving = BoundedBody(app, 5 * MIB, 60)({"type": "http", "headers": []}, endless, send)
    with ThreadPoolExecutor(1) as thread:  # Playwright's loop runs in this one, where a browser was opened
        done = thread.submit(asyncio.run, serving)
    with pytest.raises(RefusedError, match="larger than 5 MiB") as caught:
        done.result()
    assert caught.value.status == 413
    assert asked == 6


def test_a_body_that_announces_too_little_or_nonsense(live, files):
    content, headers = form(files())
    with live() as address:
        host, port = address.removeprefix("http://").split(":")
        for length in (10, -5, "x", 10**30):
            head = f"POST /api/explain HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {length}\r\n"
            head += f"Content-Type: {headers['content-type']}\r\nConnection: close\r\n\r\n"
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(head.encode() + content[:100])
                assert b" 4" in connection.recv(100)[:12]
        assert httpx2.post(f"{address}/api/explain", files=files()).status_code == 200


def test_a_body_that_stalls(live, files):
    content, headers = form(files())

    def slowly():
        yield content[:100]
        time.sleep(1)
        yield content[100:]

    with live(body_seconds=0.4, jobs_waiting=1) as address, httpx2.Client(base_url=address) as client:
        refused(client.post("/api/explain", content=slowly(), headers=headers), 408, "within 0.4 seconds")
        assert client.post("/api/explain", files=files()).status_code == 200


def test_a_body_that_breaks_off_gives_its_place_back(live, files):
    content, headers = form(files())
    with live(jobs_waiting=1) as address:
        host, port = address.removeprefix("http://").split(":")
        head = f"POST /api/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n"
        head += f"Content-Type: {headers['content-type']}\r\n\r\n"
        for _ in range(3):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head.encode() + content[: len(content) // 2])
                time.sleep(0.1)
        time.sleep(0.2)
        assert httpx2.post(f"{address}/api/explain", files=files()).status_code == 200


def test_who_waits_behind_a_large_body_that_is_being_sent_is_served(live, files):
    content, headers = form(files())

    def slowly():
        for start in range(0, len(content), len(content) // 10):
            time.sleep(0.1)
            yield content[start : start + len(content) // 10]

    with live() as address, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(httpx2.post, f"{address}/api/explain", content=slowly(), headers=headers)
        start = time.monotonic()
        assert httpx2.get(f"{address}/api/limits").status_code == 200
        assert time.monotonic() - start < 0.8
        assert slow.result().status_code == 200


def test_a_client_that_goes_away_leaves_no_work_behind(live, files, held):
    with live() as address, httpx2.Client(base_url=address) as client:
        first = client.post("/api/jobs", files=files()).json()["id"]
        assert held.entered.wait(60)
        with pytest.raises(httpx2.ReadTimeout):
            client.post("/api/explain", files=files(), timeout=0.5)
        for _ in range(200):
            if client.get("/api/status").json()["waiting"] == 0:
                break
            time.sleep(0.02)
        held.go.set()
        until(client, first, "done")
        assert len(held.calls) == 1
        assert client.get("/api/status").json()["ended"] == {"cancelled": 1, "done": 1}


def test_other_names_and_sites_over_a_real_connection(live, files):
    with live() as address, httpx2.Client(base_url=address) as client:
        refused(client.get("/api/models", headers={"host": "evil.example"}), 400, "no name of this server")
        evil = {"origin": "http://evil.example"}
        refused(client.post("/api/explain", files=files(), headers=evil), 400, "may not ask this server")
        assert client.post("/api/explain", files=files(), headers={"origin": address}).status_code == 200


@pytest.mark.parametrize("target", ["/../../etc/passwd", "/..%2f..%2fetc/passwd", "//etc/passwd", "/%2e%2e/etc/passwd"])
def test_a_path_as_it_is_on_the_wire_leads_nowhere(target, live):
    with live() as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"root:" not in answer


def test_many_clients_with_good_and_bad_requests(explainer):
    """No wrong answer, no growing memory, a clean end; benchmarks/serve.py does the same at length."""
    cases, judge = Cases(explainer, seed=time.time_ns(), methods=METHODS[:-1]), Judge(explainer)
    with Live() as server:
        server.ask_all(cases.mixed(16, 0.3), 4)
        before = server.memory()
        for at_once, count in ((1, 12), (16, 24)):
            for answer in server.ask_all(cases.mixed(count, 0.3), at_once):
                assert not judge.wrong(answer)
        after = server.memory()
        status = server.status()
    assert server.code == 0, server.said
    assert "Traceback" not in server.said
    assert status["waiting"] == status["running"] == status["kept"] == 0
    assert after.get("VmRSS", 0) < before.get("VmRSS", 0) + 160  # the allocator's warm-up takes 140 over 100 requests


def test_the_program_of_the_documentation_works(live, files, tmp_path):
    pytest.importorskip("requests")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), flags=re.DOTALL)
    (tmp_path / "cat.jpg").write_bytes(files()[0][1][1])
    with live() as address:
        code = code.replace("http://127.0.0.1:8000", address)
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"predicted: .* \(12, 12\)$", done.stdout)


def test_results_do_not_pile_up(live, files):
    """What is kept is bounded, however many jobs there were."""
    with live(results_kept=3) as address, httpx2.Client(base_url=address) as client:
        ids = [client.post("/api/jobs", files=files(), data={"methods": "cdam"}).json()["id"] for _ in range(8)]
        until(client, ids[-1], "done")
        assert client.get("/api/status").json()["kept"] == 3
        assert [client.get(f"/api/jobs/{key}").status_code for key in ids] == [410] * 5 + [200] * 3


def test_the_line_of_a_refusal_is_json_also_for_odd_letters(live):
    with live() as address:
        reply = httpx2.post(f"{address}/api/explain", files=[("images", ('猫"\\.png', b"no"))])
    assert reply.status_code == 415
    assert "not a picture" in json.loads(reply.content)["error"]
