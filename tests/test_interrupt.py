"""Signals are noted; only a second Ctrl-C stops at once."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from ppose import interrupt
from ppose.interrupt import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert signal.getsignal(number) is before


def test_several_sigterms_are_one_wish():
    with StopRequest() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop.requested


def test_a_ctrl_c_that_arrives_twice_is_one_and_a_later_one_stops(monkeypatch):
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        monkeypatch.setattr(interrupt, "_SAME_WISH", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_sigterm_ends_work_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stop, interrupt.terminable():
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.args == (signal.SIGTERM,)
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_get_no_signals():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: interrupt.terminable().__enter__()).result()
