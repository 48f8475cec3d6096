"""Run the web server of a study."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable

import uvicorn

from perceptual.collect.database import Database
from perceptual.collect.server import application
from perceptual.collect.study import Study
from perceptual.data.decode import first_few

TOKEN = "PERCEPTUAL_ADMIN_TOKEN"
LEAST_TOKEN = 16


def serve(study: Study, url: str | None, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        study: the study.
        url: of the database; None: the one in the study's folder.
        host: address to listen on.
        port: its port; 0 takes a free one.
        say: prints a line to the person who started it.

    Raises:
        ValueError: images are missing, the database or the token cannot be used, or the port is in use.
    """
    if gone := study.missing():
        raise ValueError(f"{len(gone):,} images of {study.folder} are missing: {first_few(gone)}")
    token = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    if len(token) < LEAST_TOKEN or not token.isascii():
        raise ValueError(f"{TOKEN} must have at least {LEAST_TOKEN} ASCII characters")
    listener = listen(host, port)
    with contextlib.closing(listener):
        database = Database(study, url)
        where = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        say(f"Study          {where}/")
        say(f"Administrator  {where}/admin?token={token}")
        say("Ctrl-C stops.")
        logging.getLogger("perceptual.collect").addHandler(logging.StreamHandler())
        try:
            asyncio.run(make_server(database, token).serve([listener]))
        finally:
            database.close()


def make_server(database: Database, token: str) -> uvicorn.Server:
    """The server of a study's application."""
    # no access log: addresses of participants are not recorded
    config = uvicorn.Config(
        application(database, token),
        access_log=False,
        log_level="warning",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises ValueError if it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise ValueError(f"host {host!r} is not an address of this machine: {error}") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"port {port} on {host} cannot be used ({os.strerror(error.errno or 0)}); --port names another"
        ) from None
    return listener
