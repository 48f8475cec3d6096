"""Each published set as a small stand-in in its layout; scores are those written here by hand."""

import numpy as np
import pytest
from judged import ready
from PIL import Image
from scipy.io import savemat

from perceptual.data.modules import published_choices as choices
from perceptual.data.modules import published_opinions as published
from perceptual.data.readers.published import CHOICES, LIVE, OPINIONS, read_choices, read_opinions


def picture(path, size=(24, 16), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def tid2013(root):
    picture(root / "reference_images/I01.BMP")
    picture(root / "reference_images/i02.bmp", (16, 24))
    for name, size in (("i01_01_1.bmp", (24, 16)), ("I01_01_2.BMP", (24, 16)), ("i02_01_1.bmp", (16, 24))):
        picture(root / "distorted_images" / name, size)
    (root / "mos_with_names.txt").write_text("5.5 I01_01_1.bmp\n3.25 i01_01_2.bmp\n4 I02_01_1.bmp\n")
    return [-5.5, -3.25, -4], ["I01.BMP", "I01.BMP", "i02.bmp"]


def kadid10k(root):
    for name in ("I01.png", "I01_01_01.png", "I01_01_05.png"):
        picture(root / "images" / name)
    (root / "dmos.csv").write_text(
        "dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.57,0.5\nI01_01_05.png,I01.png,1.2,0.4\n"
    )
    return [-4.57, -1.2], ["I01.png"] * 2


def csiq(root):
    picture(root / "src_imgs/1600.png")
    picture(root / "dst_imgs/awgn/1600.AWGN.1.png")
    picture(root / "dst_imgs/jpeg2000/1600.jpeg2000.5.png")
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.create_sheet("all_by_image")
    for _ in range(3):
        sheet.append(["CSIQ"])
    sheet.append([None, None, None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"])
    sheet.append([None, None, None, 1600, 1, "noise", 1, 0.05, 0.062])
    sheet.append([None, None, None, 1600, 5, "jpeg 2000", 5, 0.04, 0.9])
    book.save(root / "csiq.DMOS.xlsx")
    return [0.062, 0.9], ["1600.png"] * 2


def live(root):
    picture(root / "refimgs/bikes.bmp")
    for kind in LIVE:
        for number in (1, 2):
            picture(root / kind / f"img{number}.bmp")
    original = [0, 1] + [0] * 8
    savemat(root / "dmos.mat", {"dmos": np.array([[10.0, 0, *range(20, 28)]]), "orgs": np.array([original])})
    names = np.empty((1, 10), object)
    names[:] = "bikes.bmp"
    savemat(root / "refnames_all.mat", {"refnames_all": names})
    return [10, *range(20, 28)], ["bikes.bmp"] * 9


def pipal(root):
    picture(root / "Train_Ref/A0001.bmp")
    picture(root / "Distortion_1/A0001_00_00.bmp")
    picture(root / "Distortion_2/A0001_01_03.bmp")
    (root / "Train_Label").mkdir()
    (root / "Train_Label/A0001.txt").write_text("A0001_00_00.bmp,1544.5\nA0001_01_03.bmp,1210.25\n")
    return [-1544.5, -1210.25], ["A0001.bmp"] * 2


STAND_INS = {"tid2013": tid2013, "kadid10k": kadid10k, "csiq": csiq, "live": live, "pipal": pipal}


@pytest.mark.parametrize("name", OPINIONS)
def test_published_opinions(tmp_path, name):
    scores, refs = STAND_INS[name](tmp_path)
    data = ready(published(str(tmp_path), name), None)
    table = read_opinions(name, tmp_path)
    np.testing.assert_allclose(table.answer, np.array(scores, np.float32))
    assert [table.paths[i].rpartition("/")[2] for i in table.role("ref")] == refs
    assert sum(len(batch.answer) for batch in data.val_dataloader()) == len(scores)


@pytest.mark.parametrize("name", OPINIONS)
def test_a_set_without_its_scores_says_where_to_get_it(tmp_path, name):
    with pytest.raises(
        FileNotFoundError, match=rf"which {name} has; get the set from http.*nothing is downloaded"
    ):
        read_opinions(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "cell"),
    [("tid2013", "mos_with_names.txt", "5.5"), ("pipal", "Train_Label/A0001.txt", "1544.5")],
)
@pytest.mark.parametrize("other", ["nan", "1_5", "٥", "inf"])
def test_scores_are_numbers_as_people_write_them(tmp_path, name, file, cell, other):
    STAND_INS[name](tmp_path)
    text = (tmp_path / file).read_text()
    assert cell in text
    (tmp_path / file).write_text(text.replace(cell, other), "utf-8")
    with pytest.raises(ValueError, match=rf"line 1 .*{other}"):
        read_opinions(name, tmp_path)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_without_their_answers_say_where_to_get_them(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"which {name} has; get the set from http"):
        read_choices(name, tmp_path)


def test_mucped23_names_the_image_that_looks_farther(tmp_path):
    for folder in ("originals", "jpegli-q85", "jpegli-q55"):
        picture(tmp_path / folder / "7.png")
    (tmp_path / "answers.csv").write_text(
        "methodA,methodB,originalName,answerValue\njpegli-q85,jpegli-q55,7,B\njpegli-q85,jpegli-q55,7,A\n"
        "jpegli-q85,jpegli-q55,7,B\njpegli-q85,jpegli-q55,7,B\n"
    )
    table = read_choices("mucped23", tmp_path)
    assert table.answer.tolist() == [0.25]  # one of four found p0, of quality 85, farther
    assert table.votes.tolist() == [4]
    assert table.paths[table.role("p1")[0]].endswith("jpegli-q55/7.png")
    data = ready(choices(str(tmp_path), "mucped23", size=None, val_fraction=1), "validate")
    assert next(iter(data.val_dataloader())).role("ref").shape == (1, 3, 16, 24)


def test_clic(tmp_path):
    (tmp_path / "oracle.csv").write_text("o.png,a.png,b.png,1\no.png,a.png,c.png,0\n")
    table = read_choices("clic", tmp_path)
    assert table.answer.tolist() == [1, 0]
    assert [table.paths[i].rpartition("/")[2] for i in table.role("p1")] == ["b.png", "c.png"]
    (tmp_path / "oracle.csv").write_text("o.png,a.png,b.png,2\n")
    with pytest.raises(ValueError, match="rows must be original, A, B and 0 or 1; 1 of 1 are not"):
        read_choices("clic", tmp_path)


def test_pieapp(tmp_path):
    for split, column in (
        ("train", "raw preference for A, processed preference for A"),
        ("test", "preference for A"),
    ):
        folder = tmp_path / "labels" / split
        folder.mkdir(parents=True)
        extra = "0.9,0.7" if split == "train" else "0.25"
        (folder / f"ref_{split}_pairwise_labels.csv").write_text(
            f"ref. image, distorted image A, distorted image B, {column}\n"
            f"ref_{split}.png, one.png, two.png, {extra}\n"
            f"ref_{split}.png, ref_{split}.png, two.png, {extra}\n"
        )
    table = read_choices("pieapp", tmp_path)
    np.testing.assert_allclose(table.answer, [0.3, 0.75])
    assert table.split.tolist() == ["train", "test"]
    assert table.paths[table.role("p0")[0]].endswith("distorted_images/train/ref_train/one.png")
