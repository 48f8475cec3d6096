"""Votes in a database: SQLite in WAL mode, or any other that SQLAlchemy reaches by its URL."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    case,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from perceptual.collect.schema import ASSIGNMENTS, ITEMS, META, PARTICIPANTS, VOTES, metadata
from perceptual.collect.stopping import wanted
from perceptual.collect.study import DATABASE, ITEM, Study

VERSION = 1
# version: what brings a database of the version before to it
MIGRATIONS: dict[int, Callable[[Connection], None]] = {}
BUSY_SECONDS = 30


class Database:
    """A database of one study, made and brought up to date where needed.

    Args:
        study: the study.
        url: SQLAlchemy's; None: `judgments.db` in the study's folder.

    Raises:
        ValueError: it cannot be reached, holds another study, or was written by a newer version.
    """

    def __init__(self, study: Study, url: str | None = None) -> None:
        self.study = study
        self.url = url or f"sqlite:///{(study.folder / DATABASE).absolute()}"
        self._lock = threading.Lock()
        self.swept = 0.0  # when handed out items were last looked through
        try:
            self.engine = _engine(self.url)
            with self._begin() as connection:
                _prepare(connection, study)
        except (ArgumentError, ModuleNotFoundError) as error:
            raise ValueError(f"database {url!r} cannot be used: {error}") from None
        except SQLAlchemyError as error:
            raise ValueError(f"database {self.said}: {reason(error)}") from None

    @property
    def said(self) -> str:
        """The URL without its password."""
        return make_url(self.url).render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, participant: int | None = None) -> Iterator[Connection]:
        """A transaction that is on disk at its end; no other writes for the same participant beside it.

        In SQLite no other writes at all; in other databases the rows of items are locked as they are used.
        """
        if self.engine.dialect.name == "sqlite":
            # SQLite polls for its lock, which makes some wait long: threads of one process queue here instead
            with self._lock, self._begin() as connection:
                yield connection
            return
        one = select(META.c.value).where(META.c.key == "study")
        if participant is not None:
            one = select(PARTICIPANTS.c.id).where(PARTICIPANTS.c.id == participant)
        with self._begin() as connection:
            connection.execute(one.with_for_update())
            yield connection

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self.engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def reason(error: SQLAlchemyError) -> str:
    """What the database said, in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def is_full(error: SQLAlchemyError) -> bool:
    """Whether the disk is full, or cannot be written to."""
    return isinstance(error, OperationalError) and any(
        word in reason(error).lower() for word in ("full", "disk i/o", "no space", "readonly")
    )


def _engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_size=20, max_overflow=20, pool_pre_ping=True)
    engine = create_engine(url, pool_size=20, max_overflow=30, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not where Python's module would
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _prepare(connection: Connection, study: Study) -> None:
    if not inspect(connection).has_table(META.name):
        metadata.create_all(connection)
        connection.execute(
            insert(META),
            [{"key": "study", "value": study.config.id}, {"key": "version", "value": str(VERSION)}],
        )
        _fill(connection, study)
    rows = connection.execute(select(META.c.key, META.c.value).with_for_update())
    known = {row.key: row.value for row in rows}
    if known.get("study") != study.config.id:
        raise ValueError(
            f"the database holds the votes of study {known.get('study')}, not of {study.config.id}"
        )
    version = int(known.get("version", 0))
    if version > VERSION:
        raise ValueError(
            f"the database is of version {version}, written by a newer perceptual; "
            f"this one knows version {VERSION}"
        )
    for step in range(version + 1, VERSION + 1):
        MIGRATIONS[step](connection)
        connection.execute(update(META).where(META.c.key == "version").values(value=str(step)))
    count = connection.scalar(select(func.count()).select_from(ITEMS))
    if count != len(study.items):
        raise ValueError(f"the database has {count:,} items, the study {len(study.items):,}")
    _recount(connection, study)


def _fill(connection: Connection, study: Study) -> None:
    chance = random.Random(study.config.id)
    rows = [
        {
            "id": item.id,
            "purpose": item.purpose,
            "load": 0,
            "wanted": 0,
            "open": False,
            "place": chance.random(),
        }
        for item in study.items.values()
    ]
    connection.execute(insert(ITEMS), rows)


def _recount(connection: Connection, study: Study) -> None:
    """Loads from the assignments themselves, and the votes wanted, which `study.yaml` may have changed."""
    load = (
        select(func.count())
        .where(ASSIGNMENTS.c.item == ITEMS.c.id, ASSIGNMENTS.c.purpose == ITEM, ASSIGNMENTS.c.counted)
        .scalar_subquery()
    )
    connection.execute(update(ITEMS).values(load=load))
    config = study.config
    connection.execute(
        update(ITEMS)
        .where(ITEMS.c.purpose == ITEM)
        .values(wanted=config.least_votes if config.stop_when_sure else config.votes_per_item)
    )
    if config.stop_when_sure:
        for item, (first, second) in tallies(connection).items():
            connection.execute(
                update(ITEMS).where(ITEMS.c.id == item).values(wanted=wanted(config, first, second))
            )
    reopen(connection)


def reopen(connection: Connection, item: int | None = None) -> None:
    """Bring `open` up to date, of one item or of all."""
    chosen = update(ITEMS).where(ITEMS.c.purpose == ITEM)
    if item is not None:
        chosen = chosen.where(ITEMS.c.id == item)
    connection.execute(chosen.values(open=case((ITEMS.c.load < ITEMS.c.wanted, True), else_=False)))


def last_votes() -> Any:
    """The number of the vote that counts of each assignment."""
    return select(func.max(VOTES.c.id)).group_by(VOTES.c.assignment)


def tallies(connection: Connection, item: int | None = None) -> dict[int, tuple[int, int]]:
    """Votes with answers 0 and 1 of each item that has any, without those of repeats."""
    query = (
        select(ASSIGNMENTS.c.item, func.count(), func.sum(VOTES.c.answer))
        .join(VOTES, VOTES.c.assignment == ASSIGNMENTS.c.id)
        .where(ASSIGNMENTS.c.purpose == ITEM)
        .group_by(ASSIGNMENTS.c.item)
    )
    latest = last_votes()
    if item is not None:
        query = query.where(ASSIGNMENTS.c.item == item)
        mine = select(ASSIGNMENTS.c.id).where(ASSIGNMENTS.c.item == item)
        latest = latest.where(VOTES.c.assignment.in_(mine))
    query = query.where(VOTES.c.id.in_(latest))
    return {row[0]: (row[1] - row[2], row[2]) for row in connection.execute(query)}


def now() -> float:
    """Seconds since 1970."""
    return time.time()
