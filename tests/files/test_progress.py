"""How far long work is, where no person watches."""

import sys
import time
from types import SimpleNamespace

import pytest

from perceptual.data.workers import each_done
from perceptual.files import progress


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.02)


def nap(number):
    time.sleep(0.05)
    return number


def test_long_work_says_how_far_it_is(soon, capsys):
    """Work in parts, as the training of distorters, and work without parts, as the export to ONNX."""
    assert [number for number, _ in each_done(nap, [(n,) for n in range(4)], 1, "Training distorters")] == [
        *range(4)
    ]
    said = capsys.readouterr().err.splitlines()
    assert 4 <= len(said) <= 12
    assert said[0] == "Training distorters: 0:00:00 so far"
    assert "Training distorters: 75 %, about 0:00:00 left" in said
    with progress.Progress("Exporting to ONNX"):
        time.sleep(0.1)
    said = capsys.readouterr().err.splitlines()
    assert set(said) == {"Exporting to ONNX: 0:00:00 so far"}
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # it ends with the work


def test_the_time_left_is_that_of_this_run(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    clock = SimpleNamespace(now=1000.0)
    with progress.Progress("Features of [x]", 100, done=50) as work:
        clock.now += 20
        work.advance(10)
        assert work.line() == "Features of [x]: 60 %, about 0:01:20 left"


def test_short_work_and_a_failure_say_nothing(capsys):
    with pytest.raises(ZeroDivisionError), progress.Progress("It", 2):
        1 / 0  # noqa: B018
    assert list(progress.track(iter("ab"), "It")) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_and_no_line(soon, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for number in progress.track([1, 2], "Reading [x]"):
        nap(number)
    said = capsys.readouterr().err
    assert "Reading [x]" in said
    assert "so far" not in said
    assert "left" not in said
