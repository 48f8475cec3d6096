"""Names in CSV files run nothing in a spreadsheet, and are read back as they were."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from perceptual.cli.output import RowFile, write_csv
from perceptual.data.readers.manifests import read_manifest
from perceptual.files import csv_cells

NAMES = ["=1+1", "+x", "-2+3", "@SUM(A1)", "\tx", "\r=x", "'=x", "''@x", "=cmd|' /C calc'!A0"]
PLAIN = ["x", "", "-", "a=b", "'x", "x-1", "0.5"]


@pytest.mark.parametrize("name", [*NAMES, *PLAIN])
def test_names_are_read_back(name):
    cell = csv_cells.written(name)
    assert csv_cells.read(cell) == name
    assert cell[:1] not in tuple("=+@\t\r")
    assert (cell == name) == (name in PLAIN)


def test_numbers_stay_numbers(tmp_path):
    file = io.StringIO()
    write_csv(file, ["name", "distance"], [["-x", -0.5], ["-", 3], ["=y", None]])
    assert file.getvalue() == "name,distance\n'-x,-0.5\n-,3\n'=y,\n"
    with RowFile(tmp_path / "t.csv", ["name", "distance"]) as rows:
        rows.write([["@x", -2.0]])
    assert (tmp_path / "t.csv").read_text() == "name,distance\n'@x,-2\n"


def test_a_manifest_of_such_names(tmp_path):
    names = ["=1.png", "-2.png", "'=3.png"]
    for name in names:
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / name)
    rows = [[*names, judge, "+subset"] for judge in (0.5, 1)]
    csv_cells.write_file(tmp_path / "t.csv", ["ref", "p0", "p1", "judge", "subset"], rows)
    lines = csv.reader((tmp_path / "t.csv").read_text().splitlines())
    assert all(cell[:1] not in tuple("=+-@") for row in lines for cell in row)
    table = read_manifest(tmp_path / "t.csv")
    assert [path.rpartition("/")[2] for path in table.paths] == names
    assert table.subsets == ["+subset"]
