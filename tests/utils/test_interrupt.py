"""The first signal is recorded; a second Ctrl-C stops at once."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from ppose.utils import interrupt
from ppose.utils.interrupt import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_recorded_and_handlers_are_restored(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert signal.getsignal(number) is before


def test_further_sigterms_are_ignored():
    with StopRequest() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop.requested


def test_a_duplicate_ctrl_c_is_ignored_and_a_later_one_stops(monkeypatch):
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        monkeypatch.setattr(interrupt, "_DUPLICATE_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_sigterm_raises_keyboard_interrupt():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stop, interrupt.sigterm_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.args == (signal.SIGTERM,)
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_handlers_are_set_in_other_threads():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: interrupt.sigterm_as_interrupt().__enter__()).result()
