"""Questions in a browser: how items of each kind are shown, and what people answer.

To ask about another kind, add a `Question` to `QUESTIONS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

from perceptual.data.kinds import JND, ODD_ONE_OUT, TWO_AFC, Kind


@dataclass(frozen=True)
class Question:
    """Question about the images of an item, and where they are shown."""

    kind: Kind
    heading: str
    """Default text above a trial."""
    how: str
    """Description of a trial in the instructions."""
    places: Mapping[str, str]
    """Role shown at each place; places are named in addresses and in votes.

    In each trial the roles to choose from, or all where the answers are words, are in a random order.
    """
    labels: tuple[str, ...]
    """Names of the images, by place."""
    answers: Mapping[str, int]
    """Value of a vote, 0, 1 …, by the role that was chosen, or by a word, which is shown as a button."""
    distorted: Mapping[str, tuple[str, ...]]
    """Roles that show a strong distortion, by the right answer of a practice item; the others show a copy."""
    wrong: str
    """Feedback on a wrong answer in practice."""
    seconds: float
    """Time that a trial takes."""
    in_turn: bool = False
    """Show images one after the other instead of all at once."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Places or words to choose from, by arrow keys: the first left, the last right, one between down."""
        chosen = [place for place, role in self.places.items() if role in self.answers]
        return tuple(chosen or self.answers)

    @property
    def orders(self) -> list[dict[str, str]]:
        """Roles by their places, in every order that they are shown in."""
        moving = [place for place, role in self.places.items() if role in self.answers] or [*self.places]
        return [
            {**self.places, **dict(zip(moving, roles, strict=True))}
            for roles in permutations(self.places[place] for place in moving)
        ]

    def role(self, place: str, order: int) -> str:
        """Return the role that is shown at a place, in one of the orders."""
        return self.orders[order][place]

    def answer(self, choice: str, order: int) -> int:
        """Return what a choice counts as."""
        return self.answers[self.role(choice, order) if choice in self.places else choice]

    def place(self, role: str, order: int) -> str:
        """Return the place that shows a role."""
        return next(place for place in self.places if self.role(place, order) == role)


QUESTIONS = {
    question.kind.name: question
    for question in (
        Question(
            kind=TWO_AFC,
            heading="Which of the two images is more similar to the reference?",
            how="In each trial, the image in the middle (on a narrow screen, above) is the reference. Choose "
            "which of the other two is more similar to it: click or touch it, or press the left or right "
            "arrow key.",
            places={"left": "p0", "middle": "ref", "right": "p1"},
            labels=("Left", "Reference", "Right"),
            answers={"p0": 0, "p1": 1},
            distorted={"p0": ("p1",), "p1": ("p0",)},
            wrong="Not quite: the other image was a copy of the reference.",
            seconds=4,
        ),
        Question(
            kind=JND,
            heading="Were the two images the same or different?",
            how="In each trial, two images are shown one after the other, each for one second. Then say "
            "whether they were the same or different: click or touch a button, or press the left arrow key "
            "for same and the right one for different.",
            places={"first": "p0", "second": "p1"},
            labels=("First image", "Second image"),
            answers={"same": 1, "different": 0},
            distorted={"same": (), "different": ("p1",)},
            wrong="Not quite: look again at such pairs.",
            seconds=5,
            in_turn=True,
        ),
        Question(
            kind=ODD_ONE_OUT,
            heading="Which of the three images is the odd one out?",
            how="In each trial, three images are shown. Choose the one that is least like the other two: "
            "click or touch it, or press the left, down or right arrow key.",
            places={"first": "a", "second": "b", "third": "c"},
            labels=("First", "Second", "Third"),
            answers={"a": 0, "b": 1, "c": 2},
            distorted={"a": ("a",), "b": ("b",), "c": ("c",)},
            wrong="Not quite: the other two images were copies of each other.",
            seconds=5,
        ),
    )
}
"""By the name of the kind, see `perceptual.data.kinds`."""


def is_first(choice: str) -> bool:
    """Return whether a choice is the first one of a question, such as left or same."""
    return any(choice == asked.choices[0] for asked in QUESTIONS.values())
