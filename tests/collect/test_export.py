"""Exports: manifests that train, reports that are right, and who is excluded."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from studies import Visitor, attentive, make_study, read_rows, served, vote, write_source

from perceptual.collect import export as exporting
from perceptual.collect.export import export
from perceptual.collect.quality import Rules, assess, interval, summary, tally
from perceptual.collect.study import Config
from perceptual.collect.votes import read_votes
from perceptual.data import JND, TWO_AFC, read_manifest

CONFIG = Config(id="x", kind="2afc")
ALL = Rules(most_missed=1, fastest_ms=0, most_one_side=1)


@pytest.mark.parametrize("pairs", [False, True])
def test_votes_become_a_manifest(tmp_path, pairs):
    """Attentive people agree, and their side does not matter; a careless one is excluded, not deleted."""
    with served(make_study(tmp_path, pairs=pairs)) as server:
        for name in "abc":
            Visitor(server.port, name).enrol().take_part(attentive)
        careless = Visitor(server.port, "d").enrol()
        careless.take_part(lambda visitor, trial: "different" if pairs else _wrong(visitor, trial))
        done = export(server.database, tmp_path / "judged", Rules())
        everyone = tally(read_votes(server.database), server.database.study.config)
    assert [person.excluded for person in done.people] == ["", "", "", "sentinels missed"]
    assert sum(one.n for one in everyone.values()) == done.votes + 6 == 24
    table = read_manifest(tmp_path / "judged/manifest.csv", JND if pairs else TWO_AFC)
    assert table.votes.sum() == done.votes
    if pairs:
        assert (table.answer == 0).all()  # all pairs of the source differ
    else:
        by_file = {file: index for index, file in enumerate(table.paths)}
        assert len(by_file) == 3 * len(table)
        rows = read_rows(tmp_path / "judged/manifest.csv")
        items = [item for item in server.database.study.items.values() if item.purpose == "item"]
        source = {item.images["ref"]: item.id for item in items}
        for row in rows:  # p0 is less noisy in every second item
            assert float(row["judge"]) == source[row["ref"].removeprefix("images/")] % 2
    votes = read_rows(tmp_path / "judged/votes.csv")
    assert {row["external"] for row in votes} == set("abcd")
    assert {row["excluded"] for row in votes if row["external"] == "d"} == {"sentinels missed"}
    report = (tmp_path / "judged/report.md").read_text()
    assert "1 of 4 participants" in report
    assert "100.0%" in report  # two people agree
    assert {path.name for path in (tmp_path / "judged").glob("*.png")} == {"items.png", "votes.png"}


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without their diagram, which takes longer than all else."""
    monkeypatch.setattr(exporting, "_draw", lambda *_: None)


def _wrong(visitor, trial):
    return "left" if attentive(visitor, trial) == "right" else "right"


def test_an_export_without_votes_or_onto_another_is_refused(tmp_path):
    with served(make_study(tmp_path)) as server:
        with pytest.raises(
            ValueError, match=r"no item of .* has a vote that counts; participants with answers: 0$"
        ):
            export(server.database, tmp_path / "judged", Rules())
        with pytest.raises(ValueError, match="exists already"):
            export(server.database, tmp_path / "study", Rules())
        Visitor(server.port, "quick").enrol().take_part(attentive)
        with pytest.raises(ValueError, match="participants with answers: 1; excluded: 1 too fast"):
            export(server.database, tmp_path / "judged", Rules(fastest_ms=5000))
    assert not (tmp_path / "judged.partial").exists()


def test_a_study_whose_rule_came_later_is_exported(tmp_path, undrawn):
    """Votes beyond the one that decided, of any order, are left out and divide by nothing."""
    study = make_study(tmp_path, items_per_session=12, practice=0, sentinels=0, repeats=0, votes_per_item=5)
    with served(study) as server:
        for name, choose in zip("abcde", [attentive] * 4 + [_wrong], strict=True):
            Visitor(server.port, name).enrol().take_part(choose)
        study.config.stop_when_sure = True
        export(server.database, tmp_path / "judged", Rules())
    assert set(read_manifest(tmp_path / "judged/manifest.csv").answer) == {0.0, 1.0}
    assert "100.0%" in (tmp_path / "judged/report.md").read_text()  # two people agree


def test_rules():
    good = [vote(item=i, choice=("left", "right")[i % 2]) for i in range(30)]
    fast = [vote(2, i, choice=("left", "right")[i % 2], ms=200) for i in range(30)]
    lefty = [vote(3, i) for i in range(30)]
    blind = [vote(4, 90 + i, "sentinel", right=("yes", "no")[i % 2]) for i in range(4)]
    people = assess([*good, *fast, *lefty, *blind], Rules())
    assert [person.excluded for person in people] == ["", "too fast", "one side only", "sentinels missed"]
    assert not any(person.excluded for person in assess([*good, *fast, *lefty, *blind], ALL))
    assert assess([vote(item=i) for i in range(19)], Rules())[0].excluded == ""  # too few to say
    with pytest.raises(ValueError, match=r"most_missed must be in \[0, 1\], got 2"):
        Rules(most_missed=2)
    for wrong in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match=f"fastest_ms must be a number of at least 0, got {wrong}"):
            Rules(fastest_ms=wrong)


def test_summary():
    """Against the numbers counted by hand."""
    votes = [vote(person, 0, answer=int(person < 4), at=10.0 * person) for person in range(1, 5)]
    votes += [vote(1, 1, answer=1, choice="right", at=20), vote(1, 0, "repeat", answer=1, at=1000)]
    votes += [vote(2, 0, "repeat", answer=0, at=25)]
    facts = summary(votes, CONFIG)
    assert (facts["votes"], facts["items"], facts["repeats"]) == (5, 2, 2)
    assert facts["agreement"] == pytest.approx((3 * 2 + 0) / (4 * 3))
    assert facts["consistency"] == 0.5
    assert facts["first_choice"] == 0.8
    assert facts["hours"] == pytest.approx((10 + 5) / 3600)  # the long pause does not count
    assert facts["per_hour"] is None  # of fifteen seconds
    assert facts["first_choice_interval"] is None  # of four participants
    assert facts["participants"] == 4
    assert summary([*votes, vote(9, 70, "practice")], CONFIG)["participants"] == 4
    assert summary([*votes, vote(5, 2)], CONFIG, {2, 3, 4})["participants"] == 2


def test_votes_per_hour_are_those_of_people_at_work():
    """One vote in ten seconds, whoever begins anew, pauses, or answers practice items besides."""
    votes = [
        vote(person, item, "practice" if item < 5 else "item", at=5000 * (item > 20) + 10.0 * item)
        for person in range(4)
        for item in range(40)
    ]
    facts = summary(votes, CONFIG)
    assert facts["hours"] == pytest.approx(4 * 38 * 10 / 3600)  # neither before the first nor the pause
    assert facts["per_hour"] == pytest.approx(360 * 34 / 38)  # four of the 38 were practice


@pytest.mark.parametrize(
    ("people", "studies", "off"),
    [(8, 500, 0.04), *(pytest.param(n, 4000, 0.02, marks=pytest.mark.slow) for n in (5, 8, 20))],
)
def test_the_interval_of_sides_covers_the_truth(people, studies, off):
    """People lean to a side each in their own way, and answer more or fewer times."""
    rng = np.random.default_rng(people)
    covered = 0
    for _ in range(studies):
        count = rng.integers(10, 40, people)
        left = rng.binomial(count, rng.beta(12, 10, people))
        first = np.concatenate([np.arange(n) < k for n, k in zip(count, left, strict=True)]).astype(float)
        low, high = interval(first, np.repeat(np.arange(people), count))
        covered += low <= 12 / 22 <= high
    assert covered / studies == pytest.approx(0.95, abs=off)


@pytest.mark.parametrize("share", [0.07, 0.29, 0.57, 0.58, 0.82, 0.95])
def test_a_share_that_is_reached_is_not_exceeded(share):
    """At every share of hundredths, 1 − share included, whatever its nearest float is."""
    part = round(100 * share)
    for extra in (0, 1):
        lefts = [vote(1, i, choice=("right", "left")[i < part + extra]) for i in range(100)]
        rights = [vote(2, i, choice=("left", "right")[i < part + extra]) for i in range(100)]
        missed = [vote(3, i, "sentinel", right=("yes", "no")[i < part + extra]) for i in range(100)]
        people = assess([*lefts, *rights, *missed], Rules(share, 0, share))
        if share > 0.5:
            assert [person.excluded for person in people[:2]] == ["one side only" * extra] * 2
        assert people[2].excluded == "sentinels missed" * extra


def test_algorithms_are_ranked(tmp_path, undrawn):
    names = {"algorithm0": lambda i: ("good", "bad")[i % 2], "algorithm1": lambda i: ("bad", "good")[i % 2]}
    source = write_source(tmp_path / "outputs", 12, **names)  # p0 is less noisy in even items, made by "good"
    with served(make_study(tmp_path, source=source, items_per_session=12)) as server:
        for name in "ab":
            Visitor(server.port, name).enrol().take_part(attentive)
        export(server.database, tmp_path / "judged", Rules())
    table = read_manifest(tmp_path / "judged/manifest.csv")  # the columns are kept, and do not disturb
    assert len(table) == 12
    assert "algorithm0" in (tmp_path / "judged/manifest.csv").read_text().splitlines()[0]
    report = (tmp_path / "judged/report.md").read_text()
    good, bad = (line for line in report.splitlines() if line.startswith(("| good", "| bad")))
    assert "24 of 24" in good
    assert "0 of 24" in bad


def test_early_stopping_exports_unbiased_judgments_and_majorities(tmp_path, undrawn):
    settings = {"items_per_session": 12, "practice": 0, "sentinels": 0, "repeats": 0, "votes_per_item": 5}
    with served(make_study(tmp_path, stop_when_sure=True, **settings)) as server:
        for name in "abcd":
            Visitor(server.port, name).enrol().take_part(attentive)
        export(server.database, tmp_path / "judged", Rules())
    judged = read_manifest(tmp_path / "judged/manifest.csv")
    majority = read_manifest(tmp_path / "judged/majority.csv")
    assert judged.votes is None
    np.testing.assert_array_equal(judged.answer, majority.answer)  # all agreed: 3 of 3
    assert set(judged.answer) == {0.0, 1.0}


ADMINISTRATION = """
import sys
from pathlib import Path
from studies import TOKEN, Visitor, served
from perceptual.collect.study import Study

with served(Study(Path(sys.argv[1]))) as server:
    for name in ("voter", "visitor"):
        person = Visitor(server.port, name).enrol()
        trial = person.next()
        while name == "voter" and trial:
            trial = person.vote(trial, "left")["trial"]
    admin = Visitor(server.port)
    admin.request("POST", "/admin", f"token={TOKEN}".encode())
    print(admin.request("GET", "/admin").content.decode())
print("torch" in sys.modules, "matplotlib" in sys.modules)
"""


def test_the_administrator_sees_everybody_without_torch(tmp_path):
    """In a process of its own, as the first page after the start is: torch takes seconds to import."""
    study = make_study(tmp_path)
    folders = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    said = subprocess.run(
        [sys.executable, "-c", ADMINISTRATION, study.folder],
        env=os.environ | {"PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.splitlines()[-1] == "False False"
    assert "2, of whom 1 have voted and 1 have finished" in said
    assert "<td>voter</td><td>6</td>" in said
    assert "<td>visitor</td><td>0</td>" in said
    assert "too little work to say" in said


def test_an_item_that_has_lost_an_image_is_left_out(tmp_path, undrawn):
    settings = {"items_per_session": 12, "practice": 0, "sentinels": 0, "repeats": 0}
    with served(make_study(tmp_path, **settings)) as server:
        Visitor(server.port).enrol().take_part(attentive)
        study = server.database.study
        for item, content in ((3, b""), (4, study.image(study.items[5].images["p0"]).read_bytes())):
            study.image(study.items[item].images["p0"]).write_bytes(content)
        export(server.database, tmp_path / "judged", ALL)
    refs = {row["ref"].removeprefix("images/") for row in read_rows(tmp_path / "judged/manifest.csv")}
    assert refs == {study.items[item].images["ref"] for item in range(12) if item not in (3, 4)}
    assert len(read_manifest(tmp_path / "judged/manifest.csv")) == 10
    assert len(read_rows(tmp_path / "judged/votes.csv")) == 12
