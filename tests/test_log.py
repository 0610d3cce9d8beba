import logging
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from conftest import ROOT

from ppose.errors import PposeError
from ppose.log import kept_in, log, native_silence

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


def test_silence_of_several_threads_ends(capfd):
    """Each of them alone would keep the silence of another as what was before."""
    both = Barrier(2)

    def silent(first: bool) -> None:
        with native_silence():
            both.wait()
            if not first:
                both.wait()
        if first:
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(silent, (True, False)))
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_silence_without_a_standard_error():
    code = "from ppose.log import native_silence\nwith native_silence(): print('done')"
    command = f'exec "{sys.executable}" -c "$0" 2>&-'
    done = subprocess.run(["sh", "-c", command, code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "done\n"
