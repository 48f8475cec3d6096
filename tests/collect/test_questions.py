"""Three images without a reference in a browser, and what is asked of any kind."""

from collections import Counter

import numpy as np
import pytest
from studies import Visitor, make_study, read_rows, seen, served, write_source

from perceptual.collect.export import export
from perceptual.collect.quality import Rules
from perceptual.collect.questions import QUESTIONS
from perceptual.collect.votes import read_votes
from perceptual.data import ODD_ONE_OUT, OddOneOutDataModule

ODD = QUESTIONS[ODD_ONE_OUT.name]


def odd_one(visitor, trial):
    """Choose the image that differs most from the others."""
    images = np.stack(seen(visitor, trial))
    apart = np.square(images[:, None] - images).mean((2, 3, 4)).sum(1)
    return list(ODD.places)[apart.argmax()]


def test_three_images_without_a_reference(tmp_path):
    """The noisiest one is odd, which is c in every second item; what is exported is read by `data=odd`."""
    source = write_source(tmp_path / "source", 12, roles=ODD.kind.roles)
    settings = {"items_per_session": 12, "practice": 3, "sentinels": 3, "repeats": 1, "votes_per_item": 4}
    with served(make_study(tmp_path, source=source, **settings)) as server:
        for _ in range(3):
            person = Visitor(server.port).enrol()
            assert ODD.heading in person.request("GET", "/trials").content.decode()
            assert person.take_part(odd_one) == 19
        person = Visitor(server.port).enrol()
        assert person.take_part(lambda *_: "second") == 19
        done = export(server.database, tmp_path / "judged", Rules(most_missed=1))
        votes = read_votes(server.database)
        items = server.database.study.items.values()
        number = {item.images["a"]: item.id for item in items if item.purpose == "item"}
    assert (done.items, done.votes) == (12, 48)
    known = Counter((v.right, v.participant < 4) for v in votes if v.purpose in ("practice", "sentinel"))
    assert known["yes", True] == 18
    assert known["no", True] == 0
    assert known["no", False] > 0
    shown = Counter((v.p1_side, v.choice) for v in votes if v.purpose == "item")
    assert {side for side, _ in shown} == {choice for _, choice in shown} == {*ODD.places}
    for row in read_rows(tmp_path / "judged/manifest.csv"):
        right = "bc"[1 - number[row["a"].removeprefix("images/")] % 2]
        assert float(row[f"odd_{right}"]) >= 0.75
        assert sum(float(row[f"odd_{role}"]) for role in "abc") == 1
    data = OddOneOutDataModule(str(tmp_path / "judged/manifest.csv"), size=16, val_fraction=1)
    data.setup("validate")
    assert data.val_set.table.votes.tolist() == [4] * 12
    assert (tmp_path / "judged/items.png").is_file()


@pytest.mark.parametrize(("name", "count"), [("2afc", 2), ("jnd", 2), ("odd-one-out", 6)])
def test_every_order_shows_each_role_once_and_a_reference_in_its_place(name, count):
    asked = QUESTIONS[name]
    orders = [tuple(order.values()) for order in asked.orders]
    assert len(set(orders)) == len(orders) == count
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(asked.kind.roles))}
    assert orders[0] == tuple(asked.places.values())
    if "ref" in asked.kind.roles:
        assert {order[1] for order in orders} == {"ref"}


@pytest.mark.parametrize(
    ("name", "order"), [(name, order) for name in QUESTIONS for order in range(len(QUESTIONS[name].orders))]
)
def test_what_is_right_does_not_depend_on_the_side(name, order):
    """Choosing the place that shows the copy, or the word, is the right answer in any order."""
    asked = QUESTIONS[name]
    assert [asked.role(asked.place(role, order), order) for role in asked.kind.roles] == [*asked.kind.roles]
    for right in asked.distorted:
        choice = asked.place(right, order) if right in asked.kind.roles else right
        assert choice in asked.choices
        assert asked.answer(choice, order) == asked.answers[right]
