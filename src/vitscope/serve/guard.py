"""Who may ask, and what a browser may do with the answers: the Host and Origin of a request, headers of an answer."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitscope.serve.errors import refusal

LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
ANYWHERE = frozenset(("0.0.0.0", "::", ""))  # nosec B104  # a name that is compared, not bound
"""Addresses to listen on that stand for all of the machine's own."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data: blob: 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d+)?")
_READING = ("GET", "HEAD", "OPTIONS")


class Hosts:
    """The names under which a server is asked.

    A page of another site can have its own name point at this machine (DNS rebinding), and so read what a server on the
    loopback answers, unless that server looks at the name.
    """

    def __init__(self, listens: str = "127.0.0.1", allowed: Iterable[str] = ()) -> None:
        """The loopback's names, what the server listens on, and what else is allowed.

        Args:
            listens: the address or name that the server is bound to. Where that is every address of the machine, any
                address will do, for which no name was looked up, and the machine's own name.
            allowed: more names.
        """
        self._any_address = listens in ANYWHERE
        own = (socket.gethostname(),) if self._any_address else (listens,)
        self._names = LOOPBACK | {name.lower().rstrip(".") for name in (*own, *allowed)}

    def __contains__(self, name: str) -> bool:
        return name in self._names or (self._any_address and _is_address(name))


class Guard:
    """ASGI middleware: refuses other hosts and other sites' requests, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        """In front of `app`."""
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if reason := self._why_not(scope["method"], Headers(scope=scope)):
            await refusal(HTTPStatus.BAD_REQUEST, reason)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _why_not(self, method: str, headers: Headers) -> str:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name_of(hosts[0]) not in self._hosts:
            return (
                f"'{', '.join(hosts)[:200]}' is no name of this server; use its address, or start it with --allow-host"
            )
        origin = headers.get("origin")
        if method not in _READING and origin is not None and urlsplit(origin).netloc.lower() != hosts[0].lower():
            return f"a page of '{origin[:200]}' may not ask this server for anything; open the server's own page"
        return ""


def _name_of(host: str) -> str:
    """The host's name or address without its port; "" where it is none."""
    found = _HOST.fullmatch(host.lower())
    return (found[1] or found[2]).rstrip(".") if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
