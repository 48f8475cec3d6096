"""Download a file over HTTP; continues where a broken connection or a killed run stopped."""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from perceptual.files.progress import Progress
from perceptual.files.records import read_record

PATIENCE = 5  # attempts in a row without a new byte
WAIT = 1.0  # seconds before the second attempt, doubled for each one after
TIMEOUT = 30  # seconds without a byte, or with few
SLOWEST = 1000  # bytes per second
_BLOCK = 1 << 13  # bytes; a block during which the connection breaks is lost


@dataclass(frozen=True)
class Note:
    """Which version of a file a part is of, and the length of the whole."""

    tag: str
    total: int | None


class _Failed(Exception):
    """A download failed: `final`, it would fail again; `stalled`, few bytes came for too long."""

    def __init__(self, reason: str, final: bool = False, stalled: bool = False) -> None:
        super().__init__(reason)
        self.final, self.stalled = final, stalled


def fetch(url: str, path: Path, by_hand: Path) -> Path:
    """Download `url` to `path`, unless it is there.

    Until it is complete it is `path` + ".part", beside a note of the version of the file. It is begun again
    where the server does not say which version it sends, and refused where it does not say how long the file
    is. A transfer that stalls for `TIMEOUT` seconds is tried again, `PATIENCE` times in all.

    Args:
        url: what to download.
        path: where to.
        by_hand: where the error message tells the user to put the file.

    Raises:
        OSError: it cannot be downloaded; says why and what to do.
    """
    if path.exists():
        return path
    part = Path(f"{path}.part")
    most, failures = _size(part), 0
    with Progress(f"Downloading {path.name}") as progress:
        while True:
            try:
                _fetch_rest(url, part, progress)
                break
            except (requests.RequestException, _Failed) as known:
                error = known if isinstance(known, _Failed) else _explained(known)
                goes_on = _size(part) > most and not error.stalled
                failures = 0 if goes_on else failures + 1
                most = max(most, _size(part))
                if error.final or failures >= PATIENCE:
                    raise OSError(
                        f"cannot download {url} ({error}); get the file by other means, put it at "
                        f"{by_hand} and run this again"
                    ) from None
                time.sleep(WAIT * 2 ** max(0, failures - 1))
    os.replace(part, path)
    _note(part).unlink(missing_ok=True)
    return path


def _fetch_rest(url: str, part: Path, progress: Progress) -> None:
    """One request for what is missing; returns when the file is complete."""
    have, note = _size(part), _read_note(part)
    headers = {"Accept-Encoding": "identity"}
    if have and note.tag:  # without one, the rest could be that of another version
        headers |= {"Range": f"bytes={have}-", "If-Range": note.tag}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing follows the part that is here
            same = _tag(response) in ("", note.tag) and note.total in (None, have)
            if same and _content_range(response)[1] == have:
                return
            part.unlink()
            raise _Failed("the file changed on the server")
        response.raise_for_status()
        goes_on = response.status_code == 206
        length = response.headers.get("Content-Length", "")
        start, total = _content_range(response) if goes_on else (0, int(length) if length.isdigit() else None)
        tag = _tag(response)
        if goes_on and (start != have or total != note.total or tag not in ("", note.tag)):
            part.unlink()
            raise _Failed("the server sent another part than requested")
        if total is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise _Failed(
                "the server does not say how long the file is, so that its end is not known", final=True
            )
        if not goes_on:
            part.unlink(missing_ok=True)  # before the note, which must never describe other bytes
            _note(part).write_text(json.dumps({"tag": tag, "total": total}))
        with part.open("ab") as file:
            progress.total = total
            for block in _blocks(response):
                file.write(block)
                progress.reach(file.tell())
    if total is not None and _size(part) != total:
        got = _size(part)
        if got > total:
            part.unlink()
        raise _Failed(f"{got:,} of {total:,} bytes came")


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """Yield the file's bytes as they come; raises `_Failed` where they end early or few come."""
    # a whole block of a file that drips would be waited for for hours; urllib3 1 knows no other way
    read = getattr(response.raw, "read1", response.raw.read)
    clock, came = time.monotonic(), 0
    while True:
        try:
            block = read(_BLOCK)
        except urllib3.exceptions.ReadTimeoutError:
            raise _Failed(f"no answer in {TIMEOUT} s") from None
        except (urllib3.exceptions.HTTPError, OSError):
            raise _Failed("the connection broke off") from None
        if not block:
            return
        yield block
        came += len(block)
        if time.monotonic() - clock > TIMEOUT:
            if came < SLOWEST * TIMEOUT:
                raise _Failed(f"fewer than {SLOWEST:,} bytes per second came for {TIMEOUT} s", stalled=True)
            clock, came = time.monotonic(), 0


def _tag(response: requests.Response) -> str:
    """Return what tells versions of the file apart; a weak tag does not promise the same bytes."""
    tag = response.headers.get("ETag", "")
    return response.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _note(part: Path) -> Path:
    return Path(f"{part}.json")


def _read_note(part: Path) -> Note:
    try:
        return read_record(_note(part), Note, "")
    except (OSError, ValueError):
        return Note("", None)  # start over


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and length of the whole, of "bytes 5-9/10" or "bytes */10"."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
    if not found:
        return None, None
    return (int(found[1]) if found[1] else None), int(found[2])


def _explained(error: requests.RequestException) -> _Failed:
    """Explain why a request failed; trying again is useless where the server refuses it."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        response = error.response
        return _Failed(f"{response.status_code} {response.reason}", final=400 <= response.status_code < 500)
    return _Failed(f"no answer in {TIMEOUT} s" if isinstance(error, requests.Timeout) else "no connection")
