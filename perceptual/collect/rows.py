"""Votes as rows: what is exported, and what quality is computed from."""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from sqlalchemy import select

from perceptual.collect.database import Database
from perceptual.collect.schema import ASSIGNMENTS, PARTICIPANTS, VOTES
from perceptual.data import csv_cells


@dataclass(frozen=True)
class VoteRow:
    """One vote with what it was about."""

    participant: int
    external: str
    item: int
    purpose: str  # item, practice, sentinel or repeat
    position: int
    p1_side: str  # left or right; first or second
    choice: str
    answer: int  # 1: p1, or same
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


def read_votes(database: Database) -> list[VoteRow]:
    """Every vote, in the order in which they came."""
    names = [
        "choice", "answer", "response_ms", "shown_ms", "frame_ms", "window_width", "window_height",
        "pixel_ratio", "scale", "version", "received", "attempt",
    ]  # fmt: skip
    query = (
        select(
            VOTES.c.id,
            VOTES.c.assignment,
            ASSIGNMENTS.c.participant,
            PARTICIPANTS.c.external,
            ASSIGNMENTS.c.item,
            ASSIGNMENTS.c.purpose,
            ASSIGNMENTS.c.position,
            ASSIGNMENTS.c.swapped,
            *(VOTES.c[name] for name in names),
        )
        .join(ASSIGNMENTS, VOTES.c.assignment == ASSIGNMENTS.c.id)
        .join(PARTICIPANTS, ASSIGNMENTS.c.participant == PARTICIPANTS.c.id)
        .order_by(VOTES.c.id)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    last = {row.assignment: row.id for row in rows}
    items, pairs = database.study.items, database.study.config.kind == "jnd"
    sides = ("second", "first") if pairs else ("right", "left")
    found = []
    for row in rows:
        answer = items[row.item].answer
        right = "" if not answer else ("no", "yes")[row.answer == int(answer in ("p1", "same"))]
        found.append(
            VoteRow(
                participant=row.participant,
                external=row.external or "",
                item=row.item,
                purpose=row.purpose,
                position=row.position,
                p1_side=sides[row.swapped],
                right=right,
                counts=last[row.assignment] == row.id,
                **{name: getattr(row, name) for name in names},
            )
        )
    return found


def as_csv(votes: Iterable[VoteRow], more: dict[int, str] | None = None) -> str:
    """A CSV of votes; `more` gives, by participant, the rule that excludes them."""
    file = io.StringIO()
    names = [each.name for each in fields(VoteRow)]
    rows = csv_cells.Rows(file, [*names, *(["excluded"] if more is not None else [])])
    for vote in votes:
        extra = {} if more is None else {"excluded": more.get(vote.participant, "")}
        rows.write_named(asdict(vote) | extra)
    return file.getvalue()
