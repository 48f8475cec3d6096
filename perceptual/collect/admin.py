"""The administrator's pages: progress, agreement, sentinels by participant, and the votes as CSV."""

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs

from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from perceptual.collect.database import Database
from perceptual.collect.quality import Rules, assess, summary
from perceptual.collect.rows import as_csv, read_votes
from perceptual.collect.schema import ITEMS, PARTICIPANTS
from perceptual.collect.study import ITEM

COOKIE = "administrator"


class Admin:
    """Pages that only the token opens.

    Args:
        database: of the study.
        token: what opens them.
        page: makes a page of a template's name and values.
    """

    def __init__(self, database: Database, token: str, page: Callable[..., Response]) -> None:
        self.database, self._token, self._page = database, token, page
        self._cookie = sha256(token.encode()).hexdigest()  # a token may have signs that cookies cannot

    def show(self, request: Request) -> Response:
        """The state of the study."""
        if "token" in request.query_params:  # as printed at the start; then out of the address
            return self._enter(request, request.query_params["token"])
        if not self._has_cookie(request):
            return self._page("login", 401, wrong=False)
        votes = read_votes(self.database)
        return self._page(
            "admin",
            progress=self._progress(),
            summary=summary(votes, self.database.study.config),
            people=assess(votes, Rules(), self._everyone()),
            damaged=self.database.study.damaged(),
        )

    def log_in(self, request: Request, body: bytes) -> Response:
        """Take the token from the form."""
        return self._enter(request, parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0])

    def votes(self, request: Request) -> Response:
        """All votes as CSV."""
        if not self._has_cookie(request):
            return self._page("login", 401, wrong=False)
        headers = {"Content-Disposition": 'attachment; filename="votes.csv"'}
        return Response(as_csv(read_votes(self.database)), media_type="text/csv", headers=headers)

    def _enter(self, request: Request, token: str) -> Response:
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            return self._page("login", 403, wrong=True)
        response = RedirectResponse("/admin", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, self._cookie, httponly=True, samesite="strict", secure=secure)
        return response

    def _has_cookie(self, request: Request) -> bool:
        sent = request.cookies.get(COOKIE, "")
        return hmac.compare_digest(sent.encode("utf-8", "replace"), self._cookie.encode())

    def _everyone(self) -> dict[int, str]:
        """The names of all who have agreed, by number."""
        with self.database.read() as connection:
            rows = connection.execute(select(PARTICIPANTS.c.id, PARTICIPANTS.c.external)).all()
        return {row.id: row.external or "" for row in rows}

    def _progress(self) -> dict[str, Any]:
        items = ITEMS.c.purpose == ITEM
        with self.database.read() as connection:
            wanted, open_, count = connection.execute(
                select(
                    func.coalesce(func.sum(ITEMS.c.wanted), 0),
                    func.count().filter(ITEMS.c.open),
                    func.count(),
                ).where(items)
            ).one()
            started = connection.scalar(select(func.count()).select_from(PARTICIPANTS))
            finished = connection.scalar(select(func.count(PARTICIPANTS.c.finished)))
        return {
            "wanted": wanted,
            "open": open_,
            "of": count,
            "started": started,
            "finished": finished,
        }
