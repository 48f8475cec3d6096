"""Run the web server of a study."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from urllib.parse import quote

import uvicorn

from perceptual.collect.database import Database
from perceptual.collect.server import Access, application
from perceptual.collect.study import Study
from perceptual.files.messages import first_few

TOKEN = "PERCEPTUAL_ADMIN_TOKEN"
LEAST_TOKEN = 16


def serve(
    study: Study,
    url: str | None,
    host: str,
    port: int,
    say: Callable[[str], None],
    access: Access = Access(),  # noqa: B008
) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP, which all close the database.

    Args:
        study: the study.
        url: of the database; None: the one in the study's folder.
        host: address to listen on.
        port: its port; 0 takes a free one.
        say: prints a line to the person who started it.
        access: who may take part, and names of the server.

    Raises:
        ValueError: images are missing or damaged, the instructions, the database or the token cannot be used,
            or the port is in use.
        OSError: there are no instructions.
    """
    if bad := study.damaged():
        raise ValueError(
            f"{len(bad):,} images of {study.folder} are missing or not what they were: {first_few(bad)}"
        )
    given = os.environ.get(TOKEN)
    token = given or secrets.token_urlsafe(24)
    if len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable()):
        raise ValueError(f"{TOKEN} must have at least {LEAST_TOKEN} characters, printable and ASCII")
    _end_in_order()
    listener = listen(host, port)
    with contextlib.closing(listener), contextlib.closing(Database(study, url)) as database:
        server = make_server(database, token, access)
        where = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        say(f"Study          {where}/")
        # what the environment keeps is not for the screen, or the log of a service
        say(f"Administrator  {where}/admin" + ("" if given else f"?token={quote(token, safe='')}"))
        say("Ctrl-C stops.")
        logging.getLogger("perceptual.collect").addHandler(logging.StreamHandler())
        asyncio.run(server.serve([listener]))


def _end_in_order() -> None:
    """Let signals that would end the process at once end it as Ctrl-C does, with the database closed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after the last response
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:  # not under nohup
        signal.signal(hang_up, lambda *_: signal.raise_signal(signal.SIGTERM))


def make_server(database: Database, token: str, access: Access) -> uvicorn.Server:
    """Make the server of a study's application."""
    # no access log: addresses of participants are not recorded
    config = uvicorn.Config(
        application(database, token, access),
        access_log=False,
        log_level="warning",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; raises ValueError if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, port), family=family, backlog=512)
        # asyncio does not know it for TCP: the body of an answer would wait 40 ms for the header's receipt
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server
    except socket.gaierror as error:
        raise ValueError(f"host {host!r} is not an address of this machine: {error.strerror}") from None
    except OSError as error:
        raise ValueError(
            f"port {port} on {host} cannot be used ({os.strerror(error.errno or 0)}); --port names another"
        ) from None
