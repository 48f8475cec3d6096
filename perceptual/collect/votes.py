"""Votes: checked as they come from a browser, and written once each."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from perceptual.collect.assignment import Trial, add_load, trial_of
from perceptual.collect.database import Database, now, reopen, tallies
from perceptual.collect.participants import Participant
from perceptual.collect.schema import ASSIGNMENTS, ITEMS, PARTICIPANTS, VOTES
from perceptual.collect.stopping import wanted
from perceptual.collect.study import CHOICES, ITEM, PRACTICE, SENTINEL
from perceptual.version import __version__

LONGEST_MS = 7 * 24 * 3600 * 1000.0
MOST_ATTEMPTS = 20
_NUMBERS = {  # lowest and highest
    "response_ms": (0.0, LONGEST_MS),
    "frame_ms": (0.0, 1e4),
    "window_width": (0, 100_000),
    "window_height": (0, 100_000),
    "pixel_ratio": (0.0, 100.0),
    "scale": (0.0, 1000.0),
}


@dataclass(frozen=True)
class Vote:
    """An answer as the browser sends it; raises ValueError by `parse` for anything else."""

    token: str
    attempt: int
    choice: str
    values: dict[str, Any]

    @classmethod
    def parse(cls, sent: Any, kind: str) -> "Vote":
        """Check what was sent; raises ValueError that names what is wrong."""
        if not isinstance(sent, dict):
            raise ValueError("a vote must be an object")
        token = token_in(sent)
        attempt, choice, shown = (sent.get(name) for name in ("attempt", "choice", "shown_ms"))
        if type(attempt) is not int or not 0 <= attempt <= MOST_ATTEMPTS:
            raise ValueError(f"attempt must be a whole number in [0, {MOST_ATTEMPTS}]")
        if choice not in CHOICES[kind]:
            raise ValueError(f"choice must be one of {', '.join(CHOICES[kind])}")
        if not isinstance(shown, list) or len(shown) > 4:
            raise ValueError("shown_ms must be a list of at most 4 durations")
        values: dict[str, Any] = {
            "shown_ms": json.dumps([round(_number("shown_ms", each, 0, LONGEST_MS), 2) for each in shown])
        }
        for name, (low, high) in _NUMBERS.items():
            value = _number(name, sent.get(name), low, high)
            values[name] = int(value) if isinstance(low, int) else value
        return cls(token, attempt, choice, values)


def token_in(sent: Any) -> str:
    """The token of a trial in what was sent; raises ValueError if there is none."""
    token = sent.get("token") if isinstance(sent, dict) else None
    if not isinstance(token, str) or not token.isascii() or not 0 < len(token) <= 64 or "\0" in token:
        raise ValueError("token must be that of a trial")
    return token


def _number(name: str, value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:  # nor NaN, nor what no float holds
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}]")
    return float(value)


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
    values = {"choice": vote.choice, "answer": answer_of(vote.choice, trial.swapped)} | vote.values
    connection.execute(
        insert(VOTES).values(
            assignment=trial.id, attempt=vote.attempt, version=__version__, received=now(), **values
        )
    )
    if trial.purpose == ITEM:
        _count(database, connection, trial)
    elif not trial.attempt:
        connection.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == trial.id).values(answered=True))
    return trial, True


def answer_of(choice: str, swapped: bool) -> int:
    """1 if p1 was preferred, or "same" was said; else 0."""
    if choice in CHOICES["jnd"]:
        return int(choice == "same")
    return int((choice == "right") != swapped)


def is_right(database: Database, trial: Trial, vote: Vote) -> bool | None:
    """Whether a practice or sentinel item was answered rightly; None for the others."""
    if trial.purpose not in (PRACTICE, SENTINEL):
        return None
    return answer_of(vote.choice, trial.swapped) == int(
        database.study.items[trial.item].answer in ("p1", "same")
    )


def _may_change(connection: Connection, participant: Participant, trial: Trial) -> bool:
    """Whether the participant has neither finished nor answered another trial since."""
    finished = select(PARTICIPANTS.c.finished).where(PARTICIPANTS.c.id == participant.id)
    later = select(ASSIGNMENTS.c.id).where(
        ASSIGNMENTS.c.participant == participant.id,
        ASSIGNMENTS.c.position > trial.position,
        ASSIGNMENTS.c.answered,
    )
    return connection.scalar(finished) is None and connection.execute(later.limit(1)).first() is None


def _count(database: Database, connection: Connection, trial: Trial) -> None:
    if not trial.attempt:
        done = update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == trial.id)
        connection.execute(done.values(answered=True, counted=True))
        if not trial.counted:  # it came after a while; what was given back is taken again
            add_load(connection, trial.item, 1)
    config = database.study.config
    if config.stop_when_sure:
        tally = tallies(connection, trial.item)[trial.item]
        more = update(ITEMS).where(ITEMS.c.id == trial.item).values(wanted=wanted(config, *tally))
        connection.execute(more)
        reopen(connection, trial.item)
