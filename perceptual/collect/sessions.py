"""Sessions: who takes part, and which item they are shown next: one with the fewest votes, none twice."""

import logging
import random
import re
import secrets
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, update

from perceptual.collect.database import Database, now
from perceptual.collect.schema import ASSIGNMENTS, ITEMS, PARTICIPANTS, VOTES
from perceptual.collect.study import ITEM, PRACTICE, REPEAT, SENTINEL, Config, Study

EXTERNAL = re.compile(r"[A-Za-z0-9_-]{1,64}")
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that looks like another
APART = 5  # trials between an item and its repeat, where there are as many
TOKEN_BYTES = 16
SWEEP_SECONDS = 5  # between looking for what was handed out long ago
LEFT_OUT = "item %s is left out: an image of it is missing or not what it was"
_LOG = logging.getLogger("perceptual.collect")
_RANDOM = random.SystemRandom()


class Participant(NamedTuple):
    """Person who has agreed to take part."""

    id: int
    cookie: str
    seed: int
    code: str
    finished: float | None


_PERSON = [PARTICIPANTS.c[name] for name in Participant._fields]


def find(database: Database, cookie: str | None, external: str | None = None) -> Participant | None:
    """Find a participant by an external name, if one is given, else by a cookie."""
    chosen = PARTICIPANTS.c.external == external if external else PARTICIPANTS.c.cookie == (cookie or "")
    with database.read() as connection:
        row = connection.execute(select(*_PERSON).where(chosen)).first()
    return Participant(*row) if row else None


def enrol(database: Database, external: str | None = None, most: int | None = None) -> Participant | None:
    """Add a participant, or return the one whose external name is known.

    None where `most` have enrolled within the last minute.
    """
    with database.write() as connection:
        if external:
            row = connection.execute(select(*_PERSON).where(PARTICIPANTS.c.external == external)).first()
            if row:
                return Participant(*row)
        if most is not None:
            recent = select(func.count()).where(PARTICIPANTS.c.consented > now() - 60)
            if connection.execute(recent).scalar_one() >= most:
                return None
        values = {
            "cookie": secrets.token_urlsafe(32),
            "external": external or None,
            "seed": secrets.randbits(48),
            "code": "".join(secrets.choice(CODE_LETTERS) for _ in range(10)),
            "consented": now(),
        }
        return Participant(*connection.execute(insert(PARTICIPANTS).values(values).returning(*_PERSON)).one())


def read_participants(path: Path) -> frozenset[str]:
    """Read external names, one a line; raises OSError, or ValueError that names the line."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    names = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}
    for number, name in names.items():
        if not EXTERNAL.fullmatch(name):
            raise ValueError(f"{path}, line {number}: must be 1 to 64 letters, digits, - or _, got {name!r}")
    if not names:
        raise ValueError(f"{path} holds no ID")
    return frozenset(names.values())


def schedule(config: Config, seed: int) -> list[str]:
    """Return the purposes of the trials of a session, in order: practice, then items and sentinels.

    Repeats come in the second half, where there are earlier trials to repeat.
    """
    chance = random.Random(seed)
    trials = [ITEM] * config.items_per_session + [SENTINEL] * config.sentinels
    chance.shuffle(trials)
    for _ in range(min(config.repeats, config.items_per_session)):
        trials.insert(chance.randint((len(trials) + 1) // 2, len(trials)), REPEAT)
    return [PRACTICE] * config.practice + trials


class Trial(NamedTuple):
    """Item in the hands of a participant, now or earlier."""

    id: int
    token: str
    item: int
    purpose: str
    position: int
    shown: int  # number of the order of the images
    counted: bool  # in the item's load
    attempt: int = 0  # how often it was answered already


_COLUMNS = [ASSIGNMENTS.c[name] for name in Trial._fields if name != "attempt"]


def next_trial(database: Database, connection: Connection, participant: Participant) -> Trial | None:
    """Return the trial that a participant has not answered yet, else a new one; None where there is none.

    Then the participant has finished, unless no item was answered: others have them all, see `awaits_others`.
    Call it in a `database.write()`. What has lost an image is left out, with a line in the log.
    """
    study = database.study
    if participant.finished is not None:
        return None
    if not database.swept <= now() < database.swept + SWEEP_SECONDS:
        database.swept = now()
        _expire(connection, study)
    rows = connection.execute(
        select(*_COLUMNS, ASSIGNMENTS.c.answered)
        .where(ASSIGNMENTS.c.participant == participant.id)
        .order_by(ASSIGNMENTS.c.position)
    ).all()
    if rows and not rows[-1].answered:
        if study.is_intact(rows[-1].item):
            return _again(connection, study, participant, rows[-1])
        _LOG.error(LEFT_OUT, rows[-1].item)
        connection.execute(delete(ASSIGNMENTS).where(ASSIGNMENTS.c.id == rows[-1].id))
        if rows[-1].counted:
            add_load(connection, rows[-1].item, -1)
        rows = rows[:-1]
    has_answered = any(row.purpose == ITEM for row in rows)
    if not has_answered and _open_item(connection, study, participant) is None:
        return None  # no practice for nothing
    for purpose in schedule(study.config, participant.seed)[len(rows) :]:
        item = _choose(connection, study, participant, purpose, rows)
        if item is None and purpose == REPEAT:  # nothing to repeat: another item instead
            purpose, item = ITEM, _choose(connection, study, participant, ITEM, rows)
        if item is None and purpose == ITEM:
            break  # everything has its votes
        if item is None:
            continue
        return _hand_out(connection, study, participant, item, purpose, len(rows))
    if has_answered:
        chosen = update(PARTICIPANTS).where(PARTICIPANTS.c.id == participant.id)
        connection.execute(chosen.where(PARTICIPANTS.c.finished.is_(None)).values(finished=now()))
    return None


def awaits_others(connection: Connection) -> bool:
    """Return whether other participants hold items that may come back unanswered."""
    held = select(ASSIGNMENTS.c.id).where(ASSIGNMENTS.c.counted, ~ASSIGNMENTS.c.answered)
    return connection.execute(held.limit(1)).first() is not None


def trial_of(connection: Connection, participant: Participant, token: str) -> Trial | None:
    """Find a trial of this participant by its token."""
    attempts = select(func.count()).where(VOTES.c.assignment == ASSIGNMENTS.c.id).scalar_subquery()
    query = select(*_COLUMNS, attempts).where(
        ASSIGNMENTS.c.token == token, ASSIGNMENTS.c.participant == participant.id
    )
    row: Any = connection.execute(query).first()
    return Trial(*row) if row else None


def shown_in(connection: Connection, cookie: str, token: str) -> Any:
    """Find the item and the order of a trial by its token and the participant's cookie."""
    query = select(ASSIGNMENTS.c.item, ASSIGNMENTS.c.shown).join(PARTICIPANTS)
    return connection.execute(
        query.where(ASSIGNMENTS.c.token == token, PARTICIPANTS.c.cookie == cookie)
    ).first()


def previous_trial(
    database: Database, connection: Connection, participant: Participant, token: str
) -> Trial | None:
    """Return the trial before an unanswered one, to be answered again; None if that is not possible."""
    trial = trial_of(connection, participant, token)
    if trial is None or trial.attempt:
        return None
    before = select(ASSIGNMENTS.c.token).where(
        ASSIGNMENTS.c.participant == participant.id,
        ASSIGNMENTS.c.position == trial.position - 1,
        ASSIGNMENTS.c.purpose != PRACTICE,
    )
    found = connection.scalar(before)
    earlier = trial_of(connection, participant, found) if found else None
    return earlier if earlier and database.study.is_intact(earlier.item) else None


def _expire(connection: Connection, study: Study) -> None:
    """Give back what was handed out long ago and not answered."""
    late = (
        ~ASSIGNMENTS.c.answered,
        ASSIGNMENTS.c.counted,
        ASSIGNMENTS.c.handed_out < now() - 60 * study.config.expire_minutes,
    )
    for row in connection.execute(select(ASSIGNMENTS.c.id, ASSIGNMENTS.c.item).where(*late)).all():
        connection.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == row.id).values(counted=False))
        add_load(connection, row.item, -1)


def add_load(connection: Connection, item: int, change: int) -> None:
    """Change how many votes an item has or is being asked for."""
    connection.execute(update(ITEMS).where(ITEMS.c.id == item).values(load=ITEMS.c.load + change))


def _again(connection: Connection, study: Study, participant: Participant, row: Any) -> Trial:
    """Return the unanswered trial, with another item if others have answered this one meanwhile.

    The item is not held anew: who loads the page for ever would keep it from others.
    """
    trial = Trial(*row[: len(_COLUMNS)])
    if trial.purpose != ITEM or trial.counted:
        return trial
    if connection.scalar(select(ITEMS.c.open).where(ITEMS.c.id == trial.item)):
        return trial
    item = _open_item(connection, study, participant)
    if item is None:
        return trial  # one vote more than planned is better than none
    trial = trial._replace(item=item, token=secrets.token_urlsafe(TOKEN_BYTES))
    chosen = update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == trial.id)
    connection.execute(chosen.values(item=item, token=trial.token))
    return trial


def _hand_out(
    connection: Connection, study: Study, participant: Participant, item: int, purpose: str, position: int
) -> Trial:
    values = {
        "token": secrets.token_urlsafe(TOKEN_BYTES),
        "participant": participant.id,
        "item": item,
        "purpose": purpose,
        "position": position,
        "shown": _RANDOM.randrange(len(study.config.asked.orders)),
        "handed_out": now(),
        "counted": purpose == ITEM,
        "answered": False,
    }
    if purpose == ITEM:
        add_load(connection, item, 1)
    return Trial(*connection.execute(insert(ASSIGNMENTS).values(values).returning(*_COLUMNS)).one())


def _choose(
    connection: Connection, study: Study, participant: Participant, purpose: str, rows: Any
) -> int | None:
    if purpose == ITEM:
        return _open_item(connection, study, participant)
    if purpose == REPEAT:
        done = [row for row in rows if row.purpose == ITEM]
        repeated = {row.item for row in rows if row.purpose == REPEAT}
        new = [row for row in done if row.item not in repeated and study.is_intact(row.item)]
        earlier = [row.item for row in new if row.position < len(rows) - APART]
        return _RANDOM.choice(earlier or [row.item for row in new] or [None])
    seen = {row.item for row in rows}
    left = [item.id for item in study.items.values() if item.purpose == purpose and item.id not in seen]
    return _RANDOM.choice([item for item in left if study.is_intact(item)] or [None])


def _open_item(connection: Connection, study: Study, participant: Participant) -> int | None:
    """Pick an item with the fewest votes that is open and new to this participant."""
    had = (
        select(ASSIGNMENTS.c.id)
        .where(ASSIGNMENTS.c.participant == participant.id, ASSIGNMENTS.c.item == ITEMS.c.id)
        .exists()
    )
    fit = (ITEMS.c.open, ~had)
    fewest = select(ITEMS.c.load).where(*fit).order_by(ITEMS.c.load).limit(1).scalar_subquery()
    among = select(ITEMS.c.id).where(*fit).order_by(ITEMS.c.load, ITEMS.c.place).limit(1)
    least = select(ITEMS.c.id).where(*fit, ITEMS.c.load == fewest).order_by(ITEMS.c.place).limit(1)
    while True:
        # rows that others are changing are passed over, and waited for only where there is no other
        queries = (least.where(ITEMS.c.place >= _RANDOM.random()), least, among)
        locked = [query.with_for_update(skip_locked=True, of=ITEMS) for query in queries]
        found = (connection.scalar(query) for query in (*locked, among.with_for_update(of=ITEMS)))
        item = next((item for item in found if item is not None), None)
        if item is None:
            if connection.scalar(among) is None:
                return None
            continue
        if study.is_intact(item):
            return int(item)
        _LOG.error(LEFT_OUT, item)
        connection.execute(update(ITEMS).where(ITEMS.c.id == item).values(wanted=0))
