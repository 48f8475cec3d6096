"""Who is asked what: fewest votes first, nothing twice, and what is not answered comes back."""

from collections import Counter

import pytest
from sqlalchemy import select
from studies import VOTE, make_study

from perceptual.collect import assignment
from perceptual.collect.assignment import next_trial, previous_trial
from perceptual.collect.database import Database
from perceptual.collect.participants import enrol
from perceptual.collect.rows import read_votes
from perceptual.collect.schema import ITEMS
from perceptual.collect.votes import Vote, record


@pytest.fixture
def opened(tmp_path):
    databases = []

    def make(**settings):
        databases.append(Database(make_study(tmp_path, **settings)))
        return databases[-1]

    yield make
    for database in databases:
        database.close()


def ask(database, participant):
    with database.write(participant.id) as connection:
        return next_trial(database, connection, participant)


def answer(database, participant, trial, choice="left"):
    sent = {"token": trial.token, "attempt": trial.attempt, "choice": choice, **VOTE}
    with database.write(participant.id) as connection:
        return record(database, connection, participant, Vote.parse(sent, database.study.config.kind))


def do_all(database, participant):
    trials = []
    while trial := ask(database, participant):
        answer(database, participant, trial)
        trials.append(trial)
    return trials


def test_a_session_is_practice_items_sentinels_and_repeats(opened):
    database = opened()
    trials = do_all(database, enrol(database))
    purposes = [trial.purpose for trial in trials]
    assert purposes[:2] == ["practice", "practice"]
    assert Counter(purposes) == {"practice": 2, "item": 6, "sentinel": 2, "repeat": 1}
    items = [trial.item for trial in trials if trial.purpose == "item"]
    assert len(set(items)) == 6
    (again,) = [trial for trial in trials if trial.purpose == "repeat"]
    assert again.item in [trial.item for trial in trials[: again.position] if trial.purpose == "item"]


def test_votes_are_level_and_end_at_the_plan(opened):
    database = opened(practice=0, sentinels=0, repeats=0)  # 12 items × 3 votes, 6 per session
    for people in range(1, 7):
        do_all(database, enrol(database))
        counts = Counter(vote.item for vote in read_votes(database))
        seen = [counts[item] for item in range(12)]
        assert sum(seen) == 6 * people
        assert max(seen) - min(seen) <= 1
    assert do_all(database, enrol(database)) == []  # all have their votes


def test_what_is_not_answered_comes_back_after_a_while(opened, monkeypatch):
    database = opened(count=3, practice=0, sentinels=0, repeats=0, votes_per_item=1, items_per_session=3)
    first, second = enrol(database), enrol(database)
    held = ask(database, first)
    assert ask(database, first) == held  # reloaded
    assert held.item not in [trial.item for trial in do_all(database, second)]
    later = assignment.now() + 31 * 60
    monkeypatch.setattr(assignment, "now", lambda: later)
    third = enrol(database)
    taken = ask(database, third)
    assert taken.item == held.item
    answer(database, third, taken)
    with database.read() as connection:
        assert connection.execute(select(ITEMS.c.load).where(ITEMS.c.purpose == "item")).all() == [(1,)] * 3
    assert answer(database, first, held) is not None  # late, and kept all the same
    assert len(read_votes(database)) == 4


def test_a_vote_sent_twice_counts_once_and_going_back_replaces(opened):
    database = opened(practice=0)
    person, other = enrol(database), enrol(database)
    trial = ask(database, person)
    assert answer(database, other, trial) is None  # of somebody else
    assert answer(database, person, trial)[1]
    assert not answer(database, person, trial, "right")[1]
    current = ask(database, person)
    with database.read() as connection:
        before = previous_trial(connection, person, current.token)
    assert (before.token, before.attempt) == (trial.token, 1)
    assert answer(database, person, before, "right")[1]
    assert answer(database, person, before._replace(attempt=5)) is None
    assert [(v.choice, v.counts) for v in read_votes(database)] == [("left", False), ("right", True)]
    assert ask(database, person) == current
    answer(database, person, current)
    assert answer(database, person, before._replace(attempt=2)) is None  # two trials back


def test_an_item_whose_image_is_gone_is_left_out(opened, caplog):
    database = opened(practice=0, sentinels=0, repeats=0, items_per_session=12)
    study = database.study
    study.image(study.items[4].images["p1"]).unlink()
    assert len(study.missing()) == 1
    trials = do_all(database, enrol(database))
    assert sorted(trial.item for trial in trials) == [item for item in range(12) if item != 4]
    assert "item 4 is left out" in caplog.text


def test_sides_are_by_a_coin(opened):
    database = opened(practice=0, sentinels=0, repeats=0, votes_per_item=10, items_per_session=12)
    swapped = [trial.swapped for _ in range(10) for trial in do_all(database, enrol(database))]
    assert 0.3 < sum(swapped) / len(swapped) < 0.7  # four standard errors of 120 tosses are 0.18
    answers = {(vote.p1_side, vote.choice, vote.answer) for vote in read_votes(database)}
    assert answers == {("left", "left", 1), ("right", "left", 0)}


def test_sure_items_get_no_more_votes(opened):
    settings = {"practice": 0, "sentinels": 0, "repeats": 0, "items_per_session": 12, "votes_per_item": 5}
    database = opened(stop_when_sure=True, **settings)
    for _ in range(8):
        person = enrol(database)
        while trial := ask(database, person):  # all prefer p1, but on item 0 they take turns
            prefers = trial.item != 0 or person.id % 2
            answer(database, person, trial, "left" if trial.swapped == bool(prefers) else "right")
    counts = Counter(vote.item for vote in read_votes(database))
    assert counts == {0: 5} | dict.fromkeys(range(1, 12), 3)
