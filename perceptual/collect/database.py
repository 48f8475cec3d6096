"""Votes in a database: SQLite in WAL mode, or any other that SQLAlchemy reaches by its URL."""

import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, insert, inspect, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from perceptual.collect.schema import ASSIGNMENTS, ITEMS, META, PARTICIPANTS, VOTES, metadata
from perceptual.collect.stopping import wanted
from perceptual.collect.study import DATABASE, ITEM, Study
from perceptual.files.writing import refuse_existing, whole_file

VERSION = 4
BUSY_SECONDS = 30
# what is wrong where a database was made for something else
_OTHER = {
    "study": "the database holds the votes of study {theirs}, not of {ours}",
    "version": "the database is of version {theirs}, written by another perceptual; this one knows {ours}",
    "kind": "the votes in the database are of kind {theirs}, study.yaml says {ours}",
    "items": "the votes in the database are of other items: items.csv has changed, put the former one back",
}


class Database:
    """Database of one study, created if needed.

    Args:
        study: the study.
        url: SQLAlchemy's; None: `judgments.db` in the study's folder.
        read_only: opens what is there, and changes nothing in the database or beside it.

    Raises:
        FileNotFoundError: it is to be read, and is not there.
        ValueError: it cannot be reached, holds another study or other items, was written by a newer version,
            or is missing beside a write-ahead log of it.
    """

    def __init__(self, study: Study, url: str | URL | None = None, *, read_only: bool = False) -> None:
        self.study, self._read_only = study, read_only
        self._lock = threading.Lock()
        self.swept = 0.0  # when handed out items were last looked through
        try:
            default = URL.create("sqlite", database=str((study.folder / DATABASE).absolute()))
            self.url = make_url(url or default)
            self.path = _file(self.url)  # None: a database of another kind
            if self.path is not None:
                _refuse_orphaned_log(self.path)
                if read_only:
                    os.stat(self.path)
                else:  # later connections make none: one that was moved away is missed
                    self.path.touch()
            self._identity = _identity(self.path)
            self.engine = _engine(self.url, self.path, read_only)
        except (ArgumentError, ModuleNotFoundError) as error:
            raise ValueError(f"database {str(url)!r} cannot be used: {error}") from None
        try:
            if read_only:
                with self.read() as connection:
                    _refuse_other(connection, study)
            else:
                with self._begin() as connection:
                    _prepare(connection, study)
                self._empty_log()  # the file itself says what it is, wherever it is moved
        except SQLAlchemyError as error:
            self.engine.dispose()
            raise ValueError(f"database {self.said}: {reason(error)}") from None
        except ValueError:
            self.engine.dispose()
            raise

    @property
    def said(self) -> str:
        """URL without its password."""
        return self.url.render_as_string(hide_password=True)

    def read(self) -> Connection:
        """Begin a transaction that only reads, in a `with` block."""
        return self.engine.connect()

    @contextmanager
    def write(self, participant: int | None = None) -> Iterator[Connection]:
        """Begin a transaction that is on disk at its end; others for the same participant wait.

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
        if _identity(self.path) != self._identity:
            raise OSError(f"{self.path} was moved or replaced while it is in use: put it back")
        with self.engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    def backup(self, file: Path) -> None:
        """Write a copy that is consistent and complete in one file, while others read and write.

        Raises:
            ValueError: the file exists, or this is no file of SQLite.
            OSError: it cannot be written.
        """
        if self.path is None:
            raise ValueError(f"only SQLite is copied here; for {self.said} use its own tool, such as pg_dump")
        refuse_existing(file)
        with closing(self.engine.raw_connection()) as connection:
            _copy(connection.driver_connection, file)

    def close(self) -> None:
        """Close all connections; `judgments.db` then holds everything."""
        if self.path is not None and not self._read_only:
            self._empty_log()  # SQLite does so by itself, but not where the file was moved
            if _identity(self.path) is None:  # where it was moved to another disk, it lacks the last votes
                with suppress(SQLAlchemyError, OSError), closing(self.engine.raw_connection()) as connection:
                    _copy(connection.driver_connection, self.path)
        self.engine.dispose()

    def _empty_log(self) -> None:
        """Move what is in SQLite's write-ahead log into the file, as far as others let it."""
        if self.path is not None:
            with suppress(SQLAlchemyError), closing(self.engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")


def reason(error: SQLAlchemyError) -> str:
    """Return the message of a database error in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def is_full(error: SQLAlchemyError) -> bool:
    """Return whether the disk is full or cannot be written to."""
    return isinstance(error, OperationalError) and any(
        word in reason(error).lower() for word in ("full", "disk i/o", "no space", "readonly")
    )


def _file(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite":
        return None
    name = url.database or ""
    if name in ("", ":memory:") or name.startswith("file:"):
        raise ValueError(
            f"database {url} names no file, and would lose every vote: sqlite:////folder/name.db"
        )
    return Path(name).absolute()


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Return the device and inode of a file, which a replacement does not share; None without one."""
    with suppress(FileNotFoundError):
        if path is not None:
            found = os.stat(path)
            return found.st_dev, found.st_ino
    return None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _refuse_orphaned_log(path: Path) -> None:
    """SQLite deletes a log whose database is missing or empty, and the last votes with it."""
    log, size = _beside(path, "-wal"), path.stat().st_size if path.exists() else None
    if not size and log.exists() and log.stat().st_size:
        raise ValueError(
            f"{path} is {'not there' if size is None else 'empty'}, but {log.name} beside it holds votes of "
            f"it: put the {path.name} back that was there"
        )


def _copy(connection: Any, file: Path) -> None:
    with whole_file(file) as partial, closing(sqlite3.connect(partial)) as copy:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, that needs none beside it to be read


def _engine(url: URL, path: Path | None, read_only: bool) -> Engine:
    if path is None:
        only = {"postgresql_readonly": True} if read_only and url.get_backend_name() == "postgresql" else {}
        return create_engine(url, pool_size=20, max_overflow=20, pool_pre_ping=True, execution_options=only)
    options: dict[str, Any] = {"pool_size": 20, "max_overflow": 30}
    address = f"{path.as_uri()}?mode={'ro' if read_only else 'rw'}"
    if read_only:
        options = {"poolclass": NullPool}
        if not any(_beside(path, suffix).exists() for suffix in ("-wal", "-journal")):
            address += "&immutable=1"  # nobody has it open: read without making files beside it

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)

    engine = create_engine(url, creator=connect, **options)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not where Python's module would
        pragmas = (
            ("query_only=ON",) if read_only else ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
        )
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _prepare(connection: Connection, study: Study) -> None:
    if not inspect(connection).has_table(META.name):
        metadata.create_all(connection)
        about = [{"key": key, "value": value} for key, value in _about(study).items()]
        connection.execute(insert(META), about)
        chance = random.Random(study.config.id)
        items = [
            {"id": item.id, "purpose": item.purpose, "load": 0, "wanted": 0, "place": chance.random()}
            for item in study.items.values()
        ]
        connection.execute(insert(ITEMS), items)
    connection.execute(select(META.c.value).with_for_update())  # servers that start at once take turns
    _refuse_other(connection, study)
    _recount(connection, study)


def _about(study: Study) -> dict[str, str]:
    """Return what a database says of the study that it belongs to."""
    config = study.config
    return {"study": config.id, "version": str(VERSION), "kind": config.kind, "items": study.fingerprint}


def _refuse_other(connection: Connection, study: Study) -> None:
    """Raise ValueError where the votes are not of this study as it is now."""
    if not inspect(connection).has_table(META.name):
        raise ValueError(f"the database holds no votes of study {study.config.id}")
    known = {row.key: row.value for row in connection.execute(select(META.c.key, META.c.value))}
    for key, ours in _about(study).items():
        if known.get(key) != ours:
            raise ValueError(_OTHER[key].format(theirs=known.get(key), ours=ours))


def _recount(connection: Connection, study: Study) -> None:
    """Loads from the assignments themselves, and the votes wanted, which `study.yaml` may have changed."""
    load = (
        select(func.count())
        .where(ASSIGNMENTS.c.item == ITEMS.c.id, ASSIGNMENTS.c.purpose == ITEM, ASSIGNMENTS.c.counted)
        .scalar_subquery()
    )
    values = {"load": load, "wanted": wanted(study.config, ())}
    connection.execute(update(ITEMS).where(ITEMS.c.purpose == ITEM).values(values))
    if study.config.stop_when_sure:
        for item, votes in tallies(connection).items():
            chosen = update(ITEMS).where(ITEMS.c.id == item)
            connection.execute(chosen.values(wanted=wanted(study.config, votes)))


def last_votes() -> Any:
    """Select the vote of each assignment that counts, the last one."""
    return select(func.max(VOTES.c.id)).group_by(VOTES.c.assignment)


def tallies(connection: Connection, item: int | None = None) -> dict[int, list[int]]:
    """Count the votes for each answer that was given, of each item that has any, without repeats."""
    query = (
        select(ASSIGNMENTS.c.item, func.count())
        .join(VOTES, VOTES.c.assignment == ASSIGNMENTS.c.id)
        .where(ASSIGNMENTS.c.purpose == ITEM)
        .group_by(ASSIGNMENTS.c.item, VOTES.c.answer)
    )
    latest = last_votes()
    if item is not None:
        query = query.where(ASSIGNMENTS.c.item == item)
        mine = select(ASSIGNMENTS.c.id).where(ASSIGNMENTS.c.item == item)
        latest = latest.where(VOTES.c.assignment.in_(mine))
    query = query.where(VOTES.c.id.in_(latest))
    found: dict[int, list[int]] = {}
    for number, votes in connection.execute(query):
        found.setdefault(number, []).append(votes)
    return found


def now() -> float:
    """Seconds since 1970."""
    return time.time()
