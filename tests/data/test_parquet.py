"""Triplets in Parquet files: as the same images in files, and refused in one line."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from perceptual.data import JNDDataModule, ManifestDataModule, ParquetDataModule
from perceptual.data.readers.manifests import read_manifest
from perceptual.data.readers.parquet import read_parquet

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")
FIELDS = ("ref", "p0", "p1", "judge", "votes", "subset")


def encoded(seed, format="PNG"):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def rows(count=12):
    """Triplets of which two share each reference, as `datasets` keeps them."""
    return [
        {
            **{
                role: {"bytes": encoded(i // 2 + 100 * n), "path": f"{i}.png"}
                for n, role in enumerate(FIELDS[:3])
            },
            **{"judge": (i % 5) / 4, "votes": 4, "subset": f"s{i % 2}"},
        }
        for i in range(count)
    ]


def write(path, rows, **schema):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, **schema), path)
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTUAL_CACHE", str(tmp_path / "cache"))


def test_the_fingerprint_is_that_of_the_same_images_as_files(tmp_path):
    made = rows()
    with (tmp_path / "set.csv").open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow(FIELDS)
        for i, row in enumerate(made):
            names = [f"{i}-{role}.png" for role in FIELDS[:3]]
            for name, role in zip(names, FIELDS, strict=False):
                (tmp_path / name).write_bytes(row[role]["bytes"])
            written.writerow([*names, *(row[name] for name in FIELDS[3:])])
    write(tmp_path / "set/data/part-0.parquet", made[:7])
    write(tmp_path / "set/data/part-1.parquet", made[7:])
    lit = read_parquet(str(tmp_path / "set"), {"condition": "subset"})
    assert (lit.condition[:2].tolist(), lit.subsets) == (["s0", "s1"], ["s0, s0", "s1, s1"])
    ours = read_parquet(str(tmp_path / "set"))
    for size in (16, None):
        wanted = read_manifest(tmp_path / "set.csv").open(size)
        assert ours.open(size).fingerprint() == wanted.fingerprint()
    assert len(ours.paths) == 18  # an image that recurs is one file
    data, other = (
        module(str(tmp_path / path), size=16, val_fraction=0.5)
        for module, path in ((ParquetDataModule, "set"), (ManifestDataModule, "set.csv"))
    )
    for one in (data, other):
        one.setup("fit")
    assert data.fingerprint("train") == other.fingerprint("train")
    assert data.fingerprint() == other.fingerprint()


def test_columns_have_names_and_splits_are_those_of_files(tmp_path):
    def renamed(row):
        images = {"left": row["p0"]["bytes"], "right": row["p1"]["bytes"], "original": row["ref"]}
        return images | {"right_vote": round(row["judge"]), "more": [1, 2]}

    for name, part in (("train", rows()[:8]), ("validation", rows()[8:])):
        write(tmp_path / f"{name}-00000-of-00001.parquet", [renamed(row) for row in part])
    columns = {"ref": "original", "p0": "left", "p1": "right", "judge": "right_vote"}
    found = read_parquet(str(tmp_path), columns)
    assert found.split.tolist() == ["train"] * 8 + ["val"] * 4
    assert found.answer.tolist() == [round((i % 5) / 4) for i in range(12)]
    plain = read_parquet(str(write(tmp_path / "plain/set.parquet", rows())))
    assert [[found.paths[i] for i in role] for role in found.items] == [
        [plain.paths[i] for i in role] for role in plain.items
    ]
    data = ParquetDataModule(str(tmp_path), size=16, columns=columns)
    with pytest.raises(ValueError, match="has no column ref"):
        ParquetDataModule(str(tmp_path), size=16).setup("fit")
    (tmp_path / "plain/set.parquet").unlink()
    data.setup("fit")
    assert len(data.val_set) == 4


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ref": None}, r"row 3: ref must be an image, \{bytes, path\} or bytes, got None"),
        ({"ref": {"bytes": None, "path": "a.png"}}, r"row 3: ref must be an image.* got {'bytes': None"),
        ({"judge": float("nan")}, r"row 3: judge must be a number in \[0, 1\], got nan"),
        ({"judge": 1.5}, r"row 3: judge must be a number in \[0, 1\], got 1\.5"),
        ({"judge": None}, r"row 3: judge must be a number in \[0, 1\], got None"),
        ({"votes": 0}, "row 3: votes must be a whole number of people, got 0"),
        (
            {"votes": 3},
            "judge · votes must be a whole number of people; 1 of 12 are not, the first is .* row 3",
        ),
        ({"ref": {"bytes": b"no image", "path": None}}, "cannot be used"),
    ],
)
def test_what_is_no_triplet_is_one_line(tmp_path, change, error):
    made = rows()
    made[2] = made[2] | {"judge": 0.5} | change
    path = write(tmp_path / "a.parquet", made, schema=pa.Table.from_pylist(rows()).schema)
    with pytest.raises(ValueError, match=error) as raised:
        read_parquet(str(path)).open(16)
    assert "\n" not in str(raised.value)


def test_files_of_another_kind_are_one_line(tmp_path, monkeypatch):
    listed = write(tmp_path / "list.parquet", [row | {"ref": [1, 2]} for row in rows()])
    with pytest.raises(ValueError, match=r"row 1: ref must be an image.*, got \[1, 2\]"):
        read_parquet(str(listed))
    with pytest.raises(
        ValueError, match=r"has no column ref, p0, p1, judge, but a; data\.columns\.ref=… and"
    ):
        read_parquet(str(write(tmp_path / "other.parquet", [{"a": 1}])))
    with pytest.raises(ValueError, match=r"data\.columns has no 'reff'; it names ref, p0, p1, judge"):
        read_parquet(str(listed), {"reff": "a"})
    with pytest.raises(ValueError, match="has no column people"):
        read_parquet(str(listed), {"votes": "people"})
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read"):
        read_parquet(str(tmp_path / "broken.parquet"))
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere, or no \.parquet file in it"):
        read_parquet(str(tmp_path / "nowhere"))
    with pytest.raises(
        FileNotFoundError, match="hf://datasets/owner/name: the hub did not give it"
    ) as raised:
        read_parquet("hf://datasets/owner/name")
    assert "\n" not in str(raised.value)


def test_pairs_are_read_by_the_data_of_pairs(tmp_path):
    """By `data=jnd`, also beside triplets in training; the names of columns as of triplets."""
    made = [{"p0": row["p0"], "p1": row["p1"], "same": row["judge"], "votes": 4} for row in rows()]
    write(tmp_path / "data/pairs.parquet", made)
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow(("p0", "p1", "same", "votes"))
        for i, row in enumerate(made):
            for role in ("p0", "p1"):
                (tmp_path / f"{i}-{role}.png").write_bytes(row[role]["bytes"])
            written.writerow([f"{i}-p0.png", f"{i}-p1.png", row["same"], 4])
    renamed = [{"left": row["p0"], "right": row["p1"], "alike": row["same"], "votes": 4} for row in made]
    write(tmp_path / "named/pairs.parquet", renamed)
    columns = {"p0": "left", "p1": "right", "same": "alike"}
    found = [
        JNDDataModule(str(tmp_path / root), size=16, columns=said)
        for root, said in (
            ("pairs.csv", None),
            ("data/pairs.parquet", None),
            ("named/pairs.parquet", columns),
        )
    ]
    for data in found:
        data.setup("validate")
    assert len({data.fingerprint() for data in found}) == 1
    write(tmp_path / "set/a.parquet", rows())
    both = ParquetDataModule(str(tmp_path / "set"), size=16, val_fraction=0.5, jnd=str(tmp_path / "data"))
    both.setup("validate")
    assert [judged.table.kind.name for judged in both.val_sets] == ["2afc", "jnd"]
    with pytest.raises(
        ValueError, match=r"data\.columns names columns of Parquet files, and .*pairs\.csv is"
    ):
        JNDDataModule(str(tmp_path / "pairs.csv"), size=16, columns=columns).setup("validate")


def test_files_of_one_set_have_the_same_columns(tmp_path):
    write(tmp_path / "a.parquet", rows()[:6])
    write(tmp_path / "b.parquet", [{k: v for k, v in row.items() if k != "votes"} for row in rows()[6:]])
    with pytest.raises(ValueError, match=r"must have the same columns; only one has votes"):
        read_parquet(str(tmp_path))


def test_a_set_on_the_hub_is_its_files(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo, **how):
        asked.append((repo, how))
        return str(tmp_path)

    write(tmp_path / "data/a.parquet", rows())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for path in ("", "/data", "/data/a.parquet"):
        assert len(read_parquet(f"hf://datasets/owner/name{path}")) == 12
    assert {(repo, how["repo_type"]) for repo, how in asked} == {("owner/name", "dataset")}
    patterns = [how["allow_patterns"] for _, how in asked]
    assert patterns == [["*.parquet"], ["data/*.parquet"], ["data/a.parquet"]]
