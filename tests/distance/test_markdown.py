"""Names of others in Markdown, rendered as a reader's program does."""

import pytest
from markdown_it import MarkdownIt

from perceptual.distance.saving.markdown import code, escaped, table_row

NAMES = [
    "a | b",
    "a\nb",
    "<script>alert(1)</script>",
    "<img src=http://example.com/x.png>",
    "![x](http://example.com/x.png)",
    "[x](http://example.com)",
    "a\\|b",
    "`a`",
    "&lt;b>",
    "test_resnet[aa_layer=blurpc]",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_shows_as_it_is_and_is_one_cell(name):
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = reader.parse(f"{table_row(['method', 'score'])}\n|---|---|\n{table_row([name, '1.0'])}\n")
    cells = [t for t in tokens if t.type == "inline"][2:]
    assert len(cells) == 2
    assert {child.type for child in cells[0].children} == {"text"} | {
        c.type for c in cells[0].children if c.type == "text_special"
    }
    assert "".join(child.content for child in cells[0].children) == " ".join(name.split())


@pytest.mark.parametrize("name", NAMES)
def test_code_stays_code(name):
    (inline,) = [t for t in MarkdownIt().parse(f"of {code(name)}.") if t.type == "inline"]
    assert [child.type for child in inline.children] == ["text", "code_inline", "text"]


def test_plain_names_stay_readable():
    assert escaped("tf_efficientnet_lite0[drop_path_rate=0.1]") == "tf_efficientnet_lite0[drop_path_rate=0.1]"
