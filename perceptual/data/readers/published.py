"""Judged sets in the folders that their authors publish; nothing is downloaded.

Opinions:

| name | scores | larger is | from |
|---|---|---|---|
| `tid2013` | `mos_with_names.txt` | better | https://www.ponomarenko.info/tid2013.htm |
| `kadid10k` | `dmos.csv`, whose "dmos" runs from 1 (very annoying) to 5 (imperceptible) | better | KADID |
| `csiq` | `csiq.DMOS.xlsx`, or its sheet saved as `csiq.DMOS.csv` | worse | https://s2.smu.edu/~eclarson/ |
| `live` | `dmos.mat` or `dmos_realigned.mat`, and `refnames_all.mat` | worse | LIVE, release 2 |
| `pipal` | `Train_Label/*.txt`, Elo scores | better | https://github.com/HaomingCai/PIPAL-dataset |

Choices, "which is closer?", which become triplets:

| name | answers | an answer says |
|---|---|---|
| `mucped23` | `answers.csv`: methodA, methodB, originalName, answerValue | which is *farther*, `A` or `B` |
| `clic` | `oracle.csv` or `validation.csv`, no header: original, A, B, answer | 0: A is closer, 1: B |
| `pieapp` | `labels/<split>/<ref>_pairwise_labels.csv` | the share that preferred A |
| NIGHTS | `data.csv` | how many chose left, and right |

Trios, "which is the odd one out?":

| name | answers | an answer says |
|---|---|---|
| THINGS | `*.txt`, `*.csv`: three numbers of images, from 0; `images.txt` lists these | the last is odd |
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perceptual.data.kinds import ODD_ONE_OUT, OPINION, TWO_AFC
from perceptual.data.readers.columns import Columns, number, read_columns
from perceptual.data.settings import Larger
from perceptual.data.table import SPLITS, Table, number_images, number_subsets
from perceptual.files import plugins
from perceptual.files.messages import first_line
from perceptual.files.places import as_on_disk, listed, nfc

WHERE = {
    "tid2013": "https://www.ponomarenko.info/tid2013.htm",
    "kadid10k": "https://database.mmsp-kn.de/kadid-10k-database.html",
    "csiq": "https://s2.smu.edu/~eclarson/csiq.html",
    "live": "https://live.ece.utexas.edu/research/quality/subjective.htm (on request)",
    "pipal": "https://github.com/HaomingCai/PIPAL-dataset",
    "mucped23": "https://github.com/google-research/google-research/tree/master/mucped23",
    "clic": "https://compression.cc",
    "pieapp": "https://github.com/prashnani/PerceptualImageError",
    "things": "https://osf.io/z2784",
}
# folder and middle of the file names of each distortion of CSIQ
CSIQ = {
    "noise": ("awgn", "AWGN"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
    "fnoise": ("fnoise", "fnoise"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
}
# images of each distortion of LIVE, in the order of its scores
LIVE = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
ENDINGS = (".png", ".jpg", ".bmp")
NIGHTS = "data.csv"  # the file of NIGHTS (Fu et al. 2023, "DreamSim", https://arxiv.org/abs/2306.09344)
THINGS = "images.txt"  # beside the trios of THINGS (Hebart et al. 2020, https://osf.io/z2784): its images
MIN_VOTES = 6  # the rule of its authors: triplets on which so many people agreed


class Rated(NamedTuple):
    """A distorted image, its reference, and its score."""

    ref: str
    dist: str
    score: float
    subset: str


class Chosen(NamedTuple):
    """Two images compared with a reference, and the share of people, or the person, who found p1 closer."""

    ref: str
    p0: str
    p1: str
    judgment: float
    split: str = ""


def read_opinions(name: str, root: str | Path) -> Table:
    """Read a published set of opinions from its folder.

    Args:
        name: one of `OPINIONS`.
        root: the folder, as published.

    Raises:
        FileNotFoundError: a file or folder of the set is missing; says where to get the set.
        ValueError: a file is not what it should be, or an image is missing.
    """
    read, larger = OPINIONS[name]
    rated = list(read(Path(root)))
    if not rated:
        raise ValueError(f"{root} holds no scores of {name}")
    items, paths = number_images([(item.ref, item.dist) for item in rated])
    subset, subsets = number_subsets([item.subset for item in rated])
    score = np.array([item.score for item in rated], np.float32)
    return Table(
        kind=OPINION,
        paths=paths,
        items=items,
        answer=-score if larger == "better" else score,
        subset=subset,
        subsets=subsets,
    )


def _tid2013(root: Path) -> Iterator[Rated]:
    """TID2013: `mos_with_names.txt`, `reference_images`, `distorted_images`; the case of names varies."""
    scored = _scored(needed("tid2013", root / "mos_with_names.txt"), None, name_at=1)
    refs, dists = Names(root / "reference_images"), Names(root / "distorted_images")
    for name, score in scored:
        ref = name.partition("_")[0] + Path(name).suffix
        yield Rated(refs[ref], dists[name], score, "tid2013")


def _kadid10k(root: Path) -> Iterator[Rated]:
    """KADID-10k: `dmos.csv` with `dist_img`, `ref_img`, `dmos`, and `images`; larger "dmos" are better."""
    columns = read_columns(needed("kadid10k", root / "dmos.csv"), ("dist_img", "ref_img", "dmos"), None)
    files, scores = Names(root / "images"), columns.numbers("dmos", 1, 5).tolist()
    for ref, dist, score in zip(columns.cells["ref_img"], columns.cells["dist_img"], scores, strict=True):
        yield Rated(files[ref], files[dist], score, "kadid10k")


def _csiq(root: Path) -> Iterator[Rated]:
    """CSIQ: the sheet `all_by_image` of `csiq.DMOS.xlsx` (needs `openpyxl`), `src_imgs` and `dst_imgs`."""
    names = ("image", "dst_type", "dst_lev", "dmos")
    path = root / "csiq.DMOS.csv"
    if path.is_file():
        columns = read_columns(path, names, None)
        scores = columns.numbers("dmos", -np.inf).tolist()
        rows = list(zip(*(columns.cells[name] for name in names[:3]), scores, strict=True))
    else:
        path = needed("csiq", root / "csiq.DMOS.xlsx")
        rows = _sheet(path, names)
    refs = Names(root / "src_imgs")
    folders = [root / "dst_imgs" / folder for folder, _ in CSIQ.values()]
    dists = Names(*(folder for folder in folders if folder.is_dir()))
    for image, kind, level, score in rows:
        name = str(image).removesuffix(".0")
        if kind not in CSIQ:
            raise ValueError(f"{path}: dst_type must be one of {', '.join(CSIQ)}, got {kind!r}")
        dist = dists[f"{name}.{CSIQ[kind][1]}.{int(float(level))}.png"]
        yield Rated(refs[f"{name}.png"], dist, float(score), kind)


def _live(root: Path) -> Iterator[Rated]:
    """LIVE, release 2: `dmos_realigned.mat`, or else `dmos.mat`; without the originals that it marks."""
    from scipy.io import loadmat

    realigned = (root / "dmos_realigned.mat").is_file()
    path = needed("live", root / ("dmos_realigned.mat" if realigned else "dmos.mat"))
    names_path = needed("live", root / "refnames_all.mat")
    try:
        stored, names = loadmat(path), loadmat(names_path)["refnames_all"].ravel()
        scores = np.asarray(stored["dmos_new" if realigned else "dmos"], float).ravel().tolist()
        original = np.asarray(stored["orgs"]).ravel().astype(bool)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{path} and {names_path.name} do not hold LIVE's scores: {error}") from None
    refs, dists = Names(root / "refimgs"), {kind: Names(root / kind) for kind in LIVE}
    places = [(kind, number) for kind, files in dists.items() for number in range(1, len(files) + 1)]
    if not len(scores) == len(original) == len(names) == len(places):
        raise ValueError(
            f"{path} has {len(scores):,} scores, {names_path.name} {len(names):,} names, and the folders "
            f"{', '.join(LIVE)} hold {len(places):,} images"
        )
    for (kind, place), name, score, undistorted in zip(places, names, scores, original, strict=True):
        if not undistorted:
            yield Rated(refs[str(np.ravel(name)[0])], dists[kind][f"img{place}.bmp"], score, kind)


def _pipal(root: Path) -> Iterator[Rated]:
    """PIPAL's training part: `Train_Label/A0001.txt` with lines `A0001_00_00.bmp,1500.0`, and the images."""
    labels = needed("pipal", root / "Train_Label")
    refs = Names(root / "Train_Ref")
    folders = [Path(one.path) for one in listed(root) if "Dist" in one.name and one.is_dir()]
    dists = Names(*folders) if folders else Names(root / "Train_Dist")
    for path in (Path(one.path) for one in listed(labels) if one.name.endswith(".txt")):
        for name, score in _scored(path, ",", name_at=0):
            yield Rated(refs[f"{path.stem}{Path(name).suffix}"], dists[name], score, "pipal")


class Names:
    """Files of folders by name, whatever its case; a missing one raises ValueError."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self._files: dict[str, str] = {}
        for folder in folders:
            if not folder.is_dir():
                raise FileNotFoundError(f"no folder {folder}")
            self._files |= {
                nfc(entry.name).lower(): entry.path
                for entry in listed(folder)
                if entry.is_file() and Path(entry.name).suffix.lower() in ENDINGS
            }

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, name: str) -> str:
        try:
            return self._files[nfc(name).lower()]
        except KeyError:
            raise ValueError(f"no image {name} in {' or '.join(map(str, self.folders))}") from None


def needed(name: str, path: Path) -> Path:
    """A file or folder of a published set; raises FileNotFoundError that says where to get the set."""
    if not path.exists():
        raise FileNotFoundError(
            f"no {path.name} in {str(path.parent)!r}, which {name} has; get the set from {WHERE[name]}: "
            "nothing is downloaded"
        )
    return path


def _scored(path: Path, separator: str | None, name_at: int) -> list[tuple[str, float]]:
    """Read the name and the score in each line of a file; empty lines are skipped."""
    found = []
    for row, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in line.split(separator)] if line.strip() else []
        if cells and (len(cells) != 2 or not np.isfinite(number(cells[1 - name_at]))):
            raise ValueError(f"{path}: line {row} is not a name and a score: {line!r}")
        if cells:
            found.append((cells[name_at], number(cells[1 - name_at])))
    return found


def _sheet(path: Path, names: Iterable[str]) -> list[tuple[Any, ...]]:
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ValueError(
            f"{path} needs the package openpyxl: pip install openpyxl; or save its sheet all_by_image as "
            f"{path.with_suffix('.csv')}"
        ) from None
    cells = [
        list(row) for row in load_workbook(path, read_only=True)["all_by_image"].iter_rows(values_only=True)
    ]
    top = next((i for i, row in enumerate(cells) if "image" in row and "dmos" in row), None)
    if top is None or not set(names) <= set(cells[top]):
        raise ValueError(f"{path}: the sheet all_by_image must have the columns {', '.join(names)}")
    places = [cells[top].index(name) for name in names]
    return [tuple(row[i] for i in places) for row in cells[top + 1 :] if row[places[0]] is not None]


def reader_of(name: str) -> Callable[[Path], Iterable[Chosen]]:
    """Return what reads a set of choices: one of `CHOICES`, or that of an installed package.

    A package adds a reader by an entry point of the group `perceptual.readers`: a function of the folder that
    yields `Chosen`, or tuples of as many parts.

    Raises:
        ValueError: there is no such name, or the package fails.
    """
    if name in CHOICES:
        return CHOICES[name]
    if name not in (added := plugins.names("perceptual.readers")):
        known = ", ".join(("csv", *CHOICES, *added))
        raise ValueError(f"layout must be one of {known}, got {name!r}")
    read = plugins.load("perceptual.readers", name)
    return lambda folder: (Chosen(*one) for one in read(folder))


def read_choices(name: str, root: str | Path) -> Table:
    """Read a published set of choices from its folder, as triplets; otherwise as `read_opinions`.

    Rows of one question are its votes, where each is the answer of a person.
    """
    root = Path(root)
    try:
        chosen = list(reader_of(name)(root))
    except (ValueError, OSError):
        raise
    except Exception as error:  # of another package
        raise ValueError(f"the reader {name} fails: {type(error).__name__}: {first_line(error)}") from error
    if not chosen:
        raise ValueError(f"{root} holds no answers of {name}")
    questions = [(one.ref, one.p0, one.p1) for one in chosen]
    judgment, votes = np.array([one.judgment for one in chosen], np.float32), None
    splits = np.array([one.split for one in chosen]) if chosen[0].split else None
    if splits is None:
        place = {question: i for i, question in enumerate(dict.fromkeys(questions))}
        which = np.array([place[question] for question in questions])
        votes = np.bincount(which).astype(np.float32)
        judgment = (np.bincount(which, weights=judgment) / votes).astype(np.float32)
        questions = list(place)
    items, files = number_images(questions)
    return Table(
        kind=TWO_AFC,
        paths=as_on_disk(_file(root, path) for path in files),
        items=items,
        answer=judgment,
        subset=np.zeros(len(questions), np.int64),
        subsets=[name],
        votes=votes,
        split=splits,
    )


def _mucped23(root: Path) -> Iterator[Chosen]:
    """mucped23: `answers.csv` beside the folders of the methods and `originals`.

    `answerValue` is the image that looks farther from the original: mostly that of the lower quality, where
    two settings of one codec are compared.
    """
    path = needed("mucped23", root / "answers.csv")
    names = ("originalname", "methoda", "methodb", "answervalue")
    columns = read_columns(path, names, None)
    columns.words("answervalue", ("A", "B"))
    for name, first, second, farther in zip(*(columns.cells[name] for name in names), strict=True):
        yield Chosen(f"originals/{name}", f"{first}/{name}", f"{second}/{name}", float(farther == "A"))


def _clic(root: Path) -> Iterator[Chosen]:
    """CLIC's perceptual track: rows of original, A, B and 0 (A is closer) or 1, in the folder."""
    names = ("oracle.csv", "validation.csv")
    path = next((root / name for name in names if (root / name).is_file()), root / names[0])
    with needed("clic", path).open(newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    wrong = [i for i, row in enumerate(rows, 1) if len(row) != 4 or row[3] not in ("0", "1", "0.0", "1.0")]
    if wrong or not rows:
        raise ValueError(
            f"{path}: rows must be original, A, B and 0 or 1; {len(wrong)} of {len(rows)} are not"
            + (f", the first is line {wrong[0]}" if wrong else "")
        )
    for ref, first, second, answer in rows:
        yield Chosen(ref, first, second, float(answer))


def _pieapp(root: Path) -> Iterator[Chosen]:
    """PieAPP: the pairwise labels of its three splits; comparisons with the reference itself are left out.

    The preference is the processed one where there is one (training), else the raw one.
    """
    needed("pieapp", root / "labels")
    names = ("ref. image", "distorted image a", "distorted image b")
    for split in ("train", "val", "test"):
        for path in sorted((root / "labels" / split).glob("[!.]*_pairwise_labels.csv")):
            columns = read_columns(path, names, None)
            folder = f"distorted_images/{split}/{path.name.removesuffix('_pairwise_labels.csv')}"
            cells = zip(*(columns.cells[name] for name in names), strict=True)
            for (ref, first, second), share in zip(cells, _preference(columns).tolist(), strict=True):
                if ref not in (first, second):
                    original = f"reference_images/{split}/{ref}"
                    yield Chosen(original, f"{folder}/{first}", f"{folder}/{second}", 1 - share, split)


def _preference(columns: Columns) -> np.ndarray:
    """Return the share that preferred A, (N,)."""
    names = [name for name in columns.cells if "preference" in name]
    chosen = next((name for name in names if "processed" in name), names[0] if names else None)
    if chosen is None:
        raise ValueError(
            f"{columns.path}: no column with a preference for A; it has {', '.join(columns.cells)}"
        )
    return columns.numbers(chosen, 0, 1)


def _file(root: Path, name: str) -> str:
    """Return the file of that name, or with one of `ENDINGS`; reading it reports one that is missing."""
    path = root / name
    if path.suffix.lower() in ENDINGS:
        return str(path)
    found = (Path(f"{path}{ending}") for ending in ENDINGS)
    return str(next((candidate for candidate in found if candidate.is_file()), Path(f"{path}.png")))


def read_nights(folder: str | Path, min_votes: int = MIN_VOTES) -> Table:
    """List the triplets of NIGHTS that its authors use, from its folder as published.

    `data.csv` there names the images and counts the votes; left is p0, right is p1, and `judgment` is the
    share of `right_vote`. The set's own `split` is kept, and `is_imagenet` is what the subsets are made of;
    other columns are ignored.

    Args:
        folder: of the set.
        min_votes: triplets of fewer votes are left out, and so are images that only they show.

    Raises:
        FileNotFoundError: there is no `data.csv`.
        ValueError: it lacks columns, holds no row of so many votes, or has a value that is not allowed.
    """
    path = Path(folder) / NIGHTS
    images = ("ref_path", "left_path", "right_path")
    names = ("left_vote", "right_vote", "votes", *images, "split")
    columns = read_columns(path, names, None)
    left, right = columns.numbers("left_vote", 0), columns.numbers("right_vote", 0)
    votes, total = columns.people("votes"), left + right
    rule = "left_vote or right_vote must be positive"
    columns.refuse("left_vote", rule, (total == 0) & (votes >= min_votes))
    paths, items = columns.files(images)
    shown = ["nights"] * len(columns)
    if "is_imagenet" in columns:
        found = columns.words("is_imagenet", ("True", "False"))
        shown = ["imagenet" if word == "True" else "not_imagenet" for word in found]
    subset, subsets = number_subsets(shown)
    table = Table(
        kind=TWO_AFC,
        paths=paths,
        items=items,
        answer=right / np.where(total == 0, 1, total),
        subset=subset,
        subsets=subsets,
        votes=votes,
        split=columns.words("split", SPLITS),
    )
    return table.of_votes(min_votes)


def read_things(folder: str | Path) -> Table:
    """List the trios of THINGS, or of another set of that form.

    Args:
        folder: `images.txt` lists the images, a file a line, relative to the folder; every other `.txt` or
            `.csv` there has three numbers of images in a row, from 0, of which the last was the odd one. Rows
            of the same three images are votes. Names that begin with train, val or test, of all these files,
            say the split.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: naming the file, for what is no such list.
    """
    folder = Path(folder)
    names = [line.strip() for line in needed("things", folder / THINGS).read_text("utf-8-sig").splitlines()]
    paths = as_on_disk(str(folder / name) for name in names if name)
    files = [file for file in listed(folder) if Path(file.name).suffix in (".txt", ".csv")]
    found = {file.path: _odd_last(Path(file.path), len(paths)) for file in files if file.name != THINGS}
    if not found:
        raise FileNotFoundError(f"{folder} holds no list of trios, .txt or .csv, beside {THINGS}")
    splits = [next((s for s in SPLITS if Path(file).name.lower().startswith(s)), None) for file in found]
    number = np.repeat(np.arange(len(found)), [len(rows) for rows in found.values()])
    shown, odd = np.sort(np.concatenate([*found.values()]), axis=1), np.concatenate([*found.values()])[:, 2:]
    distinct, trio = np.unique(np.column_stack([number, shown]), axis=0, return_inverse=True)
    cell = 3 * trio.reshape(-1) + (shown == odd).argmax(1)
    counts = np.bincount(cell, minlength=3 * len(distinct)).reshape(-1, 3).astype(np.float32)
    votes, used = counts.sum(1), np.unique(distinct[:, 1:])
    return Table(
        kind=ODD_ONE_OUT,
        paths=[paths[image] for image in used],
        items=np.searchsorted(used, distinct[:, 1:].T),
        answer=counts / votes[:, None],
        subset=np.zeros(len(distinct), np.int64),
        subsets=[folder.name],
        votes=votes,
        split=None if None in splits else np.array(splits)[distinct[:, 0]],
    )


def _odd_last(path: Path, images: int) -> np.ndarray:
    """Rows of three numbers of images, (N, 3) int64; a first line of words is left out."""
    rule = (
        f"{path}: rows must be three different numbers of images, from 0 to {images - 1:,}, the odd one last"
    )
    lines = path.read_text("utf-8-sig").splitlines(keepends=True)
    start = bool(lines and re.search(r"[a-df-z]", lines[0], re.IGNORECASE))
    try:
        rows = np.loadtxt(io.StringIO(re.sub(r"[,;\t]", " ", "".join(lines[start:]))), ndmin=2)
    except ValueError as error:
        raise ValueError(f"{rule} ({first_line(error)})") from None
    if rows.shape[1] != 3:
        raise ValueError(f"{rule}; they have {rows.shape[1]}")
    ordered = np.sort(rows, axis=1)
    wrong = (rows != rows.round()).any(1) | (rows < 0).any(1) | (rows >= images).any(1)
    wrong |= (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if wrong.any():
        first = int(wrong.argmax())
        shown = ", ".join(f"{value:g}" for value in rows[first])
        raise ValueError(
            f"{rule}; {wrong.sum():,} of {len(rows):,} are not, the first is row {first + 1}: {shown}"
        )
    return rows.astype(np.int64)


# how each set is read, and what larger scores mean
OPINIONS: dict[str, tuple[Callable[[Path], Iterator[Rated]], Larger]] = {
    "tid2013": (_tid2013, "better"),
    "kadid10k": (_kadid10k, "better"),
    "csiq": (_csiq, "worse"),
    "live": (_live, "worse"),
    "pipal": (_pipal, "better"),
}
CHOICES: dict[str, Callable[[Path], Iterator[Chosen]]] = {
    "mucped23": _mucped23,
    "clic": _clic,
    "pieapp": _pieapp,
}
