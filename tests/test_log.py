import logging
import re

import pytest

from ppose.errors import PposeError
from ppose.log import kept_in, log

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}"


def test_lines_are_printed_plain_and_kept_with_their_time(tmp_path, capsys):
    path = tmp_path / "run" / "train.log"
    with kept_in(path):
        assert not path.parent.exists()
        log.info("a table\n  of two lines")
        log.debug("for the file")
    log.info("after it")
    assert capsys.readouterr().out == "a table\n  of two lines\nafter it\n"
    pattern = rf"{STAMP}  a table\n{STAMP}    of two lines\n{STAMP}  for the file\n"
    assert re.fullmatch(pattern, path.read_text())


def test_a_file_is_continued(tmp_path):
    for line in ("one", "two"):
        with kept_in(tmp_path / "train.log"):
            log.info(line)
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["one", "two"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PposeError("this is why"), "error: this is why"),
        (OSError("disk"), "error: disk"),
        (KeyboardInterrupt(), "stopped"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug"),
    ],
)
def test_the_end_by_an_error_is_kept_and_not_printed(tmp_path, capsys, error, line):
    with pytest.raises(type(error)), kept_in(tmp_path / "train.log"):
        raise error
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines[-1].endswith(line)
    assert all(re.match(STAMP, line) for line in lines)
    assert ("Traceback" in "".join(lines)) == isinstance(error, ZeroDivisionError)
    assert capsys.readouterr() == ("", "")


def test_an_error_before_a_run_begins_leaves_nothing(tmp_path):
    with pytest.raises(PposeError), kept_in(tmp_path / "run" / "train.log"):
        raise PposeError("no such weights")
    assert list(tmp_path.iterdir()) == []


def test_handlers_of_the_host_program_get_nothing():
    class Handler(logging.Handler):
        def emit(self, record):
            raise AssertionError(record)

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        log.info("ours")
    finally:
        logging.getLogger().removeHandler(handler)
