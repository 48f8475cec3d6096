import os
import re
from pathlib import Path

import numpy as np
import pytest
from trees import write_image, write_manifest

from perceptual.data import JND, read_manifest, read_nights, read_opinion_manifest
from perceptual.data.readers.folders import read_origin

HEADER = "ref,p0,p1,judge"


def test_manifest_shares_images(tmp_path):
    rows = [(0, 1, 2, 0.25, 4, "a"), (0, 2, 1, 0.75, 8, "b"), (3, 1, 2, 1, 1, "a")]
    table = read_manifest(write_manifest(tmp_path / "t.csv", 4, rows, HEADER + ",votes,subset"))
    assert [Path(path).stem for path in table.paths] == ["0", "3", "1", "2"]
    assert [table.paths[i] for i in table.role("p0")] == [str(tmp_path / f"img/{i}.png") for i in (1, 2, 1)]
    np.testing.assert_array_equal(table.answer, np.float32([0.25, 0.75, 1]))
    np.testing.assert_array_equal(table.votes, np.float32([4, 8, 1]))
    assert ([table.subsets[i] for i in table.subset], table.split) == (["a", "b", "a"], None)


def test_manifest_without_subset_is_named_by_its_stem(tmp_path):
    table = read_manifest(write_manifest(tmp_path / "choices.csv", 3, [(0, 1, 2, 0.5)], HEADER))
    assert (table.subsets, table.votes) == (["choices"], None)


SPREADSHEETS = {
    "semicolons": " ref;P0;p1 ;Judge;Votes\r\na.png;b.png;c,d.png;0,25;4\r\na.png;c,d.png;b.png;1;2,0\r\n",
    "tabs": "REF\tp0\tp1\tjudge\na.png\tb.png\tc,d.png\t0.25\na.png\tc,d.png\tb.png\t1e0\n",
    "commas": 'Ref, p0, p1, judge\na.png, b.png,"c,d.png",.25\na.png,"c,d.png",b.png,1\n,,,\n',
    "sep": "sep=;\r\nref;p0;p1;judge;votes\r\na.png;b.png;c,d.png;0,25;4\r\na.png;c,d.png;b.png;1;2\r\n",
    "quoted sep": '"SEP=\t"\nref\tp0\tp1\tjudge\na.png\tb.png\tc,d.png\t.25\na.png\tc,d.png\tb.png\t1\n',
    "empty columns": "ref;p0;p1;judge;;\na.png;b.png;c,d.png;0,25;;\na.png;c,d.png;b.png;1; ;\n;; ;;;\n",
    "empty cells": "ref;p0;p1;judge\na.png;b.png;c,d.png;0,25;;\na.png;c,d.png;b.png;1\n",
    "sep and commas": 'sep=,\nref,p0,p1,judge,\na.png,b.png,"c,d.png",.25,\na.png,"c,d.png",b.png,1,\n',
    "spaces": '"ref",p0,p1,judge\r\na.png,b.png,"./c,d.png", 0.25\r\n\r\na.png,"c,d.png",b.png,1',
    "quoted": '"ref";"p0";"p1";"judge"\n"a.png";"b.png";"c,d.png";"0,25"\na.png;c,d.png;b.png;1.0\n;;;\n',
}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", SPREADSHEETS)
def test_manifests_saved_by_spreadsheets(tmp_path, bom, name):
    (tmp_path / "t.csv").write_bytes(bom + SPREADSHEETS[name].encode())
    table = read_manifest(tmp_path / "t.csv")
    assert table.answer.tolist() == [0.25, 1]
    assert (None if table.votes is None else table.votes.tolist()) == (
        [4, 2] if "votes" in SPREADSHEETS[name].lower() else None
    )
    names = [[Path(table.paths[i]).name for i in column] for column in table.items]
    assert names == [["a.png", "a.png"], ["b.png", "c,d.png"], ["c,d.png", "b.png"]]


def test_pairs_and_opinions_saved_by_spreadsheets(tmp_path):
    (tmp_path / "p.csv").write_text("p0; P1;SAME;Subset\na.png;b.png;0,75;x\n")
    pairs = read_manifest(tmp_path / "p.csv", JND)
    assert (pairs.answer.tolist(), pairs.subsets) == ([0.75], ["x"])
    assert read_origin(tmp_path / "p.csv")[""].answer.tolist() == [0.75]  # found to be pairs all the same
    (tmp_path / "o.csv").write_text("Ref;Dist;Score\na.png;b.png;-12,5\na.png;c.png;1,5e1\n")
    assert read_opinion_manifest(tmp_path / "o.csv", "worse").answer.tolist() == [-12.5, 15]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ref\tp0\tp1\tjudge\na\tb\tc\t0,5\n", "line 2 has '0,5'"),  # only `;` says that commas are decimal
        ("ref;p0;p1;judge\na;b;c;1,2\n", r"judge must be a number in \[0, 1\]; .* line 2 has '1,2'"),
        ("ref;p0;p1;judge\na;b;c;1.000,5\n", "line 2 has '1.000,5'"),
        ("ref;p0;p1;judge\na;b;c\n", "1 rows do not have 4 cells: line 2 has 3"),
        ("ref;p0;p1;judge;Judge\na;b;c;1;1\n", "the header has ref, p0, p1, judge, judge"),
        ("sep=;\nref;p0;p1;judge\na;b;c;1\na;b;c;2\n", "line 4 has '2'"),
        ("sep=|\nref|p0|p1|judge\na|b|c|1\n", r"the line sep= must name a comma, .* got '\|'"),
        ("sep=\nref,p0,p1,judge\na,b,c,1\n", "the line sep= must name a comma, a semicolon or a tab, got ''"),
        ("ref,p0,p1,judge,,\na,b,c,1,,x\n", "1 rows do not have 4 cells: line 2 has 6"),
        ("ref,p0,,p1,judge\na,b,,c,1\n", "the header has ref, p0, , p1, judge"),
    ],
)
def test_cells_of_spreadsheets_are_checked(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "t.csv")


def test_manifest_lists_first_offenders_and_counts_all(tmp_path):
    path = write_manifest(tmp_path / "t.csv", 0, [(0, 1, 2, 2)] * 9, HEADER)
    with pytest.raises(ValueError, match=r"9 of 9 are not: line 2 has '2', .*line 6 has '2' and 4 more$"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("ref,p0,p1", (0, 1, 2), "columns must be ref, p0, p1, judge and may be votes, subset, split"),
        (HEADER + ",vote", (0, 1, 2, 0.5, 4), "the header has ref, p0, p1, judge, vote"),
        (HEADER + ",judge", (0, 1, 2, 0.5, 0.5), "the header has"),
        (HEADER + ",votes", (0, 1, 2, 0.5, 0), "votes must be a number of at least 1"),
        (HEADER + ",votes", (0, 1, 2, 0.5), "1 rows do not have 5 cells: line 2 has 4"),
        (HEADER + ",split", (0, 1, 2, 0.5, "valid"), "split must be one of train, val, test; 1 of 1 are not"),
    ],
)
def test_manifest_columns_are_checked(tmp_path, header, row, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write_manifest(tmp_path / "t.csv", 0, [row], header))


def test_manifest_that_is_none(tmp_path):
    path = tmp_path / "t.csv"
    with pytest.raises(FileNotFoundError, match="no manifest"):
        read_manifest(path)
    for content, message in [
        (b"", "has none"),
        (HEADER.encode(), "holds no rows"),
        (b"\xff\xfe", "not a CSV"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_manifest(path)


def test_material_manifest():
    if "PERCEPTUAL_ASSETS" not in os.environ:
        pytest.skip("PERCEPTUAL_ASSETS is not set")
    table = read_manifest(Path(os.environ["PERCEPTUAL_ASSETS"]) / "material/triplets.csv")
    assert (len(table), len(table.paths)) == (22801, 100)
    assert 1 <= table.votes.min() <= table.votes.max() == 10


def test_manifest_that_nobody_judged(tmp_path):
    path = write_manifest(tmp_path / "t.csv", 0, [(0, 1, 2, ""), (0, 2, 1, "")], HEADER)
    with pytest.raises(ValueError, match="the column judge is empty: these have not been judged yet"):
        read_manifest(path)


def test_pair_manifest(tmp_path):
    (tmp_path / "p.csv").write_text("p0,p1,same,subset\na.png,b.png,0.25,x\nb.png,c.png,1,y\n")
    table = read_manifest(tmp_path / "p.csv", JND)
    assert [Path(path).name for path in table.paths] == ["a.png", "b.png", "c.png"]
    assert (table.role("p0").tolist(), table.role("p1").tolist(), table.answer.tolist()) == (
        [0, 1],
        [1, 2],
        [0.25, 1],
    )
    assert (table.subsets, table.subset.tolist()) == (["x", "y"], [0, 1])
    with pytest.raises(ValueError, match="columns must be ref, p0, p1, judge"):
        read_manifest(tmp_path / "p.csv")


NIGHTS = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,prompt,is_imagenet,split"


def write_nights(folder: Path, rows: list[str]) -> Path:
    rng = np.random.default_rng(0)
    for name in ("ref/000/000.png", "distort/000/000_0.png", "distort/000/000_1.png"):
        write_image(folder / name, rng)
    (folder / "data.csv").write_text("\n".join([NIGHTS, *rows]) + "\n")
    return folder


def test_nights(tmp_path):
    images = "ref/000/000.png,distort/000/000_0.png,distort/000/000_1.png"
    rows = [f"0,0.0,1.0,7,{images},a fox,True,train", f"1,1.0,0.0,6,{images},a fox,False,val"]
    table = read_nights(write_nights(tmp_path, rows))
    assert (table.answer.tolist(), table.votes.tolist()) == ([1, 0], [7, 6])
    assert (table.split.tolist(), table.subsets, table.subset.tolist()) == (
        ["train", "val"],
        ["imagenet", "not_imagenet"],
        [0, 1],
    )
    names = [
        Path(table.paths[column[0]]).name
        for column in (table.role("ref"), table.role("p0"), table.role("p1"))
    ]
    assert names == ["000.png", "000_0.png", "000_1.png"]


def test_nights_of_too_few_votes_are_left_out(tmp_path):
    rows = [
        f"{i},{i % 2},{1 - i % 2},{votes},r{i},a{i},b{i},x,True,train" for i, votes in enumerate((6, 5, 9, 1))
    ]
    write_nights(tmp_path, [*rows, "4,0,0,2,r4,a4,b4,x,True,train"])
    table = read_nights(tmp_path)
    assert table.votes.tolist() == [6, 9]
    assert [os.path.basename(path) for path in table.paths] == ["r0", "r2", "a0", "a2", "b0", "b2"]
    assert [os.path.basename(table.paths[i]) for i in table.role("p1")] == ["b0", "b2"]
    assert read_origin(tmp_path)[""].votes.tolist() == [6, 9]  # what is packed
    (tmp_path / "data.csv").write_text("\n".join([NIGHTS, *rows]))
    assert read_nights(tmp_path, 1).votes.tolist() == [6, 5, 9, 1]
    with pytest.raises(ValueError, match=r"none of the 4 triplets has 10 votes or more"):
        read_nights(tmp_path, 10)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,0,1,6_0,a,b,c,x,True,train", "votes must be a number of at least 1"),
        ("0,0,0,7,a,b,c,x,True,train", "left_vote or right_vote must be positive; .* line 2 has '0'"),
        ("0,much,0,7,a,b,c,x,True,train", "left_vote must be a number of at least 0"),
        ("0,1,0,7,a,b,c,x,True,valid", "split must be one of train, val, test"),
        ("0,1,0", "1 rows do not have 10 cells"),
    ],
)
def test_nights_rows_are_checked(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_nights(write_nights(tmp_path, [row]))


def test_nights_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest .*data.csv"):
        read_nights(tmp_path)
    (tmp_path / "data.csv").write_text("ref,p0,p1,judge\n")
    with pytest.raises(
        ValueError, match=r"columns must be left_vote, right_vote, .* and may be any; the header has ref"
    ):
        read_nights(tmp_path)


@pytest.mark.parametrize(
    ("judge", "votes", "says"),
    [
        ("0.4", "3", r"judge · votes must be a whole number of people; 1 of 2 are not: line 3 has '0.4'"),
        *(
            (
                "0.5",
                cell,
                rf"votes must be a whole number of people; 1 of 2 are not: line 3 has '{re.escape(cell)}'",
            )
            for cell in ("2.5", "2e0", "20000000", "+2", "2.")
        ),
        *(
            ("0.5", cell, rf"votes must be a number of at least 1; 1 of 2 are not: line 3 has '{cell}'")
            for cell in ("1_000", "٤", "４", "0x4", "4 people", "")
        ),
        *(
            (cell, "2", rf"judge must be a number in \[0, 1\]; 1 of 2 are not: line 3 has '{cell}'")
            for cell in ("0_1", "٠", "Infinity", "1e", "nan", "1.2", "-0.1", "much", "", "inf")
        ),
    ],
)
def test_votes_are_of_people_and_numbers_as_people_write_them(judge, votes, says, tmp_path):
    rows = f"ref,p0,p1,judge,votes\na,b,c,0.3333,3\na,b,c,{judge},{votes}\n"
    (tmp_path / "t.csv").write_text(rows, "utf-8")
    with pytest.raises(ValueError, match=says):
        read_manifest(tmp_path / "t.csv")


def test_votes_of_opinions_are_of_people(tmp_path):
    (tmp_path / "o.csv").write_text("ref,dist,mos,votes\na.png,b.png,3.5,2.5\n")
    with pytest.raises(ValueError, match=r"votes must be a whole number of people; .*'2\.5'"):
        read_opinion_manifest(tmp_path / "o.csv")


@pytest.mark.parametrize("subset", ["mean", "micro", "jnd", "jnd/x"])
def test_a_subset_is_not_called_like_another_score(subset, tmp_path):
    (tmp_path / "t.csv").write_text(f"ref,p0,p1,judge,subset\na.png,b.png,c.png,1,{subset}\n")
    with pytest.raises(ValueError, match="the name of another score"):
        read_manifest(tmp_path / "t.csv")
