"""The server: what participants learn, what is refused, and what the administrator needs."""

import json
import random
import re
import socket

import pytest
from sqlalchemy import event, func, select
from studies import TOKEN, VOTE, Visitor, attentive, make_study, served

from perceptual.collect.rows import read_votes
from perceptual.collect.schema import ITEMS, VOTES
from perceptual.collect.serving import listen
from perceptual.collect.votes import Vote


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("study"), votes_per_item=50)
    with served(study) as server:
        yield server


@pytest.fixture
def visitor(server):
    return Visitor(server.port).enrol()


def test_practice_tells_what_was_right_and_trials_do_not(visitor):
    for _ in range(2):
        trial = visitor.next()
        assert trial["practice"]
        assert visitor.vote(trial, attentive(visitor, trial))["right"] is True
    trial = visitor.next()
    assert set(visitor.vote(trial, "left")) == {"trial", "kept"}


def test_nothing_tells_the_answer(server, visitor):
    """Beside the images themselves: sentinels and repeats are described as items are, with fresh names."""
    study, seen, headers = server.database.study, [], set()
    trial = visitor.next()
    while trial:
        seen.append({name: trial[name] for name in trial if name not in ("token", "images", "done")})
        for place, url in zip(("left", "middle", "right"), trial["images"], strict=True):
            assert url == f"/image/{trial['token']}/{place}"
            response = visitor.request("GET", url)
            told = {k: v for k, v in response.headers.items() if k not in ("content-length", "date")}
            headers.add(json.dumps(told, sort_keys=True))
        trial = visitor.vote(trial, "left")["trial"]
    assert len(headers) == 1  # no name, no date, no hash of a file
    later = [json.dumps(one, sort_keys=True) for one in seen if not one["practice"]]
    assert len(set(later[1:])) == 1
    page = visitor.request("GET", "/thanks").content.decode()
    names = {name for item in study.items.values() for name in item.images.values()}
    assert not any(name in page for name in names)


def test_what_is_recorded(server):
    visitor = Visitor(server.port, "worker-7").enrol()
    trial = visitor.next()
    visitor.vote(trial, "right", window_width=333, pixel_ratio=2.5, scale=3)
    vote = next(vote for vote in read_votes(server.database) if vote.external == "worker-7")
    assert (vote.choice, vote.response_ms, vote.window_width, vote.pixel_ratio, vote.scale) == (
        "right",
        812.5,
        333,
        2.5,
        3.0,
    )
    assert vote.version
    assert json.loads(vote.shown_ms) == [812.5]
    again = Visitor(server.port, "worker-7").enrol()  # from another browser: goes on
    assert again.next()["done"] == 1


def test_pages_lead_where_one_is(server):
    stranger = Visitor(server.port)
    assert stranger.request("GET", "/").status == 200
    for path in ("/trials", "/thanks"):
        response = stranger.request("GET", path)
        assert (response.status, response.headers["location"]) == (303, "/")
    person = Visitor(server.port, "somebody").enrol()
    assert person.request("GET", "/").headers["location"] == "/trials"
    assert person.request("GET", "/thanks").headers["location"] == "/trials"
    person.take_part(attentive)
    page = person.request("GET", "/thanks").content.decode()
    assert re.search(r"[A-HJ-NP-Z2-9]{10}</p>", page)


def test_completion_redirects(tmp_path):
    url = "https://app.prolific.com/submissions/complete?cc=C0DE&x=<"
    with served(make_study(tmp_path, completion_url=url, items_per_session=1)) as server:
        person = Visitor(server.port, "5f3a").enrol()
        person.take_part(attentive)
        assert 'href="https://app.prolific.com/submissions/complete?cc=C0DE&amp;x=&lt;"' in (
            person.request("GET", "/thanks").content.decode()
        )


def test_security_headers(server, visitor):
    for path in ("/", "/static/trials.js", "/admin", "/nothing", visitor.next()["images"][0]):
        headers = visitor.request("GET", path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers
    cookie = Visitor(server.port).request("POST", "/consent", b"").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_the_administrator_needs_the_token(server):
    visitor = Visitor(server.port)
    assert visitor.request("GET", "/admin").status == 401
    assert visitor.request("GET", "/admin/votes.csv").status == 401
    for wrong in ("", "a", TOKEN[:-1], TOKEN + "x", "é"):
        assert visitor.request("POST", "/admin", f"token={wrong}".encode()).status == 403
    visitor.cookie = "administrator=guess"
    assert visitor.request("GET", "/admin").status == 401
    visitor.cookie = ""
    assert visitor.request("POST", "/admin", f"token={TOKEN}".encode()).status == 303
    page = visitor.request("GET", "/admin").content.decode()
    assert "Progress" in page
    rows = visitor.request("GET", "/admin/votes.csv").content.decode().splitlines()
    assert rows[0].startswith("participant,external,item,purpose")


HOSTILE = [
    "../../../../etc/passwd",
    "..%2f..%2fstudy.yaml",
    "'; DROP TABLE votes; --",
    "<script>",
    "\0",
    "💥",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_refused_everywhere(server, visitor, text):
    from urllib.parse import quote

    trial, quoted = visitor.next(), quote(text)
    sent = {"token": trial["token"], "attempt": 0, "choice": "left", **VOTE}
    paths = [f"/static/{quoted}", f"/image/{quoted}/left", f"/image/{trial['token']}/{quoted}", f"/{quoted}"]
    for path in [*paths, "/static/../study.yaml", "/static/%2e%2e/server.py"]:
        assert visitor.request("GET", path).status == 404
    assert visitor.request("GET", f"/?participant={quoted}").status == 400
    assert visitor.request("POST", "/consent", f"participant={quoted}".encode()).status == 400
    for name in sent:
        response = visitor.request("POST", "/api/vote", sent | {name: text})
        assert response.status in (400, 200)
        if response.status == 200:  # a token of nobody's
            assert json.loads(response.content)["kept"] is False
    assert visitor.next()["token"] == trial["token"]
    visitor.cookie = f"participant={quoted}"
    assert visitor.request("POST", "/api/next", {}).status == 401


def test_large_bodies_and_posts_of_other_sites_are_refused(server, visitor):
    large = b"x" * 10_000_000
    try:
        assert visitor.request("POST", "/api/vote", large).status == 413
    except OSError:  # closed while it was still being sent
        visitor.connection = None
    with socket.create_connection(("127.0.0.1", server.port)) as raw:  # of a length that is not said
        raw.sendall(b"POST /api/vote HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        raw.sendall(piece * 3)
        assert b" 413 " in raw.recv(100)
    for headers in (
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert visitor.request("POST", "/api/next", {}, **headers).status == 403
        assert Visitor(server.port).request("POST", "/consent", b"", **headers).status == 403
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec_Fetch_Site": "same-origin"}
    assert visitor.request("POST", "/api/next", {}, **own).status == 200


def test_a_trial_belongs_to_its_participant(server, visitor):
    trial = visitor.next()
    other = Visitor(server.port).enrol()
    assert other.request("GET", trial["images"][0]).status == 404
    assert other.vote(trial, "left")["kept"] is False
    assert other.request("POST", "/api/back", {"token": trial["token"]}).status == 409


def test_a_fuzz_gives_no_500(server, visitor):
    chance = random.Random(0)
    odd = [None, True, -1, 1e400, float("nan"), 10**30, "", "left", [], [[]], {}, {"a": 1}, "\ud800", [1e9]]
    paths = ["/", "/consent", "/trials", "/api/next", "/api/vote", "/api/back", "/admin", "/admin/votes.csv"]
    statuses = set()
    for _ in range(150):
        body = {"token": visitor.next()["token"], "attempt": 0, "choice": "left", **VOTE}
        for _ in range(chance.randint(1, 3)):
            body[chance.choice(list(body))] = chance.choice(odd)
        data = chance.choice(
            [json.dumps(body).encode(), chance.randbytes(50), b"[" * 5000, json.dumps(odd).encode(), b""]
        )
        method = chance.choice(["POST", "POST", "GET", "PUT", "DELETE", "HEAD"])
        statuses.add(visitor.request(method, chance.choice(paths), data).status)
    assert not [status for status in statuses if status >= 500]
    assert statuses >= {200, 303, 400, 405}


def test_a_vote_is_checked():
    good = {"token": "t", "attempt": 0, "choice": "same", **VOTE}
    assert Vote.parse(good, "jnd").values["window_width"] == 1280
    for name, value, says in [
        ("choice", "left", "same, different"),
        ("attempt", True, "whole number"),
        ("response_ms", -1, "response_ms"),
        ("scale", float("inf"), "scale"),
        ("shown_ms", [1] * 9, "at most 4"),
    ]:
        with pytest.raises(ValueError, match=says):
            Vote.parse(good | {name: value}, "jnd")


def test_a_full_disk_loses_nothing(tmp_path, caplog):
    study = make_study(tmp_path, practice=0, votes_per_item=50, items_per_session=12)
    with served(study) as server:
        people = [Visitor(server.port).enrol() for _ in range(40)]
        trials = [person.next() for person in people]
        pages = []

        def limit(connection, *_):
            pages.append(connection.exec_driver_sql("PRAGMA page_count").scalar())
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages[0]}")

        event.listen(server.database.engine, "begin", limit)
        for visitor, trial in zip(people, trials, strict=True):
            while trial:
                sent = {"token": trial["token"], "attempt": 0, "choice": "left", **VOTE}
                response = visitor.request("POST", "/api/vote", sent)
                if response.status != 200:
                    break
                trial = json.loads(response.content)["trial"]
            if response.status != 200:
                break
        assert response.status == 503
        assert "cannot be saved" in response.content.decode()
        assert "the disk is full" in caplog.text
        event.remove(server.database.engine, "begin", limit)
        with server.database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
            before = connection.scalar(select(func.count()).select_from(VOTES))
        server.database.engine.dispose()
        assert visitor.request("POST", "/api/vote", sent).status == 200  # the same vote, sent again
        with server.database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(VOTES)) == before + 1
            assert connection.scalar(select(func.max(ITEMS.c.load))) >= 1


def test_a_port_in_use_is_said(server):
    with pytest.raises(ValueError, match=f"port {server.port} on 127.0.0.1 cannot be used .*--port"):
        listen("127.0.0.1", server.port)
