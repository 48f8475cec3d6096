"""Whole studies in a real browser: Chromium, headless."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from studies import TOKEN, Visitor, make_study, served, write_source

import perceptual.collect
from perceptual.collect.quality import Rules, assess
from perceptual.collect.questions import QUESTIONS
from perceptual.collect.votes import read_votes

try:
    from axe_playwright_python import sync_playwright as axe
except ModuleNotFoundError:
    axe = None
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 3,
    "has_touch": True,
    "is_mobile": True,
}
ZOOMED = {"viewport": {"width": 320, "height": 200}, "device_scale_factor": 4}  # 1280 × 800 at 400 %
THANKS = "location.pathname === '/thanks'"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


LOOKED_AT = set()  # pages by name: axe takes a second for each


def picture(page, name):
    """Let axe find nothing serious; keep a screenshot where PERCEPTUAL_SCREENSHOTS says, to be looked at."""
    if axe is not None and name not in LOOKED_AT:
        LOOKED_AT.add(name)
        found = axe.Axe().run(page).response["violations"]
        assert [
            (name, each["id"], [node["html"] for node in each["nodes"]])
            for each in found
            if each["impact"] in ("serious", "critical")
        ] == []
    if folder := os.environ.get("PERCEPTUAL_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png")


def wait(page, expression, argument=None):
    """Wait until JavaScript says so: the pages' own policy forbids what `wait_for_function` does."""
    end = time.monotonic() + 30
    while True:
        try:
            if page.evaluate(expression, argument):
                return
        except playwright.Error:  # on its way to another page
            pass
        assert time.monotonic() < end, expression
        page.wait_for_timeout(10)


def moved_on(page, token):
    wait(page, f"old => {THANKS} || typeof trial !== 'undefined' && trial && trial.token !== old", token)


def ready(page):
    """Wait until an answer is taken; the token of the trial, or None at the end."""
    wait(page, f"{THANKS} || typeof trial !== 'undefined' && listening")
    return page.evaluate(f"{THANKS} ? null : trial.token")


def begin(page, server, name="", size=""):
    page.goto(f"{server.address}/{name and f'?participant={name}'}")
    picture(page, f"welcome{size}")
    page.get_by_role("button", name="I agree").click()
    page.wait_for_url("**/trials")


def answer(page, how, choice):
    key, selector = (
        {"left": "ArrowLeft", "same": "ArrowLeft", "second": "ArrowDown"}.get(choice, "ArrowRight"),
        (f"[data-choice={choice}]"),
    )
    if how == "keys":
        page.keyboard.press(key)
    elif how == "tab":  # only where the answer before was another is there anything to press but Enter
        for _ in range(6):
            if page.evaluate("document.activeElement.dataset.choice") == choice:
                break
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    elif how == "touch":
        page.locator(selector).tap()
    else:
        page.locator(selector).click()


def take_part(page, how, choices, name):
    """Answer until the thanks; the tokens seen, in order."""
    tokens = []
    while token := ready(page):
        tokens.append(token)
        if len(tokens) in (1, 4):
            picture(page, f"{name}-trial{len(tokens)}")
        answer(page, how, choices[len(tokens) % 2])
        moved_on(page, token)
    picture(page, f"{name}-thanks")
    return tokens


WAYS = [
    ("mouse", DESKTOP, "desktop"),
    ("keys", DESKTOP, "desktop-keys"),
    ("touch", PHONE, "phone"),
    ("tab", ZOOMED, "zoomed"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["2afc", "jnd", "odd-one-out"])
def test_four_people_do_a_whole_study(browser, tmp_path, kind):
    pairs, asked = kind == "jnd", QUESTIONS[kind]
    settings = {"items_per_session": 3, "practice": 1, "sentinels": 1, "repeats": 1} if pairs else {}
    source, choices = write_source(tmp_path / "asked", roles=asked.kind.roles, size=64), asked.choices[-2:]
    with served(make_study(tmp_path, source=source, votes_per_item=4, **settings)) as server:
        codes = set()
        for how, screen, name in WAYS:
            context = browser.new_context(**screen)
            page = context.new_page()
            problems = []
            page.on("console", lambda said, kept=problems: kept.append(said.text))
            page.on("pageerror", lambda error, kept=problems: kept.append(str(error)))
            begin(page, server, name, f"-{name}")
            tokens = take_part(page, how, choices, f"{kind}-{name}")
            assert len(tokens) == (6 if pairs else 11) == len(set(tokens))
            codes.add(page.locator("#code").inner_text())
            assert problems == []
            context.close()
        assert len(codes) == 4
        votes = read_votes(server.database)
        assert [len([v for v in votes if v.participant == p and v.counts]) for p in (1, 2, 3, 4)] == [
            len(tokens)
        ] * 4
        people = assess(votes, Rules())
        assert [person.external for person in people] == [name for *_, name in WAYS]
        scales = {vote.external: vote.scale for vote in votes}
        assert scales["desktop"] == scales["desktop-keys"] == 4
        assert scales["phone"] == int(scales["phone"]) >= 2  # a whole multiple, that fits
        assert scales["zoomed"] == 1
        assert {vote.pixel_ratio for vote in votes if vote.external == "phone"} == {3}
        if pairs:
            for vote in votes:
                first, between, second = json.loads(vote.shown_ms)
                assert max(abs(first - 1000), abs(second - 1000)) <= vote.frame_ms + 1
                assert abs(between - 250) <= vote.frame_ms + 1
        page = browser.new_page()
        page.goto(f"{server.address}/admin?token=wrong")
        picture(page, "login")
        assert "not the token" in page.content()
        page.goto(f"{server.address}/admin?token={TOKEN}")
        assert page.url == f"{server.address}/admin"
        picture(page, f"admin-{kind}")
        assert page.locator(".scroll tbody tr").count() == 4


def test_images_are_in_one_frame_and_whole_multiples(browser, tmp_path):
    with served(make_study(tmp_path)) as server:
        page = browser.new_context(**DESKTOP).new_page()
        begin(page, server)
        ready(page)
        boxes = [page.locator("#stage img").nth(i).bounding_box() for i in range(3)]
        assert [(box["width"], box["height"]) for box in boxes] == [(256, 256)] * 3
        assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth === 16)")
        page.set_viewport_size({"width": 390, "height": 700})  # the reference above
        wait(page, "Boolean(document.querySelector('.stacked'))")
        boxes = [page.locator("#stage img").nth(i).bounding_box() for i in range(3)]
        assert boxes[1]["y"] < boxes[0]["y"] == boxes[2]["y"]
        assert boxes[0]["x"] >= 0
        assert boxes[2]["x"] + boxes[2]["width"] <= 390


def test_interruptions_lose_and_repeat_nothing(browser, tmp_path):
    """Reload, back button of the browser, two tabs, closed and opened again, going back a trial."""
    with served(make_study(tmp_path)) as server:
        context = browser.new_context(**DESKTOP)
        page = context.new_page()
        begin(page, server)
        first = ready(page)
        page.reload()
        assert ready(page) == first
        page.go_back()
        page.wait_for_url("**/trials")  # the first page sends on who has agreed
        assert ready(page) == first
        for _ in range(3):
            token = ready(page)
            page.keyboard.press("ArrowLeft")
            moved_on(page, token)
        token = ready(page)
        second = context.new_page()
        second.goto(f"{server.address}/")
        assert ready(second) == token
        page.bring_to_front()
        page.keyboard.press("ArrowLeft")
        moved_on(page, token)
        after = ready(page)
        second.bring_to_front()
        second.keyboard.press("ArrowRight")  # the same trial, answered already: the first answer stays
        moved_on(second, token)
        assert ready(second) == after
        votes = [vote for vote in read_votes(server.database) if vote.purpose != "practice"]
        assert [vote.choice for vote in votes] == ["left"] * 2
        assert page.locator("#back").is_visible()
        page.bring_to_front()
        page.locator("#back").click()
        wait(page, "old => trial.token === old", token)
        ready(page)
        page.keyboard.press("ArrowRight")
        wait(page, "old => trial.token === old", after)
        votes = [vote for vote in read_votes(server.database) if vote.purpose != "practice"]
        assert [(vote.choice, vote.counts) for vote in votes] == [
            ("left", True),
            ("left", False),
            ("right", True),
        ]
        state = context.storage_state()
        context.close()
        page = browser.new_context(**DESKTOP, storage_state=state).new_page()  # the next day
        page.goto(f"{server.address}/")
        page.wait_for_url("**/trials")
        assert ready(page) == after
        stranger = browser.new_context().new_page()
        stranger.goto(f"{server.address}/trials")
        assert stranger.get_by_role("button", name="I agree").is_visible()


@pytest.mark.slow
def test_a_lost_connection_loses_no_answer(browser, tmp_path):
    with served(make_study(tmp_path)) as server:
        context = browser.new_context(**DESKTOP)
        page = context.new_page()
        begin(page, server)
        token = ready(page)
        context.set_offline(True)
        page.keyboard.press("ArrowLeft")
        page.get_by_text("Not saved yet").wait_for()
        picture(page, "offline")
        context.set_offline(False)
        moved_on(page, token)
        assert len(read_votes(server.database)) == 1


def test_scripts_in_texts_are_text(browser, tmp_path):
    study = make_study(tmp_path, title="<script>document.title = 'hacked'</script>")
    (study.folder / "instructions.md").write_text(
        "# Hello\n\n<script>document.title = 'hacked'</script> <img src=x onerror=alert(1)>\n\n"
        "[click](javascript:alert(1)) ![x](http://example.com/x.png)"
    )
    with served(study) as server:
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.address)
        assert page.title() == "<script>document.title = 'hacked'</script>"
        assert page.locator("script, img, a[href^=javascript]").count() == 0
        assert all(url.startswith(server.address) for url in asked)


def test_focus_stays_with_who_uses_it(browser, tmp_path):
    """Tab and Enter: the next trial is answered from the same place, and a held key answers one."""
    with served(make_study(tmp_path)) as server:
        page = browser.new_context(**DESKTOP).new_page()
        begin(page, server)
        token = ready(page)
        answer(page, "tab", "right")
        moved_on(page, token)
        token = ready(page)
        assert page.evaluate("document.activeElement.dataset.choice") == "right"
        page.keyboard.down("Enter")
        moved_on(page, token)
        token = ready(page)
        page.keyboard.down("Enter")  # as the keyboard repeats it while it is held
        page.wait_for_timeout(200)
        assert ready(page) == token
        page.keyboard.up("Enter")
        assert len(read_votes(server.database)) == 2
        page.keyboard.press("Enter")
        moved_on(page, token)
        token = ready(page)
        page.locator("#back").focus()
        page.keyboard.press("Enter")
        moved_on(page, token)
        ready(page)
        assert page.evaluate("document.activeElement.dataset.choice") == "left"


@pytest.mark.parametrize("pairs", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["2afc", "jnd"])
def test_a_window_that_is_too_small_asks_for_a_larger_one(browser, tmp_path, pairs):
    """Small images are not shrunk, nor large ones below 64 pixels: nobody could tell them apart."""
    with served(make_study(tmp_path, pairs=pairs, size=128)) as server:
        page = browser.new_context(viewport={"width": 150, "height": 160}).new_page()
        begin(page, server)
        page.get_by_text("window is too small").wait_for()
        picture(page, f"small-{pairs}")
        for key in ("ArrowLeft", "ArrowRight"):
            page.keyboard.press(key)
        page.set_viewport_size({"width": 500, "height": 400})
        token = ready(page)
        assert page.get_by_text("window is too small").count() == 0
        sides = page.evaluate("[...document.querySelectorAll('#stage img')].map(i => i.clientWidth)")
        assert min(sides) >= 64
        page.set_viewport_size({"width": 100, "height": 100})
        page.get_by_text("window is too small").wait_for()
        page.keyboard.press("ArrowLeft")
        page.set_viewport_size({"width": 1280, "height": 800})
        assert ready(page) == token
        assert read_votes(server.database) == []
        page.keyboard.press("ArrowLeft")
        moved_on(page, token)
        assert len(read_votes(server.database)) == 1


def test_slow_images_and_a_server_that_hangs_are_said(browser, tmp_path):
    """The limits are shortened here; an answer that came late is kept, and there is no second one."""
    with served(make_study(tmp_path)) as server:
        page = browser.new_context(**DESKTOP).new_page()
        script = (Path(perceptual.collect.__file__).parent / "static/trials.js").read_text()
        quick = script.replace("ANSWER_MS = 15000, IMAGE_MS = 20000", "ANSWER_MS = 1000, IMAGE_MS = 1200")
        assert quick != script
        page.route("**/trials.js", lambda route: route.fulfill(body=quick, content_type="text/javascript"))
        held = []
        page.route("**/image/**", lambda route: held.append(route))
        begin(page, server)
        page.get_by_text("Loading …").wait_for()
        picture(page, "loading")
        page.get_by_text("An image could not be loaded.").wait_for()
        page.unroute("**/image/**")
        page.get_by_role("button", name="Try again").click()
        token = ready(page)
        page.route("**/api/vote", lambda route: held.append(route))
        page.keyboard.press("ArrowLeft")
        page.get_by_text("Waiting for the server …").wait_for()
        page.get_by_text("the server does not answer").wait_for()
        page.unroute("**/api/vote")
        moved_on(page, token)
        assert len(read_votes(server.database)) == 1


def test_what_the_server_refuses_is_said(browser, tmp_path):
    """As a proxy that changes the host's name does: the page is not left blank."""
    with served(make_study(tmp_path)) as server:
        page = browser.new_context(**DESKTOP).new_page()
        page.route("**/api/next", lambda route: route.fulfill(status=403, body="posts are refused"))
        begin(page, server)
        page.get_by_text("The server refused this: status 403.").wait_for()
        picture(page, "refused")
        page.unroute("**/api/next")
        page.get_by_role("button", name="Go on").click()
        token = ready(page)
        page.route(
            "**/api/vote", lambda route: route.fulfill(status=400, json={"error": "scale must be a number"})
        )
        page.keyboard.press("ArrowLeft")
        page.get_by_text("The server refused this: scale must be a number.").wait_for()
        page.unroute("**/api/vote")
        page.get_by_role("button", name="Go on").click()
        wait(page, "old => listening && trial.token === old", token)  # the same trial, asked again


def test_the_reference_is_labelled_and_practice_says_correct(browser, tmp_path):
    with served(make_study(tmp_path, sentinels=0)) as server:
        page = browser.new_context(**DESKTOP).new_page()
        begin(page, server)
        ready(page)
        assert page.get_by_role("img", name="Reference").count() == 1
        assert page.get_by_text("Reference", exact=True).is_visible()
        assert page.get_by_role("heading", name="more similar to the reference").count() == 1
        assert page.get_by_role("button", name="left image").count() == 1
        said = set()
        for choice in ("left", "right"):
            token = ready(page)
            answer(page, "keys", choice)
            wait(page, "document.getElementById('message').textContent !== ''")
            said.add(page.locator("#message").inner_text().split(":")[0])
            moved_on(page, token)
        assert said <= {"Correct.", "Not quite"}


def test_who_comes_while_others_hold_everything_is_asked_to_come_back(browser, tmp_path):
    """Without a code; an image that was lost is named on the administrator's page."""
    settings = {"votes_per_item": 1, "practice": 0, "sentinels": 0, "repeats": 0}
    with served(make_study(tmp_path, **settings)) as server:
        holders = [Visitor(server.port).enrol() for _ in range(12)]
        assert all(holder.next() for holder in holders)
        page = browser.new_context(**DESKTOP).new_page()
        page.goto(f"{server.address}/")
        page.get_by_role("button", name="I agree").click()
        page.get_by_role("heading", name="Please come back later").wait_for()
        picture(page, "later")
        assert page.locator("#code").count() == 0
        item = next(iter(server.database.study.items.values()))
        server.database.study.image(item.images["p0"]).write_bytes(b"")
        page.goto(f"{server.address}/admin?token={TOKEN}")
        page.get_by_text(item.images["p0"]).first.wait_for()
        picture(page, "admin-lost")
