"""The server: what participants learn, what is refused, and what the administrator needs."""

import json
import mimetypes
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from killing import in_process
from sqlalchemy import event, func, select
from studies import TOKEN, VOTE, Visitor, attentive, make_study, parsed, served

from perceptual.collect.database import Database
from perceptual.collect.questions import QUESTIONS
from perceptual.collect.schema import ITEMS, VOTES
from perceptual.collect.serving import listen, serve
from perceptual.collect.sessions import find, read_participants
from perceptual.collect.votes import read_votes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("study"), votes_per_item=50)
    with served(study, hosts=["Study.example.org"]) as server:
        yield server


def test_an_answer_does_not_wait_for_the_receipt_of_its_header():
    with (
        listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        closing(listening.accept()[0]) as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


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
    sent = {"choice": "right", "response_ms": 812.5, "window_width": 333, "pixel_ratio": 2.5, "scale": 3.0}
    assert {name: getattr(vote, name) for name in sent} == sent
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
    paths = ["/", "/static/trials.js", "/admin", "/nothing", visitor.next()["images"][0]]
    for path, host in [*((path, f"127.0.0.1:{server.port}") for path in paths), ("/", "elsewhere.example")]:
        headers = visitor.request("GET", path, Host=host).headers
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
        raw.sendall(b"POST /api/vote HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
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
    for headers in (
        {"Origin": f"http://127.0.0.1:{server.port}"},
        {"Origin": f"http://127.0.0.1:{server.port}", "Sec_Fetch_Site": "same-origin"},
        # the browser knows better than a proxy on another port, which may pass another name on
        {"Origin": "https://study.example.org:8443", "Sec_Fetch_Site": "same-origin"},
    ):
        assert visitor.request("POST", "/api/next", {}, **headers).status == 200


def test_a_trial_belongs_to_its_participant(server, visitor):
    trial = visitor.next()
    other = Visitor(server.port).enrol()
    assert other.request("GET", trial["images"][0]).status == 404
    assert other.vote(trial, "left")["kept"] is False
    assert other.request("POST", "/api/back", {"token": trial["token"]}).status == 409


def test_a_fuzz_gives_no_500(server, visitor):
    chance = random.Random(0)
    numbers = [-1, 1e400, 10**400, float("nan"), 10**30]
    odd = [None, True, *numbers, "", "left", [], [[]], {}, {"a": 1}, "\ud800", [1e9]]
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
    good, asked = {"token": "t", "choice": "same"}, QUESTIONS["jnd"]
    assert parsed(asked, **good).window_width == 1280
    for name, value, says in [
        ("choice", "left", "same, different"),
        ("attempt", True, "attempt: .* integer, got True"),
        ("response_ms", -1, "response_ms"),
        ("response_ms", 10**400, "response_ms"),
        ("response_ms", float("nan"), "response_ms"),
        ("shown_ms", [10**400], "shown_ms"),
        ("window_width", -(10**400), "window_width"),
        ("scale", float("inf"), "scale"),
        ("shown_ms", [1] * 9, "at most 4"),
    ]:
        with pytest.raises(ValueError, match=says):
            parsed(asked, **(good | {name: value}))


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


def test_a_fault_of_ours_has_the_headers_too(server, visitor, monkeypatch, caplog):
    def fault(*_):
        raise RuntimeError("a fault")

    monkeypatch.setattr("perceptual.collect.server.next_trial", fault)
    response = visitor.request("POST", "/api/next", {})
    assert response.status == 500
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert b"fault" not in response.content


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST.", 200),
        ("127.0.0.1", 200),
        ("[::1]:9", 200),
        ("192.168.1.7:8000", 200),  # nobody can point an address elsewhere
        ("study.example.org:8443", 200),
        ("rebound.example", 421),
        ("localhost.rebound.example", 421),
        ("127.0.0.1.rebound.example", 421),
        ("", 421),
        ("[", 421),
    ],
)
def test_names_that_are_not_ours_are_refused(server, host, status):
    visitor = Visitor(server.port)
    response = visitor.request("GET", "/", Host=host)
    assert response.status == status
    assert visitor.request("POST", "/consent", b"", Host=host).status == (303 if status == 200 else 421)
    if status != 200:
        assert b"--host-name" in response.content


NGINX = shutil.which("nginx")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")
def test_the_documented_proxy_works_on_any_port(server, tmp_path):
    """The block of the documentation, without TLS and on a free port."""
    text = (Path(__file__).parents[2] / "docs/collect.md").read_text("utf-8")
    (block,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    block = block.replace("listen 443 ssl", f"listen 127.0.0.1:{port}").replace(
        "study.example.org", "127.0.0.1"
    )
    assert "127.0.0.1:8000" in block
    paths = " ".join(
        f"{each}_temp_path {tmp_path}/{each};"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{ {paths}\n{block.replace('127.0.0.1:8000', f'127.0.0.1:{server.port}')} }}\n"
    )
    proxy = subprocess.Popen(
        [NGINX, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log", "-p", tmp_path]
    )
    try:
        visitor = Visitor(port, patience=10)
        assert visitor.request("GET", "/").status == 200
        own = {"Origin": f"http://127.0.0.1:{port}"}  # of a browser that does not send Sec-Fetch-Site
        response = visitor.request("POST", "/consent", b"", **own)
        assert response.status == 303
        assert "secure" in response.headers["set-cookie"].lower()  # the scheme is passed on
        assert visitor.request("POST", "/api/next", {}, **own).status == 200
        trial = visitor.next()
        assert visitor.pixels(trial)[0].startswith(b"\x89PNG")
        visitor.take_part(attentive)
        assert visitor.request("POST", "/api/next", {}, Origin="http://127.0.0.1").status == 403
    finally:
        proxy.terminate()
        proxy.wait()


def test_who_waits_for_the_database_keeps_no_page_waiting(tmp_path):
    with served(make_study(tmp_path)) as server:
        reader = Visitor(server.port).enrol()
        people = [Visitor(server.port).enrol() for _ in range(60)]
        with server.database._lock:
            threads = [threading.Thread(target=person.next) for person in people]
            for thread in threads:
                thread.start()
            time.sleep(0.5)  # all are waiting
            for path in ("/static/trials.js", "/trials", "/static/study.css"):
                assert reader.request("GET", path).status == 200  # or it would never come
        for thread in threads:
            thread.join()


def test_scripts_are_scripts_whatever_the_registry_says(tmp_path, monkeypatch):
    mimetypes.init()
    monkeypatch.setitem(mimetypes.types_map, ".js", "text/plain")  # as Windows may have it
    with served(make_study(tmp_path)) as server:
        sent = Visitor(server.port).request("GET", "/static/trials.js")
    assert sent.headers["content-type"].startswith("text/javascript")


def test_another_answer_from_another_window_is_told(server, visitor):
    trial = visitor.next()
    assert visitor.vote(trial, "left")["kept"]
    again = visitor.vote(trial, "left")  # an acknowledgement was lost
    assert again["kept"]
    assert "said" not in again
    other = visitor.vote(trial, "right")
    assert other["kept"] is False
    assert "not kept" in other["said"]
    assert other["trial"] == again["trial"]


def test_forty_who_answer_nothing_take_nobodys_code(tmp_path):
    study = make_study(tmp_path, votes_per_item=1, practice=1)  # 12 votes wanted
    with served(study) as server:
        for _ in range(40):  # each without cookies, up to the first item
            idle = Visitor(server.port).enrol()
            trial = idle.next()
            while trial and trial["practice"]:
                trial = idle.vote(trial, "left")["trial"]
            if trial:
                assert idle.next() == trial
        person = Visitor(server.port).enrol()
        assert person.next() is None
        page = person.request("GET", "/thanks")
        text = page.content.decode()
        assert page.status == 200
        assert "come back later" in text
        assert 'id="code"' not in text
        assert find(server.database, person.cookie.partition("=")[2]).code not in text
        assert '<a href="">Look again</a>' in text
        with server.database.write() as connection:
            connection.exec_driver_sql("UPDATE assignments SET handed_out = handed_out - 31 * 60")
        server.database.swept = 0.0
        assert person.request("GET", "/thanks").headers["location"] == "/trials"
        person.take_part(attentive)
        assert find(server.database, person.cookie.partition("=")[2]).code in (
            person.request("GET", "/thanks").content.decode()
        )
        for _ in range(2):  # all there is to answer is answered
            late = Visitor(server.port).enrol()
            late.take_part(attentive)
        late = Visitor(server.port).enrol()
        assert late.next() is None
        text = late.request("GET", "/thanks").content.decode()
        assert "complete" in text
        assert 'id="code"' not in text


def test_participants_can_be_required_listed_and_limited(tmp_path):
    study = make_study(tmp_path)
    with served(study, require_participant=True) as server:
        stranger = Visitor(server.port)
        for response in (stranger.request("GET", "/"), stranger.request("POST", "/consent", b"")):
            assert response.status == 403
            assert "link" in response.content.decode()
        assert "begin on the first page" in stranger.request("POST", "/api/next", {}).content.decode()
        assert Visitor(server.port, "somebody").enrol().next()
    (tmp_path / "ids.txt").write_text("\ufeffanna\n\n  bert \n")
    allowed = read_participants(tmp_path / "ids.txt")
    with served(study, participants=allowed) as server:
        for name in ("anna", "bert"):
            assert Visitor(server.port, name).enrol().next()
        for form in (b"participant=carl", b""):
            assert Visitor(server.port).request("POST", "/consent", form).status == 403
        assert Visitor(server.port).request("GET", "/?participant=carl").status == 403
    with served(study, enrolments_per_minute=2) as server:
        with server.database.write() as connection:
            connection.exec_driver_sql("UPDATE participants SET consented = consented - 61")
        people = [Visitor(server.port).enrol() for _ in range(2)]
        refused = Visitor(server.port).request("POST", "/consent", b"")
        assert refused.status == 429
        assert "minute" in refused.content.decode()
        assert all(
            person.request("POST", "/consent", b"").status == 303 for person in people
        )  # known already
        assert all(person.next() for person in people)


@pytest.mark.parametrize(("text", "says"), [("a b\n", "line 1"), ("a\nb/c\n", "line 2"), ("\n", "no ID")])
def test_lists_of_participants_are_checked(tmp_path, text, says):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(ValueError, match=f"ids.txt.*{says}"):
        read_participants(tmp_path / "ids.txt")


def test_an_image_lost_while_serving(tmp_path):
    """Reloading gives another trial, the administrator is told, and a code comes at the end."""
    study = make_study(tmp_path, practice=0)
    with served(study) as server:
        person = Visitor(server.port).enrol()
        trial = person.next()
        with server.database.read() as connection:
            item = connection.exec_driver_sql("SELECT item FROM assignments").scalar()
        name = max(study.items[item].images.values())
        study.image(name).write_bytes(b"")
        statuses = [person.request("GET", url).status for url in trial["images"]]
        assert 404 in statuses
        assert person.next()["token"] != trial["token"]
        assert person.vote(trial, "left")["kept"] is False
        assert person.take_part(attentive) >= 6
        assert 'id="code"' in person.request("GET", "/thanks").content.decode()
        admin = Visitor(server.port)
        admin.request("POST", "/admin", f"token={TOKEN}".encode())
        assert f"{name} (item" in admin.request("GET", "/admin").content.decode()


ODD = 'a token; with &#+%, "signs" = and ~ spaces'


def test_tokens_of_all_signs_open(tmp_path):
    with served(make_study(tmp_path), token=ODD) as server:
        from urllib.parse import quote, urlencode

        for sent in (
            {"path": f"/admin?token={quote(ODD, safe='')}"},
            {"body": urlencode({"token": ODD}).encode()},
        ):
            visitor = Visitor(server.port)
            method = "POST" if "body" in sent else "GET"
            response = visitor.request(method, sent.get("path", "/admin"), sent.get("body"))
            assert response.status == 303
            assert ODD not in visitor.cookie
            assert visitor.request("GET", "/admin").status == 200


def votes_in(file):
    """Votes of one file, whatever lies beside it."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as alone:
        return alone.execute("SELECT count(*) FROM votes").fetchone()[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_with_all_votes_in_one_file(tmp_path, number, monkeypatch):
    """Nor is a token of the environment printed."""
    monkeypatch.setenv("PERCEPTUAL_ADMIN_TOKEN", ODD)
    study = make_study(tmp_path)
    reading, writing = os.pipe()

    def work():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
        serve(study, None, "127.0.0.1", 0, lambda line: os.write(writing, f"{line}\n".encode()))

    pid = in_process(work)
    try:
        os.close(writing)
        with os.fdopen(reading) as lines:
            first, second, _ = (next(lines) for _ in range(3))
        assert second.endswith("/admin\n")
        count = Visitor(int(re.search(r":(\d+)/", first)[1])).enrol().take_part(attentive)
    finally:
        os.kill(pid, number)
        os.waitpid(pid, 0)
    assert [path.name for path in study.folder.glob("judgments*")] == ["judgments.db"]
    moved = shutil.move(study.folder / "judgments.db", tmp_path / "moved.db")
    assert votes_in(moved) == count


def test_a_copy_while_people_vote(tmp_path):
    study = make_study(tmp_path)
    with served(study) as server:
        person = Visitor(server.port).enrol()
        trial = person.next()
        for count in range(3):
            with closing(Database(study, read_only=True)) as copier:
                copier.backup(tmp_path / f"{count}.db")
            trial = person.vote(trial, "left")["trial"]
    with closing(Database(study, read_only=True)) as copier, pytest.raises(ValueError, match=r"0.db exists"):
        copier.backup(tmp_path / "0.db")
    assert [votes_in(tmp_path / f"{count}.db") for count in range(3)] == [0, 1, 2]
    assert len(list(tmp_path.glob("*.db*"))) == 3
    shutil.copy(tmp_path / "2.db", study.folder / "judgments.db")  # and on from there
    with served(study) as server:
        assert len(read_votes(server.database)) == 2
        assert Visitor(server.port).enrol().next()
