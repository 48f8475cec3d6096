"""Tables in the terminal."""

import io

import pytest
from rich.console import Console

from perceptual.evaluation.tables import score_table

SUBSETS = ["traditional", "cnn", "superres", "deblur", "color", "frameinterp", "mean", "micro"]
NAMES = [
    "l2",
    "[red]odd[/red]",
    "vit_large_patch16_dinov3_qkvb.lvd1689m",
    "runs/2026-01-31/last.ckpt@0123abcd",
]


def shown(width, subsets):
    scores = {name: dict.fromkeys(subsets, 0.7 + i / 1000) for i, name in enumerate(NAMES)}
    file = io.StringIO()
    Console(file=file, width=width).print(score_table(scores, title="on [bold]x"))
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "subsets"), [(40, SUBSETS[-2:]), (80, SUBSETS), (80, SUBSETS[-2:]), (200, SUBSETS)]
)
def test_no_name_or_number_is_broken(width, subsets):
    lines = shown(width, subsets)
    rows = [line.split() for line in lines if line.count("7") >= len(subsets)]
    assert len(rows) == len(NAMES)
    assert all(len(line) <= width for line in lines)
    for i, (name, row) in enumerate(zip(NAMES, rows, strict=True)):
        assert row[1:] == [f"{70 + i / 10:.1f}"] * len(subsets)
        start, cut, end = row[0].partition("…")
        assert name.startswith(start)
        assert name.endswith(end)
        assert bool(cut) == (len(row[0]) < len(name))
        assert len(row[0]) >= min(len(name), 12)
    assert "[bold]x" in lines[0]


def test_a_wide_terminal_shows_all_of_it():
    text = "\n".join(shown(200, SUBSETS))
    assert all(word in text for word in NAMES + SUBSETS)


def test_columns_of_the_environment_are_honoured(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    Console().print(score_table({NAMES[2]: dict.fromkeys(SUBSETS[:4], 0.5)}))
    lines = capsys.readouterr().out.splitlines()
    assert 50 < max(map(len, lines)) <= 60
