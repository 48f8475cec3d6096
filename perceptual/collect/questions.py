"""Questions in a browser: how items of each kind are shown, and what people answer.

To ask about another kind, add a `Question` to `QUESTIONS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from perceptual.data.kinds import JND, TWO_AFC, Kind


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

    In half of the trials the roles are in reverse order.
    """
    labels: tuple[str, ...]
    """Names of the images, by place."""
    answers: Mapping[str, int]
    """Value of a vote by the role that was chosen, or by a word, which is shown as a button."""
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
        """Places or words to choose from: the first by the left arrow key, the last by the right one."""
        chosen = [place for place, role in self.places.items() if role in self.answers]
        return tuple(chosen or self.answers)

    def role(self, place: str, swapped: bool) -> str:
        """Return the role that is shown at a place."""
        roles = list(self.places.values())
        number = list(self.places).index(place)
        return roles[-1 - number if swapped else number]

    def answer(self, choice: str, swapped: bool) -> int:
        """Return what a choice counts as."""
        return self.answers[self.role(choice, swapped) if choice in self.places else choice]

    def place(self, role: str, swapped: bool) -> str:
        """Return the place that shows a role."""
        return next(place for place in self.places if self.role(place, swapped) == role)


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
    )
}
"""By the name of the kind, see `perceptual.data.kinds`."""


def is_first(choice: str) -> bool:
    """Return whether a choice is the first one of a question, such as left or same."""
    return any(choice == asked.choices[0] for asked in QUESTIONS.values())
