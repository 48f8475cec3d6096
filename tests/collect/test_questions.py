"""Another kind of judgments in a browser: three images, none of them a reference, is a registration."""

import numpy as np
import pytest
from judged import ODD
from PIL import Image
from studies import Visitor, make_study, read_rows, seen, served, write_source

from perceptual.collect import export as exporting
from perceptual.collect.export import export
from perceptual.collect.quality import Rules
from perceptual.collect.questions import QUESTIONS, Question
from perceptual.collect.votes import read_votes

WHICH = Question(
    kind=ODD,
    heading="Which one is the odd one?",
    how="Choose the image that does not belong to the others.",
    places={"left": "a", "middle": "b", "right": "c"},
    labels=("Left", "Middle", "Right"),
    answers={"a": 0, "b": 0, "c": 1},
    distorted={"c": ("c",)},
    wrong="Not quite: the two others were equal.",
    seconds=4,
)


def odd_one(visitor, trial):
    """Choose the image that differs most from the others."""
    images = np.stack(seen(visitor, trial))
    apart = np.square(images[:, None] - images).mean((2, 3, 4)).sum(1)
    return list(WHICH.places)[apart.argmax()]


def test_three_images_without_a_reference(tmp_path, monkeypatch):
    """The noisiest one is odd, which is c in every second item."""
    monkeypatch.setitem(QUESTIONS, ODD.name, WHICH)
    monkeypatch.setattr(exporting, "contact_sheet", lambda *_: Image.new("RGB", (1, 1)))  # of known manifests
    source = write_source(tmp_path / "source", 12, roles=ODD.roles)
    settings = {"items_per_session": 12, "practice": 1, "sentinels": 1, "repeats": 1}
    with served(make_study(tmp_path, source=source, **settings)) as server:
        person = Visitor(server.port).enrol()
        assert person.request("GET", "/trials").content.decode().count("Which one is the odd one?") == 1
        assert person.take_part(odd_one) == 15
        done = export(server.database, tmp_path / "judged", Rules())
        votes = read_votes(server.database)
        items = server.database.study.items.values()
        number = {item.images["a"]: item.id for item in items if item.purpose == "item"}
    assert (done.items, {vote.choice for vote in votes}) == (12, {"left", "middle", "right"})
    assert {(vote.purpose, vote.right) for vote in votes} == {
        *(("practice", "yes"), ("sentinel", "yes")),
        *(("item", ""), ("repeat", "")),
    }
    for row in read_rows(tmp_path / "judged/manifest.csv"):
        assert float(row["odd"]) == 1 - number[row["a"].removeprefix("images/")] % 2


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_right_does_not_depend_on_the_side(name, swapped):
    """Choosing the place that shows the copy, or the word, is the right answer on either side."""
    asked = QUESTIONS[name]
    assert [asked.role(asked.place(role, swapped), swapped) for role in asked.kind.roles] == [
        *asked.kind.roles
    ]
    for right in asked.distorted:
        choice = asked.place(right, swapped) if right in asked.kind.roles else right
        assert choice in asked.choices
        assert asked.answer(choice, swapped) == asked.answers[right]
