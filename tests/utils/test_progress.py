import fcntl
import os
import struct
import sys
import termios

import pytest

from ppose.training.hooks.console import FiguresBar
from ppose.utils import progress as module
from ppose.utils.progress import on_terminal, print_line, progress


class Screen:
    """A terminal that records what is written to it."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True

    def fileno(self):
        raise OSError("no file")


@pytest.fixture
def screen(monkeypatch):
    """Call it within the test: pytest sets both streams after the fixtures."""

    def show():
        made = Screen()
        monkeypatch.setattr(sys, "stdout", made)
        monkeypatch.setattr(sys, "stderr", made)
        return made

    return show


def test_lines_without_a_terminal(capsys, monkeypatch):
    assert not on_terminal()
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0)
    with progress(3, "evaluate", "image") as bar:
        for _ in range(3):
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:3]] == [
        f"evaluate: {n} of 3 images" for n in (1, 2, 3)
    ]


def test_one_image_has_no_progress(capsys):
    with progress(1, "infer", "image") as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(screen):
    screen = screen()
    assert on_terminal()
    with progress(3, "evaluate", "image") as bar:
        bar.update(3)
    assert "\r" in screen.text and "100%|" in screen.text


def test_quiet_prints_nothing(screen):
    screen = screen()
    with progress(3, "evaluate", "image", quiet=True) as bar:
        bar.update(3)
    assert screen.text == ""


def test_lines_are_printed_above_the_bar(screen):
    screen = screen()
    bar = FiguresBar(10, "epoch 1/2", done=4)
    bar.figures = "loss 0.5"
    bar.refresh()
    print_line("a line")
    bar.close()
    print_line("another")
    stays = [line.split("\r")[-1] for line in screen.text.split("\n")]
    assert stays == ["a line", "another", ""]
    assert "epoch 1/2 4/10 |" in screen.text and "| loss 0.5" in screen.text
    after = screen.text.index("a line")
    assert "loss 0.5" in screen.text[after:]  # drawn again below the line


def test_lines_are_printed_to_the_current_stdout(capsys):
    print_line("a line")
    assert capsys.readouterr().out == "a line\n"


def test_a_terminal_without_width_gets_lines(monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        for columns, drawn in ((80, True), (0, False)):
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            assert on_terminal() == drawn
    os.close(ours)
