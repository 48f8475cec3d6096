from pathlib import Path

from perceptual.files.application import APPLICATION

ROOT = Path(__file__).parents[2]


def contents(folder):
    files = [path for name in APPLICATION for path in [folder / name, *(folder / name).rglob("*")]]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_application_is_written_whole_and_nothing_is_overwritten(shell, folder):
    status, said, _ = shell("new", "mine")
    assert (status, said) == (0, "Written   mine: cd mine && python train.py\n")
    assert contents(folder / "mine") == contents(ROOT)
    assert {path.name for path in (folder / "mine").iterdir()} == set(APPLICATION)
    (folder / "mine/train.py").write_text("changed")
    status, _, wrong = shell("new", "mine")
    assert status == 1
    assert "'mine' is there already; give a folder that is new or empty" in wrong
    assert (folder / "mine/train.py").read_text() == "changed"


def test_an_empty_folder_will_do_and_a_file_will_not(shell, folder):
    (folder / "empty").mkdir()
    assert shell("new", "empty")[0] == 0
    (folder / "file").touch()
    assert "'file' is there already" in shell("new", "file")[2]
