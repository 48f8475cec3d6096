"""Download a file over HTTP; continues where a broken connection or a killed run stopped."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import urllib3
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from perceptual.files.progress import lines

PATIENCE = 5  # attempts in a row without a new byte
WAIT = 1.0  # seconds before the second attempt, doubled for each one after
TIMEOUT = 30  # seconds without a byte, or with few
SLOWEST = 1000  # bytes per second
_BLOCK = 1 << 13  # bytes; a block during which the connection breaks is lost


class _Again(Exception):
    """The download failed, but may succeed if it is tried again."""


class _Stalled(_Again):
    """Few bytes came for too long."""


class _Final(_Again):
    """The download failed, and would fail again."""


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
    columns = (
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    came = lines(lambda: f"Downloading {path.name}: {_size(part) / 1e6:,.0f} MB so far")
    with came, Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(path.name), total=None)
        while True:
            try:
                _fetch_rest(url, part, progress, task)
                break
            except (requests.RequestException, _Again) as error:
                goes_on = _size(part) > most and not isinstance(error, _Stalled)
                failures = 0 if goes_on else failures + 1
                most = max(most, _size(part))
                if _is_final(error) or failures >= PATIENCE:
                    raise OSError(
                        f"cannot download {url} ({_reason(error)}); get the file by other means, put it at "
                        f"{by_hand} and run this again"
                    ) from None
                time.sleep(WAIT * 2 ** max(0, failures - 1))
    os.replace(part, path)
    _note(part).unlink(missing_ok=True)
    return path


def _fetch_rest(url: str, part: Path, progress: Progress, task: Any) -> None:
    """One request for what is missing; returns when the file is complete."""
    have, note = _size(part), _read_note(part)
    headers = {"Accept-Encoding": "identity"}
    if have and note.get("tag"):  # without one, the rest could be that of another version
        headers |= {"Range": f"bytes={have}-", "If-Range": note["tag"]}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing follows the part that is here
            same = _tag(response) in ("", note.get("tag")) and note.get("total") in (None, have)
            if same and _content_range(response)[1] == have:
                return
            part.unlink()
            raise _Again("the file changed on the server")
        response.raise_for_status()
        goes_on = response.status_code == 206
        start, total = _content_range(response) if goes_on else (0, _length(response))
        tag = _tag(response)
        if goes_on and (start != have or total != note.get("total") or tag not in ("", note["tag"])):
            part.unlink()
            raise _Again("the server sent another part than requested")
        if total is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise _Final("the server does not say how long the file is, so that its end is not known")
        if not goes_on:
            part.unlink(missing_ok=True)  # before the note, which must never describe other bytes
            _note(part).write_text(json.dumps({"tag": tag, "total": total}))
        with part.open("ab") as file:
            progress.update(task, total=total, completed=_size(part))
            for block in _blocks(response):
                file.write(block)
                progress.advance(task, len(block))
    if total is not None and _size(part) != total:
        got = _size(part)
        if got > total:
            part.unlink()
        raise _Again(f"{got:,} of {total:,} bytes came")


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """The file's bytes as they come; raises `_Again` where they end early, `_Stalled` where few come."""
    # a whole block of a file that drips would be waited for for hours; urllib3 1 knows no other way
    read = getattr(response.raw, "read1", response.raw.read)
    clock, came = time.monotonic(), 0
    while True:
        try:
            block = read(_BLOCK)
        except urllib3.exceptions.ReadTimeoutError:
            raise _Again(f"no answer in {TIMEOUT} s") from None
        except (urllib3.exceptions.HTTPError, OSError):
            raise _Again("the connection broke off") from None
        if not block:
            return
        yield block
        came += len(block)
        if time.monotonic() - clock > TIMEOUT:
            if came < SLOWEST * TIMEOUT:
                raise _Stalled(f"fewer than {SLOWEST:,} bytes per second came for {TIMEOUT} s")
            clock, came = time.monotonic(), 0


def _tag(response: requests.Response) -> str:
    """What tells versions of the file apart; a weak tag promises the same meaning, not the same bytes."""
    tag = response.headers.get("ETag", "")
    return response.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _note(part: Path) -> Path:
    return Path(f"{part}.json")


def _read_note(part: Path) -> dict[str, Any]:
    try:
        note = json.loads(_note(part).read_text())
        return {"tag": note["tag"], "total": note["total"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # start over


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and length of the whole, of "bytes 5-9/10" or "bytes */10"."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
    if not found:
        return None, None
    return (int(found[1]) if found[1] else None), int(found[2])


def _is_final(error: Exception) -> bool:
    """Whether trying again is useless, as the server refuses the request."""
    if isinstance(error, _Final):
        return True
    response = getattr(error, "response", None)
    return response is not None and 400 <= response.status_code < 500


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer in {TIMEOUT} s"
    return str(error) if isinstance(error, _Again) else "no connection"
