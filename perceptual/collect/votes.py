"""Votes: checked as they come from a browser, written once each, and read as rows."""

import io
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, func, insert, select, update

from perceptual.collect.database import Database, last_votes, now, tallies
from perceptual.collect.questions import Question
from perceptual.collect.schema import ASSIGNMENTS, ITEMS, PARTICIPANTS, VOTES
from perceptual.collect.sessions import Participant, Trial, add_load, trial_of
from perceptual.collect.stopping import wanted
from perceptual.collect.study import ITEM, PRACTICE, SENTINEL
from perceptual.files import csv_cells
from perceptual.files.records import check_record
from perceptual.version import __version__

Milliseconds = Annotated[float, Field(ge=0, le=7 * 24 * 3600 * 1000)]
Pixels = Annotated[int, Field(ge=0, le=100_000)]


class Shown(BaseModel):
    """Trial that a browser names."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    token: Annotated[str, Field(min_length=1, max_length=64, pattern="^[!-~]*$")]

    @classmethod
    def parse(cls, body: bytes) -> "Shown":
        """Check what was sent; raises ValueError that names what is wrong."""
        return check_record(body, cls, "what was sent", "load the page again")


class Vote(Shown):
    """Answer as a browser sends it."""

    attempt: Annotated[int, Field(ge=0, le=20)]
    choice: str
    response_ms: Milliseconds
    shown_ms: Annotated[list[Milliseconds], Field(max_length=4)]
    frame_ms: Annotated[float, Field(ge=0, le=10_000)]
    window_width: Pixels
    window_height: Pixels
    pixel_ratio: Annotated[float, Field(ge=0, le=100)]
    scale: Annotated[float, Field(ge=0, le=1000)]

    @classmethod
    def of(cls, body: bytes, asked: Question) -> "Vote":
        """Check an answer; raises ValueError that names what is wrong."""
        vote = check_record(body, cls, "the vote", "load the page again")
        if vote.choice not in asked.choices:
            raise ValueError(f"choice must be one of {', '.join(asked.choices)}, got {vote.choice!r}")
        return vote


class VoteRow(NamedTuple):
    """Vote with the trial it belongs to."""

    participant: int
    external: str
    item: int
    purpose: str  # item, practice, sentinel or repeat
    position: int
    p1_side: str  # place of p1, or of the last role
    choice: str
    answer: int  # 1: p1, or same; of trios 0, 1, 2: a, b, c
    right: str  # whether a practice or sentinel item was answered rightly: yes, no, or nothing
    response_ms: float
    shown_ms: str
    frame_ms: float
    window_width: int
    window_height: int
    pixel_ratio: float
    scale: float
    version: str
    received: float
    attempt: int
    counts: bool  # False if the participant went back and answered again


def record(
    database: Database, connection: Connection, participant: Participant, vote: Vote
) -> tuple[Trial, bool] | None:
    """Write a vote, unless it has come before.

    Returns:
        the trial, and whether the vote is new; None where it is not kept: this participant has no such trial,
        has answered otherwise, has answered another trial since, or has finished.
    """
    trial = trial_of(connection, participant, vote.token)
    if trial is None or vote.attempt > trial.attempt:
        return None
    if vote.attempt < trial.attempt:
        known = select(VOTES.c.choice).where(VOTES.c.assignment == trial.id, VOTES.c.attempt == vote.attempt)
        return (trial, False) if connection.scalar(known) == vote.choice else None
    if trial.attempt and not _may_change(connection, participant, trial):
        return None
    values = vote.model_dump(exclude={"token", "shown_ms"}) | {
        "assignment": trial.id,
        "answer": database.study.config.asked.answer(vote.choice, trial.shown),
        "shown_ms": json.dumps([round(each, 2) for each in vote.shown_ms]),
        "version": __version__,
        "received": now(),
    }
    connection.execute(insert(VOTES).values(values))
    if not trial.attempt:
        counted = {"counted": True} if trial.purpose == ITEM else {}
        done = update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == trial.id)
        connection.execute(done.values(answered=True, **counted))
        if counted and not trial.counted:  # it came after a while; what was given back is taken again
            add_load(connection, trial.item, 1)
    config = database.study.config
    if trial.purpose == ITEM and config.stop_when_sure:
        tally = tallies(connection, trial.item)[trial.item]
        more = update(ITEMS).where(ITEMS.c.id == trial.item).values(wanted=wanted(config, tally))
        connection.execute(more)
    return trial, True


def _may_change(connection: Connection, participant: Participant, trial: Trial) -> bool:
    """Return whether the participant has neither finished nor answered another trial since."""
    finished = select(PARTICIPANTS.c.finished).where(PARTICIPANTS.c.id == participant.id)
    later = select(ASSIGNMENTS.c.id).where(
        ASSIGNMENTS.c.participant == participant.id,
        ASSIGNMENTS.c.position > trial.position,
        ASSIGNMENTS.c.answered,
    )
    return connection.scalar(finished) is None and connection.execute(later.limit(1)).first() is None


def is_right(database: Database, trial: Trial, vote: Vote) -> bool | None:
    """Return whether a practice or sentinel item was answered rightly; None for the others."""
    if trial.purpose not in (PRACTICE, SENTINEL):
        return None
    asked = database.study.config.asked
    right = asked.answers.get(database.study.items[trial.item].answer)
    return asked.answer(vote.choice, trial.shown) == right


def read_votes(database: Database) -> list[VoteRow]:
    """Read every vote, in the order in which they came."""
    about = ("participant", "item", "purpose", "position", "shown")
    query = (
        select(
            *(column for column in VOTES.c if column.name in VoteRow._fields),
            *(ASSIGNMENTS.c[name] for name in about),
            func.coalesce(PARTICIPANTS.c.external, "").label("external"),
            VOTES.c.id.in_(last_votes()).label("counts"),
        )
        .join(ASSIGNMENTS, VOTES.c.assignment == ASSIGNMENTS.c.id)
        .join(PARTICIPANTS, ASSIGNMENTS.c.participant == PARTICIPANTS.c.id)
        .order_by(VOTES.c.id)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    asked, items = database.study.config.asked, database.study.items
    p1 = asked.kind.roles[-1]
    found = []
    for row in rows:
        values, right = row._asdict(), items[row.item].answer
        values["p1_side"] = asked.place(p1, values.pop("shown"))
        values["right"] = ("no", "yes")[row.answer == asked.answers.get(right)] if right else ""
        found.append(VoteRow(**values))
    return found


def as_csv(votes: Iterable[VoteRow], excluded: Mapping[int, str] | None = None) -> str:
    """Return a CSV of votes, optionally with the rule that excludes each participant."""
    file = io.StringIO()
    more = [] if excluded is None else ["excluded"]
    rows = csv_cells.Rows(file, [*VoteRow._fields, *more])
    for vote in votes:
        rows.write([*vote, *([] if excluded is None else [excluded.get(vote.participant, "")])])
    return file.getvalue()
