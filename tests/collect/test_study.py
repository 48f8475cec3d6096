"""Studies: made, read, refused, and their databases."""

import os
import shutil
import sqlite3

import numpy as np
import pytest
from killing import tree_bytes
from PIL import Image
from sqlalchemy import func, select, update
from studies import make_study, parsed, read_rows, write_source
from trees import write_pair_subset, write_subset

from perceptual.collect.create import create, read_source
from perceptual.collect.database import Database
from perceptual.collect.export import export
from perceptual.collect.quality import Rules
from perceptual.collect.schema import ITEMS, META, PARTICIPANTS
from perceptual.collect.serving import serve
from perceptual.collect.sessions import enrol, next_trial
from perceptual.collect.study import Study
from perceptual.collect.votes import read_votes, record
from perceptual.data import TWO_AFC
from perceptual.data.synthetic.making import make_items
from perceptual.data.synthetic.photographs import packaged
from perceptual.data.writers.folders import write_new
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
    write_store(make_items(TWO_AFC, packaged(), 3, 0, 16), tmp_path / "store", "photographs")
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
        ("{", "cannot be read as YAML"),
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
    with pytest.raises(ValueError, match="version 99, written by another perceptual"):
        Database(study)
    (tmp_path / "other").mkdir()
    other = make_study(tmp_path / "other")
    with pytest.raises(ValueError, match="holds the votes of study"):
        Database(other, database.url)
    for url, says in [
        ("no database", "cannot be used"),
        ("sqlite://", "no file"),
        ("sqlite:///file:x", "no file"),
    ]:
        with pytest.raises(ValueError, match=says):
            Database(study, url)
    database.close()


def test_a_study_of_made_triplets_does_not_hold_what_was_done_to_them(tmp_path):
    write_new(make_items(TWO_AFC, packaged(), 6, 0, 32), tmp_path / "ask", "unjudged")
    study = make_study(tmp_path, source=tmp_path / "ask")
    assert len(study.items) >= 6
    made = [row["made"] for row in read_rows(tmp_path / "ask/manifest.csv")]
    for path in study.folder.rglob("*"):
        if path.suffix in (".csv", ".yaml", ".md"):
            assert not any(record and record in path.read_text() for record in made)


def people(database):
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(PARTICIPANTS))


@pytest.mark.parametrize("left", ["nothing", "empty"])
def test_a_log_without_its_database_is_refused(tmp_path, left):
    """After a kill the last votes are in the log alone, which SQLite deletes where it has no database."""
    study = make_study(tmp_path)
    database = Database(study)
    enrol(database)
    shutil.copytree(study.folder, tmp_path / "killed")  # as a kill leaves it
    database.close()
    killed = Study(tmp_path / "killed")
    file, log = killed.folder / "judgments.db", killed.folder / "judgments.db-wal"
    file.rename(tmp_path / "moved.db")
    if left == "empty":
        file.touch()
    before = log.read_bytes()
    for read_only in (False, True):
        with pytest.raises(ValueError, match=r"judgments.db is (not there|empty).*judgments.db-wal.*put"):
            Database(killed, read_only=read_only)
    assert log.read_bytes() == before
    (tmp_path / "moved.db").rename(file)
    database = Database(killed)
    assert people(database) == 1
    database.close()
    assert [path.name for path in killed.folder.glob("judgments*")] == ["judgments.db"]  # all in one file


def test_a_database_moved_away_while_in_use_takes_no_votes_and_loses_none(tmp_path):
    study = make_study(tmp_path)
    file = study.folder / "judgments.db"
    database = Database(study)
    enrol(database)
    file.rename(tmp_path / "moved.db")
    with pytest.raises(OSError, match=r"judgments.db was moved .* put it back"):
        enrol(database)
    (tmp_path / "moved.db").rename(file)
    enrol(database)
    shutil.copy(file, tmp_path / "other.db")  # as `mv` to another disk does
    file.unlink()
    with pytest.raises(OSError, match="was moved"):
        enrol(database)
    database.close()
    database = Database(study)
    assert people(database) == 2
    enrol(database)
    file.rename(tmp_path / "moved.db")
    database.close()  # each of the two files is complete
    for one in (file, tmp_path / "moved.db"):
        alone = sqlite3.connect(f"file:{one}?mode=ro&immutable=1", uri=True)
        assert alone.execute("SELECT count(*) FROM participants").fetchone() == (3,)
        alone.close()


def test_votes_of_another_kind_or_of_other_items_are_refused(tmp_path):
    study = make_study(tmp_path)
    Database(study).close()
    config, items = study.folder / "study.yaml", study.folder / "items.csv"
    for path, text, says in [
        (config, config.read_text().replace("kind: 2afc", "kind: jnd"), "of kind 2afc, study.yaml says jnd"),
        (items, _renumbered(items.read_text()), "of other items.*items.csv has changed"),
    ]:
        before = path.read_text()
        assert text != before
        path.write_text(text)
        for read_only in (False, True):
            with pytest.raises(ValueError, match=says):
                Database(Study(study.folder), read_only=read_only)
        path.write_text(before)
    rows = items.read_text().splitlines()
    items.write_text("\n".join([rows[0], *rows[:0:-1]]))  # another order, the same numbers
    Database(Study(study.folder)).close()
    items.write_text("\n".join([*rows, rows[-1]]))
    with pytest.raises(ValueError, match="numbers of items must differ"):
        Study(study.folder)


def _renumbered(text):
    header, first, second, *rest = text.splitlines()
    first, second = (row.partition(",")[2] for row in (first, second))
    return "\n".join([header, f"0,{second}", f"1,{first}", *rest])


@pytest.mark.parametrize("fault", ["removed", "emptied", "replaced", "another size", "a pipe"])
def test_images_are_known_by_their_pixels(tmp_path, fault):
    study = make_study(tmp_path)
    assert study.damaged() == []
    path, other = (study.image(study.items[item].images["p1"]) for item in (3, 4))
    if fault in ("removed", "a pipe"):
        path.unlink()
    if fault == "a pipe":
        os.mkfifo(path)
    if fault == "emptied":
        path.write_bytes(b"")
    if fault == "replaced":
        shutil.copyfile(other, path)
    if fault == "another size":
        Image.new("RGB", (20, 16)).save(path)
    assert study.damaged() == Study(study.folder).damaged() == [f"{path} (item 3)"]
    with pytest.raises(ValueError, match=rf"1 images .* missing or not what they were: .*{path.name}"):
        serve(study, None, "127.0.0.1", 0, print)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "instructions.md"),
        ("Größe".encode("latin-1"), r"instructions.md is not UTF-8 .*byte 0xf6 in line 1"),
        ("Größe".encode("utf-16"), "instructions.md is not UTF-8"),
    ],
)
def test_instructions_are_read_before_anybody_comes(tmp_path, content, says):
    study = make_study(tmp_path)
    path = study.folder / "instructions.md"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=says) as error:
        serve(study, None, "127.0.0.1", 0, print)
    assert "\n" not in str(error.value)


def test_byte_order_marks_are_skipped(tmp_path):
    study = make_study(tmp_path)
    for name in ("instructions.md", "items.csv", "study.yaml"):
        path = study.folder / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    again = Study(study.folder)
    assert again.items == study.items
    assert again.config == study.config
    assert again.instructions == study.instructions


def voted(folder, **settings):
    """A study with one vote for each item, its database closed."""
    settings = {"practice": 0, "sentinels": 0, "repeats": 0, "items_per_session": 12} | settings
    study = make_study(folder, votes_per_item=1, **settings)
    database = Database(study)
    person = enrol(database)
    with database.write(person.id) as connection:
        while trial := next_trial(database, connection, person):
            vote = parsed(study.config.asked, token=trial.token, choice="left")
            assert record(database, connection, person, vote)
    database.close()
    return study


def test_an_export_changes_nothing(tmp_path):
    """Not a byte, on media that cannot be written, beside a lock, and where `study.yaml` asks for more."""
    study = voted(tmp_path)
    config = study.folder / "study.yaml"
    config.write_text(config.read_text().replace("votes_per_item: 1", "votes_per_item: 5"))
    study = Study(study.folder)
    before = tree_bytes(study.folder)
    database = Database(study, read_only=True)
    assert export(database, tmp_path / "judged", Rules()).votes == 12
    with database.read() as connection:
        assert set(connection.scalars(select(ITEMS.c.wanted))) == {1}  # the study is as full as it was
    with pytest.raises(Exception, match="readonly"):
        enrol(database)
    database.close()
    assert tree_bytes(study.folder) == before
    serving, locking = Database(study), sqlite3.connect(study.folder / "judgments.db")
    locking.execute("BEGIN IMMEDIATE")
    beside = Database(study, read_only=True)
    assert len(read_votes(beside)) == 12
    locking.close()
    enrol(serving)
    assert people(beside) == 2
    beside.close()
    serving.close()
    (tmp_path / "new").mkdir()
    empty = make_study(tmp_path / "new")
    with pytest.raises(FileNotFoundError, match=r"judgments\.db"):
        Database(empty, read_only=True)
    assert not list(empty.folder.glob("judgments*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("killed", [False, True])
def test_an_export_reads_what_it_cannot_write(tmp_path, killed):
    study = voted(tmp_path)
    serving = Database(study) if killed else None
    if killed:
        enrol(serving)
    shutil.copytree(study.folder, tmp_path / "copy")
    if serving:
        serving.close()
    tmp_path.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setuid(65534)
            code = 0 if len(read_votes(Database(Study(tmp_path / "copy"), read_only=True))) == 12 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
