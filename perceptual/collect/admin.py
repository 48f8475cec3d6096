"""The administrator's pages: progress, agreement, sentinels by participant, and the votes as CSV."""

import hmac
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import parse_qs

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from perceptual.collect.database import Database
from perceptual.collect.quality import Rules, assess, facts, summary
from perceptual.collect.schema import ITEMS, PARTICIPANTS
from perceptual.collect.study import ITEM
from perceptual.collect.votes import as_csv, read_votes

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
        config, votes = self.database.study.config, read_votes(self.database)
        with self.database.read() as connection:
            items = connection.execute(select(ITEMS).where(ITEMS.c.purpose == ITEM)).all()
            people = connection.execute(select(PARTICIPANTS)).all()
        found, wanted = summary(votes, config), sum(item.wanted for item in items)
        finished = sum(one.finished is not None for one in people)
        progress = {
            "Votes": f"{found['votes']:,} of {wanted:,} wanted",
            "Items that want votes": f"{sum(item.open for item in items):,} of {len(items):,}",
            "Participants": f"{len(people):,}, of whom {found['participants']:,} have voted and {finished:,} "
            "have finished",
        }
        names = {one.id: one.external or "" for one in people}
        return self._page(
            "admin",
            votes=found["votes"],
            wanted=wanted,
            facts=progress | facts(found, config),
            people=[
                {"participant": "", "name": one.external} | one.cells()
                for one in assess(votes, Rules(), names)
            ],
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
