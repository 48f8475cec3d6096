"""What pictures show: enough room, the set that they are of, and something in every panel."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image, ImageFont

from benchmarks import growth
from callbacks.lin import draw as draw_lin
from perceptual.cli import plots as of_commands
from perceptual.data.contact_sheets import contact_sheet
from perceptual.evaluation import plots, suite_tables
from perceptual.evaluation.board import Board, Entry
from perceptual.evaluation.results import Items, Result
from perceptual.evaluation.robustness import report
from perceptual.evaluation.tables import short_names

LONG = [f"/home/somebody/work/{'deep/' * 20}2026-01-0{i}/checkpoints/best.ckpt" for i in (1, 2)]
METHODS = [*LONG, "l2", "price-$5-and-$6"]
SET = "prices/of $20 and $30.csv: 1,200 validation triplets"
INCHES = 1.3  # that an axis needs to be read


def board(kind="2afc", subsets=("one", "two"), methods=METHODS):
    """A leaderboard of made-up scores."""
    score = [0.7] * (len(subsets) + 2)
    entries = [
        Entry(
            Result(
                name,
                family="trained" if "/" in name else "classic",
                level_shares=[0.2, 0.8],
                parameters=1000 * (i + 1),
                images_per_second=100 * (i + 1),
                device="cpu",
            ),
            *(score, [0.6] * len(score), [0.8] * len(score)),
            1,
            (0, 0),
        )
        for i, name in enumerate(methods)
    ]
    counts = [1] * len(subsets)
    data = Items(kind, f"{kind}-1", "", f"/home/somebody/{SET}", 64, list(subsets), counts)
    people = {"two people (unbiased)": score, "a person, own vote included": score}
    return Board(data, [*subsets, "mean", "micro"], entries, people, [], True, [], None)


def trust_rows(methods=METHODS, columns=("shift 1", "JPEG 95")):
    return [Result(name, trust={c: [0.1, 0.0, 0.2] for c in columns}) for name in methods]


def suite(methods=METHODS):
    numbers = np.full((len(methods), 2), 0.7)
    return SimpleNamespace(
        columns=["a", "all"],
        methods=methods,
        sets={"a": SimpleNamespace(kind="2afc")},
        score=numbers,
        low=numbers - 0.1,
        high=numbers + 0.1,
    )


def _title(figure):
    return figure._suptitle.get_text()  # Matplotlib has get_suptitle from 3.8


def panels(figure):
    """Axes with the width of each in inches, once everything has found its place."""
    figure.draw_without_rendering()
    return [(axes, axes.get_window_extent().width / figure.dpi) for axes in figure.axes]


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize(
    "names",
    [
        ["l2", "alexnet-v0.1"],
        LONG,
        [f"{'x' * 30}{i}{'y' * 60}" for i in range(12)],
        ["a/" + "b" * 90, "c/" + "b" * 90],
        ["same" * 30, "same" * 30],
        [f"alexnet-kmeans:{'p' * 50}/{i}" for i in range(3)],
    ],
)
def test_short_names_stay_different(names):
    short = short_names(names, 40)
    assert len(set(short)) == len(set(names))
    assert max(map(len, short)) <= 41
    assert all(new == name for new, name in zip(short, names, strict=True) if len(name) <= 40)
    assert all(new[-1] == name[-1] for new, name in zip(short, names, strict=True))


@pytest.mark.parametrize(
    ("draw", "subsets"),
    [
        *(
            (draw, subsets)
            for draw in (plots.scores, plots.levels)
            for subsets in (["one"], ["one", "two", "three"])
        ),
        (plots.cost, ["one", "two"]),  # of the mean alone
    ],
)
def test_pictures_of_a_leaderboard_have_room_and_name_the_set(draw, subsets):
    figure = draw(board(subsets=subsets))
    assert all(inches > INCHES for _, inches in panels(figure))
    title = figure.findobj(lambda artist: getattr(artist, "get_text", str)() == _title(figure))[0]
    assert " ".join(_title(figure).split()) == SET
    legends = [legend.get_window_extent() for legend in figure.legends]
    assert not any(title.get_window_extent().overlaps(box) for box in legends)
    assert all(text.get_window_extent().x0 >= 0 for text in figure.axes[0].get_yticklabels())


def test_two_kinds_in_one_picture_name_both_sets():
    figure = plots.two_afc_against_jnd(board(), board("jnd"))
    assert " ".join(_title(figure).split()) == f"2AFC in %: {SET} JND mAP in %: {SET}"
    assert all(inches > INCHES for _, inches in panels(figure))


@pytest.mark.parametrize(
    "figure",
    [report.draw(trust_rows(), SET), suite_tables.draw(suite())],
    ids=["trust", "suite"],
)
def test_other_pictures_of_methods_have_room(figure):
    assert all(inches > INCHES for _, inches in panels(figure))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels[2:] == METHODS[2:]
    assert len(set(labels)) == 4
    assert all(text.get_window_extent().x0 >= 0 for text in figure.axes[0].get_yticklabels())


@pytest.mark.parametrize("columns", [["shift 1"], ["shift 1", "attack 2/255"], list(report.SHOWN)])
def test_every_panel_of_a_trust_report_shows_something(columns):
    figure = report.draw(trust_rows(["l2"], columns), SET)
    assert [axes.get_title() for axes in figure.axes] == columns
    assert all(len(axes.collections) == 2 for axes in figure.axes)
    assert SET in words(figure)


def test_every_weight_that_is_not_zero_is_seen():
    rng = np.random.default_rng(0)
    levels = [10 ** rng.uniform(-9, 0, 64), np.zeros(32)]
    levels[0][:5] = 0
    figure = draw_lin(levels)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())
    height = len(drawn)
    for axes, expected in zip(figure.axes, (59, 0), strict=True):
        box = axes.get_window_extent()
        x = box.x0 + (np.arange(64) + 0.5) / 64 * box.width  # in the middle of each channel
        strip = drawn[height - int(box.y0) - 4, x.astype(int), :3].astype(int)
        assert (strip[:, 2] - strip[:, 0] > 60).sum() == expected  # blue
    assert "64 channels, 5 zero" in figure.axes[0].get_title()


def sheet_of(folder, answer, rows):
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "t.csv").write_text("\n".join([answer, *rows]) + "\n")
    return np.asarray(contact_sheet(folder / "t.csv", 3, 0, 16))


@pytest.mark.parametrize(
    ("answer", "row", "said"),
    [
        ("ref,p0,p1,judge", "0.png,1.png,2.png,0.25", ("p0 · ref · p1", "closer", "subset")),
        ("p0,p1,same", "0.png,1.png,0.25", ("p0 · p1", '"same"', "subset")),
    ],
)
def test_a_sheet_says_what_its_numbers_are(tmp_path, monkeypatch, answer, row, said):
    written = []
    text = "PIL.ImageDraw.ImageDraw.text"
    monkeypatch.setattr(text, lambda self, place, words, *rest, **more: written.append((place, words)))
    sheet = sheet_of(tmp_path, answer, [row] * 2)
    legend = [(left, top, words) for (left, top), words in written if left == 14]
    assert all(word in " ".join(words for *_, words in legend) for word in said)
    for left, top, words in legend:
        assert top < len(sheet) - 14
        assert left + ImageFont.load_default(12).getlength(words) < sheet.shape[1]


def test_pictures_of_commands_keep_long_names_apart(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(of_commands, "save_picture", lambda figure, path: figures.append(figure))
    names = [f"{'x' * 30}{i}{'y' * 60}.png" for i in range(3)]
    of_commands.draw_matrix(names, 1.0 - np.eye(3), LONG[0], tmp_path / "m.png")
    image = np.zeros((32, 32, 3), np.uint8)
    of_commands.draw_heatmap([image] * 2, names[:2], np.ones((1, 32, 32)), "1.0", LONG[0], tmp_path / "h.png")
    of_commands.draw_frames([0, 1], [0, 1], names[:2], LONG[0], tmp_path / "f.png")
    for figure in figures:
        assert max(inches for _, inches in panels(figure)) > INCHES
        for text in figure.findobj(lambda artist: hasattr(artist, "get_text") and "…" in artist.get_text()):
            box = text.get_window_extent()
            assert box.x0 >= -1, text.get_text()
            assert box.x1 <= figure.bbox.width + 1, text.get_text()
    axes = figures[0].axes[1]
    assert len({text.get_text() for text in axes.get_yticklabels()}) == 3
    assert axes.get_window_extent().height / figures[0].dpi > INCHES


def test_the_picture_of_growth_can_be_read():
    figure = growth.draw({"net: extraction and fit": {10: 1.0, 20: 2.1}, "net: embed": {10: 0.9, 20: 2}})
    assert figure.dpi >= 150
    assert "+" not in words(figure)
    assert all(inches > INCHES for _, inches in panels(figure))
