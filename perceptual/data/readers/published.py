"""Sets of opinions in the folders that their authors publish; nothing is downloaded.

| name | scores | larger is | from |
|---|---|---|---|
| `tid2013` | `mos_with_names.txt` | better | https://www.ponomarenko.info/tid2013.htm |
| `kadid10k` | `dmos.csv`, whose "dmos" runs from 1 (very annoying) to 5 (imperceptible) | better | KADID |
| `csiq` | `csiq.DMOS.xlsx`, or its sheet saved as `csiq.DMOS.csv` | worse | https://s2.smu.edu/~eclarson/ |
| `live` | `dmos.mat` or `dmos_realigned.mat`, and `refnames_all.mat` | worse | LIVE, release 2 |
| `pipal` | `Train_Label/*.txt`, Elo scores | better | https://github.com/HaomingCai/PIPAL-dataset |
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perceptual.data.kinds import OPINION
from perceptual.data.readers.columns import number, read_columns
from perceptual.data.settings import Larger
from perceptual.data.table import Table, number_images, number_subsets
from perceptual.files.places import listed, nfc

WHERE = {
    "tid2013": "https://www.ponomarenko.info/tid2013.htm",
    "kadid10k": "https://database.mmsp-kn.de/kadid-10k-database.html",
    "csiq": "https://s2.smu.edu/~eclarson/csiq.html",
    "live": "https://live.ece.utexas.edu/research/quality/subjective.htm (on request)",
    "pipal": "https://github.com/HaomingCai/PIPAL-dataset",
    # read by `answers`
    "mucped23": "https://github.com/google-research/google-research/tree/master/mucped23",
    "clic": "https://compression.cc",
    "pieapp": "https://github.com/prashnani/PerceptualImageError",
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


class Rated(NamedTuple):
    """A distorted image, its reference, and its score."""

    ref: str
    dist: str
    score: float
    subset: str


def read_tid2013(root: str | Path) -> Table:
    """TID2013: `mos_with_names.txt`, `reference_images`, `distorted_images`; the case of names varies."""
    root = Path(root)
    scores = needed("tid2013", root / "mos_with_names.txt")
    refs, dists = Names(root / "reference_images"), Names(root / "distorted_images")
    rated = []
    for row, line in enumerate(scores.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        cells = line.split()
        if len(cells) != 2 or not np.isfinite(number(cells[0])):
            raise ValueError(f"{scores}: line {row} is no score and name: {line!r}")
        score, name = number(cells[0]), cells[1]
        ref = name.partition("_")[0] + Path(name).suffix
        rated.append(Rated(refs[ref], dists[name], score, "tid2013"))
    return _table("tid2013", scores, rated, "better")


def read_kadid10k(root: str | Path) -> Table:
    """KADID-10k: `dmos.csv` with `dist_img`, `ref_img`, `dmos`, and `images`; larger "dmos" are better."""
    root = Path(root)
    columns = read_columns(needed("kadid10k", root / "dmos.csv"), ("dist_img", "ref_img", "dmos"), None)
    files = Names(root / "images")
    scores = columns.numbers("dmos", 1, 5).tolist()
    cells = zip(columns.cells["ref_img"], columns.cells["dist_img"], scores, strict=True)
    rated = [Rated(files[ref], files[dist], score, "kadid10k") for ref, dist, score in cells]
    return _table("kadid10k", columns.path, rated, "better")


def read_csiq(root: str | Path) -> Table:
    """CSIQ: the sheet `all_by_image` of `csiq.DMOS.xlsx` (needs `openpyxl`), `src_imgs` and `dst_imgs`."""
    root = Path(root)
    names = ("image", "dst_type", "dst_lev", "dmos")
    if (root / "csiq.DMOS.csv").is_file():
        columns = read_columns(root / "csiq.DMOS.csv", names, None)
        scores, path = columns.numbers("dmos", -np.inf).tolist(), columns.path
        rows = list(zip(*(columns.cells[name] for name in names[:3]), scores, strict=True))
    else:
        path = needed("csiq", root / "csiq.DMOS.xlsx")
        rows = _sheet(path, names)
    refs = Names(root / "src_imgs")
    folders = [root / "dst_imgs" / folder for folder, _ in CSIQ.values()]
    dists = Names(*(folder for folder in folders if folder.is_dir()))
    rated = []
    for image, kind, level, score in rows:
        name = str(image).removesuffix(".0")
        if kind not in CSIQ:
            raise ValueError(f"{path}: dst_type must be one of {', '.join(CSIQ)}, got {kind!r}")
        dist = dists[f"{name}.{CSIQ[kind][1]}.{int(float(level))}.png"]
        rated.append(Rated(refs[f"{name}.png"], dist, float(score), kind))
    return _table("csiq", path, rated, "worse")


def read_live(root: str | Path) -> Table:
    """LIVE, release 2: `dmos_realigned.mat`, or else `dmos.mat`; without the originals that it marks."""
    from scipy.io import loadmat

    root = Path(root)
    realigned = (root / "dmos_realigned.mat").is_file()
    path = needed("live", root / ("dmos_realigned.mat" if realigned else "dmos.mat"))
    names_path = needed("live", root / "refnames_all.mat")
    try:
        stored, names = loadmat(path), loadmat(names_path)["refnames_all"]
        scores = np.asarray(stored["dmos_new" if realigned else "dmos"], float).ravel()
        original = np.asarray(stored["orgs"]).ravel().astype(bool)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{path} and {names_path.name} do not hold LIVE's scores: {error}") from None
    counts = {kind: len(Names(root / kind)) for kind in LIVE}
    places = [(kind, number) for kind, count in counts.items() for number in range(1, count + 1)]
    if not len(scores) == len(original) == names.size == len(places):
        raise ValueError(
            f"{path} has {len(scores):,} scores, {names_path.name} {names.size:,} names, and the folders "
            f"{', '.join(LIVE)} hold {len(places):,} images"
        )
    refs, dists = Names(root / "refimgs"), {kind: Names(root / kind) for kind in LIVE}
    rated = [
        Rated(refs[str(np.ravel(name)[0])], dists[kind][f"img{number}.bmp"], score, kind)
        for (kind, number), name, score, undistorted in zip(
            places, names.ravel(), scores.tolist(), original, strict=True
        )
        if not undistorted
    ]
    return _table("live", path, rated, "worse")


def read_pipal(root: str | Path) -> Table:
    """PIPAL's training part: `Train_Label/A0001.txt` with lines `A0001_00_00.bmp,1500.0`, and the images."""
    root = Path(root)
    labels = needed("pipal", root / "Train_Label")
    refs = Names(root / "Train_Ref")
    folders = [Path(one.path) for one in listed(root) if "Dist" in one.name and one.is_dir()]
    dists = Names(*folders) if folders else Names(root / "Train_Dist")
    rated = []
    for path in (Path(one.path) for one in listed(labels) if one.name.endswith(".txt")):
        for row, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if not line.strip():
                continue
            name, _, elo = line.partition(",")
            score = number(elo.strip())
            if not np.isfinite(score):
                raise ValueError(f"{path}: line {row} is no name and score: {line!r}")
            rated.append(Rated(refs[f"{path.stem}{Path(name).suffix}"], dists[name.strip()], score, "pipal"))
    return _table("pipal", labels, rated, "better")


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
                if entry.is_file() and Path(entry.name).suffix.lower() in (".bmp", ".png", ".jpg")
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


def _table(name: str, source: Path, rated: list[Rated], larger: Larger) -> Table:
    if not rated:
        raise ValueError(f"{source} holds no scores of {name}")
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


OPINIONS: dict[str, Callable[[str | Path], Table]] = {
    "tid2013": read_tid2013,
    "kadid10k": read_kadid10k,
    "csiq": read_csiq,
    "live": read_live,
    "pipal": read_pipal,
}
