import threading
import time

import pytest

from ppose.utils.timer import Timer


class Clock(threading.local):
    """A clock per thread that advances by a second with each call."""

    now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def test_times_are_accumulated(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", Clock())
    timer = Timer()
    for _ in range(3):
        with timer("network"):
            pass
    with pytest.raises(ValueError), timer("decode"):
        raise ValueError
    assert list(timer.seconds.items()) == [("network", 3.0), ("decode", 1.0)]


def test_times_of_several_threads_are_accumulated(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", Clock())
    timer = Timer()

    def work():
        for _ in range(2000):
            with timer("work"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert timer.seconds == {"work": 8000.0}
