"""Progress on a terminal and off it, with a clock that the tests turn."""

import contextlib
import os
import sys
import termios

import pytest

from agcnn_jax.runtime import errors, progress
from agcnn_jax.runtime.progress import Progress, duration, write_line


@pytest.fixture
def clock(monkeypatch):
    """A list with the time, in seconds."""
    now = [1000.0]
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(progress.time, name, lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3571, "1 h"),
        (12_000, "3 h 20 min"),
        (172_700, "47 h 58 min"),
        (172_800, "2 d"),
        (187_200, "2 d 4 h"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_pauses_do_not_count(clock):
    with Progress("stage", 1000, "images", done=100) as bar:
        assert bar.describe() == "100 of 1,000 images"
        clock[0] += 50  # the first batch is read
        with bar.compiling():
            clock[0] += 200
            assert bar.describe() == "100 of 1,000 images, compiling"
        bar.update(100)
        clock[0] += 10
        assert bar.describe() == "200 of 1,000 images, 10.0 images/s, 1 min left"
        with bar.paused("validation"):
            clock[0] += 500
            bar.update(30)
        bar.update(20, timed=False)
        bar.update(100, "loss 0.5")
        clock[0] += 40
        assert bar.work() == (200, 50)
        bar.later = 3600.0
        assert bar.describe() == "350 of 1,000 images, 4.0 images/s, 1 h 3 min left, loss 0.5"
        bar.update(650)
        clock[0] += 120
        assert bar.describe() == "1,000 of 1,000 images, 5.0 images/s, loss 0.5"


def test_off_a_terminal_there_is_a_plain_line_now_and_then(clock, capsys):
    with Progress("stage 1", 1000, "images") as bar:
        with bar.compiling():
            clock[0] += 30
        for _ in range(500):
            clock[0] += 0.5
            bar.update(2, "loss 0.5")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "stage 1: compiling",
        "stage 1: 120 of 1,000 images, 4.0 images/s, 4 min left, loss 0.5",
        "stage 1: 360 of 1,000 images, 4.0 images/s, 3 min left, loss 0.5",
        "stage 1: 600 of 1,000 images, 4.0 images/s, 2 min left, loss 0.5",
        "stage 1: 840 of 1,000 images, 4.0 images/s, 40 s left, loss 0.5",
    ]
    assert "\r" not in said.err and "\x1b" not in said.err


def test_other_processes_show_nothing(clock, capsys):
    with Progress("stage 1", 10, "images", shown=False) as bar, bar.compiling():
        clock[0] += 1000
        bar.update(10)
    assert capsys.readouterr() == ("", "")


def screen(text):
    """The lines of a terminal that gets a text; as bars write it, with CR, LF and "up" alone."""
    lines, row, column = [""], 0, 0
    while text:
        if text.startswith("\x1b[A"):
            row, text = row - 1, text[3:]
            continue
        character, text = text[0], text[1:]
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + character + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@contextlib.contextmanager
def terminal():
    """Make stdout and stderr a terminal; the function that is given reads its screen."""
    outside, inside = os.openpty()
    termios.tcsetwinsize(inside, (24, 100))
    os.set_blocking(outside, False)
    with (
        open(inside, "w", encoding="utf-8") as file,
        open(outside, "rb", buffering=0) as shown,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        pieces = []

        def read():
            file.flush()
            while piece := shown.read(65536):
                pieces.append(piece.decode())
            return screen("".join(pieces))

        yield read


def test_on_a_terminal_messages_have_lines_of_their_own(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with terminal() as read:
        say_all()
        *lines, kept, done, last = read()
    assert lines == ["train.py: needs 5 MiB", "first", "a table", "of two lines"]
    assert kept.startswith("stage 1: 100%|") and "4 of 4 images, " in kept
    assert (done, last) == ("done", "")


def say_all():
    with Progress("stage 1", 4, "images") as bar:
        with bar.compiling():
            errors.say("needs 5 MiB")
        bar.update(2)
        with bar.paused("validation"), Progress("validation", 3, "images", keep=False) as inner:
            inner.update(1)
            write_line("first", sys.stderr)
            inner.update(2)
        write_line("a table\nof two lines", sys.stdout)
        bar.update(2)
    write_line("done", sys.stdout)


def test_a_bar_shows_what_goes_on():
    with terminal() as read, Progress("stage {1}", None, "files", done=3) as bar, bar.compiling():
        assert read()[-1] == "stage {1}: 3 files, compiling"
