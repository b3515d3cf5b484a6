"""`vitscope serve` as a user starts and ends it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra web")

import httpx2
from benchmarks.serve import Live, encoded
from PIL import Image

from vitscope import cli

pytestmark = pytest.mark.integration

ALONE = """
import ipaddress, socket, sys
def watched(name, where):
    whole = getattr(socket.socket, name)
    def call(self, address, *rest):
        if self.family != socket.AF_UNIX and not ipaddress.ip_address(address[0]).is_loopback:
            print("ASKED", address, flush=True)
            raise OSError("another host was asked")
        return whole(self, address, *rest)
    setattr(socket.socket, name, call)
for name in ("connect", "connect_ex"):
    watched(name, socket)
found = socket.getaddrinfo
def look(host, *rest, **options):
    assert host in (None, "127.0.0.1", "localhost"), host
    return found(host, *rest, **options)
socket.getaddrinfo = look
from vitscope.cli import main
sys.argv = ["vitscope", *sys.argv[1:]]
main()
"""


def picture():
    return [("images", ("a.png", encoded(Image.effect_noise((96, 96), 60))))]


@pytest.fixture
def run(capsys, monkeypatch):
    """Run `vitscope serve ARGUMENTS`, which must fail; its code and what it says."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vitscope", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return exit_.value.code, said.strip().splitlines()

    return call


def test_it_serves_until_it_is_interrupted():
    with Live() as server:
        assert server.address.startswith("http://127.0.0.1:")
        assert "vitscope" in httpx2.get(server.address).text
        reply = httpx2.post(f"{server.address}/api/explain", files=picture(), timeout=60)
        assert reply.json()["pictures"][0]["name"] == "a.png"
    assert server.code == 0
    assert server.said.splitlines() == ["vitscope: loading scenes", "vitscope: stopped"]


def test_it_ends_in_the_middle_of_a_job():
    with Live(("--max-forwards", "1000000")) as server:
        sent = {"methods": "rise:masks=50000"}
        job = httpx2.post(f"{server.address}/api/jobs", files=picture(), data=sent).json()["id"]
        while httpx2.get(f"{server.address}/api/jobs/{job}").json()["progress"] is None:
            time.sleep(0.02)
        start = time.monotonic()
    assert time.monotonic() - start < 15
    assert server.code == 0
    assert "Traceback" not in server.said


def test_no_other_host_is_asked():
    command = [sys.executable, "-c", ALONE, "serve", "--model", "scenes", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[0]
        assert httpx2.get(address).status_code == 200
        assert httpx2.get(f"{address}/api/models").status_code == 200
        assert httpx2.get(f"{address}/api/openapi.json").status_code == 200
        assert httpx2.post(f"{address}/api/explain", files=picture(), timeout=60).status_code == 200
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, ""), said


def test_its_limits_and_its_names():
    given = ("--max-pictures", "1", "--max-megapixels", "0.01", "--max-megabytes", "0.5", "--max-seconds", "9")
    others = ("--max-waiting", "2", "--max-forwards", "7", "--host", "0.0.0.0", "--allow-host", "lab.example")
    with Live((*given, *others, "--memory-limit", "1KB")) as server:
        here = server.address.replace("0.0.0.0", "127.0.0.1")
        limits = httpx2.get(f"{here}/api/limits").json()
        assert httpx2.post(f"{here}/api/explain", files=picture() * 2).status_code == 413
        assert httpx2.post(f"{here}/api/explain", files=picture(), timeout=60).status_code == 200
        for host, status in (("lab.example", 200), ("10.0.0.1", 200), ("evil.example", 400)):
            assert httpx2.get(f"{here}/api/limits", headers={"host": host}).status_code == status
    assert (limits["pictures"], limits["picture_pixels"], limits["body_bytes"]) == (1, 10_000, 2**19)
    assert (limits["job_seconds"], limits["jobs_waiting"], limits["max_forwards"]) == (9, 2, 7)
    assert "more than the limit of 0.001 MB; going on one at a time" in server.said
    assert "whoever reaches this machine can use the server" in server.said


def test_a_port_that_is_taken(run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = run("--model", "scenes", "--port", port)
    assert code == 2
    assert said == [
        f"vitscope: cannot listen on 127.0.0.1, port {port} (address already in use); give another --port, "
        "0 for a free one, or --host"
    ]


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "python_multipart"])
def test_without_the_extra(name, run, monkeypatch):
    for module in [module for module in sys.modules if module.startswith("vitscope.serve")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("vitscope.serve", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    code, said = run("--model", "scenes")
    assert code == 2
    assert said == [f'vitscope: serve needs {name}; pip install "vitscope[web]"']


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "scenes", "--model", "scenes"), "two models are called scenes"),
        (
            ("--model", "scenes", "--model", "scenes-ssl", "--labels", "x.txt"),
            "--weights, --labels and --activation are of one model",
        ),
        (("--model", "unheard-of"), "unheard-of"),
        (("--model", "scenes", "--max-pictures", 0), "Invalid value for '--max-pictures'"),
        (("--model", "scenes", "--max-megapixels", 500), "Pillow opens no more"),
        (("--model", "scenes", "--memory-limit", "lots"), "memory limit 'lots': give a number of bytes"),
        (("--model", "scenes", "--host", "no.such.host.invalid"), "cannot listen on no.such.host.invalid"),
    ],
)
def test_wrong_use_is_one_line(arguments, says, run):
    code, said = run(*arguments, "--port", 0)
    assert code == 2
    assert says in said[-1]
