"""Exports: manifests that train, reports that are right, and who is excluded."""

import numpy as np
import pytest
from studies import Visitor, attentive, make_study, read_rows, served, write_source

from perceptual.collect import bradley_terry
from perceptual.collect.export import export
from perceptual.collect.quality import Rules, assess, summary
from perceptual.collect.rows import VoteRow
from perceptual.data import read_manifest, read_pair_manifest

ALL = Rules(most_missed=1, fastest_ms=0, most_one_side=1)


def vote(participant=1, item=0, purpose="item", choice="left", answer=0, right="", ms=900.0, at=0.0):
    return VoteRow(
        participant, "", item, purpose, 0, "right", choice, answer, right, ms, "[]", 16.7, 800, 600, 1.0, 4.0,
        "0", at, 0, True,
    )  # fmt: skip


@pytest.mark.parametrize("pairs", [False, True])
def test_votes_become_a_manifest(tmp_path, pairs):
    """Attentive people agree, and their side does not matter; a careless one is excluded, not deleted."""
    with served(make_study(tmp_path, pairs=pairs)) as server:
        for name in "abc":
            Visitor(server.port, name).enrol().take_part(attentive)
        careless = Visitor(server.port, "d").enrol()
        careless.take_part(lambda visitor, trial: "different" if pairs else _wrong(visitor, trial))
        done = export(server.database, tmp_path / "judged", Rules())
        everyone = export(server.database, tmp_path / "everyone", ALL)
    assert [person.excluded for person in done.people] == ["", "", "", "sentinels missed"]
    assert everyone.votes == done.votes + 6 == 24
    table = (read_pair_manifest if pairs else read_manifest)(tmp_path / "judged/manifest.csv")
    assert table.votes.sum() == done.votes
    if pairs:
        assert (table.same == 0).all()  # all pairs of the source differ
    else:
        by_file = {file: index for index, file in enumerate(table.images)}
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


def _wrong(visitor, trial):
    return "left" if attentive(visitor, trial) == "right" else "right"


def test_an_export_without_votes_or_onto_another_is_refused(tmp_path):
    with served(make_study(tmp_path)) as server:
        with pytest.raises(ValueError, match=r"no item of .* has a vote that counts: 0 votes"):
            export(server.database, tmp_path / "judged", Rules())
        with pytest.raises(ValueError, match="exists already"):
            export(server.database, tmp_path / "study", Rules())
    assert not (tmp_path / "judged.partial").exists()


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


def test_summary():
    """Against the numbers counted by hand."""
    votes = [vote(person, 0, answer=int(person < 4), at=10.0 * person) for person in range(1, 5)]
    votes += [vote(1, 1, answer=1, choice="right", at=20), vote(1, 0, "repeat", answer=1, at=1000)]
    votes += [vote(2, 0, "repeat", answer=0, at=25)]
    facts = summary(votes)
    assert (facts["votes"], facts["items"], facts["repeats"]) == (5, 2, 2)
    assert facts["agreement"] == pytest.approx((3 * 2 + 0) / (4 * 3))
    assert facts["consistency"] == 0.5
    assert facts["first_choice"] == 0.8
    assert facts["hours"] == pytest.approx((10 + 5) / 3600)  # the long pause does not count
    assert facts["first_choice_interval"] is None  # of four participants
    more = summary(votes + [vote(person, 0, answer=1, at=10.0 * person) for person in range(5, 9)])
    low, high = more["first_choice_interval"]
    assert 0 <= low <= more["first_choice"] <= high <= 1


def test_bradley_terry_is_the_likeliest():
    """Against SciPy's optimiser on the likelihood, and against the strengths that made the votes."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    true = np.array([1.0, 0.2, -0.4, -0.8])
    wins = np.zeros((4, 4))
    for _ in range(4000):
        a, b = rng.choice(4, 2, replace=False)
        first = rng.random() < 1 / (1 + np.exp(true[b] - true[a]))
        wins[(a, b) if first else (b, a)] += 1
    found = bradley_terry.strengths(wins)
    smoothed = wins + bradley_terry.PRIOR * (1 - np.eye(4))

    def unlikely(s):
        return (smoothed * np.log1p(np.exp(s[None] - s[:, None]))).sum()

    best = minimize(unlikely, np.zeros(4), tol=1e-10).x
    np.testing.assert_allclose(found, best - best.mean(), atol=1e-4)
    np.testing.assert_allclose(found, true, atol=0.15)
    assert np.isfinite(bradley_terry.strengths(np.array([[0.0, 9], [0, 0]]))).all()


@pytest.mark.parametrize("references", [1, 4, 5])
def test_algorithms_on_few_references_have_no_intervals(references):
    cluster = np.arange(20) % references
    found = bradley_terry.rank(["a"] * 20, ["b"] * 20, np.full(20, 4.0), np.full(20, 3.0), cluster)
    assert [one.name for one in found] == ["b", "a"]
    assert np.isfinite(found[0].strength)
    assert np.isnan(found[0].low) == np.isnan(found[1].high) == (references < 5)


def test_algorithms_are_ranked(tmp_path):
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


def test_early_stopping_exports_unbiased_judgments_and_majorities(tmp_path):
    settings = {"items_per_session": 12, "practice": 0, "sentinels": 0, "repeats": 0, "votes_per_item": 5}
    with served(make_study(tmp_path, stop_when_sure=True, **settings)) as server:
        for name in "abcd":
            Visitor(server.port, name).enrol().take_part(attentive)
        export(server.database, tmp_path / "judged", Rules())
    judged = read_manifest(tmp_path / "judged/manifest.csv")
    majority = read_manifest(tmp_path / "judged/majority.csv")
    assert judged.votes is None
    np.testing.assert_array_equal(judged.judgment, majority.judgment)  # all agreed: 3 of 3
    assert set(judged.judgment) == {0.0, 1.0}
