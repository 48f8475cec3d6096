"""Studies: made, read, refused, and their databases."""

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Column, Integer, select, update
from studies import make_study, read_rows, write_source
from trees import write_pair_subset, write_subset

from perceptual.collect import database as databases
from perceptual.collect import schema
from perceptual.collect.create import create
from perceptual.collect.database import Database
from perceptual.collect.schema import META
from perceptual.collect.source import read_source
from perceptual.collect.study import Study
from perceptual.data.synthetic.making import make_triplets
from perceptual.data.synthetic.photographs import packaged
from perceptual.data.writers.folders import write_unjudged
from perceptual.data.writers.stores import write_store


@pytest.mark.parametrize("pairs", [False, True])
def test_a_study_holds_the_pixels_and_nothing_else_of_the_files(tmp_path, pairs):
    study = make_study(tmp_path, count=4, pairs=pairs)
    for item in [item for item in study.items.values() if item.purpose == "item"]:
        for role, name in item.images.items():
            mine = Image.open(study.image(name))
            source = Image.open(tmp_path / f"source/{item.id}-{role}.png")
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(source))
            assert mine.info == {}
    known = [item for item in study.items.values() if item.purpose != "item"]
    assert [item.purpose for item in known] == ["practice"] * 2 + ["sentinel"] * 2
    for item in known:
        a, b = (np.asarray(Image.open(study.image(item.images[role]))).astype(float) for role in ("p0", "p1"))
        rms = np.sqrt(np.square(a - b).mean())
        if pairs:
            assert (rms == 0) == (item.answer == "same")
        else:
            assert item.images[item.answer] == item.images["ref"]
        assert rms == 0 or rms > 15
    assert study.config.enlarge == 16  # 16 pixels, shown at 256


def test_sources_of_all_kinds(tmp_path):
    write_subset(tmp_path / "bapps/2afc/val/cnn", 4)
    write_pair_subset(tmp_path / "bapps/jnd/val/cnn", 3)
    write_store(make_triplets(packaged(), 3, 0, 16), tmp_path / "store", "photographs")
    write_source(tmp_path / "manifest", 5, judge=lambda item: "")
    sizes = {"bapps/2afc": 4, "bapps/jnd": 3, "store": 3, "manifest": 5, "manifest/manifest.csv": 5}
    assert {name: len(read_source(tmp_path / name).table) for name in sizes} == sizes
    config = create(tmp_path / "study", tmp_path / "store")
    assert (config.kind, config.enlarge) == ("2afc", 16)
    with pytest.raises(ValueError, match=r"triplets and pairs: name one, .*2afc or .*jnd"):
        read_source(tmp_path / "bapps")
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_source(tmp_path / "nothing")


def test_images_of_different_size_are_refused_and_nothing_is_left(tmp_path):
    write_source(tmp_path / "source", 3)
    Image.new("RGB", (20, 16)).save(tmp_path / "source/1-p1.png")
    with pytest.raises(ValueError, match="one size; 1 do not: item 2 has 16×16, 16×16, 20×16"):
        create(tmp_path / "study", tmp_path / "source")
    (tmp_path / "source/1-p1.png").write_text("an essay")
    with pytest.raises(ValueError, match=r"1 of 9 images cannot be used: .*1-p1.png \(not an image\)"):
        create(tmp_path / "study", tmp_path / "source")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("version: 99", "newer perceptual"),
        ("votes_per_itme: 3", "votes_per_itme"),
        ("votes_per_item: many", "votes_per_item"),
        ("votes_per_item: 0", "votes_per_item must be at least 1"),
        ("kind: taste", "2afc, jnd"),
        ("completion_url: javascript:alert(1)", "https://"),
        ("{", "not YAML"),
    ],
)
def test_a_study_that_cannot_be_read(tmp_path, line, says):
    path = make_study(tmp_path).folder / "study.yaml"
    key = line.partition(":")[0]
    kept = [old for old in path.read_text().splitlines() if not old.startswith(f"{key}:")]
    path.write_text("\n".join([*kept, line]))
    with pytest.raises(ValueError, match=says) as error:
        Study(path.parent)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_database_of_another_study_or_version_is_refused(tmp_path):
    study = make_study(tmp_path)
    database = Database(study)
    with database.write() as connection:
        connection.execute(update(META).where(META.c.key == "version").values(value="99"))
    with pytest.raises(ValueError, match="version 99, written by a newer perceptual"):
        Database(study)
    (tmp_path / "other").mkdir()
    other = make_study(tmp_path / "other")
    with pytest.raises(ValueError, match="holds the votes of study"):
        Database(other, database.url)
    with pytest.raises(ValueError, match="cannot be used"):
        Database(study, "no database")
    database.close()


def test_schemas_migrate(tmp_path, monkeypatch):
    """A later version adds a column to what version 1 has written."""
    study = make_study(tmp_path)
    Database(study).close()

    def add_column(connection):
        connection.exec_driver_sql("ALTER TABLE participants ADD COLUMN age INTEGER")

    monkeypatch.setattr(databases, "VERSION", 2)
    monkeypatch.setattr(databases, "MIGRATIONS", {2: add_column})
    for _ in range(2):  # the second finds it done
        database = Database(study)
        with database.read() as connection:
            assert connection.scalar(select(META.c.value).where(META.c.key == "version")) == "2"
            assert connection.exec_driver_sql("SELECT age FROM participants").all() == []
        database.close()
    assert Column("age", Integer).name not in schema.PARTICIPANTS.c


def test_a_study_of_made_triplets_does_not_hold_what_was_done_to_them(tmp_path):
    write_unjudged(make_triplets(packaged(), 6, 0, 32), tmp_path / "ask")
    study = make_study(tmp_path, source=tmp_path / "ask")
    assert len(study.items) >= 6
    made = [row["made"] for row in read_rows(tmp_path / "ask/manifest.csv")]
    for path in study.folder.rglob("*"):
        if path.suffix in (".csv", ".yaml", ".md"):
            assert not any(record and record in path.read_text() for record in made)
