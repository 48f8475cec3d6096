"""Web server of a study: consent, trials, thanks, and the administrator's pages."""

import hmac
import logging
import mimetypes
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from anyio import CapacityLimiter, to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from perceptual.collect.database import Database, is_full, reason
from perceptual.collect.quality import Rules, assess, facts, summary
from perceptual.collect.schema import ITEMS, PARTICIPANTS
from perceptual.collect.security import Guard
from perceptual.collect.sessions import (
    EXTERNAL,
    Participant,
    Trial,
    awaits_others,
    enrol,
    find,
    next_trial,
    previous_trial,
    schedule,
    shown_in,
)
from perceptual.collect.study import ITEM, PRACTICE
from perceptual.collect.votes import Shown, Vote, as_csv, is_right, read_votes, record

COOKIE, ADMINISTRATOR, YEAR = "participant", "administrator", 365 * 24 * 3600
WRITERS = 16  # requests that wait for the database at once, apart from those for pages and images
NOT_KEPT = (
    "Your answer was not kept: this trial was answered before, perhaps in another window, or it is no longer "
    "part of the study."
)
LATER = (
    "Other people are judging the remaining images at the moment. Please come back later with the same link."
)
COMPLETE = "All images have been judged: there is nothing left to ask. Thank you for coming."
BY_LINK = "Taking part needs the link that you were given, with your own ID in it."
CROWDED = "Many people are beginning at this moment. Please try again in a minute."
_HERE = Path(__file__).parent
_LOG = logging.getLogger("perceptual.collect")


@dataclass(frozen=True)
class Access:
    """Rules of who may take part, and names of the server.

    Attributes:
        hosts: its names, beside `localhost` and addresses.
        require_participant: only with an ID, as recruiting services give them.
        participants: the only IDs there are.
        enrolments_per_minute: the most.
    """

    hosts: Collection[str] = ()
    require_participant: bool = False
    participants: Collection[str] | None = None
    enrolments_per_minute: int | None = None


def application(database: Database, token: str, access: Access) -> ASGIApp:
    """Make the web application of a study.

    Args:
        database: of the study.
        token: opens the administrator's pages.
        access: to it.

    Raises:
        OSError: there are no instructions.
        ValueError: they are not UTF-8.
    """
    mimetypes.add_type("text/javascript", ".js")  # Windows' registry may say another, which browsers refuse
    pages = Pages(database, access)
    admin = Admin(pages, token)
    writing = partial(_blocking, CapacityLimiter(WRITERS))
    routes = [
        Route("/", pages.welcome),
        Route("/consent", writing(pages.consent), methods=["POST"]),
        Route("/trials", pages.trials),
        Route("/thanks", writing(pages.thanks)),
        Route("/api/next", writing(pages.next), methods=["POST"]),
        Route("/api/vote", writing(pages.vote), methods=["POST"]),
        Route("/api/back", writing(pages.back), methods=["POST"]),
        Route("/image/{token}/{place}", pages.image),
        Route("/admin", admin.show),
        Route("/admin", writing(admin.log_in), methods=["POST"]),
        Route("/admin/votes.csv", admin.votes),
        Mount("/static", Static(directory=_HERE / "static")),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: pages.refused,
        ClientDisconnect: lambda *_: Response(status_code=400),  # which nobody gets
        SQLAlchemyError: _unavailable,
        OSError: _unavailable,
    }
    # around the whole: what fails within has the headers too
    return Guard(Starlette(routes=routes, exception_handlers=handlers), access.hosts)


class Static(StaticFiles):
    """Files of the pages."""

    def lookup_path(self, path: str) -> Any:
        """Find a file; older versions of starlette fail on a path that no system has."""
        return ("", None) if "\0" in path else super().lookup_path(path)


class Pages:
    """Pages for participants."""

    def __init__(self, database: Database, access: Access) -> None:
        self.database, self.study, self._access = database, database.study, access
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined
        )
        markdown = MarkdownIt("commonmark", {"html": False}).disable("image")  # tags are shown as text
        self._instructions = Markup(markdown.render(self.study.instructions))

    def page(self, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Render a page from its template."""
        template = self._templates.get_template(f"{name}.html")
        return HTMLResponse(template.render(study=self.study.config, **values), status)

    def welcome(self, request: Request) -> Response:
        """Show instructions and consent; redirect who has agreed already."""
        external = _external(request.query_params.get("participant"))
        participant = find(self.database, request.cookies.get(COOKIE), external)
        if participant:
            return _with_cookie(RedirectResponse("/trials", 303), request, participant)
        self._refuse_strangers(external)
        return self.page("welcome", instructions=self._instructions, external=external)

    def consent(self, request: Request, body: bytes) -> Response:
        """Enrol a participant."""
        form = parse_qs(body.decode("utf-8", "replace"))
        external = _external(form.get("participant", [""])[0])
        participant = find(self.database, request.cookies.get(COOKIE), external)
        if participant is None:
            self._refuse_strangers(external)
            participant = enrol(self.database, external, self._access.enrolments_per_minute)
        if participant is None:
            raise HTTPException(429, CROWDED)
        return _with_cookie(RedirectResponse("/trials", 303), request, participant)

    def trials(self, request: Request) -> Response:
        """Show the page on which all trials happen."""
        participant = self._participant(request)
        if participant is None:
            return RedirectResponse("/", 303)
        asked = self.study.config.asked
        script = {
            "places": list(asked.places),
            "labels": asked.labels,
            "choices": asked.choices,
            "wrong": asked.wrong,
            "inTurn": asked.in_turn,
            "enlarge": self.study.config.enlarge,
        }
        return self.page("trials", script=script)

    def thanks(self, request: Request, body: bytes) -> Response:
        """Show the completion code and the way back to a recruiting service, or why there is neither yet."""
        participant = self._participant(request)
        if participant is None:
            return RedirectResponse("/", 303)
        with self.database.write(participant.id) as connection:
            if next_trial(self.database, connection, participant):
                return RedirectResponse("/trials", 303)
            later = awaits_others(connection)
        participant = self._enrolled(request)  # who may have finished just now
        if participant.finished is not None:
            return self.page("thanks", code=participant.code)
        heading, text = ("Please come back later", LATER) if later else ("This study is complete", COMPLETE)
        return self.page("message", heading=heading, text=text, again=later)

    def next(self, request: Request, body: bytes) -> Response:
        """Hand out a trial."""
        participant = self._enrolled(request)
        with self.database.write(participant.id) as connection:
            trial = next_trial(self.database, connection, participant)
        return JSONResponse({"trial": self._describe(participant, trial)})

    def vote(self, request: Request, body: bytes) -> Response:
        """Write a vote and hand out the next trial; the vote is on disk before this is sent."""
        participant = self._enrolled(request)
        with _refusing():
            vote = Vote.of(body, self.study.config.asked)
        with self.database.write(participant.id) as connection:
            recorded = record(self.database, connection, participant, vote)
            trial = next_trial(self.database, connection, participant)
        answer: dict[str, Any] = {"trial": self._describe(participant, trial), "kept": recorded is not None}
        if recorded is None:
            answer["said"] = NOT_KEPT
        if recorded and recorded[0].purpose == PRACTICE:
            answer["right"] = is_right(self.database, recorded[0], vote)
        return JSONResponse(answer)

    def back(self, request: Request, body: bytes) -> Response:
        """Go back to the trial before the one that is shown."""
        participant = self._enrolled(request)
        with _refusing():
            token = Shown.parse(body).token
        with self.database.read() as connection:
            trial = previous_trial(self.database, connection, participant, token)
        if trial is None:
            raise HTTPException(409, "there is no trial to go back to")
        return JSONResponse({"trial": self._describe(participant, trial)})

    def image(self, request: Request) -> Response:
        """Send an image of a trial, by its place: the address does not reveal what it is."""
        token, place = request.path_params["token"], request.path_params["place"]
        asked, cookie = self.study.config.asked, request.cookies.get(COOKIE, "")
        trial = None
        if place in asked.places and token.isascii() and "\0" not in token:
            with self.database.read() as connection:
                trial = shown_in(connection, cookie, token)
        if trial is None:
            raise HTTPException(404, "no such image")
        if not self.study.is_intact(trial.item):
            raise HTTPException(404, "an image of this trial is gone")
        name = self.study.items[trial.item].images[asked.role(place, trial.shown)]
        content = self.study.image(name).read_bytes()
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    def refused(self, request: Request, error: HTTPException) -> Response:
        """Tell a script or a person why a request is refused."""
        status, said = error.status_code, error.detail
        if request.url.path in ("/", "/consent"):
            return self.page("message", status, heading="That is not possible", text=said, again=False)
        return JSONResponse({"error": said}, status, error.headers)

    def _refuse_strangers(self, external: str | None) -> None:
        allowed = self._access.participants
        if (self._access.require_participant and external is None) or (
            allowed is not None and external not in allowed
        ):
            raise HTTPException(403, BY_LINK)

    def _describe(self, participant: Participant, trial: Trial | None) -> dict[str, Any] | None:
        """Describe a trial for the browser, with nothing that depends on the answer."""
        if trial is None:
            return None
        config = self.study.config
        purposes = schedule(config, participant.seed)
        return {
            "token": trial.token,
            "attempt": trial.attempt,
            "practice": trial.purpose == PRACTICE,
            "back": trial.attempt == 0 and trial.position > config.practice,
            "done": trial.position,
            "of": max(len(purposes), trial.position + 1),
            "images": [f"/image/{trial.token}/{place}" for place in config.asked.places],
        }

    def _participant(self, request: Request) -> Participant | None:
        return find(self.database, request.cookies.get(COOKIE))

    def _enrolled(self, request: Request) -> Participant:
        participant = self._participant(request)
        if participant is None:
            raise HTTPException(401, "begin on the first page")
        return participant


class Admin:
    """Pages that only the administrator's token opens."""

    def __init__(self, pages: Pages, token: str) -> None:
        self.database, self._page, self._token = pages.database, pages.page, token
        self._cookie = sha256(token.encode()).hexdigest()  # a token may have signs that cookies cannot

    def show(self, request: Request) -> Response:
        """Show the state of the study."""
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
        """Send all votes as CSV."""
        if not self._has_cookie(request):
            return self._page("login", 401, wrong=False)
        headers = {"Content-Disposition": 'attachment; filename="votes.csv"'}
        return Response(as_csv(read_votes(self.database)), media_type="text/csv", headers=headers)

    def _enter(self, request: Request, token: str) -> Response:
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            return self._page("login", 403, wrong=True)
        response = RedirectResponse("/admin", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(ADMINISTRATOR, self._cookie, httponly=True, samesite="strict", secure=secure)
        return response

    def _has_cookie(self, request: Request) -> bool:
        sent = request.cookies.get(ADMINISTRATOR, "")
        return hmac.compare_digest(sent.encode("utf-8", "replace"), self._cookie.encode())


def _blocking(
    limiter: CapacityLimiter, handler: Callable[[Request, bytes], Response]
) -> Callable[[Request], Awaitable[Response]]:
    """Make a handler wait for the database in one of a limited number of threads."""

    async def run(request: Request) -> Response:
        return await to_thread.run_sync(handler, request, await request.body(), limiter=limiter)

    return run


def _external(name: str | None) -> str | None:
    if name and not EXTERNAL.fullmatch(name):
        raise HTTPException(400, "participant must be 1 to 64 letters, digits, - or _")
    return name or None


@contextmanager
def _refusing() -> Iterator[None]:
    """Refuse a request for which a ValueError says what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


def _with_cookie(response: Response, request: Request, participant: Participant) -> Response:
    secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, participant.cookie, max_age=YEAR, httponly=True, samesite="lax", secure=secure
    )
    return response


def _unavailable(request: Request, error: Exception) -> Response:
    number = secrets.token_hex(3)
    if isinstance(error, SQLAlchemyError):
        said = "the disk is full" if is_full(error) else reason(error)
    else:
        said = str(error)
    _LOG.error("answer not saved (%s): %s", number, said)
    return JSONResponse(
        {"error": f"This cannot be saved at the moment ({number}). Please try again later."}, 503
    )
