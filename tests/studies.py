"""Studies to test with: made of noise, served in a thread or a process, and taken part in through HTTP."""

import csv
import http.client
import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

COMMAND = "from perceptual.cli import main; main()"
TOKEN = "a token for the tests alone"
VOTE = {
    "response_ms": 812.5,
    "shown_ms": [812.5],
    "frame_ms": 16.7,
    "window_width": 1280,
    "window_height": 720,
    "pixel_ratio": 1.0,
    "scale": 4.0,
}


TRIPLETS = ("ref", "p0", "p1")


def write_source(
    folder: Path, count: int = 12, roles: Sequence[str] = TRIPLETS, size: int = 16, **columns: Any
) -> Path:
    """An unjudged manifest of noise images; the last is noisier than the one before in every second item."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*roles, *columns])
        for item in range(count):
            ref = rng.integers(60, 190, (size, size, 3))
            noise = dict(zip(roles[-2:], (20 + 20 * (item % 2), 40 - 20 * (item % 2)), strict=True))
            for role in roles:
                pixels = ref + rng.normal(0, 1, ref.shape) * noise.get(role, 0)
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{item}-{role}.png")
            rows.writerow(
                [f"{item}-{role}.png" for role in roles] + [each(item) for each in columns.values()]
            )
    return folder / "manifest.csv"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def make_study(
    folder: Path,
    count: int = 12,
    pairs: bool = False,
    source: Path | None = None,
    size: int = 16,
    **settings: Any,
):
    """A study in `folder/study`."""
    from perceptual.collect.create import create
    from perceptual.collect.study import Study

    source = source or write_source(folder / "source", count, TRIPLETS[pairs:], size)
    small = {"items_per_session": 6, "practice": 2, "sentinels": 2, "repeats": 1, "votes_per_item": 3}
    create(folder / "study", source, **(small | settings))
    return Study(folder / "study")


@contextmanager
def served(
    study: Any, url: str | None = None, token: str = TOKEN, **access: Any
) -> Iterator[SimpleNamespace]:
    """Serve a study in a thread, with fields of `Access`; `port`, `address` and `database`."""
    from perceptual.collect.database import Database
    from perceptual.collect.server import Access
    from perceptual.collect.serving import listen, make_server

    database, listener = Database(study, url), listen("127.0.0.1", 0)
    server = make_server(database, token, Access(**access))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    port = listener.getsockname()[1]
    try:
        yield SimpleNamespace(port=port, address=f"http://127.0.0.1:{port}", database=database)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        database.close()


def start_process(folder: Path, port: int = 0, *options: str) -> tuple[subprocess.Popen, int]:
    """`perceptual collect serve` in a process; the process and its port, once it answers."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "collect", "serve", str(folder), "--port", str(port), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    found = re.search(r":(\d+)/", line)
    assert found, line + process.stderr.read()
    return process, int(found[1])


def vote(participant=1, item=0, purpose="item", choice="left", answer=0, right="", ms=900.0, at=0.0) -> Any:
    """A row of votes, that counts."""
    from perceptual.collect.votes import VoteRow

    return VoteRow(
        participant, "", item, purpose, 0, "right", choice, answer, right, ms, "[]", 16.7, 800, 600, 1.0, 4.0,
        "0", at, 0, True,
    )  # fmt: skip


def parsed(question: Any, **sent: Any) -> Any:
    """A vote as a browser sends it, with `VOTE`."""
    from perceptual.collect.votes import Vote

    return Vote.of(json.dumps({"attempt": 0, **VOTE, **sent}).encode(), question)


class Visitor:
    """A participant through HTTP, who keeps cookies as a browser does and never an answer to himself."""

    def __init__(self, port: int, external: str | None = None, patience: float = 0) -> None:
        self.port, self.external, self.patience = port, external, patience
        self.cookie = ""
        self.seconds: list[float] = []
        self.connection: http.client.HTTPConnection | None = None

    def __del__(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> SimpleNamespace:
        """One request, again while the server is away or cannot save, for `patience` seconds."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            headers["Cookie"] = self.cookie
        end = time.monotonic() + self.patience
        while True:
            try:
                start = time.perf_counter()
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                self.connection.request(method, path, data, headers)
                response = self.connection.getresponse()
                content = response.read()
                self.seconds.append(time.perf_counter() - start)
                if response.status != 503 or time.monotonic() > end:
                    break
                time.sleep(0.05)
            except (OSError, http.client.HTTPException):
                self.connection.close()
                self.connection = None
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        if cookie := response.getheader("Set-Cookie"):
            self.cookie = cookie.partition(";")[0]
        return SimpleNamespace(status=response.status, headers=response.headers, content=content)

    def post(self, path: str, body: Any) -> Any:
        """What a post of JSON gives."""
        response = self.request("POST", path, body, Content_Type="application/json")
        assert response.status == 200, (response.status, response.content)
        return json.loads(response.content)

    def enrol(self) -> "Visitor":
        """Agree to take part."""
        form = f"participant={self.external or ''}".encode()
        assert self.request("POST", "/consent", form).status == 303
        return self

    def next(self) -> dict[str, Any] | None:
        """The trial that is asked now."""
        return self.post("/api/next", {})["trial"]

    def vote(self, trial: dict[str, Any], choice: str, **values: Any) -> dict[str, Any]:
        """Answer a trial."""
        return self.post(
            "/api/vote",
            {"token": trial["token"], "attempt": trial["attempt"], "choice": choice, **VOTE, **values},
        )

    def pixels(self, trial: dict[str, Any]) -> list[bytes]:
        """The files of the images of a trial, in the order of their places."""
        return [self.request("GET", url).content for url in trial["images"]]

    def take_part(self, choose: Callable[["Visitor", dict[str, Any]], str]) -> int:
        """Answer until the end; how many."""
        trial, count = self.next(), 0
        while trial:
            trial, count = self.vote(trial, choose(self, trial))["trial"], count + 1
        return count


def seen(visitor: Visitor, trial: dict[str, Any]) -> list[np.ndarray]:
    """The pixels of the images of a trial, in the order of their places."""
    return [np.asarray(Image.open(io.BytesIO(file))).astype(float) for file in visitor.pixels(trial)]


def attentive(visitor: Visitor, trial: dict[str, Any]) -> str:
    """Choose what differs less from the middle, or whether the two are equal, by the pixels."""
    images = seen(visitor, trial)
    if len(images) == 2:
        return "same" if np.array_equal(*images) else "different"
    left, right = (np.square(images[side] - images[1]).mean() for side in (0, 2))
    return "left" if left < right else "right"
