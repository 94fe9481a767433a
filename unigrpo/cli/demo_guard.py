"""Rejects requests to the demo that come from other web pages or are too large.

A browser lets every page send requests to this machine, and a page whose host name is rebound to this machine's
address (DNS rebinding) may even read the answers. The headers ``Host`` and ``Origin`` distinguish such requests from
those of the demo's own page.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MAX_UPLOAD_BYTES = 20 * 2**20
"""Largest image file that can be uploaded."""
MAX_REQUEST_BYTES = 2 * MAX_UPLOAD_BYTES
"""Largest body of any request."""
MAX_DIGITS = 20
"""Longest number that is taken for the length of a body; Python refuses to read thousands of digits."""


@dataclass
class RequestGuard:
    """An ASGI application that passes on requests from the demo's own page and rejects all others."""

    app: Any
    """The application that gets the requests."""
    allowed_hosts: Collection[str] = ()
    """Names under which the page may be opened, besides addresses, ``localhost`` and the name of this machine. A page
    under one of them may also send requests to the demo under another."""
    max_bytes: int = MAX_REQUEST_BYTES
    """Largest body of a request."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request, with status 403 or 413 if it is refused."""
        if scope["type"] == "websocket":  # the page needs none
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if reason := self.refusal(scope["headers"]):
            await _answer(send, 403, reason)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or len(length) > MAX_DIGITS or int(length) > self.max_bytes:
            await _answer(send, 413, f"The request is larger than {self.max_bytes} bytes.")
            return
        await self.app(scope, _limited(receive, self.max_bytes), send)

    def refusal(self, headers: Collection[tuple[bytes, bytes]]) -> str:
        """Returns the reason why a request with these headers is refused; empty if it is passed on."""
        given = {name: value.decode("latin-1").lower() for name, value in headers}
        host, origin = given.get(b"host", ""), given.get(b"origin", "")
        if not self._is_known(_hostname(f"http://{host}")):
            return f"The page was opened under the unknown name {host!r}; --allowed_hosts of the demo may allow it."
        if origin and _place(origin) != host and _hostname(origin) not in self.allowed_hosts:
            return f"The request comes from another page, {origin!r}."
        return ""

    def _is_known(self, name: str) -> bool:
        return _is_address(name) or name in {"localhost", socket.gethostname().lower(), *self.allowed_hosts}


def _hostname(url: str) -> str:
    """Returns the name in a URL, in lower case; empty if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _place(url: str) -> str:
    """Returns the name and the port in a URL; empty if there are none."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    """Whether it is an IP address, which nobody can bind to another machine."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _limited(receive: Any, max_bytes: int) -> Any:
    """Returns a reader of a request's body that ends the request when the body is too large; not all have a length."""
    read = 0

    async def limited() -> Any:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        return {"type": "http.disconnect"} if read > max_bytes else message

    return limited


async def _answer(send: Any, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
