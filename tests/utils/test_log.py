import logging
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from conftest import ROOT

from ppose.utils.errors import PposeError
from ppose.utils.log import log, log_to_file, silenced_native_stderr

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}"


def test_lines_are_printed_plain_and_logged_with_their_time(tmp_path, capsys):
    path = tmp_path / "run" / "train.log"
    with log_to_file(path):
        assert not path.parent.exists()
        log.info("a table\n  of two lines")
        log.debug("for the file")
    log.info("after it")
    assert capsys.readouterr().out == "a table\n  of two lines\nafter it\n"
    pattern = rf"{STAMP}  a table\n{STAMP}    of two lines\n{STAMP}  for the file\n"
    assert re.fullmatch(pattern, path.read_text())


def test_an_existing_file_is_appended_to(tmp_path):
    for line in ("one", "two"):
        with log_to_file(tmp_path / "train.log"):
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
def test_an_error_is_logged_but_not_printed(tmp_path, capsys, error, line):
    with pytest.raises(type(error)), log_to_file(tmp_path / "train.log"):
        log.info("first")
        raise error
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines[-1].endswith(line)
    assert all(re.match(STAMP, line) for line in lines)
    assert ("Traceback" in "".join(lines)) == isinstance(error, ZeroDivisionError)
    assert capsys.readouterr() == ("first\n", "")


def test_an_error_before_the_first_line_creates_nothing(tmp_path):
    with pytest.raises(PposeError), log_to_file(tmp_path / "run" / "train.log"):
        raise PposeError("no such weights")
    assert list(tmp_path.iterdir()) == []


def test_handlers_of_a_host_program_receive_nothing():
    class Handler(logging.Handler):
        def emit(self, record):
            raise AssertionError(record)

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        log.info("ours")
    finally:
        logging.getLogger().removeHandler(handler)


def test_standard_error_is_restored_after_overlapping_contexts(capfd):
    """A naive context would take the null device of another thread for the original."""
    both = Barrier(2)

    def silenced(first: bool) -> None:
        with silenced_native_stderr():
            both.wait()
            if not first:
                both.wait()
        if first:
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(silenced, (True, False)))
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_process_without_standard_error():
    code = (
        "from ppose.utils.log import silenced_native_stderr\n"
        "with silenced_native_stderr(): print('done')"
    )
    command = f'exec "{sys.executable}" -c "$0" 2>&-'
    done = subprocess.run(["sh", "-c", command, code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "done\n"
