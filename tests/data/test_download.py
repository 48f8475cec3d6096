"""BAPPS from a server that misbehaves, resumed at any moment; archives of strangers."""

import gzip
import io
import json
import random
import re
import shutil
import socket
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from killing import run_and_kill, tree_bytes
from trees import write_image, write_pair_subset, write_subset

from perceptual.data import JND, TWO_AFC
from perceptual.data.download import http as fetching
from perceptual.data.download.bapps import BAPPS, Part, download_bapps, unpack
from perceptual.data.download.nights import download_nights

COUNTS = {"traditional": 6, "cnn": 5}
PARTS = {
    "val": Part("val.tar.gz", "val", "2afc/val", TWO_AFC, COUNTS),
    "jnd": Part("jnd.tar.gz", "jnd", "jnd", JND, {"val/cnn": None}),
}


class Server(ThreadingHTTPServer):
    """Serves `files`; `mood` is how it misbehaves, `asked` the Range of each request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.mood, self.asked, self.pace = "", [], 0.0
        self.tag = '"one"'

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        server, data = self.server, self.server.files.get(self.path.strip("/"))
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if data is None or server.mood in ("404", "503"):
            self.send_error(404 if data is None else int(server.mood))
            return
        start = 0
        current = self.headers.get("If-Range") in (None, server.tag) or server.mood == "ignores versions"
        if asked and current and server.mood != "ignores ranges":
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start >= len(data) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("ETag", server.tag)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.mood.startswith("chunked"):
            self.protocol_version = "HTTP/1.1"
        self.send_response(206 if start else 200)
        if start:
            first = start + 7 if server.mood == "wrong range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        length = len(data) - start
        length += {"promises more": 1000, "promises less": -1000}.get(server.mood, 0)
        if server.mood.startswith("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
        elif server.mood != "no length":
            self.send_header("Content-Length", str(length))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        stop = start + len(data) // 4 + 1 if server.mood == "breaks" else len(data)
        if server.mood.startswith("chunked"):
            chunk, breaks = data[start:], "breaks" in server.mood
            self.wfile.write(f"{len(chunk):x}\r\n".encode())
            self.wfile.write(chunk[: len(chunk) // 2] if breaks else chunk + b"\r\n0\r\n\r\n")
            return
        step = 8 if server.mood in ("stalls", "drips") else 2048
        for at in range(start, stop, step):
            time.sleep({"stalls": 2 if at else 0, "drips": 0.05}.get(server.mood, server.pace))
            try:
                self.wfile.write(data[at : min(at + step, stop)])
            except OSError:
                return
        if server.mood == "changes":
            server.mood = ""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "WAIT", 0.01)
    server = Server()
    for seed, (name, count) in enumerate(COUNTS.items()):
        write_subset(tmp_path / "made/2afc/val" / name, count, seed)
    write_pair_subset(tmp_path / "made/jnd/val/cnn", 4)
    server.files = {
        "val.tar.gz": tar_of(tmp_path / "made/2afc/val"),
        "jnd.tar.gz": tar_of(tmp_path / "made/jnd"),
    }
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def tar_of(folder: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    return file.getvalue()


def tar_with(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b"x" if kind == tarfile.REGTYPE else b""


@pytest.fixture
def download(server, tmp_path):
    return lambda *subsets: download_bapps(tmp_path / "root", subsets or ("val", "jnd"), server.base, PARTS)


def whole(tmp_path: Path) -> bool:
    return tree_bytes(tmp_path / "root") == tree_bytes(tmp_path / "made")


def test_the_real_archives():
    names = ["twoafc_val.tar.gz", "jnd.tar.gz", "twoafc_train.tar.gz"]
    assert [part.archive for part in BAPPS.values()] == names
    assert sum(BAPPS["val"].counts.values()) == 36344


def test_download(download, server, tmp_path):
    root = tmp_path / "root"
    assert download() == [f"{root}/2afc/val: 11 triplets", f"{root}/jnd: 4 pairs"]
    assert whole(tmp_path)
    assert download()
    assert len(server.asked) == 2  # what is there is not asked for again
    shutil.rmtree(root / "jnd")
    download()
    assert len(server.asked) == 3
    assert whole(tmp_path)


def test_broken_connections_are_resumed(download, server, tmp_path):
    server.mood = "breaks"
    download("val")
    assert len(server.asked) >= 4
    assert server.asked[0] is None
    assert all(server.asked[1:])
    assert tree_bytes(tmp_path / "root/2afc/val") == tree_bytes(tmp_path / "made/2afc/val")


@pytest.mark.parametrize("tag", ['W/"weak"', ""])
def test_what_has_no_version_is_not_joined(download, server, tmp_path, tag):
    server.mood, server.tag = "breaks", tag
    with pytest.raises(OSError, match="cannot download"):
        download("val")
    assert set(server.asked) == {None}
    server.mood = ""
    download("val")
    assert tree_bytes(tmp_path / "root/2afc/val") == tree_bytes(tmp_path / "made/2afc/val")


def test_an_end_that_is_not_known_is_refused(download, server, tmp_path):
    server.mood = "no length"
    with pytest.raises(OSError, match=r"does not say how long the file is.*put it at .*root/val\.tar\.gz"):
        download("val")
    assert len(server.asked) == 1
    assert not (tmp_path / "root/2afc").exists()
    server.mood = "chunked"
    download()
    assert whole(tmp_path)
    server.mood = "chunked, breaks"
    shutil.rmtree(tmp_path / "root")
    server.tag = ""
    with pytest.raises(OSError, match="the connection broke off"):
        download("val")


@pytest.mark.parametrize("pace", ["stalls", "drips"])
def test_a_transfer_that_stalls_ends(pace, download, server, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.3)
    monkeypatch.setattr(fetching, "PATIENCE", 2)
    server.mood = pace
    start = time.monotonic()
    says = {"stalls": r"no answer in 0\.3 s", "drips": "fewer than 1,000 bytes per second"}[pace]
    with pytest.raises(OSError, match=says):
        download("val")
    assert time.monotonic() - start < 10


ZERO, ONE = '"zero"', '"one"'  # versions; the server has the second
PARTS_LEFT = {  # bytes of an earlier run, its note, how the server is; and what is asked for
    "of another version": (lambda data: b"bytes of another version", ZERO, "", ["bytes=24-"]),
    "of another version, served all the same": (
        lambda data: bytes(1000),
        ZERO,
        "ignores versions",
        ["bytes=1000-", None],
    ),
    "whole, of another version of one length": (
        lambda data: bytes(len(data)),
        ZERO,
        "ignores versions",
        ["bytes={length}-", None],
    ),
    "whole": (lambda data: data, ONE, "", ["bytes={length}-"]),
    "of a server without ranges": (lambda data: data[:1000], ONE, "ignores ranges", ["bytes=1000-"]),
    "of a server of wrong ranges": (lambda data: data[:1000], ONE, "wrong range", ["bytes=1000-", None]),
    **{f"noted as {note!r}": (lambda data: b"what", note, "", [None]) for note in (None, "", "{}", "[1]")},
}


@pytest.mark.parametrize("name", PARTS_LEFT)
def test_a_part_is_continued_only_by_its_own_version(download, server, tmp_path, name):
    content, note, mood, asked = PARTS_LEFT[name]
    data = server.files["val.tar.gz"]
    part = tmp_path / "root/.download/val.tar.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content(data))
    if note in (ZERO, ONE):
        note = json.dumps({"tag": note, "total": len(data)})
    if note is not None:
        Path(f"{part}.json").write_text(note)
    server.mood = mood
    download()
    assert server.asked[: len(asked)] == [each and each.format(length=len(data)) for each in asked]
    assert whole(tmp_path)


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("503", "503 Service Unavailable"),
        ("promises more", "the file changed on the server"),
    ],
)
def test_servers_that_never_deliver(download, server, tmp_path, mood, message):
    server.mood = mood
    with pytest.raises(
        OSError, match=rf"cannot download {server.base}val.tar.gz \({message}\); get the file"
    ) as error:
        download("val")
    assert f"{tmp_path}/root/val.tar.gz and run this again" in str(error.value)
    assert not (tmp_path / "root/2afc").exists()
    server.mood = ""
    download()
    assert whole(tmp_path)


def test_an_archive_cut_short_by_its_length(download, server, tmp_path):
    server.mood = "promises less"
    with pytest.raises(ValueError, match=r"val.tar.gz is damaged \(.*\); remove it and run this again"):
        download("val")
    assert not (tmp_path / "root/2afc").exists()


def test_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "WAIT", 0.01)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    with pytest.raises(OSError, match=rf"cannot download {base}val.tar.gz \(no connection\); get") as error:
        download_bapps(tmp_path / "root", ["val"], base, PARTS)
    assert "\n" not in str(error.value)


def test_missing_on_the_server_is_not_asked_for_again(download, server):
    server.files.clear()
    with pytest.raises(OSError, match=r"\(404 Not Found\); get the file by other means"):
        download()
    assert len(server.asked) == 1


def test_an_archive_brought_by_hand_is_taken_and_left(download, server, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/val.tar.gz").write_bytes(server.files["val.tar.gz"])
    download("val")
    assert server.asked == []
    assert (tmp_path / "root/val.tar.gz").exists()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../escape.png"), "leads out of the folder"),
        (member("val/../../escape.png"), "leads out of the folder"),
        (member("/tmp/escape.png"), "leads out of the folder"),
        (member("val\\..\\escape.png"), "leads out of the folder"),
        (member("C:/escape.png"), "leads out of the folder"),
        (member("val/link", tarfile.SYMTYPE, "/etc/passwd"), "is neither a plain file nor a folder"),
        (member("val/link", tarfile.LNKTYPE, "../../x"), "is neither a plain file nor a folder"),
        (member("val/pipe", tarfile.FIFOTYPE), "is neither a plain file nor a folder"),
        (member("val/null", tarfile.CHRTYPE), "is neither a plain file nor a folder"),
    ],
)
def test_hostile_archives(download, server, tmp_path, bad, message):
    server.files["val.tar.gz"] = tar_with(member("val/good.png"), bad)
    with pytest.raises(ValueError, match=rf"val.tar.gz is not to be trusted: .* {message}; remove it"):
        download("val")
    assert not (tmp_path / "root/2afc").exists()
    assert not list(tmp_path.rglob("escape.png"))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", ValueError, r"val.tar.gz is damaged"),
        (b"<html>not here</html>", ValueError, r"val.tar.gz is damaged"),
        (b"\x1f\x8b\x08\x00garbage", ValueError, r"val.tar.gz is damaged"),
        (tar_with(member("readme.txt")), ValueError, "holds no folder val"),
        (tar_with(member("val/a.png"), member("val/a.png")), OSError, "File exists"),
    ],
    # an archive has the time in it: processes that collect the tests must name them alike
    ids=["empty", "a page", "damaged", "without the folder", "one name twice"],
)
def test_archives_that_are_none(download, server, data, error, message):
    server.files["val.tar.gz"] = data
    with pytest.raises(error, match=message):
        download("val")


def test_counts_are_checked(download, server, tmp_path):
    cnn = tmp_path / "made/2afc/val/cnn"
    for role, suffix in (("ref", "png"), ("p0", "png"), ("p1", "png"), ("judge", "npy")):
        (cnn / role / f"000004.{suffix}").unlink()
    server.files["val.tar.gz"] = tar_of(tmp_path / "made/2afc/val")
    with pytest.raises(ValueError, match=r"val/cnn holds 4 of 5 triplets; remove the folder"):
        download("val")
    (cnn / "judge/000003.npy").unlink()
    shutil.copytree(tmp_path / "made/2afc/val", tmp_path / "root/2afc/val")
    with pytest.raises(ValueError, match=r"1 of 4 stems are incomplete"):
        download("val")
    shutil.rmtree(tmp_path / "root/2afc/val/cnn")
    with pytest.raises(FileNotFoundError, match="no folder"):
        download("val")


def test_wrong_subsets(download):
    with pytest.raises(ValueError, match="subsets must be of val, jnd, got test"):
        download("val", "test")


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_any_moment(download, server, tmp_path, kills):
    rng = np.random.default_rng(0)
    for role in ("ref", "p0", "p1"):  # more files, for a longer unpacking
        for i in range(60):
            (tmp_path / f"made/2afc/val/cnn/{role}/x{i}.png").write_bytes(rng.bytes(500))
    for i in range(60):
        np.save(tmp_path / f"made/2afc/val/cnn/judge/x{i}.npy", 0.5)
    server.files["val.tar.gz"] = tar_of(tmp_path / "made/2afc/val")
    parts = {**PARTS, "val": Part("val.tar.gz", "val", "2afc/val", TWO_AFC, {**COUNTS, "cnn": 65})}
    server.pace = 0.003

    def work():
        download_bapps(tmp_path / "root", ("val", "jnd"), server.base, parts)

    start = time.perf_counter()
    work()
    duration = time.perf_counter() - start
    assert whole(tmp_path)
    shutil.rmtree(tmp_path / "root")
    chance = random.Random(0)
    killed_inside = 0
    for _ in range(kills):
        run_and_kill(work, chance.uniform(0, duration))
        done = [place for place in ("2afc/val", "jnd") if (tmp_path / "root" / place).exists()]
        killed_inside += len(done) < 2
        for place in done:
            assert tree_bytes(tmp_path / "root" / place) == tree_bytes(tmp_path / "made" / place)
        if len(done) == 2:
            shutil.rmtree(tmp_path / "root")
    assert killed_inside
    server.pace = 0
    work()
    assert whole(tmp_path)


def test_every_flipped_bit_of_an_archive_is_noticed_or_harmless(tmp_path):
    rng = np.random.default_rng(0)
    members = {f"{i}.npy": rng.bytes(300) for i in range(4)}
    whole = tar_with(*((tarfile.TarInfo(name), content) for name, content in members.items()))
    noticed = 0
    for number, place in enumerate(rng.choice(len(whole), 60, replace=False)):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.tar.gz").write_bytes(changed)
        folder = tmp_path / f"out{number}"
        try:
            unpack(tmp_path / "b.tar.gz", folder)
        except ValueError:
            noticed += 1
        else:  # the header of gzip has a time, a name and flags, which change nothing
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == members
    assert noticed >= 50


def test_an_archive_that_fills_the_disk_is_refused(tmp_path):
    large = tar_with(*((tarfile.TarInfo(str(i)), bytes(2**20)) for i in range(8)))
    (tmp_path / "a.tar.gz").write_bytes(large)
    with pytest.raises(ValueError, match="more than 50 times its size"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_a_sparse_file_is_refused(tmp_path):
    info = tarfile.TarInfo("hole")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"00000100000\0"  # the real size
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:])
    header[148:156] = f"{checksum:06o}\0 ".encode()
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(bytes(header) + bytes(1024))
    with pytest.raises(ValueError, match="not to be trusted"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


NIGHTS = "ref_path,left_path,right_path,left_vote,right_vote,votes,split,is_imagenet\n"


def nights_zip(folder: Path, **others: bytes | str) -> bytes:
    """NIGHTS' archive with two triplets, and other members."""
    rng = np.random.default_rng(0)
    images = [f"{kind}/{i}.png" for kind in ("ref", "distort") for i in range(3)]
    for name in images:
        write_image(folder / name, rng)
    rows = [f"{','.join(images[i : i + 3])},0,1,6,{split},True\n" for i, split in enumerate(("train", "val"))]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("nights/data.csv", NIGHTS + "".join(rows))
        for name in images:
            archive.write(folder / name, f"nights/{name}")
        for name, content in others.items():
            archive.writestr(name, content)
    return file.getvalue()


def test_nights_is_downloaded_continued_and_checked(server, tmp_path):
    root = tmp_path / "nights"
    server.files["nights.zip"] = nights_zip(tmp_path / "made")
    server.mood = "breaks"
    assert download_nights(root, f"{server.base}nights.zip") == f"{root}: 2 triplets"
    assert any(asked for asked in server.asked), "it continued"
    assert sorted(path.name for path in root.iterdir()) == ["data.csv", "distort", "ref"]
    asked = len(server.asked)
    assert download_nights(root, f"{server.base}nights.zip")
    assert len(server.asked) == asked, "what is there is only checked"
    (root / "ref/1.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 images are missing: .*ref/1.png; remove the folder"):
        download_nights(root, f"{server.base}nights.zip")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"../out.txt": "x"}, "is not to be trusted: '../out.txt' leads out of the folder"),
        ({"zeros": bytes(80_000_000)}, "holds more than 50 times its size"),
        (b"no archive", r"is damaged \(File is not a zip file\)"),
        (b"", "holds no data.csv"),
    ],
)
def test_archives_that_are_not_nights(server, tmp_path, bad, says):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other/file.txt", "x")
        for name, content in bad.items() if isinstance(bad, dict) else ():
            archive.writestr(name, content)
    server.files["nights.zip"] = bad if isinstance(bad, bytes) and bad else made.getvalue()
    with pytest.raises(ValueError, match=says):
        download_nights(tmp_path / "root", f"{server.base}nights.zip")
    assert not (tmp_path / "root/data.csv").exists()
