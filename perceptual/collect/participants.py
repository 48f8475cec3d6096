"""Participants: who takes part, known by a random cookie or by the name a recruiting service gives them."""

import random
import re
import secrets
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import func, insert, select

from perceptual.collect.database import Database, now
from perceptual.collect.schema import PARTICIPANTS
from perceptual.collect.study import ITEM, PRACTICE, REPEAT, SENTINEL, Config

EXTERNAL = re.compile(r"[A-Za-z0-9_-]{1,64}")
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that looks like another


class Participant(NamedTuple):
    """One who has agreed to take part."""

    id: int
    cookie: str
    seed: int
    code: str
    finished: float | None


_COLUMNS = [PARTICIPANTS.c[name] for name in Participant._fields]


def find(database: Database, cookie: str | None, external: str | None = None) -> Participant | None:
    """The participant of an external name, where one is given, else of a cookie."""
    chosen = PARTICIPANTS.c.external == external if external else PARTICIPANTS.c.cookie == (cookie or "")
    with database.read() as connection:
        row = connection.execute(select(*_COLUMNS).where(chosen)).first()
    return Participant(*row) if row else None


def enrol(database: Database, external: str | None = None, most: int | None = None) -> Participant | None:
    """A new participant; the one there is already, where the external name is known.

    None where `most` have enrolled within the last minute.
    """
    with database.write() as connection:
        if external:
            row = connection.execute(select(*_COLUMNS).where(PARTICIPANTS.c.external == external)).first()
            if row:
                return Participant(*row)
        if most is not None:
            recent = select(func.count()).where(PARTICIPANTS.c.consented > now() - 60)
            if connection.execute(recent).scalar_one() >= most:
                return None
        values: dict[str, Any] = {
            "cookie": secrets.token_urlsafe(32),
            "external": external or None,
            "seed": secrets.randbits(48),
            "code": "".join(secrets.choice(CODE_LETTERS) for _ in range(10)),
            "consented": now(),
        }
        key = connection.execute(insert(PARTICIPANTS).values(values)).inserted_primary_key
        assert key is not None
        return Participant(key[0], values["cookie"], values["seed"], values["code"], None)


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
    """The purposes of the trials of a session, in order: practice, then items with sentinels among them.

    Repeats come in the second half, where there are earlier trials to repeat.
    """
    chance = random.Random(seed)
    trials = [ITEM] * config.items_per_session + [SENTINEL] * config.sentinels
    chance.shuffle(trials)
    for _ in range(min(config.repeats, config.items_per_session)):
        trials.insert(chance.randint((len(trials) + 1) // 2, len(trials)), REPEAT)
    return [PRACTICE] * config.practice + trials
