"""Checks of every request (its size, its name of this server, its origin), and headers of every response."""

from collections.abc import Collection
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 64 * 1024  # bytes
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers hide the origin of our own posts
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Refuses bodies that are too large, posts from other sites and other names, and sets `HEADERS`.

    Args:
        app: the application, errors of its own included.
        hosts: names of this server beside `localhost` and addresses.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self.app, self._hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        async def refuse(status: int, said: str) -> None:
            answer: Response = PlainTextResponse(said, status)
            if scope["path"].startswith("/api/"):
                answer = JSONResponse({"error": said}, status)
            await answer(scope, receive, send_with_headers)

        received = 0

        async def receive_little() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > LARGEST_BODY:
                raise HTTPException(413, f"the body must be at most {LARGEST_BODY:,} bytes")
            return message

        headers = Headers(scope=scope)
        if not _is_ours(headers.get("host", ""), self._hosts):
            await refuse(421, "this server is not known by that name; serve --host-name NAME makes it known")
        elif scope["method"] not in ("GET", "HEAD") and not same_site(headers):
            await refuse(403, "posts from other sites are refused")
        else:
            await self.app(scope, receive_little, send_with_headers)


def same_site(headers: Any) -> bool:
    """Return whether a request comes from a page of this server, or from no page."""
    fetched = headers.get("sec-fetch-site")
    if fetched is not None:  # no page can set it, and a proxy on another port does not change it
        return fetched in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == headers.get("host", "")
    except ValueError:
        return False


def _is_ours(host: str, names: Collection[str]) -> bool:
    """Return whether a Host header names this server, and is not another's name pointed at it.

    An address is: it cannot be pointed elsewhere.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    if name == "localhost" or name in names:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
