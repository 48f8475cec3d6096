"""Many at once: every accepted vote is there once, whatever happens to the server meanwhile."""

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from studies import Visitor, make_study, start_process

from perceptual.collect.database import Database
from perceptual.collect.study import Study
from perceptual.collect.votes import read_votes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(590)]
PEOPLE, EACH, PER_ITEM = 50, 100, 5  # 5,000 votes on 1,000 items
BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@pytest.fixture
def tmp_path(tmp_path_factory):
    """On the disk, which is part of what is measured."""
    return tmp_path_factory.mktemp("crowd")


@pytest.fixture
def postgresql(tmp_path):
    """URL of a PostgreSQL server of its own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if BIN is None:
        pytest.skip("PostgreSQL is not installed")
    folder, as_user = Path(f"/tmp/perceptual-pg-{os.getpid()}"), []
    folder.mkdir()
    if os.geteuid() == 0:  # it refuses to run as root
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run([*as_user, BIN / "initdb", "-D", folder / "data", "-A", "trust", "-U", "tests"], **run)
    options = f"-p {port} -k {folder} -h 127.0.0.1"
    control = [*as_user, BIN / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log"]
    subprocess.run([*control, "-o", options, "start"], **run)
    yield f"postgresql+psycopg://tests@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "fast", "stop"], **run)
    shutil.rmtree(folder)


def crowd(port, patience=0.0, think=(0.5, 1.5), accepted=None):
    """Everybody takes part at once; accepted votes (token, choice), and seconds of each response."""
    accepted = [] if accepted is None else accepted
    problems, seconds = [], []

    def one(number):
        try:
            chance, visitor = random.Random(number), Visitor(port, f"p{number}", patience)
            trial = visitor.enrol().next()
            while trial:
                for url in trial["images"]:
                    visitor.request("GET", url)
                time.sleep(chance.uniform(*think))
                choice = chance.choice(("left", "right"))
                answer = visitor.vote(trial, choice)
                if answer["kept"]:
                    accepted.append((trial["token"], choice))
                trial = answer["trial"]
            seconds.extend(visitor.seconds)
        except BaseException as error:
            problems.append(repr(error))
            raise

    threads = [threading.Thread(target=one, args=(number,)) for number in range(PEOPLE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    return accepted, np.array(seconds)


def check(study, url, accepted):
    database = Database(study, url)
    votes = read_votes(database)
    with database.read() as connection:
        tokens = dict(
            row
            for row in connection.exec_driver_sql(
                "SELECT assignments.token, votes.choice FROM votes "
                "JOIN assignments ON votes.assignment = assignments.id"
            ).all()
        )
    database.close()
    assert len(votes) == len(tokens) == len(accepted)
    assert tokens == dict(accepted)  # each is there, once, as it was sent
    counts = Counter(vote.item for vote in votes)
    assert all(abs(counts[item] - PER_ITEM) <= 1 for item in range(len(counts)))
    by_person = Counter((vote.participant, vote.item) for vote in votes)
    assert max(by_person.values()) == 1
    return len(votes)


def large_study(tmp_path, each=EACH):
    return make_study(
        tmp_path,
        count=PEOPLE * each // PER_ITEM,
        votes_per_item=PER_ITEM,
        items_per_session=each,
        practice=0,
        sentinels=0,
        repeats=0,
    )


def run(tmp_path, url=None):
    study = large_study(tmp_path)
    process, port = start_process(study.folder, 0, *(["--database", url] if url else []))
    try:
        accepted, seconds = crowd(port)
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert "error" not in errors.lower()
    count = check(study, url, accepted)
    p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1000
    print(f"{count} votes, {len(seconds)} responses: median {p50:.1f} ms, 95 % below {p95:.1f} ms")
    assert count >= 0.99 * PEOPLE * EACH
    assert p95 < 100


def run_and_stop(tmp_path, url=None, stops=40):
    """SIGTERM and SIGKILL by turns, at random moments; a careless person moves the database's file."""
    each = EACH // 2  # it stands still most of the time
    study = large_study(tmp_path, each)
    file, moved = study.folder / "judgments.db", tmp_path / "moved.db"
    options = ["--database", url] if url else []
    process, port = start_process(study.folder, 0, *options)
    done, stopped, seen = threading.Event(), [], Counter()
    accepted = []

    def stop_and_restart():
        nonlocal process
        chance = random.Random(0)
        while len(stopped) < stops and not done.is_set():
            time.sleep(chance.uniform(0.3, 1.2))
            number = (signal.SIGTERM, signal.SIGKILL)[len(stopped) % 2]
            early = url is None and chance.random() < 0.5
            if early:  # while the server runs
                file.rename(moved)
                time.sleep(chance.uniform(0, 0.3))
            before = list(accepted)
            process.send_signal(number)
            process.communicate()
            stopped.append(number)
            if url is None:
                if not early:
                    file.rename(moved)
                log = file.with_name("judgments.db-wal")
                if number == signal.SIGTERM:
                    assert not log.exists() or not log.stat().st_size
                    assert tokens_in(moved) >= {token for token, _ in before}  # it alone holds all
                    if early:  # the server has written it again
                        assert tokens_in(file) == tokens_in(moved)
                        seen["written again"] += 1
                elif log.exists() and log.stat().st_size:
                    with pytest.raises(ValueError, match=r"judgments\.db is not there"):
                        Database(study)
                    seen["refused"] += 1
                moved.replace(file)
            process, _ = start_process(study.folder, port, *options)

    problems = []

    def stopper():
        try:
            stop_and_restart()
        except BaseException as error:
            problems.append(error)
            raise

    thread = threading.Thread(target=stopper)
    thread.start()
    try:
        crowd(port, patience=120, accepted=accepted)
    finally:
        done.set()
        thread.join()
        process.kill()
        process.communicate()
    assert problems == []
    assert len(stopped) == stops
    assert url or min(seen["refused"], seen["written again"]) >= 3
    # a vote whose acknowledgement was lost is sent again; the second time it says what the first did
    assert check(study, url, accepted) >= 0.99 * PEOPLE * each


def tokens_in(file):
    """Tokens of the trials with votes, of one file alone."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as alone:
        query = "SELECT token FROM assignments WHERE id IN (SELECT assignment FROM votes)"
        return {token for (token,) in alone.execute(query)}


def test_fifty_people_at_once(tmp_path):
    run(tmp_path)


def test_fifty_people_at_once_on_postgresql(tmp_path, postgresql):
    run(tmp_path, postgresql)


def test_stopped_forty_times(tmp_path):
    run_and_stop(tmp_path)


def test_stopped_forty_times_on_postgresql(tmp_path, postgresql):
    run_and_stop(tmp_path, postgresql)
    with (
        closing(Database(Study(tmp_path / "study"), postgresql, read_only=True)) as database,
        pytest.raises(ValueError, match="pg_dump"),
    ):
        database.backup(tmp_path / "copy.db")
