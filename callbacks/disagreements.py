"""The validation triplets on which the metric and people disagree most, with their images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.special import xlogy
from torch import Tensor

from callbacks.report import Judged, Report, Trained, on_boards
from perceptual.files import csv_cells
from perceptual.files.writing import save_picture, whole_file

ROLES = ("p0", "ref", "p1")
COLUMNS = ("triplet", "subset", "judgment", "votes", "preference", "d0", "d1", "deviance")
TILE, GAP, TEXT, MARGIN = 128, 4, 54, 16  # pixels of the sheet
SHEET_COLUMNS = 3
FONT = ImageFont.load_default(13)
BLACK, GREY = (20, 20, 20), (110, 110, 110)


class Disagreements(Report):
    """Writes `disagreements.png`, a sheet of images, and `disagreements.csv`, the numbers; W&B gets a table.

    Args:
        run_dir: folder of the run.
        count: how many triplets.
    """

    def __init__(self, run_dir: str, count: int = 24) -> None:
        super().__init__(run_dir)
        self.count = count

    def make(self, trained: Trained) -> None:
        """Find the triplets and keep them with their images."""
        judged, table = trained.judged, trained.data.val_set.table
        deviance = vote_deviance(judged)
        worst = most_contrary(judged, self.count)
        rows = [
            (
                int(i),
                table.subsets[table.subset[i]],
                *(round(float(c[i]), 4) for c in (judged.judgment, judged.votes, judged.preference)),
                *(round(float(c[i]), 6) for c in (judged.d0, judged.d1)),
                round(float(deviance[i]), 2),
            )
            for i in worst
        ]
        with whole_file(self.path("disagreements.csv")) as partial:
            csv_cells.write_file(partial, COLUMNS, rows)
        images = [[_image(table.images.one(int(table.role(role)[i]))) for role in ROLES] for i in worst]
        save_picture(sheet(images, [_captions(judged, i) for i in worst]), self.path("disagreements.png"))
        self.show("disagreements", trained.trainer)
        pictured = [[*three, *row] for three, row in zip(images, rows, strict=True)]
        columns = [*ROLES, *COLUMNS]
        on_boards(trained.trainer, lambda board: board.table("disagreements_table", columns, pictured))


def most_contrary(judged: Judged, count: int) -> np.ndarray:
    """At most `count` triplets whose distances order p0 and p1 against most votes, by `vote_deviance`."""
    contrary = np.flatnonzero((judged.d0 - judged.d1) * (judged.judgment - 0.5) < 0)
    return contrary[np.argsort(-vote_deviance(judged)[contrary], kind="stable")][:count]


def vote_deviance(judged: Judged) -> np.ndarray:
    """(N,) how much the votes of each triplet speak against the predicted preference; 0 if not at all.

    The deviance of a binomial, 2 n KL(judgment ‖ preference): many votes that agree weigh more than one.
    """
    j, p = judged.judgment.astype(float), np.clip(judged.preference.astype(float), 1e-7, 1 - 1e-7)
    apart = xlogy(j, j / p) + xlogy(1 - j, (1 - j) / (1 - p))
    return 2 * judged.votes * np.maximum(apart, 0)


def sheet(images: Sequence[Sequence[Image.Image]], captions: Sequence[tuple[str, str, str]]) -> Image.Image:
    """Triplets side by side, p0 · ref · p1 with a caption of three lines below each image."""
    width, height = len(ROLES) * (TILE + GAP) - GAP, TILE + TEXT
    lines = -(-len(images) // SHEET_COLUMNS)
    size = (SHEET_COLUMNS * (width + MARGIN) + MARGIN, lines * (height + MARGIN) + MARGIN)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for place, (three, words) in enumerate(zip(images, captions, strict=True)):
        left = MARGIN + place % SHEET_COLUMNS * (width + MARGIN)
        top = MARGIN + place // SHEET_COLUMNS * (height + MARGIN)
        for column, (role, image, caption) in enumerate(zip(ROLES, three, words, strict=True)):
            x = left + column * (TILE + GAP)
            page.paste(image.resize((TILE, TILE), _filter(image)), (x, top))
            ink = GREY if role == "ref" else BLACK
            middle = (x + TILE // 2, top + TILE + TEXT // 2)
            draw.multiline_text(middle, caption, ink, FONT, anchor="mm", align="center", spacing=2)
    return page


def _captions(judged: Judged, i: int) -> tuple[str, str, str]:
    share, predicted, votes = judged.judgment[i], judged.preference[i], int(judged.votes[i])
    return (
        f"people {1 - share:.0%}\npredicted {1 - predicted:.0%}\ndistance {judged.d0[i]:.3f}",
        f"ref\n{votes} vote{'s' * (votes != 1)}\ntriplet {i}",
        f"people {share:.0%}\npredicted {predicted:.0%}\ndistance {judged.d1[i]:.3f}",
    )


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0)))


def _filter(image: Image.Image) -> Image.Resampling:
    return Image.Resampling.LANCZOS if image.width > TILE else Image.Resampling.NEAREST
