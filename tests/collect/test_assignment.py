"""Who is asked what: fewest votes first, nothing twice, and what is not answered comes back."""

from collections import Counter

import pytest
from sqlalchemy import select
from studies import make_study, parsed

from perceptual.collect import sessions
from perceptual.collect.database import Database
from perceptual.collect.schema import ITEMS
from perceptual.collect.sessions import awaits_others, enrol, find, next_trial, previous_trial
from perceptual.collect.votes import read_votes, record


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
    vote = parsed(database.study.config.asked, token=trial.token, attempt=trial.attempt, choice=choice)
    with database.write(participant.id) as connection:
        return record(database, connection, participant, vote)


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
    later = sessions.now() + 31 * 60
    monkeypatch.setattr(sessions, "now", lambda: later)
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
    assert not answer(database, person, trial)[1]
    assert answer(database, person, trial, "right") is None  # another, as from a second tab
    current = ask(database, person)
    with database.read() as connection:
        before = previous_trial(database, connection, person, current.token)
    assert (before.token, before.attempt) == (trial.token, 1)
    assert answer(database, person, before, "right")[1]
    assert answer(database, person, before._replace(attempt=5)) is None
    assert [(v.choice, v.counts) for v in read_votes(database)] == [("left", False), ("right", True)]
    assert ask(database, person) == current
    answer(database, person, current)
    assert answer(database, person, before._replace(attempt=2)) is None  # two trials back


@pytest.mark.parametrize("purpose", ["practice", "item", "sentinel", "repeat"])
def test_what_has_lost_an_image_is_left_out(opened, caplog, purpose):
    """Also where it was handed out already: the participant goes on with another, to the end."""
    database = opened(practice=1, sentinels=3, repeats=2, items_per_session=5)
    study, person = database.study, enrol(database)
    while (trial := ask(database, person)).purpose != purpose:
        answer(database, person, trial)
    used = Counter(name for item in study.items.values() for name in item.images.values())
    lost = study.image(min(study.items[trial.item].images.values(), key=used.get))  # of this item alone
    lost.write_bytes(b"")
    after = [trial.item for trial in do_all(database, person)]
    assert trial.item not in after
    assert len(after) >= 1
    assert find(database, person.cookie).finished
    assert study.damaged() == [f"{lost} (item {trial.item})"]
    with database.read() as connection:  # the hold of what was not answered is given back
        votes = Counter(vote.item for vote in read_votes(database) if vote.purpose == "item")
        loads = connection.execute(select(ITEMS.c.id, ITEMS.c.load).where(ITEMS.c.purpose == "item"))
        assert {item: load for item, load in loads if load} == votes
    if purpose == "item":
        assert f"item {trial.item} is left out" in caplog.text


def test_one_does_not_go_back_to_what_has_lost_an_image(opened):
    database = opened(practice=0)
    person = enrol(database)
    trial = ask(database, person)
    answer(database, person, trial)
    current = ask(database, person)
    database.study.image(database.study.items[trial.item].images["ref"]).unlink()
    with database.read() as connection:
        assert previous_trial(database, connection, person, current.token) is None


def test_a_hold_ends_where_nobody_answers_however_often_the_page_is_loaded(opened, monkeypatch):
    database = opened(count=3, practice=0, sentinels=0, repeats=0, votes_per_item=1, items_per_session=3)
    idle = [enrol(database) for _ in range(3)]
    begin = sessions.now()
    held = [ask(database, one).item for one in idle]
    assert sorted(held) == [0, 1, 2]
    for minute in range(0, 60, 10):
        monkeypatch.setattr(sessions, "now", lambda minute=minute: begin + 60 * minute)
        assert [ask(database, one).item for one in idle] == held
    person = enrol(database)
    assert sorted(trial.item for trial in do_all(database, person)) == [0, 1, 2]
    assert find(database, person.cookie).finished
    for one in idle:  # all have their votes: one more than planned is taken, nothing is held
        answer(database, one, ask(database, one))
        assert ask(database, one) is None
        assert find(database, one.cookie).finished


def test_nobody_is_finished_for_nothing(opened, monkeypatch):
    """Where others hold everything there is neither practice nor an end; later both come."""
    database = opened(count=2, votes_per_item=1, items_per_session=2)
    first, second = enrol(database), enrol(database)
    for one in (first, second):
        while (trial := ask(database, one)).purpose != "item":
            answer(database, one, trial)
    third = enrol(database)
    assert ask(database, third) is None
    with database.read() as connection:
        assert awaits_others(connection)
    assert find(database, third.cookie).finished is None
    late = sessions.now() + 31 * 60
    monkeypatch.setattr(sessions, "now", lambda: late)
    assert [trial.purpose for trial in do_all(database, third)][:2] == ["practice"] * 2
    assert find(database, third.cookie).finished
    fourth = enrol(database)
    assert ask(database, fourth) is None
    with database.read() as connection:
        assert not awaits_others(connection)
    assert find(database, fourth.cookie).finished is None


def test_the_end_is_the_end(opened):
    database = opened(practice=0, sentinels=0, repeats=0, items_per_session=2)
    person = enrol(database)
    trials = do_all(database, person)
    assert answer(database, person, trials[-1])[1] is False  # the same, sent again
    assert answer(database, person, trials[-1]._replace(attempt=1), "right") is None
    assert ask(database, find(database, person.cookie)) is None
    assert {vote.choice for vote in read_votes(database)} == {"left"}


def test_sides_are_by_a_coin(opened):
    database = opened(practice=0, sentinels=0, repeats=0, votes_per_item=10, items_per_session=12)
    swapped = [trial.shown for _ in range(10) for trial in do_all(database, enrol(database))]
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
            answer(database, person, trial, "left" if trial.shown == bool(prefers) else "right")
    counts = Counter(vote.item for vote in read_votes(database))
    assert counts == {0: 5} | dict.fromkeys(range(1, 12), 3)
