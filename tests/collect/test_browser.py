"""Whole studies in a real browser: Chromium, headless."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from studies import TOKEN, make_study, served

from perceptual.collect.quality import Rules, assess
from perceptual.collect.rows import read_votes

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
THANKS = "location.pathname === '/thanks'"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def picture(page, name):
    """Keep a screenshot where PERCEPTUAL_SCREENSHOTS says, for a person to look at."""
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
        {"left": "ArrowLeft", "same": "ArrowLeft"}.get(choice, "ArrowRight"),
        (f"[data-choice={choice}]"),
    )
    if how == "keys":
        page.keyboard.press(key)
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


WAYS = [("mouse", DESKTOP, "desktop"), ("keys", DESKTOP, "desktop-keys"), ("touch", PHONE, "phone")]


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True], ids=["2afc", "jnd"])
def test_three_people_do_a_whole_study(browser, tmp_path, pairs):
    settings = {"items_per_session": 3, "practice": 1, "sentinels": 1, "repeats": 1} if pairs else {}
    choices = ("same", "different") if pairs else ("left", "right")
    with served(make_study(tmp_path, pairs=pairs, **settings)) as server:
        codes = set()
        for how, screen, name in WAYS:
            context = browser.new_context(**screen)
            page = context.new_page()
            problems = []
            page.on("console", lambda said, kept=problems: kept.append(said.text))
            page.on("pageerror", lambda error, kept=problems: kept.append(str(error)))
            begin(page, server, name, f"-{name}")
            tokens = take_part(page, how, choices, f"{'jnd' if pairs else '2afc'}-{name}")
            assert len(tokens) == (6 if pairs else 11) == len(set(tokens))
            codes.add(page.locator("#code").inner_text())
            assert problems == []
            context.close()
        assert len(codes) == 3
        votes = read_votes(server.database)
        assert [len([v for v in votes if v.participant == p and v.counts]) for p in (1, 2, 3)] == [
            len(tokens)
        ] * 3
        people = assess(votes, Rules())
        assert [person.external for person in people] == [name for *_, name in WAYS]
        scales = {vote.external: vote.scale for vote in votes}
        assert scales == {name: 16 if name != "phone" else scales["phone"] for name in scales}
        assert scales["phone"] == int(scales["phone"]) >= 8  # a whole multiple, that fits
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
        picture(page, f"admin-{'jnd' if pairs else '2afc'}")
        assert page.locator(".scroll tbody tr").count() == 3


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
